"""`transformers serve` answers a question about an image from an exported folder, over loopback."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import transformers
from tests.model.exports import built, exported, pictures, processor_of, requests

from infimed.inference.local import LocalModel

START = "import sys; from transformers.cli.transformers import main; sys.argv[0] = 'transformers'; main()"


@pytest.fixture
def server(tmp_path):
    """Address of a server of a tiny stock export; it chooses a free port itself."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    pytest.importorskip("openai")
    exported(tmp_path / "out", "siglip")
    place = Path(transformers.__file__).parents[1]
    process = subprocess.Popen(
        [
            sys.executable, "-c", START, "serve", str(tmp_path / "out"), "--host", "127.0.0.1",
            "--port", "0", "--device", "cpu", "--log-level", "info",
        ],
        stderr=subprocess.STDOUT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(place), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    said = []
    try:
        for line in process.stdout:
            said.append(line)
            found = re.search(r"running on (http://127\.0\.0\.1:\d+)", line)
            if found:
                yield found[1]
                break
        else:
            pytest.fail("the server ended: " + "".join(said)[-2000:])
    finally:
        process.terminate()
        process.communicate()


def test_served_answer_about_an_image_is_the_local_one(server, tmp_path):
    file = pictures(tmp_path, 32)[0]
    request = requests([file, file], max_new_tokens=6)[0]
    (ours,) = LocalModel(built("siglip"), processor_of("siglip"), "tiny").respond([request])
    picture = "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()
    body = {
        "model": str(tmp_path / "out"),
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": picture}},
                    {"type": "text", "text": request.messages[0].text},
                ],
            }
        ],
        "max_tokens": 6,
        "stream": False,
    }
    call = urllib.request.Request(
        f"{server}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(call) as reply:
        answer = json.loads(reply.read())
    assert answer["choices"][0]["message"]["content"].strip() == ours.text
