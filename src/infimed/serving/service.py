"""From a body to an answer: admission, checking, decoding, asking. What `app` puts behind addresses.

Invariant: a request holds its place from before its first byte is read until its answer is sent, cancelled or
failed, whichever comes first; a client that is gone costs nothing from the next step on.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol, TypeVar

from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from infimed.core.errors import DataError
from infimed.data.record import Message, Role
from infimed.inference.requests import Picture, Pixels, Request, Sampling
from infimed.serving.admission import Gate, Place, check_headers, check_origin, read_body
from infimed.serving.applications.applications import Applications
from infimed.serving.applications.calibration import Calibration
from infimed.serving.applications.signals import TOP
from infimed.serving.asking import (
    Answerer,
    Ask,
    Done,
    Event,
    Failed,
    First,
    Piece,
    closable,
    refusal_of,
)
from infimed.serving.evidence.job import Evidence
from infimed.serving.media import Decoders, Shown, Source, checked, from_url
from infimed.serving.meters import Meters
from infimed.serving.protocol import ChatRequest, ImageUrl, SchemaFormat, TextPart, parse
from infimed.serving.refusals import Refusal
from infimed.serving.remote import RemoteImages
from infimed.serving.settings import Limits, Settings
from infimed.serving.shapes import Heading, failure
from infimed.serving.uploads import PREFIX, Uploads, form_file

Result = TypeVar("Result")


class _NamesModel(Protocol):
    model: str


Named = TypeVar("Named", bound=_NamesModel)


@dataclass
class Service:
    """Everything that one server holds.

    Attributes:
        name: the model's, as clients name it. created: when the server began, seconds since 1970.
        calibration: of this model; None where none was fitted, and then no answer is called an abstention.
    """

    settings: Settings
    answerer: Answerer
    decoders: Decoders
    meters: Meters
    name: str
    created: int = field(default_factory=lambda: int(time.time()))
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        self.gate = Gate(self.settings)
        self.evidence = Evidence(self)
        self.applications = Applications(self, self.calibration)
        limits = self.settings.limits
        self.remote = RemoteImages(self.settings.image_hosts, limits.image_bytes)
        self.uploads = Uploads(self.settings)
        self.meters.show("infimed_requests_in_flight", "Requests.", lambda: self.gate.requests)
        self.meters.show("infimed_body_bytes_in_flight", "Bodies.", lambda: self.gate.bytes)
        self.meters.show("infimed_decoders_replaced", "So far.", lambda: self.decoders.replaced)
        self.meters.show("infimed_upload_bytes", "Uploads kept.", lambda: self.uploads.held_bytes)

    def models(self) -> list[dict[str, Any]]:
        """The entry of the one model."""
        own = {
            "model_hash": self.answerer.fingerprint,
            "model_hash_of": self.answerer.fingerprint_of,
        }
        entry = {"id": self.name, "object": "model", "created": self.created}
        return [{**entry, "owned_by": "infimed", "infimed": own}]

    async def chat(self, http: HttpRequest) -> Response:
        """``POST /v1/chat/completions``.

        Raises:
            Refusal: at any point before the answer began.
        """
        noted: dict[str, Any] = http.scope["state"]
        with ExitStack() as held:
            place = held.enter_context(self.gate.admit(noted["client"]))
            asked = await self.body(http, place, parse)
            answer = await unless_gone(http, self._begun(asked, noted))
            if asked.stream:
                return Held(self._events(asked, answer, noted), answer.events, held.pop_all())
            async with aclosing(answer.events):
                value = await unless_gone(http, self._whole(asked, answer, noted))
            return JSONResponse(value)

    async def upload(self, http: HttpRequest) -> Response:
        """``POST /v1/infimed/files``.

        Raises:
            Refusal: it is no form with an image, or there is no room for it.
        """
        noted: dict[str, Any] = http.scope["state"]
        with self.gate.admit(noted["client"]) as place:
            check_origin(http.headers)
            body = await self._read(http, place, "multipart/form-data")
            data, kind = await asyncio.to_thread(form_file, body, http.headers["content-type"])
            del body
            checked(data, kind, 0, "file", self.settings)
            name = self.uploads.put(noted["client"], data, kind)
        now = int(time.time())
        return JSONResponse(
            {
                "id": name,
                "object": "file",
                "bytes": len(data),
                "created_at": now,
                "expires_at": now + int(self.settings.times.upload),
                "purpose": "vision",
            }
        )

    async def body(
        self, http: HttpRequest, place: Place, parse: Callable[[bytes, Limits], Named]
    ) -> Named:
        """The body of an admitted request, which names the model.

        Args:
            place: the request's, which its bytes are counted in. parse: takes the body and the limits.

        Raises:
            Refusal: it is no plain JSON, too large, too slow, not what `parse` takes, or for another model.
        """
        body = await self._read(http, place, "application/json")
        asked = await asyncio.to_thread(parse, body, self.settings.limits)
        if asked.model != self.name:
            raise Refusal("model_not_found", param="model")
        return asked

    async def _read(self, http: HttpRequest, place: Place, kind: str) -> bytes:
        check_headers(http.headers, self.settings, kind)
        try:
            body = await read_body(http.stream(), place)
        except ClientDisconnect:
            raise Refusal("cancelled") from None
        http.scope["state"]["body_bytes"] = len(body)
        return body

    async def _begun(self, asked: ChatRequest, noted: dict[str, Any]) -> _Answer:
        """The request put to the model, and its first event."""
        images = await self.images(asked.image_parts, noted["client"])
        noted["images"] = len(images)
        events = self.answerer.answer(self._ask(asked, images, noted))
        answer = _Answer(closable(events))
        try:
            event = await anext(answer.events)
            if isinstance(event, Failed):
                self._fail(event)
            if isinstance(event, First):
                answer.first = event
                seconds = time.perf_counter() - noted["began"]
                noted["first_token_milliseconds"] = round(1000 * seconds, 1)
                self.meters.first_token.observe(seconds)
            else:
                answer.event = event
        except BaseException:
            await answer.events.aclose()
            raise
        return answer

    def _ask(self, asked: ChatRequest, images: list[Shown], noted: dict[str, Any]) -> Ask:
        limits = self.settings.limits
        sampling = Sampling(
            asked.temperature or 0.0,
            1.0 if asked.top_p is None else asked.top_p,
            asked.top_k or 0,
            secrets.randbelow(2**31) if asked.seed is None else asked.seed,
        )
        request = Request(
            noted["request_id"],
            conversation(asked),
            tuple(Picture(image.sha256, _never, image.size) for image in images),
            asked.new_tokens or min(limits.default_new_tokens, limits.new_tokens),
            sampling=sampling,
            stop=tuple(asked.stop),
        )
        form = asked.response_format
        return Ask(
            request,
            noted["client"],
            {image.sha256: image for image in images},
            top=max(
                asked.top_logprobs or 0, min(TOP, limits.top_logprobs) if self._judges(asked) else 0
            ),
            stream=bool(asked.stream),
            schema=form.json_schema.schema_ if isinstance(form, SchemaFormat) else None,
        )

    async def images(self, parts: list[tuple[str, ImageUrl]], client: str) -> list[Shown]:
        """All images of a client's request, decoded; each content once.

        Args:
            parts: with the places of their fields, for refusals. client: whose uploads they may name.

        Raises:
            Refusal: one of them is refused.
        """
        left = self.settings.limits.request_pixels
        found: dict[str, Shown] = {}
        shown = []
        for place, part in parts:
            source = await self.source(place, part, client)
            if source.sha256 not in found:
                image = found[source.sha256] = await self.decoded(source, left)
                left -= image.size[0] * image.size[1]
            shown.append(found[source.sha256])
        return shown

    async def decoded(self, source: Source, pixels_left: int | None = None) -> Shown:
        """One image, of at most so many pixels; of a request's without a number.

        Raises:
            Refusal: it cannot be decoded.
        """
        began = time.perf_counter()
        left = self.settings.limits.request_pixels if pixels_left is None else pixels_left
        image = await self.decoders.decode(source, left)
        self.meters.decoding.observe(time.perf_counter() - began)
        return image

    async def source(self, place: str, part: ImageUrl, client: str) -> Source:
        """An image as it came.

        Raises:
            Refusal: its address or its content is refused.
        """
        if part.url.startswith(PREFIX):
            sent = self.uploads.get(client, part.url, place)
            return checked(sent.data, sent.kind, part.frame, place, self.settings, part.window)
        if part.url[:5].lower() != "data:":
            if not self.settings.image_hosts:
                raise Refusal("image_url", param=place)
            data = await self.remote.fetch(part.url, place)
            kind = "application/octet-stream"
            return checked(data, kind, part.frame, place, self.settings, part.window)
        return await asyncio.to_thread(
            from_url, part.url, part.frame, place, self.settings, part.window
        )

    async def _whole(
        self, asked: ChatRequest, answer: _Answer, noted: dict[str, Any]
    ) -> dict[str, Any]:
        async for event in answer.rest():
            if isinstance(event, Failed):
                self._fail(event)
            if isinstance(event, Done):
                heading = self._heading(asked, noted)
                self._count(heading, answer, event, noted)
                return heading.completion(answer.first, event)
        raise Refusal("internal")

    async def _events(
        self, asked: ChatRequest, answer: _Answer, noted: dict[str, Any]
    ) -> AsyncIterator[bytes]:
        """The answer as server-sent events."""
        heading = self._heading(asked, noted)
        options = asked.stream_options
        yield heading.opening(answer.first)
        async for event in answer.rest():
            if isinstance(event, Piece):
                yield heading.piece(event.text)
            elif isinstance(event, Done):
                self._count(heading, answer, event, noted)
                yield heading.closing(answer.first, event, bool(options and options.include_usage))
            elif isinstance(event, Failed):
                noted["code"] = event.code
                yield failure(Refusal(event.code, detail=event.detail), noted["request_id"])

    def _heading(self, asked: ChatRequest, noted: dict[str, Any]) -> Heading:
        return Heading(
            f"chatcmpl-{noted['request_id'].removeprefix('req-')}",
            int(time.time()),
            self.name,
            self.answerer.fingerprint,
            self.answerer.fingerprint_of,
            self.calibration if self._judges(asked) else None,
            (asked.top_logprobs or 0) if asked.logprobs else None,
        )

    def _judges(self, asked: ChatRequest) -> bool:
        """Whether the calibration speaks of such a request: one question, answered greedily in free words."""
        alone = len(asked.messages) == 1 and not asked.temperature and not asked.stop
        return self.calibration is not None and alone and asked.response_format is None

    def _count(self, heading: Heading, answer: _Answer, done: Done, noted: dict[str, Any]) -> None:
        noted["prompt_tokens"], noted["new_tokens"] = done.prompt_tokens, done.new_tokens
        noted["reused_tokens"] = done.reused_tokens
        self.meters.tokens.labels("prompt").inc(done.prompt_tokens)
        self.meters.tokens.labels("new").inc(done.new_tokens)
        self.meters.abstentions.inc(bool(heading.judged(answer.first, done).abstained))

    def _fail(self, event: Failed) -> NoReturn:
        raise refusal_of(event, self.settings.times.retry_after)


@dataclass
class _Answer:
    """An answer that has begun: its first token, and what else came."""

    events: AsyncGenerator[Event, None]
    first: First | None = None
    event: Event | None = None

    async def rest(self) -> AsyncIterator[Event]:
        """What comes after the first token."""
        if self.event is not None:
            yield self.event
            if isinstance(self.event, Done | Failed):
                return
        async for event in self.events:
            yield event


class Held(StreamingResponse):
    """A stream that gives back the request's place when it ends, however it ends, and ends what it is made of."""

    def __init__(
        self, content: AsyncIterator[bytes], source: AsyncGenerator[Any, None], held: ExitStack
    ) -> None:
        super().__init__(content, media_type="text/event-stream")
        self._source, self._held = source, held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._held.close()
            await self._source.aclose()


async def unless_gone(http: HttpRequest, work: Awaitable[Result]) -> Result:
    """The result of `work`, or its end as soon as the client has gone.

    Raises:
        Refusal: it has gone.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(http))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Refusal("cancelled")
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


def conversation(asked: ChatRequest) -> tuple[Message, ...]:
    """The turns as the processor takes them; images are numbered as they come."""
    turns, images = [], 0
    for turn in asked.messages:
        role: Role = "system" if turn.role == "developer" else turn.role
        parts: list[str | int] = []
        for part in turn.content:
            if isinstance(part, TextPart):
                parts.append(part.text)
            else:
                parts.append(images)
                images += 1
        turns.append(Message(role, tuple(parts)))
    return tuple(turns)


def _never() -> Pixels:
    raise DataError("images of a request are decoded already")
