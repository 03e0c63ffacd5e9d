"""Where an endpoint is, its key, and how patiently it is asked; see `endpoint` for the asking.

Invariant: the key stands in no repr, message or file.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Final
from urllib.parse import urlsplit

from infimed.core.errors import DataError, UsageError, missing_extra

KEY_VARIABLE: Final = "INFIMED_API_KEY"
CONNECT_SECONDS: Final = 10.0
_OURS: Final = frozenset({"model", "messages", "stream", "n"})


@dataclass(frozen=True)
class Endpoint:
    """Where to ask, and how patiently.

    Attributes:
        base_url: up to and including the version, such as ``http://host:8000/v1``.
        model: the name the server knows it by.
        api_key: sent as a bearer token where not empty; never shown.
        concurrency: most calls open at once.
        attempts: most calls for one request.
        timeout_seconds: longest one call may take.
        first_wait_seconds: before the second attempt; doubles each time, up to
            `longest_wait_seconds`. A longer ``Retry-After`` ends the request instead.
        garbage_attempts: most calls for one request whose answer is garbage (a proxy's page, an empty
            text).
        give_up_after: so many requests in a row without an answer end the run.
        extra: merged into every body, for example ``{"response_format": {"type": "json_object"}}``;
            part of the fingerprint.
    """

    base_url: str
    model: str
    api_key: str = field(default="", repr=False)
    concurrency: int = 8
    attempts: int = 5
    timeout_seconds: float = 120.0
    first_wait_seconds: float = 1.0
    longest_wait_seconds: float = 60.0
    give_up_after: int = 16
    garbage_attempts: int = 1
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "base_url", checked_url(self.base_url))
        if min(self.concurrency, self.attempts, self.give_up_after, self.garbage_attempts) < 1:
            raise UsageError(
                "concurrency, attempts, garbage_attempts and give_up_after are at least 1"
            )
        if not all("!" <= char <= "~" for char in self.api_key):
            raise UsageError(  # httpx would show the key in its own error
                "the key has characters that no key has",
                fix=f"look for quotes, spaces or line ends in {KEY_VARIABLE} or the key file",
            )
        for name in _OURS & set(self.extra):
            raise UsageError("this part of a request is set by the client", seen=name)


def checked_url(url: str) -> str:
    """A base URL without trailing slash; ``/v1`` is added where it has no path.

    Raises:
        UsageError: it is no http(s) URL, or it carries a user name or password.
    """
    try:
        parts = urlsplit(url.strip())
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise UsageError("not an endpoint", seen=url, accepted="http://host:8000/v1")
    if parts.username or parts.password:
        raise UsageError(
            "an endpoint's URL may not carry a password",
            where=host,
            fix=f"put the key into the variable {KEY_VARIABLE} or a file",
        )
    path = parts.path.rstrip("/").removesuffix("/chat/completions")
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"


def parse_extra(text: str) -> dict[str, Any]:
    """``Endpoint.extra`` from a JSON object.

    Raises:
        UsageError: it is none.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        accepted = '{"response_format": {"type": "json_object"}}'
        raise UsageError("extra settings are a JSON object", seen=text[:80], accepted=accepted)
    return value


def is_loopback(url: str) -> bool:
    """Whether the endpoint is on this machine."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def read_key(file: Path | None = None) -> str:
    """The key from `file`, else from the environment variable INFIMED_API_KEY, else ''.

    Raises:
        UsageError: the file cannot be read or holds no single word.
    """
    if file is None:
        return os.environ.get(KEY_VARIABLE, "").strip()
    try:
        key = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("the key file cannot be read", where=str(file)) from error
    if not key or len(key.split()) != 1:
        raise UsageError("a key file holds the key and nothing else", where=str(file))
    return key


def bearer(endpoint: Endpoint) -> dict[str, str]:
    """The header that carries the key."""
    return {"Authorization": f"Bearer {endpoint.api_key}"} if endpoint.api_key else {}


def httpx_module(extra: str = "judge") -> ModuleType:
    """httpx, or the error that names the extra it belongs to."""
    try:
        import httpx
    except ImportError as error:
        raise missing_extra(extra, "httpx") from error
    return httpx


def served_models(endpoint: Endpoint) -> list[str]:
    """Names of the models that the endpoint serves.

    Raises:
        DataError: it cannot be reached, or its answer is no list of models.
    """
    httpx = httpx_module()
    try:
        answer = httpx.get(
            f"{endpoint.base_url}/models",
            headers=bearer(endpoint),
            timeout=CONNECT_SECONDS,
            trust_env=not is_loopback(endpoint.base_url),
        )
        names = [str(entry["id"]) for entry in answer.json()["data"]]
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            "the endpoint does not say which models it serves",
            where=endpoint.base_url,
            seen=type(error).__name__,
            fix="start it, check the URL and the key, or name the model",
        ) from error
    if not names:
        raise DataError("the endpoint serves no model", where=endpoint.base_url)
    return names
