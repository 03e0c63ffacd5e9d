"""What stands before every address: host name, key, request id, one log line, and no text of an exception.

Pure ASGI, so that streams and disconnects pass as they are. Invariant: whatever happens inside, a client
gets a status and a body of ours, or a closed connection where an answer had begun.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from infimed.serving.keys import Keys
from infimed.serving.logs import frames_of
from infimed.serving.meters import Meters
from infimed.serving.refusals import Refusal

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOG: Final = logging.getLogger("infimed.serving")
ROUTES: Final = (
    "/v1/chat/completions", "/v1/infimed/files", "/v1/models", "/health", "/ready", "/metrics", "/openapi.json",
    "/v1/infimed/evidence", "/v1/infimed/nearest", "/v1/infimed/ask", "/v1/infimed/report",
    "/v1/infimed/differential", "/v1/infimed/consult",
)  # fmt: skip
OPEN: Final = frozenset({"/health", "/ready"})
"""Addresses that ask for no key: they say one word."""
LOCAL_HOSTS: Final = ("localhost", "127.0.0.1", "::1")
HEADERS: Final = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'"),
    (b"referrer-policy", b"no-referrer"),
)


class Turnstile:
    """Lets so many requests begin in one turn of the event loop, so that the loop gets round to /health however many
    arrive at once: refusing hundreds in one turn takes a second."""

    def __init__(self, most: int = 8) -> None:
        self.most, self._passed = most, 0

    async def enter(self) -> None:
        """Wait for a turn with room."""
        while self._passed >= self.most:
            await asyncio.sleep(0)
        if not self._passed:
            asyncio.get_running_loop().call_soon(self._turn)
        self._passed += 1

    def _turn(self) -> None:
        self._passed = 0


@dataclass
class Front:
    """The outermost layer.

    Attributes:
        hosts: names in ``Host`` that are answered to; none for all. On a loopback bind they keep a web page
            of another site, whose name was pointed at this machine, from asking.
        idle_seconds: longest a client may leave a part of its answer unread.
        is_page: whether a path is the page's, which asks for keys itself and has headers of its own.
    """

    app: App
    keys: Keys
    meters: Meters
    hosts: Sequence[str] = ()
    idle_seconds: float = 30.0
    is_page: Callable[[str], bool] = lambda path: False
    turnstile: Turnstile = field(default_factory=Turnstile)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status, noted = time.perf_counter(), 0, scope.setdefault("state", {})
        request_id = noted["request_id"] = f"req-{secrets.token_hex(12)}"
        noted["began"] = began

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
                there = {name for name, _ in message.get("headers", ())}
                own = [(name, value) for name, value in HEADERS if name not in there]
                own.append((b"x-request-id", request_id.encode()))
                message["headers"] = [*message.get("headers", ()), *own]
            async with asyncio.timeout(self.idle_seconds):
                await send(message)

        reason = ""
        if scope["path"] not in OPEN:
            await self.turnstile.enter()
        try:
            headers = Headers(scope=scope)
            self._check_host(headers)
            noted["client"] = self._client(scope, headers)
            await self.app(scope, receive, sent)
        except Refusal as refusal:
            noted["code"] = refusal.code
            if not status:
                await refused(refusal, request_id)(scope, receive, sent)
        except TimeoutError:
            reason = "unread"  # the connection is closed, nothing else can be said
        except Exception as error:
            LOG.error("failed", extra={"request_id": request_id, "frames": frames_of(error)})
            noted["code"] = "internal"
            if not status:
                await refused(Refusal("internal"), request_id)(scope, receive, sent)
        finally:
            self._note(scope, noted, status, time.perf_counter() - began, reason)

    def _check_host(self, headers: Headers) -> None:
        if not self.hosts:
            return
        name = headers.get("host", "")
        bare = name[1 : name.find("]")] if name.startswith("[") else name.rsplit(":", 1)[0]
        if bare.lower() not in self.hosts:
            raise Refusal("host_not_allowed")

    def _client(self, scope: Scope, headers: Headers) -> str:
        """Whose turn a request takes: its key's, or its address'."""
        if self.keys.hashes and scope["path"] not in OPEN and not self.is_page(scope["path"]):
            client = self.keys.client(headers.get("authorization"))
            if client is None:
                raise Refusal("unauthorized")
            return client
        peer = scope.get("client")
        return str(peer[0]) if peer else "local"

    def _note(
        self, scope: Scope, noted: dict[str, Any], status: int, seconds: float, reason: str
    ) -> None:
        path = scope["path"]
        route = path if path in ROUTES else "page" if self.is_page(path) else "other"
        self.meters.requests.labels(route, str(status or 499)).inc()
        self.meters.seconds.labels(route).observe(seconds)
        if "code" in noted:
            self.meters.refusals.labels(noted["code"]).inc()
        kept = ("request_id", "code", "body_bytes", "images", "prompt_tokens", "new_tokens",
                "reused_tokens", "first_token_milliseconds")  # fmt: skip
        extra = {name: noted[name] for name in kept if name in noted}
        if self.keys.hashes and "client" in noted:
            extra["client"] = noted["client"]
        LOG.info(
            "request",
            extra={**extra, "route": route, "status": status or 499, "milliseconds": round(1000 * seconds, 1), **({"reason": reason} if reason else {})},
        )  # fmt: skip


def refused(refusal: Refusal, request_id: str) -> JSONResponse:
    """A refusal as an answer."""
    return JSONResponse(
        refusal.body(request_id), status_code=refusal.status, headers=refusal.headers()
    )
