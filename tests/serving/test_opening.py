"""`infimed serve --open`: the page opens where there is a browser, and is named where there is none."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from infimed.core.errors import UsageError
from infimed.serving import opening
from infimed.serving.opening import answers, open_when_ready, opened, page_of
from infimed.serving.settings import Start
from tests.conftest import REPOSITORY
from tests.serving.test_serve import run as run  # a folder with a tiny checkpoint


def test_the_address_is_one_that_a_browser_on_this_machine_can_open():
    assert page_of("http://127.0.0.1:8000/v1") == "http://127.0.0.1:8000/page/"
    assert page_of("http://0.0.0.0:81/v1") == "http://127.0.0.1:81/page/"
    assert page_of("http://[::]:81/v1") == "http://[::1]:81/page/"
    assert page_of("http://[::1]:81/v1") == "http://[::1]:81/page/"
    assert page_of("http://ward.example:81/v1") == "http://ward.example:81/page/"


def recorder(folder: Path) -> tuple[Path, Path]:
    """A browser that writes down what it is asked to open, and where it does."""
    asked, script = folder / "asked", folder / "browser"
    script.write_text(f'#!/bin/sh\nprintf %s "$1" > {shlex.quote(str(asked))}.part\nmv {shlex.quote(str(asked))}.part {shlex.quote(str(asked))}\n')  # fmt: skip
    script.chmod(0o755)
    return script, asked


def test_without_a_screen_no_browser_takes_the_terminal(monkeypatch: pytest.MonkeyPatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("webbrowser.open", lambda url: pytest.fail("one was tried"))
    monkeypatch.setattr("sys.platform", "linux")
    assert not opened("http://127.0.0.1:1/page/")


@pytest.fixture
def late() -> Iterator[str]:
    """A server that is not ready at first."""
    statuses = iter([503, 503, 200])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(next(statuses))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{made.server_port}/page/"
    made.shutdown()
    thread.join()
    made.server_close()
    assert next(statuses, None) is None, "it was asked until it was ready"


def test_it_waits_until_the_server_is_ready(late: str):
    assert answers(late)


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(opening, "BETWEEN_SECONDS", 0.01)
    assert not answers("http://127.0.0.1:1/page/", 0.03)


@pytest.mark.parametrize("here", [True, False])
def test_where_no_browser_is_the_address_is_said(monkeypatch: pytest.MonkeyPatch, here: bool):
    said: list[str] = []
    monkeypatch.setattr(opening, "answers", lambda page: True)
    monkeypatch.setattr(opening, "opened", lambda page: here)
    open_when_ready("http://127.0.0.1:5/page/", said.append).join()
    assert said == ([] if here else ["No browser was found here. Open http://127.0.0.1:5/page/ yourself."])  # fmt: skip


def test_opening_a_page_that_is_not_wanted_is_a_mistake():
    assert Start(run="a").given(open_page=True).open_page
    with pytest.raises(UsageError, match="do not go together"):
        Start(run="a").given(open_page=True, page=False)


def test_the_demo_ends_with_one_command_that_serves_its_model_and_opens_the_page(run, tmp_path):
    pytest.importorskip("gradio", reason="the extra 'web' is not installed")
    demo = re.search(r"^demo:.*?\n\n", (REPOSITORY / "Makefile").read_text(), re.MULTILINE | re.DOTALL)  # fmt: skip
    assert demo is not None
    last = demo[0].strip().splitlines()[-1]
    command = re.search(r"\$\(BIN\)/infimed (serve runs/nano[^\"]*)", last)
    assert command is not None and demo[0].count("infimed serve") == 1
    words = [str(run) if word == "runs/nano" else word for word in shlex.split(command[1])]
    browser, asked = recorder(tmp_path)
    started = subprocess.Popen(
        [sys.executable, "-m", "infimed.cli.main", *words, "--port", "0"],
        env={**os.environ, "BROWSER": str(browser)},
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(1200):
            if asked.exists() or started.poll() is not None:
                break
            threading.Event().wait(0.1)
        page = asked.read_text()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/page/", page)
        shown = httpx.get(page, trust_env=False)
        assert shown.status_code == 200 and "<gradio-app" in shown.text
    finally:
        started.terminate()
        started.wait(60)
