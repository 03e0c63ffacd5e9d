"""Who may use the page where the server has keys: a key is asked for once, then a cookie stands for it.

The cookie is a random word that is good for this page only; the server knows its hash. It is never taken as a key by
the API, so no page of another site can make a browser use the API with it.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import parse_qs

from infimed.serving.keys import Keys

COOKIE: Final = "infimed-page"
SECONDS: Final = 8 * 3600
"""How long a key is remembered: a working day."""
MOST: Final = 1024
FORM_BYTES: Final = 4096


class Entrance:
    """The visitors who have shown a key."""

    def __init__(self, keys: Keys, clock: Callable[[], float] = time.monotonic) -> None:
        self.keys, self._clock = keys, clock
        self._visitors: OrderedDict[bytes, tuple[str, float]] = OrderedDict()

    def client(self, cookies: str) -> str | None:
        """Whose key a ``Cookie`` header stands for, or None."""
        known = self._visitors.get(_hash(_word(cookies)))
        return known[0] if known is not None and self._clock() < known[1] else None

    def enter(self, form: bytes) -> str | None:
        """The word for a form with a key, or None where the key is not known."""
        try:
            fields = parse_qs(form.decode("ascii"), max_num_fields=4)
        except ValueError:
            return None
        client = self.keys.client(f"Bearer {fields.get('key', [''])[0]}")
        if client is None:
            return None
        word = secrets.token_urlsafe(32)
        self._visitors[_hash(word)] = (client, self._clock() + SECONDS)
        while len(self._visitors) > MOST:
            self._visitors.popitem(last=False)
        return word

    def leave(self, cookies: str) -> None:
        """Forget a visitor."""
        self._visitors.pop(_hash(_word(cookies)), None)


def set_cookie(word: str, encrypted: bool) -> str:
    """The ``Set-Cookie`` header for a word; an empty one takes it back.

    Args:
        encrypted: whether the browser's connection is, as the proxy in front says.
    """
    seconds = SECONDS if word else 0
    secure = "; Secure" if encrypted else ""
    return f"{COOKIE}={word}; Path=/page; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}"


def _word(cookies: str) -> str:
    try:
        morsel = SimpleCookie(cookies).get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel is not None else ""


def _hash(word: str) -> bytes:
    return hashlib.sha256(word.encode("utf-8", "surrogateescape")).digest()
