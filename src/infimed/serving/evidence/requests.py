"""What may be asked of evidence: two bodies, as strict as a chat's."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from infimed.serving.protocol import Body, ImageUrl, encodable, parsed
from infimed.serving.refusals import Refusal
from infimed.serving.settings import Limits

Method = Literal["occlusion", "gradient"]
Fill = Literal["mean", "grey", "blur"]
METHODS: tuple[str, ...] = get_args(Method)
FILLS: tuple[str, ...] = get_args(Fill)

GRID = 16
"""Cells of a side where a request does not say."""
FINEST = 32
NEAREST = 20
"""Most records that one request may ask for."""


class EvidenceRequest(Body):
    """The body of ``POST /v1/infimed/evidence``.

    `answer` is the text whose probability is looked at, the model's own or any other. `fill` is what hides a
    part of the image: its mean colour, mid-grey, or itself blurred.
    """

    model: str
    image: ImageUrl
    question: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    method: Method = "occlusion"
    grid: int = Field(GRID, ge=2, le=FINEST)
    fill: Fill = "mean"
    overlay: bool = True
    stream: Literal[False] | None = None


class NearestRequest(Body):
    """The body of ``POST /v1/infimed/nearest``."""

    model: str
    image: ImageUrl
    k: int = Field(5, ge=1, le=NEAREST)
    stream: Literal[False] | None = None


def parse_evidence(body: bytes, limits: Limits) -> EvidenceRequest:
    """A body of ``/v1/infimed/evidence``.

    Raises:
        Refusal: a field is unknown, missing or out of range.
    """
    asked = parsed(EvidenceRequest, body, limits)
    check(asked, limits)
    return asked


def check(asked: EvidenceRequest, limits: Limits) -> None:
    """What depends on the limits.

    Raises:
        Refusal: a text is too long or no text, or the grid is finer than this server computes.
    """
    for name in ("question", "answer"):
        encodable(getattr(asked, name), name)
    if len(asked.question) + len(asked.answer) > limits.prompt_characters:
        detail = f"at most {limits.prompt_characters} characters"
        raise Refusal("prompt_too_long", param="question", detail=detail)
    if asked.grid > limits.evidence_grid:
        raise Refusal("invalid_value", param="grid", detail=f"at most {limits.evidence_grid}")


def parse_nearest(body: bytes, limits: Limits) -> NearestRequest:
    """A body of ``/v1/infimed/nearest``.

    Raises:
        Refusal: a field is unknown, missing or out of range.
    """
    return parsed(NearestRequest, body, limits)
