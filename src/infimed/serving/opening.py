"""Opens the page in the browser of this machine, once the server answers."""

from __future__ import annotations

import os
import sys
import threading
import webbrowser
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Addresses that a server can listen on and no browser can open, and what this machine's browser opens instead."""
PATIENCE_SECONDS: Final = 120.0
BETWEEN_SECONDS: Final = 0.2


def page_of(url: str) -> str:
    """The page's address for a browser on this machine.

    Args:
        url: of the API, as ``http://127.0.0.1:8000/v1``.
    """
    parts = urlsplit(url)
    host = ANYWHERE.get(parts.hostname or "", parts.hostname or "")
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{parts.port}/page/"


def open_when_ready(page: str, told: Callable[[str], object]) -> threading.Thread:
    """Wait in the background until the server answers, then open the page, or say that no browser is here."""

    def opens() -> None:
        if answers(page) and not opened(page):
            told(f"No browser was found here. Open {page} yourself.")

    thread = threading.Thread(target=opens, name="open-page", daemon=True)
    thread.start()
    return thread


def answers(page: str, seconds: float = PATIENCE_SECONDS) -> bool:
    """Wait until the server behind the page answers; False where it does not in so many seconds."""
    import httpx

    ready = page.removesuffix("page/") + "ready"
    waiting = threading.Event()
    for _ in range(max(1, round(seconds / BETWEEN_SECONDS))):
        try:
            if httpx.get(ready, trust_env=False, timeout=5).status_code != 503:
                return True
        except httpx.HTTPError:
            pass
        waiting.wait(BETWEEN_SECONDS)
    return False


def opened(page: str) -> bool:
    """Open an address; False where there is no screen or no browser.

    Without a screen a browser for terminals would take this server's terminal, so none is tried; the variable
    ``BROWSER`` names one that is wanted all the same.
    """
    screen = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
    if sys.platform.startswith("linux") and not screen:
        return False
    try:
        return webbrowser.open(page)
    except (webbrowser.Error, OSError):
        return False
