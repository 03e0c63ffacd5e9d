"""Images and questions that the tests of evidence share, and the slow way to their probabilities."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import torch

from infimed.data.record import Message
from infimed.inference.local import LocalModel
from infimed.inference.requests import Picture, Request
from infimed.serving.asking import Made
from infimed.serving.evidence.evidence_map import EvidenceMap
from infimed.serving.evidence.requests import EvidenceRequest
from infimed.serving.media import Shown
from tests.conftest import tiny_model, tiny_processor
from tests.serving.world import service_of, tiny_local

QUESTION, ANSWER = "is it left?", "the right side"


def tiled_local() -> LocalModel:
    """The tiny model, which shows a large image as up to 2 x 2 tiles as well."""
    model = tiny_model()
    model.set_grid(4, 32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    return LocalModel(model, tiny_processor().with_grid(32, 4, 4), "tiled")


def local_of(tiles: bool) -> LocalModel:
    return tiled_local() if tiles else tiny_local()


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Random but coarse, so that hiding a part changes something."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((-(-height // 4), -(-width // 4), 1), np.uint8))[:height, :width]


def slow_logprob(local: LocalModel, pixels: np.ndarray) -> float:
    """One image, asked about as an evaluation would."""
    picture = Picture("one", lambda: pixels, (pixels.shape[1], pixels.shape[0]))
    request = Request("q", (Message("user", (0, QUESTION)),), (picture,), choices=(ANSWER,))
    (found,) = local.score_choices([request])
    return found.options[0].logprob


def shown(local: LocalModel, pixels: np.ndarray) -> Shown:
    """An image as the decoders hand it on."""
    size = (pixels.shape[1], pixels.shape[0])
    return Shown("sha", size, "PNG", local.processor.views(pixels, size))


class Inline:
    """Does work at once."""

    def __init__(self, local: LocalModel) -> None:
        self.local, self.units = local, 0

    async def work(self, function: Any, client: str) -> Made:
        """See `asking.Answerer`."""
        self.units += 1
        made: Made = function(self.local)
        return made


def look(local: LocalModel, pixels: np.ndarray, **asked: Any) -> EvidenceMap:
    """The map of an image, without a server."""
    service = service_of(local)
    service.answerer = Inline(local)  # type: ignore[assignment]
    values = {"model": "tiny", "image": {"url": "data:"}, "question": QUESTION, "answer": ANSWER}
    body = EvidenceRequest.model_validate({**values, **asked})
    return asyncio.run(service.evidence.look_at(shown(local, pixels), body, "a"))
