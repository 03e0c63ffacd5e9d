"""What stands before every address of the page: a list of the addresses that exist, the key, sizes and headers.

Gradio brings many addresses (a proxy, editors, recordings, a store of links); those that the page needs are named here
and no other is passed on. Pure ASGI, inside `Front`, which has checked the host name. Invariant: no file but those of the
page's own folder, no body without a known length, no request of another site's page, no header that lets the browser
ask another machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from collections import OrderedDict
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, RedirectResponse, Response

from infimed.inference.disclaimer import DISCLAIMER
from infimed.serving.front import App, Message, Receive, Scope, Send
from infimed.serving.refusals import Refusal
from infimed.serving.service import Service
from infimed.serving.web.entrance import FORM_BYTES, Entrance, set_cookie
from infimed.serving.web.holding import Holding
from infimed.serving.web.results import KINDS, WRITERS

PREFIX: Final = "/page"
OWN: Final = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
"""Files of ours, in this package."""
GET: Final = re.compile(
    r"/(?:assets/[\w./-]+|static/(?:fonts|img|js)/[\w./ -]+|theme\.css|gradio_api/(?:startup-events|theme\.css|"
    r"queue/data|upload_progress|heartbeat/[\w-]{1,64}|file=.+))?"
)
POST: Final = re.compile(r"/gradio_api/(?:upload|queue/join|cancel|reset/?)")
"""Addresses of Gradio that the page uses, below `PREFIX`."""
UPLOAD: Final = "/gradio_api/upload"
JOIN_BYTES: Final = 2**20
"""Of an event: texts only, images come as uploads."""
SESSIONS: Final = 4096
CACHED: Final = b"private, max-age=86400, immutable"
"""Gradio's own scripts: their names change with their content."""
POLICY: Final = (
    "default-src 'none'; script-src 'self' 'nonce-{nonce}'; style-src 'self' 'unsafe-inline'; img-src 'self' data: "
    "blob:; font-src 'self'; connect-src 'self'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
"""As tight as Gradio allows: it writes styles into the page; a script runs with this answer's nonce or from here."""


@dataclass
class Door:
    """The page's outermost layer; what is no address of the page passes as it is.

    Attributes:
        app: the server, with Gradio mounted at `PREFIX`. folder: the only one from which files are served.
    """

    app: App
    service: Service
    entrance: Entrance
    holding: Holding
    folder: Path
    _sessions: OrderedDict[str, str] = field(default_factory=OrderedDict)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        path = str(scope.get("path", ""))
        if scope["type"] != "http" or not is_page(path):
            await self.app(scope, receive, send)
            return
        if path in ("/", PREFIX):
            await RedirectResponse(f"{PREFIX}/", 303)(scope, receive, send)
            return
        headers, place = Headers(scope=scope), path.removeprefix(PREFIX)
        if scope["method"] not in ("GET", "HEAD", "POST"):
            raise Refusal("method_not_allowed")
        if scope["method"] == "POST":
            _same_site(headers)
        own = await self._own(scope, headers, place, receive)
        if own is None:
            self._check(scope, headers, place)
            await self._pass(scope, headers, place, receive, send)
        else:
            await own(scope, receive, send)

    async def _own(
        self, scope: Scope, headers: Headers, place: str, receive: Receive
    ) -> Response | None:
        """The answer to what is ours; None for what is Gradio's and may be asked."""
        client = scope["state"]["client"]
        encrypted = headers.get("x-forwarded-proto") == "https"
        if place.startswith("/own/") and place[5:] in OWN:
            return _file(place[5:])
        if self.entrance.keys.hashes:
            cookies = headers.get("cookie", "")
            if place == "/login" and scope["method"] == "POST":
                word = self.entrance.enter(await _form(headers, receive))
                if word is None:
                    return _login("This key is not known.")
                sent = RedirectResponse(f"{PREFIX}/", 303)
                sent.headers["set-cookie"] = set_cookie(word, encrypted)
                return sent
            if place == "/logout":
                self.entrance.leave(cookies)
                sent = RedirectResponse(f"{PREFIX}/", 303)
                sent.headers["set-cookie"] = set_cookie("", encrypted)
                return sent
            known = self.entrance.client(cookies)
            if known is None:
                if place == "/":
                    return _login("")
                raise Refusal("unauthorized")
            client = scope["state"]["client"] = known
        if place.startswith("/result/"):
            return self._result(client, place)
        return None

    def _result(self, client: str, place: str) -> Response:
        """A result as a file: never shown in the browser, always saved."""
        token, _, kind = place.removeprefix("/result/").partition("/")
        done = self.holding.finished(client, token) if kind in KINDS else None
        if done is None:
            raise Refusal("not_found")
        ending, media = KINDS[kind]
        name = f"infimed-{done.name}.{ending}"
        disposition = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(WRITERS[kind](done), media_type=media, headers=disposition)

    def _check(self, scope: Scope, headers: Headers, place: str) -> None:
        """Whether Gradio is asked for this.

        Raises:
            Refusal: the address is none of the page's, the session is another client's, or the body is too large.
        """
        if scope["method"] != "POST":
            if not GET.fullmatch(place) or ".." in place or b"deep_link" in scope["query_string"]:
                raise Refusal("not_found")
            if place.startswith("/gradio_api/file="):
                self._inside(place.removeprefix("/gradio_api/file="))
            session = self._session(scope, place)
            if session and not self.owns(scope["state"]["client"], session):
                raise Refusal("not_found")
            return
        if not POST.fullmatch(place):
            raise Refusal("not_found")
        length, limits = headers.get("content-length", ""), self.service.settings.limits
        if not length.isdigit():
            raise Refusal("missing_field", param="content-length")
        most = limits.images * limits.image_bytes + 65_536 if place == UPLOAD else JOIN_BYTES
        if int(length[:20]) > most:
            raise Refusal("body_too_large", detail=f"at most {most} bytes")
        if place == UPLOAD and folder_bytes(self.folder) + most > limits.bytes_in_flight:
            raise Refusal("overloaded", retry_after=self.service.settings.times.retry_after)

    def _inside(self, name: str) -> None:
        """Whether a file is one that the page made.

        Raises:
            Refusal: it is not, or it is not there.
        """
        try:
            path = Path(name).resolve(strict=True)
        except (OSError, ValueError, RuntimeError):
            raise Refusal("not_found") from None
        if not path.is_file() or not path.is_relative_to(self.folder):
            raise Refusal("not_found")

    def _session(self, scope: Scope, place: str) -> str:
        if place.startswith("/gradio_api/heartbeat/"):
            return place.rpartition("/")[2]
        if place == "/gradio_api/queue/data":
            query = parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=8)
            return query.get("session_hash", [""])[0]
        return ""

    def owns(self, client: str, session: str) -> bool:
        """Whether a page, by Gradio's name for it, is this client's: it is whose it was when it was opened."""
        owner = self._sessions.setdefault(session, client)
        self._sessions.move_to_end(session)
        while len(self._sessions) > SESSIONS:
            self._sessions.popitem(last=False)
        return owner == client

    async def _pass(
        self, scope: Scope, headers: Headers, place: str, receive: Receive, send: Send
    ) -> None:
        """Let Gradio answer."""
        taken = {b"x-forwarded-host", b"accept-encoding"} if place == "/" else {b"x-forwarded-host"}
        scope["headers"] = [(k, v) for k, v in scope["headers"] if k not in taken]
        nonce = secrets.token_urlsafe(16)
        policy = POLICY.format(nonce=nonce)
        answer = _Rewritten(send, policy, nonce, self._heading()) if place == "/" else _Headed(send, policy, place)  # fmt: skip
        if place.startswith("/gradio_api/heartbeat/"):
            await self._until_draining(scope, receive, answer)
        elif place == UPLOAD:
            with self.service.gate.admit(scope["state"]["client"]) as taking:
                taking.grow(int(headers["content-length"]))
                async with asyncio.timeout(self.service.settings.times.body):
                    await self.app(scope, receive, answer)
        else:
            await self.app(scope, receive, answer)

    async def _until_draining(self, scope: Scope, receive: Receive, send: Any) -> None:
        """A page that is open must not keep the server from stopping."""
        task = asyncio.ensure_future(self.app(scope, receive, send))
        try:
            while not task.done() and not self.service.gate.draining:
                await asyncio.wait({task}, timeout=0.5)
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def _heading(self) -> str:
        """What stands above everything, whatever else works."""
        own = f"{escape(self.service.name)} · {escape(self.service.answerer.fingerprint[:12])}"
        leave = f'<a href="{PREFIX}/logout">Sign out</a>' if self.entrance.keys.hashes else ""
        return (
            f'<header class="infimed"><strong>InfiMed</strong><span class="model">{own}</span>{leave}'
            f'<p role="note">{escape(DISCLAIMER)}</p></header>'
            "<noscript><p>This page needs JavaScript of this server.</p></noscript>"
        )


class _Headed:
    """Sends an answer of Gradio with our headers."""

    def __init__(self, send: Send, policy: str, place: str) -> None:
        self._send, self._policy, self._place = send, policy, place

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=list(message["headers"]))
            headers["content-security-policy"] = self._policy
            if self._place.startswith(("/assets/", "/static/")):
                headers["cache-control"] = CACHED.decode()
            for name in ("access-control-allow-origin", "access-control-allow-credentials"):
                if name in headers:
                    del headers[name]
            message["headers"] = headers.raw
        await self._send(message)


class _Rewritten:
    """Sends Gradio's page with our heading, our files and a nonce at every script that it has."""

    def __init__(self, send: Send, policy: str, nonce: str, heading: str) -> None:
        self._send, self._policy, self._nonce, self._heading = send, policy, nonce, heading
        self._start: Message | None = None
        self._body = bytearray()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        self._body += message.get("body", b"")
        if message.get("more_body"):
            return
        assert self._start is not None
        body = bytes(self._body)
        headers = MutableHeaders(raw=list(self._start["headers"]))
        if body and headers.get("content-type", "").startswith("text/html"):
            body = rewritten(body.decode(), self._nonce, self._heading).encode()
            headers["content-length"] = str(len(body))
        headers["content-security-policy"] = self._policy
        await self._send({**self._start, "headers": headers.raw})
        await self._send({"type": "http.response.body", "body": body})


_OUTSIDE: Final = re.compile(
    r"<meta\s+(?:property|name)=\"(?:og|twitter):[^>]*>|<link rel=\"manifest\"[^>]*>"
)


def rewritten(page: str, nonce: str, heading: str) -> str:
    """Gradio's page as we send it.

    What it says of itself to other sites goes. Its data are JSON in which "<" is escaped, so that every ``<script`` is one
    of its template.
    """
    page = _OUTSIDE.sub("", page)
    page = re.sub(r"<script(?=[\s>])", f'<script nonce="{nonce}"', page)
    ours = (
        '<link rel="icon" href="own/icon.svg" type="image/svg+xml"><link rel="stylesheet" href="own/page.css">'
        f'<script nonce="{nonce}" src="own/page.js" defer></script></head>'
    )
    page = page.replace("</head>", ours, 1)
    return re.sub(r"(<body[^>]*>)", lambda found: found[1] + heading, page, count=1)


def is_page(path: str) -> bool:
    """Whether a path is one of the page's, or leads to it."""
    return path in ("/", PREFIX) or path.startswith(f"{PREFIX}/")


def folder_bytes(folder: Path) -> int:
    """Size of all files below a folder."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # it was removed meanwhile
            total += path.stat().st_size if path.is_file() else 0
    return total


def _same_site(headers: Headers) -> None:
    """Whether the page itself sends this, as browsers say.

    Raises:
        Refusal: a page of another site does.
    """
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
    if site not in ("same-origin", "none"):
        raise Refusal("host_not_allowed")
    if origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower():
        raise Refusal("host_not_allowed")


def _file(name: str) -> Response:
    content = files(__package__).joinpath(name).read_bytes()
    return Response(content, media_type=OWN[name])


def _login(problem: str) -> Response:
    """The page that asks for a key."""
    text = files(__package__).joinpath("login.html").read_text("utf-8")
    alert = f'<p role="alert">{escape(problem)}</p>' if problem else ""
    page = text.replace("{problem}", alert).replace("{disclaimer}", escape(DISCLAIMER))
    policy = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'"
    # Without a referrer a browser would say that the form comes from nowhere, and `_same_site` refuse it.
    headers = {"Content-Security-Policy": policy, "Referrer-Policy": "same-origin"}
    return HTMLResponse(page, 401 if problem else 200, headers)


async def _form(headers: Headers, receive: Receive) -> bytes:
    """A short form.

    Raises:
        Refusal: it is too long, or does not come.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise Refusal("media_type")
    body = bytearray()
    try:
        async with asyncio.timeout(5):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise Refusal("cancelled")
                body += message.get("body", b"")
                if len(body) > FORM_BYTES:
                    raise Refusal("body_too_large")
                if not message.get("more_body"):
                    return bytes(body)
    except TimeoutError:
        raise Refusal("body_too_slow") from None
