"""`infimed serve` as a process: it starts, answers, drains on SIGTERM, and refuses what is unsafe."""

from __future__ import annotations

import importlib.util
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from infimed.cli.serve import serve
from infimed.core.errors import InfiMedError
from infimed.data.record import Message
from infimed.inference.local import LocalModel
from infimed.inference.requests import Request
from tests.serving.world import LONG, body, image_part, picture, png_url, post, tiny_local


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from infimed.model.loading import save_checkpoint

    folder = tmp_path_factory.mktemp("runs") / "tiny"
    local = tiny_local()
    save_checkpoint(
        folder / "checkpoints" / "step-3", local.model, local.processor, about={"step": 3}
    )
    return folder


@pytest.fixture
def process(run: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    (tmp_path / "serve.yaml").write_text("decoder: {workers: 1}\n")
    command = [sys.executable, "-m", "infimed.cli.main", "serve", str(run), "--port", "0",
               "--settings", str(tmp_path / "serve.yaml")]  # fmt: skip
    started = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert started.stderr is not None
    for line in started.stderr:
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        if found:
            break
    else:
        raise AssertionError("it did not start")
    for _ in range(500):
        try:
            if httpx.get(f"{found[0]}/ready", trust_env=False).status_code == 200:
                break
        except httpx.HTTPError:
            threading.Event().wait(0.05)
    try:
        yield started, found[0]
    finally:
        started.kill()
        started.wait()


def test_it_answers_as_offline_and_drains_on_sigterm(run, process):
    started, url = process
    local = LocalModel.open(run)
    asked = Request("q", (Message("user", ("lung?", 0)),), (picture(1),), 8)
    (expected,) = local.respond([asked])
    said = post(url, body("lung?", image_part(png_url(1)), max_tokens=8)).json()
    assert said["choices"][0]["message"]["content"] == expected.text
    assert said["infimed"]["model_hash"] == local.fingerprint

    got: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: got.append(post(url, body("a", max_tokens=400, response_format=LONG))))  # fmt: skip
    asking.start()
    while 'infimed_engine_running 1.0' not in httpx.get(f"{url}/metrics", trust_env=False).text and asking.is_alive():  # fmt: skip
        pass
    started.send_signal(signal.SIGTERM)
    seen: list[tuple[int, int, str]] = []
    while asking.is_alive() and not seen:
        ready, health = (
            httpx.get(f"{url}/{name}", trust_env=False) for name in ("ready", "health")
        )
        if ready.status_code == 503:
            refused = post(url, body("b", max_tokens=1))
            seen.append((health.status_code, refused.status_code, refused.json()["error"]["code"]))
    assert seen == [(200, 503, "draining")]
    asking.join(60)
    assert got and got[0].status_code == 200 and got[0].json()["choices"][0]["finish_reason"]
    assert started.wait(60) in (-signal.SIGTERM, 143)
    assert started.stderr is not None
    lines = [line for line in started.stderr.read().splitlines() if line.startswith("{")]
    assert any(json.loads(line).get("event") == "request" for line in lines)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve"], "give a run or --backend"),
        (["serve", "runs/x", "--backend", "http://127.0.0.1:1"], "one of them"),
        (["serve", "RUN", "--host", "0.0.0.0"], "needs an API key"),
        (["serve", "RUN", "--dtype", "fp23"], "no such type"),
        (["serve", "RUN", "--settings", "missing.yaml"], "cannot be read"),
        (["serve", "RUN", "--api-key-file", "missing"], "key file cannot be read"),
        (["serve", "missing", "--port", "0"], "missing"),
    ],
)
def test_mistakes_are_messages(run, arguments, said, tmp_path):
    command = [str(run) if word == "RUN" else word for word in arguments]
    done = subprocess.run([sys.executable, "-m", "infimed.cli.main", *command], capture_output=True, text=True, timeout=120, cwd=tmp_path)  # fmt: skip
    assert done.returncode in (2, 4) and "Traceback" not in done.stderr
    assert said in " ".join(done.stderr.split())


@pytest.mark.parametrize("module", ["fastapi", "uvicorn", "prometheus_client"])
def test_a_missing_extra_is_named(monkeypatch, module):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else found(name))  # fmt: skip
    with pytest.raises(InfiMedError, match=r"infimed\[serve\]"):
        serve(backend="http://127.0.0.1:1/v1", backend_model="x", port=0)
