"""How likely a given answer is to a question about one image, for many versions of that image.

The same numbers as `LocalModel.score_choices` gives for one choice (tests); versions of an image are
encoded together and their prompts computed in one packed pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from infimed.core.errors import DataError
from infimed.data.record import Message
from infimed.inference.answer_loss import IGNORE, Continuation, LossRow, target_losses
from infimed.inference.branches import Row, fill
from infimed.inference.local import LocalModel, answered, encode_views, prepare
from infimed.inference.requests import Picture, Pixels, Request
from infimed.model.processing import Processor
from infimed.serving.refusals import Refusal


@dataclass(frozen=True)
class Said:
    """A question about one image, and an answer to it, as tokens.

    Attributes:
        trunk: up to and including the image. after: the rest, whose targets are the answer's tokens.
        prompt_tokens, answer_tokens: how long both are, visual tokens included.
    """

    trunk: tuple[int, ...]
    after: Continuation
    prompt_tokens: int
    answer_tokens: int


def said(processor: Processor, question: str, answer: str, size: tuple[int, int], most: int) -> Said:  # fmt: skip
    """The question as training renders it, image first, with the answer after it.

    Args:
        size: width and height of the image, pixels. most: tokens of both together, at most.

    Raises:
        Refusal: the answer has no token, or both are too long.
    """
    picture = Picture("shown", _never, size)
    made = prepare(processor, Request("evidence", (Message("user", (0, question)),), (picture,)))
    ids = processor.text_ids(answer)
    if not ids:
        raise Refusal("invalid_value", param="answer", detail="it is empty")
    if made.tokens + len(ids) > most:
        detail = f"{made.tokens + len(ids)} tokens with the answer, at most {most}"
        raise Refusal("prompt_too_long", param="question", detail=detail)
    return Said(made.trunk, answered(made.branch, ids), made.tokens, len(ids))


@torch.no_grad()
def logprobs(local: LocalModel, what: Said, versions: Sequence[Pixels]) -> list[float]:
    """Log-probability of the answer in nats, by version of the image, uint8 [views, S, S, 3] each."""
    features = encode_views(local.model, local.processor, versions)
    rows = [LossRow(what.trunk, (what.after,), own) for own in features]
    return [-total for ((total, _),) in target_losses(local.model, rows)]


def logprob_of_pixels(local: LocalModel, what: Said, pixels: Tensor) -> Tensor:
    """The same of one version as a tensor that can be derived by its pixels.

    Args:
        pixels: normalised [views, 3, S, S].
    """
    features = local.model.image_features(pixels, local.processor.visual_tokens).flatten(0, 1)
    (states,) = fill(local.model, [Row(what.trunk, [what.after.ids], features)])
    wanted = [(len(what.trunk) + at, token) for at, token in enumerate(what.after.targets) if token != IGNORE]  # fmt: skip
    logits = local.model.lm_head(states[[at for at, _ in wanted]]).float()
    chosen = torch.tensor([token for _, token in wanted], device=logits.device)
    return -torch.nn.functional.cross_entropy(logits, chosen, reduction="sum")


def _never() -> Pixels:
    raise DataError("the image is decoded already")
