"""Bodies of the applications' addresses: strict like a chat's, one class each.

`protocol.parsed` reads one, `within` checks what depends on the limits or on several fields. Refusals name the
field and quote no value.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from infimed.serving.protocol import SEEDS, Body, ImageUrl, encodable
from infimed.serving.refusals import Refusal
from infimed.serving.settings import Limits

__all__ = [
    "ApplicationRequest", "AskRequest", "ConsultRequest", "ConsultTurn", "DifferentialRequest",
    "Language", "ReportRequest", "within",
]  # fmt: skip

Language = Literal["en", "zh"]
OPTION_CHARACTERS = 200
Option = Annotated[str, Field(min_length=1, max_length=OPTION_CHARACTERS)]


class _Asked(Body):
    """What every application takes."""

    model: str
    images: list[ImageUrl] = Field(default_factory=list)
    stream: bool = False
    temperature: float | None = Field(None, ge=0, le=2)
    seed: int | None = Field(None, ge=-SEEDS, lt=SEEDS)

    def image_places(self) -> list[tuple[str, ImageUrl]]:
        """Every image with the place of its field, in the order in which the model sees them."""
        return [(f"images.{at}", image) for at, image in enumerate(self.images)]

    def texts(self) -> Iterator[tuple[str, str]]:
        """Every text of the user with the place of its field."""
        yield from ()

    def check(self) -> None:
        """What depends on more than one field.

        Raises:
            Refusal: something does not go together.
        """


class AskRequest(_Asked):
    """The body of ``POST /v1/infimed/ask``."""

    question: str = Field(min_length=1)
    choices: list[Option] | None = Field(None, min_length=2, max_length=20)

    def texts(self) -> Iterator[tuple[str, str]]:
        """See the base."""
        yield "question", self.question
        yield from _listed("choices", self.choices or [])

    def check(self) -> None:
        """See the base."""
        _some("question", self.question)
        _distinct("choices", self.choices or [])


class ReportRequest(_Asked):
    """The body of ``POST /v1/infimed/report``.

    `form`: ``text`` as the models were trained, read into sections; ``json`` decodes under a JSON schema.
    """

    images: list[ImageUrl] = Field(min_length=1, max_length=4)
    prior: ImageUrl | None = None
    indication: str = ""
    language: Language = "en"
    form: Literal["text", "json"] = "text"

    def image_places(self) -> list[tuple[str, ImageUrl]]:
        """See the base; the prior is the last."""
        prior = [("prior", self.prior)] if self.prior is not None else []
        return [*super().image_places(), *prior]

    def texts(self) -> Iterator[tuple[str, str]]:
        """See the base."""
        yield "indication", self.indication


class DifferentialRequest(_Asked):
    """The body of ``POST /v1/infimed/differential``."""

    images: list[ImageUrl] = Field(default_factory=list, max_length=4)
    question: str = ""
    history: str = ""
    candidates: list[Option] = Field(min_length=2, max_length=20)

    def texts(self) -> Iterator[tuple[str, str]]:
        """See the base."""
        yield "question", self.question
        yield "history", self.history
        yield from _listed("candidates", self.candidates)

    def check(self) -> None:
        """See the base."""
        _distinct("candidates", self.candidates)
        if not self.images and not self.history.strip() and not self.question.strip():
            detail = "give an image, a history or a question"
            raise Refusal("missing_field", param="images", detail=detail)


class ConsultTurn(Body):
    """One message of a consultation."""

    role: Literal["user", "assistant"]
    text: str = Field(min_length=1)


class ConsultRequest(_Asked):
    """The body of ``POST /v1/infimed/consult``. Images belong to the first message of the user."""

    messages: list[ConsultTurn] = Field(min_length=1)

    def texts(self) -> Iterator[tuple[str, str]]:
        """See the base."""
        for at, turn in enumerate(self.messages):
            yield f"messages.{at}.text", turn.text

    def check(self) -> None:
        """See the base."""
        if self.messages[-1].role != "user":
            raise Refusal("invalid_value", param="messages", detail="the last turn is a user's")
        _some(f"messages.{len(self.messages) - 1}.text", self.messages[-1].text)


ApplicationRequest: TypeAlias = AskRequest | ReportRequest | DifferentialRequest | ConsultRequest


def _listed(place: str, options: list[str]) -> Iterator[tuple[str, str]]:
    yield from ((f"{place}.{at}", option) for at, option in enumerate(options))


def _some(place: str, text: str) -> None:
    if not text.strip():
        raise Refusal("invalid_value", param=place, detail="it is empty")


def _distinct(place: str, options: list[str]) -> None:
    seen: set[str] = set()
    for at, option in enumerate(options):
        _some(f"{place}.{at}", option)
        plain = " ".join(option.split()).casefold()
        if plain in seen:
            raise Refusal("invalid_value", param=f"{place}.{at}", detail="it is there twice")
        seen.add(plain)


def within(asked: ApplicationRequest, limits: Limits) -> None:
    """What depends on the limits or on more than one field.

    Raises:
        Refusal: a text is no Unicode, there is too much of something, or fields do not go together.
    """
    characters = 0
    for place, text in asked.texts():
        encodable(text, place)
        characters += len(text)
    if characters > limits.prompt_characters:
        raise Refusal("prompt_too_long", detail=f"at most {limits.prompt_characters} characters")
    if len(asked.image_places()) > limits.images:
        raise Refusal("too_many_images", param="images", detail=f"at most {limits.images}")
    if isinstance(asked, ConsultRequest) and len(asked.messages) > limits.messages:
        raise Refusal("invalid_value", param="messages", detail=f"at most {limits.messages}")
    asked.check()
