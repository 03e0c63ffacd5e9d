"""A model's server behind this one (vLLM, or any with OpenAI's chat API): same admission, same answers' shape.

What goes on is made anew from the checked request: images as PNG of the pixels that our decoder made, so the
server behind fetches and decodes nothing that a client sent. It renders its own template, where we cannot
keep a typed control token from becoming one, so texts that hold any are refused. Nothing that it says in an error
reaches a client. Needs the package ``httpx`` of the extra ``serve``.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import re
import time
import unicodedata
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from infimed.core.files import sha256_json
from infimed.inference.endpoint_settings import (
    CONNECT_SECONDS,
    Endpoint,
    bearer,
    httpx_module,
    is_loopback,
)
from infimed.inference.requests import Picture
from infimed.inference.wire import body as wire_body
from infimed.serving.asking import Ask, Done, Event, Failed, First, Made, Piece, TokenScore
from infimed.serving.audit import Audit, recorded
from infimed.serving.refusals import Refusal
from infimed.serving.schema import DEAD, Automaton
from infimed.serving.settings import Settings

if TYPE_CHECKING:
    from infimed.inference.local import LocalModel

LINE_BYTES: Final = 2**20
ANSWER_BYTES: Final = 2**23
READY_SECONDS: Final = 2.0
"""Longest it may take to say that it is there."""
KNOWN_SECONDS: Final = 1.0
"""How long that is believed: `/ready` needs no key, and must not be a way to knock on another server."""
CONTROL: Final = re.compile(
    r"<\|[^<>|]{1,64}\|>|<\uFF5C[^<>]{1,64}\uFF5C>|</?(?:image|img|video|s|bos|eos|pad|unk|think|box|ref|quad|"
    r"(?:start|end)_of_(?:turn|image)|image_soft_token|IMG_CONTEXT)>|\[/?INST\]|<</?SYS>>|\[IMG[A-Z_]*\]",
    re.IGNORECASE,
)
"""Control tokens of the usual chat templates and their image placeholders."""
_INVISIBLE: Final = dict.fromkeys((*range(8203, 8208), *range(8288, 8293), 65279, 173))  # fmt: skip


class Backend:
    """An endpoint as an `asking.Answerer`."""

    fingerprint_of: Final = "name"

    def __init__(
        self,
        endpoint: Endpoint,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.endpoint, self.settings = endpoint, settings
        self.audit: Audit | None = None
        self._clock = clock
        self._looking = asyncio.Lock()
        self._there, self._known_until = False, -math.inf
        self._httpx = httpx_module("serve")
        self._client: Any = None
        self._asking: Any = None

    @property
    def fingerprint(self) -> str:
        """Names the model by its name, which is all that is known of it."""
        return sha256_json({"endpoint": self.endpoint.model, "extra": dict(self.endpoint.extra)})

    async def start(self) -> None:
        """Open the connections' pool."""
        times = self.settings.times
        shared = {
            "headers": bearer(self.endpoint),
            "follow_redirects": False,
            "trust_env": not is_loopback(self.endpoint.base_url),
        }
        self._client = self._httpx.AsyncClient(
            timeout=self._httpx.Timeout(times.generate, connect=CONNECT_SECONDS),
            limits=self._httpx.Limits(max_connections=self.settings.engine.running),
            **shared,
        )
        # Connections of its own: whether it is there must not wait for those that are being answered.
        self._asking = self._httpx.AsyncClient(timeout=READY_SECONDS, **shared)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()
        await self._asking.aclose()

    async def ready(self) -> bool:
        """Whether it lists its models; asked once for all who want to know within `KNOWN_SECONDS`."""
        async with self._looking:
            if self._clock() >= self._known_until:
                self._there = await self._lists_models()
                self._known_until = self._clock() + KNOWN_SECONDS
            return self._there

    async def _lists_models(self) -> bool:
        try:
            url = f"{self.endpoint.base_url}/models"
            return bool((await self._asking.get(url)).status_code == 200)
        except self._httpx.HTTPError:
            return False

    async def work(self, function: Callable[[LocalModel], Made], client: str) -> Made:
        """There is no model here to work with.

        Raises:
            Refusal: always.
        """
        raise Refusal("unsupported", detail="the model is not in this process")

    def answer(self, ask: Ask) -> AsyncIterator[Event]:
        """See `asking.Answerer`."""
        events = self._events(ask)
        return events if self.audit is None else recorded(self.audit, ask, self.fingerprint, events)

    async def _events(self, ask: Ask) -> AsyncIterator[Event]:
        control = control_token(ask, self.settings.backend_control)
        if control is not None:
            raise Refusal("control_token", param=control)
        automaton = None
        if ask.schema is not None:
            automaton = Automaton(ask.schema, self.settings.limits.schema_states)
        value = self._body(ask)
        reader = Reader(time.monotonic() + self.settings.times.generate)
        try:
            async with self._client.stream(
                "POST", f"{self.endpoint.base_url}/chat/completions", json=value
            ) as answered:
                if answered.status_code != 200:
                    yield Failed(_code(int(answered.status_code)))
                    return
                async for event in reader.events(answered.aiter_bytes()):
                    if isinstance(event, Piece) and not ask.stream:
                        continue
                    if isinstance(event, Done) and automaton is not None:
                        complete = event.finish == "stop"
                        if complete and not follows(automaton, event.text):
                            yield Failed("backend_error", "the answer does not follow the schema")
                            return
                    yield event
        except self._httpx.TimeoutException:
            yield Failed("generation_timeout")
        except self._httpx.ConnectError:
            yield Failed("backend_busy")
        except (self._httpx.HTTPError, self._httpx.StreamError):
            yield Failed("backend_error")

    def _body(self, ask: Ask) -> dict[str, Any]:
        def url_of(picture: Picture) -> str:
            png = base64.b64encode(ask.images[picture.sha256].png).decode("ascii")
            return f"data:image/png;base64,{png}"

        value = wire_body(ask.request, self.endpoint.model, self.endpoint.extra, url_of)
        value |= {"stream": True, "stream_options": {"include_usage": True}, "logprobs": True}
        value["top_logprobs"] = ask.top
        if ask.schema is not None:
            form = {"name": "answer", "strict": True, "schema": ask.schema}
            value["response_format"] = {"type": "json_schema", "json_schema": form}
        return value


def control_token(ask: Ask, more: Sequence[str]) -> str | None:
    """The field of the first text that holds a control token, or of the turn whose texts make one together;
    None where there is none.

    The texts of a turn are looked at as one too, because templates join them. Compatibility forms (full
    width) are folded and invisible characters left out before.
    """

    def holds(part: object) -> bool:
        if not isinstance(part, str):
            return False
        text = unicodedata.normalize("NFKC", part.translate(_INVISIBLE))
        return bool(CONTROL.search(text) or CONTROL.search(part) or any(m in text for m in more))

    for number, turn in enumerate(ask.request.messages):
        for at, part in enumerate(turn.content):
            if holds(part):
                return f"messages.{number}.content.{at}"
        if holds(turn.text):
            return f"messages.{number}.content"
    return None


def follows(automaton: Automaton, text: str) -> bool:
    """Whether a text is JSON of the automaton's schema, whatever its white space."""
    try:
        whole = json.dumps(json.loads(text), ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError):
        return False
    state = automaton.walk(Automaton.START, whole)
    return state != DEAD and automaton.accepts(state)


def _code(status: int) -> str:
    if status in (429, 503):
        return "backend_busy"
    return "backend_refused" if 400 <= status < 500 else "backend_error"


class Reader:
    """Server-sent events of a chat completion, as our events.

    Raises nothing for whatever a server sends: what makes no sense is a `Failed`.
    """

    def __init__(self, until: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._until, self._clock = until, clock
        self._text: list[str] = []
        self._finish: str | None = None
        self._usage: Mapping[str, Any] = {}
        self._told = False
        self._logprob: float | None = 0.0

    async def events(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[Event]:
        """First, pieces, and Done or Failed."""
        buffer, total = b"", 0
        async for chunk in chunks:
            total += len(chunk)
            buffer += chunk
            if self._clock() > self._until:
                yield Failed("generation_timeout")
                return
            *lines, buffer = buffer.split(b"\n")
            if total > ANSWER_BYTES or len(buffer) > LINE_BYTES:
                yield Failed("backend_error")
                return
            for line in lines:
                if not line.startswith(b"data:"):
                    continue
                said = line[5:].strip()
                if said == b"[DONE]":
                    yield self._done()
                    return
                for event in self._read(said):
                    yield event
                    if isinstance(event, Failed):
                        return
        yield self._done() if self._finish is not None else Failed("backend_error")

    def _done(self) -> Event:
        if self._finish not in ("stop", "length"):
            return Failed("backend_error")
        finish: Any = self._finish
        asked, written = (
            _count(self._usage, name) for name in ("prompt_tokens", "completion_tokens")
        )
        text = "".join(self._text).strip()
        return Done(text, finish, asked, written, logprob=self._logprob)

    def _read(self, said: bytes) -> list[Event]:
        made: list[Event] = []
        try:
            value = json.loads(said)
            if isinstance(value.get("usage"), dict):
                self._usage = value["usage"]
            if not value.get("choices"):
                return [Failed("backend_error")] if "error" in value else []
            choice = value["choices"][0]
            text = choice.get("delta", {}).get("content") or ""
            self._finish = choice.get("finish_reason") or self._finish
            self._add(choice, text)
            first = _first(choice) if not self._told else None
            if first is not None:
                self._told = True
                made.append(first)
            if text:
                text = str(text).encode("utf-8", "replace").decode()
                self._text.append(text)
                made.append(Piece(text))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            return [Failed("backend_error")]
        return made

    def _add(self, choice: Mapping[str, Any], text: str) -> None:
        """Count a chunk's tokens in; text without probabilities leaves the whole's unknown."""
        content = (choice.get("logprobs") or {}).get("content") or []
        if text and not content:
            self._logprob = None
        elif self._logprob is not None:
            self._logprob += sum(_score(each).logprob for each in content)


def _first(choice: Mapping[str, Any]) -> First | None:
    """The first token of a chunk, where the server tells probabilities."""
    content = (choice.get("logprobs") or {}).get("content") or []
    if not content:
        return None
    top = tuple(_score(each) for each in content[0].get("top_logprobs") or ())
    return First(_score(content[0]), top)


def _score(value: Mapping[str, Any]) -> TokenScore:
    logprob = float(value["logprob"])
    if math.isnan(logprob):
        raise ValueError("no number")  # `min` would make it certainty
    return TokenScore(str(value["token"]), min(0.0, logprob))


def _count(usage: Mapping[str, Any], name: str) -> int:
    value = usage.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
