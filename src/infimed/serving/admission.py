"""Who comes in: counted before a byte of the body is read, so that a flood costs the server nothing.

A request takes its place among all requests and among its client's; its bytes are taken as they arrive.
Nothing here waits: what is full is refused at once, and says when to come back.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from infimed.serving.refusals import Refusal
from infimed.serving.settings import Settings


@dataclass
class Place:
    """The place of one request: its bytes so far."""

    gate: Gate
    client: str
    bytes: int = 0

    def grow(self, more: int) -> None:
        """Take room for more bytes of the body.

        Raises:
            Refusal: all bodies together are too large.
        """
        limits = self.gate.settings.limits
        if self.gate.bytes + more > limits.bytes_in_flight:
            raise Refusal("overloaded", retry_after=self.gate.settings.times.retry_after)
        self.bytes += more
        self.gate.bytes += more


@dataclass
class Gate:
    """Counts what is in flight. For one event loop; not thread-safe."""

    settings: Settings
    requests: int = 0
    bytes: int = 0
    draining: bool = False
    clients: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def admit(self, client: str) -> Iterator[Place]:
        """A place until the block ends.

        Raises:
            Refusal: the server is full or stopping, or the client has too many requests in flight.
        """
        limits, wait = self.settings.limits, self.settings.times.retry_after
        if self.draining:
            raise Refusal("draining", retry_after=wait)
        if self.clients[client] >= limits.requests_per_client:
            raise Refusal("too_many_requests", retry_after=wait)
        if self.requests >= limits.requests:
            raise Refusal("overloaded", retry_after=wait)
        place = Place(self, client)
        self.requests += 1
        self.clients[client] += 1
        try:
            yield place
        finally:
            self.requests -= 1
            self.bytes -= place.bytes
            self.clients[client] -= 1
            if not self.clients[client]:
                del self.clients[client]


def check_headers(
    headers: Mapping[str, str], settings: Settings, expected: str = "application/json"
) -> None:
    """What the headers say of a body, before it is read.

    Raises:
        Refusal: it is not of the expected type, encoded, or larger than the limit.
    """
    kind = headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != expected or headers.get("content-encoding", "identity") != "identity":
        raise Refusal("media_type" if expected == "application/json" else "form_expected")
    length = headers.get("content-length")
    if length is not None and length.isdigit() and int(length[:20]) > settings.limits.body_bytes:
        detail = f"at most {settings.limits.body_bytes} bytes"
        raise Refusal("body_too_large", detail=detail)


def check_origin(headers: Mapping[str, str]) -> None:
    """Refuse a form that a page of another site sends: a browser asks nobody before it sends one.

    Raises:
        Refusal: the browser says that it comes from elsewhere.
    """
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
    elsewhere = origin is not None and origin.partition("://")[2] != headers.get("host", "")
    if elsewhere or site not in ("same-origin", "none"):
        raise Refusal("origin_not_allowed")


async def read_body(chunks: AsyncIterator[bytes], place: Place) -> bytes:
    """The body, read up to the limits of bytes and time.

    Raises:
        Refusal: it is too large or too slow.
    """
    settings = place.gate.settings
    body = bytearray()
    try:
        async with asyncio.timeout(settings.times.body):
            async for chunk in chunks:
                if len(body) + len(chunk) > settings.limits.body_bytes:
                    detail = f"at most {settings.limits.body_bytes} bytes"
                    raise Refusal("body_too_large", detail=detail)
                place.grow(len(chunk))
                body += chunk
    except TimeoutError:
        raise Refusal("body_too_slow") from None
    return bytes(body)
