"""From a request for evidence to its map or its neighbours, in small pieces of work for the engine.

Invariant: the engine is held for one piece at a time, which is made as large as fits into `PIECE_SECONDS`; between two
of them running answers go on, and a request that is given up ends there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np

from infimed.core.errors import DataError
from infimed.inference.local import LocalModel
from infimed.serving.evidence.evidence_map import EvidenceMap
from infimed.serving.evidence.gradient import STEPS, attribution, gradients, middles, smoothed
from infimed.serving.evidence.hiding import Box, Hideable
from infimed.serving.evidence.nearest import Index, Near, pooled
from infimed.serving.evidence.occlusion import Drops, occlusion
from infimed.serving.evidence.requests import EvidenceRequest, check
from infimed.serving.evidence.scoring import Said, logprobs, said
from infimed.serving.media import Shown, Source
from infimed.serving.refusals import Refusal

if TYPE_CHECKING:
    from infimed.serving.asking import Answerer
    from infimed.serving.service import Service

PIECE_SECONDS: Final = 0.1
MOST_VIEWS: Final = 32
"""Views of images that one piece holds, at most."""
Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass
class Pace:
    """How many items the next piece of work takes: as many as the last one showed to fit.

    Attributes:
        most: items of a piece, at most. size: of the next.
    """

    most: int
    size: int = 1

    def took(self, count: int, seconds: float) -> None:
        """Learn what a piece of `count` items took."""
        fits = count * PIECE_SECONDS / max(seconds, 1e-6)
        self.size = max(1, min(self.most, int(fits), 2 * count))


@dataclass
class Engaged:
    """The engine on behalf of one client, its work cut into pieces."""

    answerer: Answerer
    client: str
    pace: Pace

    async def pieces(
        self, function: Callable[[LocalModel, Sequence[Item]], Made], items: Sequence[Item]
    ) -> list[Made]:
        """What `function` makes of all items, piece by piece in order."""
        made, at = [], 0
        while at < len(items):
            part = items[at : at + self.pace.size]
            found, seconds = await self.answerer.work(partial(_timed, function, part), self.client)
            self.pace.took(len(part), seconds)
            made.append(found)
            at += len(part)
        return made


@dataclass
class Evidence:
    """Where the model looked, and what it learned from.

    Attributes:
        index: of training records; None where none is served.
    """

    service: Service
    index: Index | None = None

    def check_model(self) -> None:
        """That the model is in this process.

        Raises:
            Refusal: it is not, and images are decoded whole, not as a model's views.
        """
        if self.service.decoders.wanted.side is None:
            raise Refusal("unsupported", detail="the model is not in this process")

    async def look(self, asked: EvidenceRequest, noted: dict[str, Any]) -> EvidenceMap:
        """A map of the image for the answer that is asked about.

        Args:
            noted: of `front.Front`.

        Raises:
            Refusal: the image, the texts or the server do not allow it, or it took too long.
        """
        return (await self.look_shown(asked, noted))[0]

    async def look_shown(
        self, asked: EvidenceRequest, noted: dict[str, Any]
    ) -> tuple[EvidenceMap, Shown]:
        """The same with the image as the model saw it."""
        self.check_model()
        check(asked, self.service.settings.limits)
        (image,) = await self.service.images([("image", asked.image)], noted["client"])
        noted["images"] = 1
        with given_up():
            async with asyncio.timeout(self.service.settings.times.generate):
                return await self.look_at(image, asked, noted["client"]), image

    async def look_at(self, image: Shown, asked: EvidenceRequest, client: str) -> EvidenceMap:
        """The same of an image that is decoded.

        Raises:
            Refusal: the question with its answer is too long, or there is no model in this process.
        """
        answerer, most = self.service.answerer, self.service.settings.limits.prompt_tokens
        begun = partial(_begun, image=image, asked=asked, most=most)
        seen, what, (logprob, blank) = await answerer.work(begun, client)
        engaged = Engaged(answerer, client, Pace(max(1, MOST_VIEWS // seen.count)))
        if asked.method == "gradient":
            values, passes = await _by_gradient(engaged, what, seen, asked.grid), STEPS
        else:
            values, passes = await _by_occlusion(engaged, what, seen, asked.grid, logprob)
        return EvidenceMap(
            values,
            asked.method,
            asked.answer,
            logprob,
            logprob - blank,
            image.sha256,
            what.prompt_tokens,
            passes + 2,
        )

    async def nearest(self, source: Source, noted: dict[str, Any], k: int = 5) -> list[Near]:
        """The training records whose images are most like this one, the likest first; none without an index.

        Raises:
            Refusal: the image cannot be decoded, or the index is not that of the data any more.
        """
        if self.index is None:
            return []
        image = await self.service.decoded(source)
        noted["images"] = 1
        feature = await self.service.answerer.work(
            lambda local: pooled(local, image.pixels[:1])[0], noted["client"]
        )
        try:
            self.index = await asyncio.to_thread(self.index.current)
            return await asyncio.to_thread(self.index.search, feature, k)
        except DataError:
            detail = "the index was changed or its data were; it is to be made again"
            raise Refusal("unsupported", detail=detail) from None


@contextmanager
def given_up() -> Iterator[None]:
    """A map that takes too long ends with a code.

    Raises:
        Refusal: it did.
    """
    try:
        yield
    except TimeoutError:
        raise Refusal("generation_timeout") from None


def _timed(
    function: Callable[[LocalModel, Sequence[Item]], Made], part: Sequence[Item], local: LocalModel
) -> tuple[Made, float]:
    began = time.perf_counter()
    made = function(local, part)
    return made, time.perf_counter() - began


def _begun(
    local: LocalModel, image: Shown, asked: EvidenceRequest, most: int
) -> tuple[Hideable, Said, list[float]]:
    """The image, the question, and the answer's log-probability with and without the image."""
    processor = local.processor
    limit = min(most, int(local.model.config.text_config.max_position_embeddings))
    what = said(processor, asked.question, asked.answer, image.size, limit)
    seen = Hideable.of(image.pixels, processor.tiles_of(image.size), asked.fill)
    return seen, what, logprobs(local, what, [seen.views, seen.blank])


async def _by_occlusion(
    engaged: Engaged, what: Said, seen: Hideable, grid: int, logprob: float
) -> tuple[Drops, int]:
    passes = 0

    def scored(local: LocalModel, boxes: Sequence[Box]) -> list[float]:
        return logprobs(local, what, [seen.without(box) for box in boxes])

    async def score(boxes: Sequence[Box]) -> list[float]:
        nonlocal passes
        passes += len(boxes)
        found = await engaged.pieces(scored, boxes)
        return [logprob - value for piece in found for value in piece]

    return await occlusion(score, grid), passes


async def _by_gradient(engaged: Engaged, what: Said, seen: Hideable, grid: int) -> Drops:
    def summed(local: LocalModel, places: Sequence[float]) -> Drops:
        return gradients(local, what, seen, places)

    found = await engaged.pieces(summed, middles())
    total = np.sum(found, axis=0)
    return smoothed(attribution(seen, total, STEPS, grid))
