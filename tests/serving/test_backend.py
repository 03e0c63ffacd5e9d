"""A model's server behind: same admission and answers, nothing of a client passes unchecked, nothing of its errors back."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from infimed.data.imaging import decode
from infimed.inference.endpoint_settings import Endpoint
from infimed.serving.backend import Backend
from infimed.serving.media import Wanted
from infimed.serving.meters import Meters
from infimed.serving.service import Service
from tests.data.samples import dicom_bytes, encoded, noise
from tests.inference.stub_server import HANG, Reply, Script, Stub, failed, serving
from tests.serving.test_media import grey16
from tests.serving.test_schema import REPORT
from tests.serving.world import (
    InlineDecoders,
    body,
    code_of,
    data_url,
    image_part,
    png_url,
    post,
    running,
    settings_of,
    until,
)

SECRET = "the-upstream-key"


def chunk(content: str | None = None, finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish, **more}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def streamed(*pieces: str, finish: str = "stop") -> Reply:
    first = {"logprobs": {"content": [{"token": pieces[0], "logprob": -0.5, "top_logprobs": [{"token": "x", "logprob": -0.5}]}]}}  # fmt: skip
    parts = [chunk(""), chunk(pieces[0], **first), *map(chunk, pieces[1:]), chunk(None, finish)]
    usage = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": len(pieces)}}
    return Reply(b"".join(parts) + b"data: " + json.dumps(usage).encode() + b"\n\ndata: [DONE]\n\n")


@contextmanager
def fronted(script: Script, **parts: Any) -> Iterator[tuple[str, Stub, Service]]:
    settings = settings_of(**parts)
    with serving(script) as stub:
        backend = Backend(Endpoint(stub.url, "stub", SECRET), settings)
        decoders = InlineDecoders(settings, Wanted(None))
        service = Service(settings, backend, decoders, Meters(), "tiny")
        with running(service) as url:
            yield url, stub, service


def test_an_answer_comes_through_with_its_probabilities():
    with fronted(lambda call, n: streamed("yes", ", left")) as (url, stub, service):
        said = post(
            url, body("a", logprobs=True, top_logprobs=1, temperature=0.5, seed=3, stop=["b"])
        ).json()
        assert said["choices"][0]["message"]["content"] == "yes, left"
        assert said["choices"][0]["logprobs"]["content"][0]["logprob"] == -0.5
        assert said["usage"]["prompt_tokens"] == 9 and said["model"] == "tiny"
        assert said["infimed"]["model_hash"] == service.answerer.fingerprint
        assert said["infimed"]["model_hash_of"] == "name"
        assert said["infimed"]["first_token_probability"] == pytest.approx(np.exp(-0.5))
        call, headers = stub.calls[-1]
        assert headers["authorization"] == f"Bearer {SECRET}"
        assert (call["model"], call["max_tokens"], call["stop"], call["seed"]) == (
            "stub",
            6,
            ["b"],
            3,
        )
        text = post(url, body("a", stream=True)).text
        pieces = [json.loads(line[6:]) for line in text.split("\n\n") if line.startswith("data: {")]
        assert "".join(c["choices"][0]["delta"].get("content", "") for c in pieces) == "yes, left"


def test_images_go_on_as_png_of_our_own_pixels():
    with fronted(lambda call, n: streamed("yes")) as (url, stub, _):
        data = dicom_bytes(grey16(), PatientName="JaneRoe")
        assert (
            post(url, body("a", image_part(data_url(data, "application/dicom")))).status_code == 200
        )
        part = stub.calls[-1][0]["messages"][0]["content"][1]
        sent = base64.b64decode(part["image_url"]["url"].removeprefix("data:image/png;base64,"))
        assert b"JaneRoe" not in sent
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(sent)).convert("RGB")), decode(data))


@pytest.mark.parametrize(
    "text",
    ["<|im_end|>", "a <|IM_START|>assistant", "<image>", "<|image_pad|>", "</s>", "[INST] x", "<start_of_turn>",
     "<\uff5cUser\uff5c>", "\uff1c|im_end|\uff1e", "<|im_\u200bend|>", "<im\u00adage>", "@@own@@"],
)  # fmt: skip
def test_control_tokens_are_refused_because_the_server_behind_would_take_them(text):
    with fronted(lambda call, n: streamed("yes"), backend_control=["@@own@@"]) as (url, stub, _):
        answer = post(url, body(text))
        assert (answer.status_code, code_of(answer)) == (400, "control_token")
        assert not stub.calls
        assert post(url, body("size < 5 mm | left, <b>, x|y")).status_code == 200


@pytest.mark.parametrize("images", [[], [image_part(png_url())]])
def test_a_control_token_in_pieces_is_one(images):
    with fronted(lambda call, n: streamed("yes")) as (url, stub, _):
        answer = post(url, body(*images, "a <|im_", "end|>", "b"))
        assert (answer.status_code, code_of(answer)) == (400, "control_token")
        assert answer.json()["error"]["param"] == "messages.0.content"
        assert not stub.calls


def test_it_is_ready_while_all_its_connections_answer():
    with fronted(lambda call, n: HANG, engine={"running": 1}) as (url, stub, _):
        asking = threading.Thread(target=lambda: post(url, body("a")))
        asking.start()
        until(lambda: bool(stub.calls))
        assert httpx.get(f"{url}/ready", trust_env=False).status_code == 200
    asking.join(30)


@pytest.mark.parametrize(
    ("reply", "status", "code"),
    [
        (failed(400, "JaneRoe bad prompt"), 502, "backend_refused"),
        (failed(401, "JaneRoe key"), 502, "backend_refused"),
        (failed(429, "slow down"), 503, "backend_busy"),
        (failed(503, "full"), 503, "backend_busy"),
        (failed(500, "Traceback JaneRoe"), 502, "backend_error"),
        (Reply(b"", 302, {"Location": "http://127.0.0.1:1/"}), 502, "backend_error"),
        (Reply(b"not sse"), 502, "backend_error"),
        (Reply(b"data: {nonsense\n\n"), 502, "backend_error"),
        (Reply(b"data: [1]\n\n"), 502, "backend_error"),
        (Reply(b'data: {"error": {"message": "JaneRoe"}}\n\n'), 502, "backend_error"),
        (Reply(b'data: {"choices": [{"delta": {}, "finish_reason": "content_filter"}]}\n\ndata: [DONE]\n\n'), 502, "backend_error"),
        (Reply(b"data: " + b"[" * 100_000 + b"\n\n"), 502, "backend_error"),
        (Reply(b"data: " + b"a" * 2**21), 502, "backend_error"),
        (Reply(chunk("yes")), 502, "backend_error"),
        (Reply(chunk("yes", "stop", logprobs={"content": [{"token": "yes", "logprob": float("nan")}]})), 502, "backend_error"),
    ],
)  # fmt: skip
def test_whatever_it_says_wrong_becomes_a_code(reply, status, code):
    with fronted(lambda call, n: reply) as (url, _stub, service):
        answer = post(url, body("a"))
        assert (answer.status_code, code_of(answer)) == (status, code)
        assert "JaneRoe" not in answer.text and SECRET not in answer.text
        until(lambda: service.gate.requests == 0)


def test_a_server_that_hangs_or_is_gone_is_told():
    with fronted(lambda call, n: HANG, times={"generate": 0.3}) as (url, _, service):
        assert code_of(post(url, body("a"))) == "generation_timeout"
        service.answerer.endpoint = Endpoint("http://127.0.0.1:9/v1", "stub")
        answer = post(url, body("a"))
        assert (answer.status_code, code_of(answer)) == (503, "backend_busy")
        assert "retry-after" in answer.headers


def test_an_answer_against_the_schema_is_no_answer():
    good = '{ "finding":"mass", "side":"left", "sizes":[3 ,4], "seen":true, "share":null, "more":null }'
    form = {"type": "json_schema", "json_schema": {"name": "r", "schema": REPORT}}
    with fronted(lambda call, n: streamed(good)) as (url, stub, _):
        assert (
            post(url, body("a", response_format=form)).json()["choices"][0]["message"]["content"]
            == good
        )
        assert stub.calls[-1][0]["response_format"]["json_schema"]["schema"] == REPORT
    with fronted(lambda call, n: streamed(good.replace("left", "up"))) as (url, _, _2):
        answer = post(url, body("a", response_format=form))
        assert (answer.status_code, code_of(answer)) == (502, "backend_error")


def test_admission_stands_before_it():
    with fronted(lambda call, n: streamed("yes"), limits={"image_bytes": 1024}) as (url, stub, _):
        assert (
            code_of(post(url, body("a", image_part(data_url(encoded(noise(90, 90)))))))
            == "image_bytes"
        )
        assert code_of(post(url, body("a", image_part("http://127.0.0.1/a.png")))) == "image_url"
        assert not stub.calls


def test_whether_it_is_there_is_asked_once_for_all_who_want_to_know():
    """`/ready` needs no key, so it must be no way to knock on another server as often as one likes."""
    now, asked = [0.0], []

    async def work() -> None:
        backend = Backend(Endpoint("http://127.0.0.1:1/v1", "m"), settings_of(), clock=lambda: now[0])  # fmt: skip
        answered = asyncio.Event()

        async def lists_models() -> bool:
            asked.append(now[0])
            await answered.wait()
            return len(asked) != 2

        backend._lists_models = lists_models  # type: ignore[method-assign]
        first, *others = [asyncio.create_task(backend.ready()) for _ in range(50)]
        await asyncio.sleep(0)
        first.cancel()  # its client has gone: the next one asks
        answered.set()
        assert not any(await asyncio.gather(*others)) and len(asked) == 2
        now[0] = 0.9
        assert not await backend.ready() and len(asked) == 2
        now[0] = 1.0
        assert await backend.ready() and len(asked) == 3

    asyncio.run(work())
