"""The chat format of OpenAI: what a request may say, checked field by field, and the shape of answers.

Pure functions. Invariant: `parse` returns a request of which every field is known and in range, or raises a
`Refusal` that names the field and quotes no value. What is accepted and has no effect: `user`, `name`,
`detail`, and penalties of 0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from infimed.serving.refusals import Refusal
from infimed.serving.settings import Limits

PLAIN_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
SEEDS: Final = 2**63


class Body(BaseModel):
    """The body of a request, or a part of one: every field is known and of its type."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=False)


Asked = TypeVar("Asked", bound=Body)


def _parts(value: object) -> object:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


def _strings(value: object) -> object:
    return [value] if isinstance(value, str) else [] if value is None else value


class TextPart(Body):
    """Text of a turn."""

    type: Literal["text"]
    text: str


Finite = Annotated[float, Field(allow_inf_nan=False, ge=-1e9, le=1e9)]


class ImageUrl(Body):
    """Where an image is, and what of it is meant.

    `frame` (ours) picks one of a multi-frame DICOM file or an axial slice of a volume, from 0; by default the first
    frame, or the middle slice. `window` (ours) is the centre and the width of the grey values that are shown, in units
    after rescale (HU for CT); by default the file's own.
    """

    url: str
    detail: Literal["auto", "low", "high"] | None = None
    frame: int | None = Field(None, ge=0, le=1_000_000)
    window: Annotated[list[Finite], Field(min_length=2, max_length=2)] | None = None

    @model_validator(mode="after")
    def _wide(self) -> ImageUrl:
        if self.window is not None and self.window[1] <= 0:
            raise PydanticCustomError("greater_than", "the width of a window is above 0", {"gt": 0})
        return self


class ImagePart(Body):
    """An image of a user's turn."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Turn(Body):
    """One message; ``developer`` is read as ``system``."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[list[Part], BeforeValidator(_parts, json_schema_input_type=str | list[Part])]
    name: str | None = None
    refusal: None = None


class JsonSchema(Body):
    """A named JSON schema, see `schema`."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class SchemaFormat(Body):
    """The answer is JSON of this schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


class TextFormat(Body):
    """The answer is text."""

    type: Literal["text"]


class StreamOptions(Body):
    """How an answer is streamed."""

    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


class ChatRequest(Body):
    """The body of ``POST /v1/chat/completions``."""

    model: str
    messages: list[Turn] = Field(min_length=1)
    n: Literal[1] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=1_000_000)
    seed: int | None = Field(None, ge=-SEEDS, lt=SEEDS)
    stop: Annotated[
        list[str], BeforeValidator(_strings, json_schema_input_type=str | list[str] | None)
    ] = Field(default_factory=list)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0)
    response_format: Annotated[TextFormat | SchemaFormat, Field(discriminator="type")] | None = None
    frequency_penalty: float | None = Field(None, ge=0, le=0)
    presence_penalty: float | None = Field(None, ge=0, le=0)
    user: str | None = None

    @property
    def new_tokens(self) -> int | None:
        """Longest answer asked for."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def image_parts(self) -> list[tuple[str, ImageUrl]]:
        """Every image with the place of its field, in order."""
        return [
            (f"messages.{turn}.content.{at}.image_url", part.image_url)
            for turn, message in enumerate(self.messages)
            for at, part in enumerate(message.content)
            if isinstance(part, ImagePart)
        ]


def load_json(body: bytes, limits: Limits) -> Any:
    """The JSON value of a body.

    Commas and brackets are counted first, which costs milliseconds, so that no body makes the parser build
    a million objects. Base64 has none of them.

    Raises:
        Refusal: it is not JSON, too deep or has too many parts.
    """
    if sum(body.count(mark) for mark in (b",", b"[", b"{")) > limits.json_marks:
        raise Refusal("too_complex")
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except RecursionError:
        raise Refusal("too_deep") from None
    except ValueError:
        raise Refusal("invalid_json") from None
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > limits.json_depth:
            raise Refusal("too_deep", detail=f"at most {limits.json_depth} levels")
        level = [inner for outer in level for inner in _inner(outer)]
    return value


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _inner(value: object) -> list[Any]:
    held = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [each for each in held if isinstance(each, dict | list)]


def parse(body: bytes, limits: Limits) -> ChatRequest:
    """The request in a body.

    Raises:
        Refusal: a field is unknown, missing or out of range.
    """
    request = parsed(ChatRequest, body, limits)
    _check(request, limits)
    return request


def parsed(kind: type[Asked], body: bytes, limits: Limits) -> Asked:
    """A body of any kind; what depends on the limits is left to check.

    Raises:
        Refusal: a field is unknown, missing or out of its range.
    """
    value = load_json(body, limits)
    if not isinstance(value, dict):
        raise Refusal("invalid_value", detail="the body is a JSON object")
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise _refusal(error) from None


def _refusal(error: ValidationError) -> Refusal:
    """What was wrong first, in our own words."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(
        str(part)
        for part in first["loc"]
        if isinstance(part, int)
        or (PLAIN_NAME.fullmatch(part) and part not in ("text_part", "image_part"))
    )
    kind = first["type"]
    if kind == "extra_forbidden":
        return Refusal("unknown_field", param=place or None)
    if kind == "missing":
        return Refusal("missing_field", param=place or None)
    if kind == "string_unicode":
        return Refusal("invalid_text", param=place or None)
    return Refusal(
        "invalid_value", param=place or None, detail=_accepted(kind, first.get("ctx", {}))
    )


def _accepted(kind: str, known: Mapping[str, Any]) -> str:
    """What would have been taken; of the context only what the schema says, never what was sent."""
    said = _KINDS.get(kind, "")
    for name, words in _BOUNDS.items():
        if kind == words[0] and name in known:
            return f"{words[1]} {known[name]}"
    return said


_KINDS: Final[Mapping[str, str]] = {
    "string_type": "a string is expected",
    "int_type": "an integer is expected",
    "float_type": "a number is expected",
    "bool_type": "true or false is expected",
    "list_type": "a list is expected",
    "dict_type": "an object is expected",
    "model_type": "an object is expected",
    "model_attributes_type": "an object is expected",
    "too_short": "it is empty",
    "none_required": "null is expected",
    "union_tag_not_found": "its type is missing",
}

_BOUNDS: Final[Mapping[str, tuple[str, str]]] = {
    "expected": ("literal_error", "accepted:"),
    "expected_tags": ("union_tag_invalid", "accepted types:"),
    "ge": ("greater_than_equal", "at least"),
    "gt": ("greater_than", "above"),
    "le": ("less_than_equal", "at most"),
    "lt": ("less_than", "below"),
}
"""A fact of the schema -> the kind of error that tells it, and the words before it."""


def _check(request: ChatRequest, limits: Limits) -> None:
    """What depends on the limits, or on more than one field."""
    if len(request.messages) > limits.messages:
        raise Refusal("invalid_value", param="messages", detail=f"at most {limits.messages}")
    characters = 0
    for number, turn in enumerate(request.messages):
        for at, part in enumerate(turn.content):
            place = f"messages.{number}.content.{at}"
            if isinstance(part, TextPart):
                encodable(part.text, place)
                characters += len(part.text)
            elif turn.role != "user":
                raise Refusal("invalid_value", param=place, detail="only a user shows images")
        if not turn.content:
            raise Refusal("invalid_value", param=f"messages.{number}.content", detail="it is empty")
    if request.messages[-1].role != "user":
        raise Refusal("invalid_value", param="messages", detail="the last turn is a user's")
    if characters > limits.prompt_characters:
        detail = f"at most {limits.prompt_characters} characters"
        raise Refusal("prompt_too_long", param="messages", detail=detail)
    if len(request.image_parts) > limits.images:
        raise Refusal("too_many_images", param="messages", detail=f"at most {limits.images}")
    if request.max_tokens is not None and request.max_completion_tokens is not None:
        raise Refusal("invalid_value", param="max_tokens", detail="name one limit, not two")
    if request.new_tokens is not None and request.new_tokens > limits.new_tokens:
        raise Refusal("too_many_tokens", param="max_tokens", detail=f"at most {limits.new_tokens}")
    if len(request.stop) > limits.stop_strings:
        raise Refusal("invalid_value", param="stop", detail=f"at most {limits.stop_strings}")
    for word in request.stop:
        encodable(word, "stop")
        if not 0 < len(word) <= limits.stop_characters:
            detail = f"1 to {limits.stop_characters} characters"
            raise Refusal("invalid_value", param="stop", detail=detail)
    if request.top_logprobs is not None:
        if not request.logprobs:
            raise Refusal("invalid_value", param="top_logprobs", detail="it needs logprobs")
        if request.top_logprobs > limits.top_logprobs:
            detail = f"at most {limits.top_logprobs}"
            raise Refusal("invalid_value", param="top_logprobs", detail=detail)
    if request.stream_options is not None and not request.stream:
        raise Refusal("invalid_value", param="stream_options", detail="it needs stream")
    if isinstance(request.response_format, SchemaFormat) and request.stop:
        raise Refusal("invalid_value", param="stop", detail="a JSON schema says where to end")


def encodable(text: str, place: str) -> None:
    """Half a surrogate pair is a JSON string, and no text.

    Raises:
        Refusal: it holds one.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise Refusal("invalid_text", param=place) from None
