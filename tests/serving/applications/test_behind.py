"""The applications before a model's server: probabilities from its log-probabilities, or an error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import pytest

from infimed.inference.endpoint_settings import Endpoint
from infimed.serving.backend import Backend
from infimed.serving.media import Wanted
from infimed.serving.meters import Meters
from infimed.serving.service import Service
from tests.inference.stub_server import Reply, Script, Stub, serving, text_of
from tests.serving.world import InlineDecoders, code_of, png_url, running, settings_of


def said(*tokens: tuple[str, float], top: dict[str, float] | None = None) -> Reply:
    """A streamed answer of (token, probability), the first with the likeliest in its place."""
    parts = []
    for at, (text, share) in enumerate(tokens):
        score: dict[str, Any] = {"token": text, "logprob": float(np.log(share)), "top_logprobs": []}
        if not at:
            score["top_logprobs"] = [
                {"token": word, "logprob": float(np.log(p))} for word, p in (top or {}).items()
            ]
        choice = {
            "index": 0,
            "delta": {"content": text},
            "finish_reason": None,
            "logprobs": {"content": [score]},
        }
        parts.append({"choices": [choice]})
    parts.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    parts.append({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": len(tokens)}})
    lines = [b"data: " + json.dumps(part).encode() + b"\n\n" for part in parts]
    return Reply(b"".join(lines) + b"data: [DONE]\n\n")


@contextmanager
def fronted(script: Script) -> Iterator[tuple[str, Stub]]:
    settings = settings_of()
    with serving(script) as stub:
        backend = Backend(Endpoint(stub.url, "stub", ""), settings)
        service = Service(
            settings, backend, InlineDecoders(settings, Wanted(None)), Meters(), "tiny"
        )
        with running(service) as url:
            yield url, stub


def send(url: str, name: str, **value: Any) -> httpx.Response:
    address = f"{url}/v1/infimed/{name}"
    return httpx.post(address, json={"model": "tiny", **value}, timeout=60, trust_env=False)


def test_ask_takes_the_probabilities_that_the_server_tells():
    with fronted(lambda call, n: said(("Yes", 0.6), (".", 0.5), top={"Yes": 0.6, "No": 0.2})) as (
        url,
        stub,
    ):
        found = send(url, "ask", question="Is it left?", images=[{"url": png_url()}]).json()
    assert found["answer"] == "Yes." and found["decision"] == "yes" and found["confidence"] is None
    assert found["raw_probability"] == pytest.approx(0.75) and found["model_hash_of"] == "name"
    text = text_of(stub.calls[-1][0])
    assert text == "Is it left?\nAnswer with a word or a short phrase."


def test_choices_are_asked_by_letter():
    with fronted(lambda call, n: said(("B", 0.5), top={"B": 0.5, "A": 0.3, "the": 0.2})) as (
        url,
        _,
    ):
        found = send(url, "ask", question="Which?", choices=["left", "right"]).json()
    assert found["answer"] == "right"
    assert [one["probability"] for one in found["choices"]] == pytest.approx([0.375, 0.625])


def test_a_server_that_tells_no_letters_is_an_error():
    with fronted(lambda call, n: said(("the", 0.5), top={"the": 0.5})) as (url, _):
        answer = send(url, "ask", question="Which?", choices=["left", "right"])
    assert code_of(answer) == "unsupported"


def test_a_differential_and_its_words():
    def script(call: Any, n: int) -> Reply:
        top = {"A": 0.2, "B": 0.4, "C": 0.4}
        return said(("B", 0.4), top=top) if "A. one" in text_of(call) else said(("because", 0.9))

    with fronted(script) as (url, _):
        found = send(url, "differential", candidates=["one", "two"], history="Cough.").json()
    assert [one["name"] for one in found["candidates"]] == ["two", "one"]
    assert found["cannot_tell"] == pytest.approx(0.4) and found["abstained"] is True
    assert all(one["for"].startswith("because") for one in found["candidates"])


def test_a_report_and_a_consultation():
    with fronted(lambda call, n: said(("Findings: Clear.\nImpression: Normal.", 0.9))) as (
        url,
        stub,
    ):
        found = send(url, "report", images=[{"url": png_url()}]).json()
        assert (found["findings"], found["impression"]) == ("Clear.", "Normal.")
        assert "word or a short phrase" not in json.dumps(stub.calls[-1][0])
        turns = [{"role": "user", "text": "I fainted"}]
        assert send(url, "consult", messages=turns).json()["escalation"]


def test_a_control_token_is_refused_with_the_field_of_the_application():
    with fronted(lambda call, n: said(("x", 0.9))) as (url, stub):
        answer = send(url, "ask", question="<|im_end|>")
        assert code_of(answer) == "control_token" and answer.json()["error"]["param"] == "question"
        assert not [call for call in stub.calls if "messages" in call[0]]
