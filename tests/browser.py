"""A real browser for pages that people will open: skipped with a reason where there is none."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no chromium, chromium-browser or google-chrome on PATH"
)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--allow-file-access-from-files",
)  # fmt: skip


def browse(folder: Path, page: Path, *extra: str) -> str:
    """Open a page with a fresh profile below `folder`; returns what the browser printed."""
    assert BROWSER is not None
    done = subprocess.run(
        [BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", *extra, page.as_uri()],
        capture_output=True,
        timeout=120,
        check=False,
    )
    return done.stdout.decode("utf-8", "replace")


def probe(folder: Path, text: str, width: int) -> dict[str, Any]:
    """What a page around the page under test finds: pages that run no script are measured so.

    Args:
        text: HTML with ``{width}`` for the frame's width; it ends with JSON as the body's text.
    """
    (folder / "probe.html").write_text(text.format(width=width), encoding="utf-8")
    dom = browse(folder, folder / "probe.html", "--dump-dom", "--virtual-time-budget=5000")
    found = re.search(r"<body>(\{.*\})\s*</body>", dom, re.DOTALL)
    assert found is not None, dom[:500]
    seen: dict[str, Any] = json.loads(html.unescape(found.group(1)))
    return seen
