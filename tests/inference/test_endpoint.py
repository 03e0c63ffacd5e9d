"""The endpoint client against a server on the loopback that misbehaves in every way we know."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

pytest.importorskip("httpx")

from infimed.core.errors import DataError, UsageError
from infimed.data.record import Message
from infimed.inference.endpoint import EndpointModel
from infimed.inference.endpoint_settings import (
    Endpoint,
    checked_url,
    is_loopback,
    parse_extra,
    read_key,
    served_models,
)
from infimed.inference.prices import Price, price_of, read_prices
from infimed.inference.requests import STATUSES, Model, Picture, Request, Response
from infimed.inference.responses import ask, read_responses
from infimed.inference.wire import data_url, read_answer, retry_after_seconds
from tests.inference.stub_server import HANG, Reply, failed, said, serving, text_of

KEY = "secret-key-123"


@pytest.fixture(autouse=True)
def _a_proxy_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # must not be used on the loopback


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    def __call__(self) -> float:
        return self.now


def model(url: str, clock: Clock | None = None, **settings: Any) -> EndpointModel:
    clock = clock or Clock()
    settings = {"model": "stub", "concurrency": 1, **settings}
    return EndpointModel(Endpoint(url, **settings), sleep=clock.sleep, clock=clock)


def requests(count: int) -> list[Request]:
    return [Request(f"q{i}", (Message("user", (f"question {i}?",)),)) for i in range(count)]


def respond(asked: EndpointModel, items: list[Request]) -> dict[str, Response]:
    with asked:
        return {response.id: response for response in asked.respond(items)}


def test_an_answer_carries_text_status_tokens_and_attempts() -> None:
    with serving(lambda call, _: said("yes", prompt=17, new=2)) as stub:
        asked = model(stub.url)
        assert isinstance(asked, Model)
        (response,) = respond(asked, requests(1)).values()
    assert (response.text, response.status, response.error) == ("yes", "ok", "")
    assert (response.prompt_tokens, response.new_tokens, response.attempts) == (17, 2, 1)
    assert (asked.usage.calls, asked.usage.prompt_tokens, asked.usage.completion_tokens) == (
        1,
        17,
        2,
    )


def test_the_server_gets_the_turns_the_very_pixels_and_the_key() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    request = Request(
        "q",
        (Message("system", ("Be short.",)), Message("user", ("Look: ", 0, "what?"))),
        (Picture("p", lambda: pixels),),
        max_new_tokens=5,
    )
    with serving(lambda call, _: said("x")) as stub:
        respond(model(stub.url, api_key=KEY, extra={"seed": 7}), [request])
        ((call, headers),) = stub.calls
    assert headers["authorization"] == f"Bearer {KEY}"
    assert (call["model"], call["max_tokens"], call["temperature"], call["seed"]) == (
        "stub",
        5,
        0,
        7,
    )
    assert call["messages"][0] == {"role": "system", "content": "Be short."}
    before, image, after = call["messages"][1]["content"]
    assert (before["text"], after["text"]) == ("Look: ", "what?")
    encoded = image["image_url"]["url"].removeprefix("data:image/png;base64,")
    seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))
    np.testing.assert_array_equal(seen, pixels)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_failure_is_tried_again_with_growing_waits(status: int) -> None:
    clock = Clock()
    with serving(lambda call, before: failed(status) if before < 3 else said("yes")) as stub:
        (response,) = respond(model(stub.url, clock), requests(1)).values()
    assert (response.status, response.attempts) == ("ok", 4)
    assert [0.5 <= wait / 2**i <= 1.0 for i, wait in enumerate(clock.waits)] == [True] * 3


def test_attempts_are_bounded_and_the_last_failure_is_told() -> None:
    with serving(lambda call, _: failed(500, "out of order")) as stub:
        (response,) = respond(model(stub.url, attempts=3), requests(1)).values()
        assert len(stub.calls) == 3
    assert (response.status, response.attempts) == ("error", 3)
    assert response.error == "HTTP 500 out of order"


def test_retry_after_is_waited_for_in_full() -> None:
    clock = Clock()
    script = lambda call, before: failed(429, Retry_After="17") if before == 0 else said("y")  # noqa: E731
    with serving(script) as stub:
        respond(model(stub.url, clock), requests(1))
    assert sum(clock.waits) >= 17


def test_a_retry_after_beyond_our_patience_ends_the_request_without_another_call() -> None:
    with serving(lambda call, _: failed(429, Retry_After="86400")) as stub:
        (response,) = respond(model(stub.url), requests(1)).values()
        assert len(stub.calls) == 1
    assert response.status == "error"


@pytest.mark.parametrize("status", [400, 403, 413, 422])
def test_another_client_error_is_final_for_its_request_only(status: int) -> None:
    def script(call: dict[str, Any], _: int) -> Reply:
        return failed(status) if "question 0?" in text_of(call) else said("yes")

    with serving(script) as stub:
        answers = respond(model(stub.url), requests(3))
        assert len(stub.calls) == 3
    assert [answers[f"q{i}"].status for i in range(3)] == ["error", "ok", "ok"]


def test_a_wrong_key_stops_the_run_and_is_not_repeated_in_any_message() -> None:
    script = lambda call, _: failed(401, f"Incorrect API key provided: {KEY}")  # noqa: E731
    with serving(script) as stub:
        asked = model(stub.url, api_key=KEY)
        answers = respond(asked, requests(20))
        assert len(stub.calls) <= 2
    assert {response.status for response in answers.values()} == {"error"}
    assert len(answers) == 20
    assert KEY not in repr(answers) + repr(asked.endpoint)


def test_a_hanging_server_is_a_timeout() -> None:
    with serving(lambda call, _: HANG) as stub:
        asked = EndpointModel(
            Endpoint(stub.url, "stub", timeout_seconds=0.05, attempts=2), sleep=lambda s: None
        )
        (response,) = respond(asked, requests(1)).values()
    assert (response.status, response.attempts) == ("timeout", 2)


def test_an_unreachable_server_ends_the_run_early_with_an_error_per_request() -> None:
    with serving(lambda call, _: said("x")) as stub:
        url = stub.url
    answers = respond(model(url, attempts=2, give_up_after=3), requests(50))
    assert len(answers) == 50
    assert {response.status for response in answers.values()} == {"error"}
    assert sum(response.attempts for response in answers.values()) <= 2 * 6


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"<html>gateway</html>",
        b"null",
        b"[]",
        b'{"choices": []}',
        b'{"choices": [null]}',
        b'{"choices": [{"message": "hello"}]}',
        b'{"choices": [{"message": {"content": null}}]}',
        b'{"choices": [{"message": {"content": "  "}}]}',
        b"\xff\xfe\x00",
        b"[" * 200_000,
    ],
)
def test_a_body_that_is_no_completion_is_garbage(raw: bytes) -> None:
    with serving(lambda call, _: Reply(raw)) as stub:
        (response,) = respond(model(stub.url), requests(1)).values()
    assert response.status == "garbage"
    assert response.error


def test_an_endless_answer_is_garbage_not_memory() -> None:
    with serving(lambda call, _: Reply(b"x" * (5 * 2**20))) as stub:
        (response,) = respond(model(stub.url), requests(1)).values()
    assert response.status == "garbage"


def test_refusals_come_in_three_forms() -> None:
    refusal = json.dumps({"choices": [{"message": {"content": None, "refusal": "I cannot."}}]})
    replies = [
        Reply(refusal.encode()),
        said("", finish="content_filter"),
        failed(400, code="content_filter"),
    ]
    with serving(lambda call, _: replies[int(text_of(call)[9])]) as stub:
        answers = respond(model(stub.url), requests(3))
    assert {response.status for response in answers.values()} == {"refused"}


def test_an_answer_cut_at_the_limit_is_truncated() -> None:
    with serving(lambda call, _: said("half an ans", finish="length")) as stub:
        (response,) = respond(model(stub.url), requests(1)).values()
    assert (response.status, response.text) == ("truncated", "half an ans")


def test_nonsense_token_counts_count_as_zero() -> None:
    raw = json.dumps(
        {
            "choices": [{"message": {"content": "a"}}],
            "usage": {"prompt_tokens": -5, "completion_tokens": "many"},
        }
    )
    response = read_answer("q", raw.encode())
    assert (response.status, response.prompt_tokens, response.new_tokens) == ("ok", 0, 0)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda t: json.dumps(t).encode()))
def test_no_bytes_make_the_reader_raise(raw: bytes) -> None:
    assert read_answer("q", raw).status in STATUSES


def test_a_broken_image_is_an_error_of_its_request_and_no_call() -> None:
    def load() -> np.ndarray:
        raise DataError("the image data is damaged", where="x.png")

    broken = Request("bad", (Message("user", (0, "what?")),), (Picture("b", load),))
    with serving(lambda call, _: said("yes")) as stub:
        answers = respond(model(stub.url), [broken, *requests(1)])
        assert len(stub.calls) == 1
    assert (answers["bad"].status, answers["q0"].status) == ("error", "ok")


def test_whatever_a_decoder_raises_is_an_error_of_its_request() -> None:
    odd = Picture("odd", lambda: np.zeros((2, 2, 7), np.float32))  # type: ignore[arg-type,return-value]
    items = [Request("odd", (Message("user", (0, "what?")),), (odd,)), *requests(1)]
    with serving(lambda call, _: said("yes")) as stub:
        answers = respond(model(stub.url), items)
    assert (answers["odd"].status, answers["q0"].status) == ("error", "ok")


@pytest.mark.parametrize("key", ["schlüssel", "two words", "line\n"])
def test_a_key_that_cannot_be_sent_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(UsageError) as raised:
        Endpoint("http://h", "m", api_key=key)
    assert key not in str(raised.value)


def test_text_that_is_not_unicode_can_be_asked_and_kept(tmp_path: Path) -> None:
    odd = Request("odd", (Message("user", ("half \ud83d pair",)),))
    with serving(lambda call, _: said("half \udc00 pair")) as stub:
        assert respond(model(stub.url), [odd])["odd"].status == "ok"
        with model(stub.url) as asked:
            given_back = ask(asked, requests(1), tmp_path / "r.jsonl")
    assert read_responses(tmp_path / "r.jsonl")[0] == given_back


def test_open_calls_never_exceed_the_concurrency() -> None:
    import threading

    lock, barrier = threading.Lock(), threading.Barrier(3)
    state = {"open": 0, "most": 0}

    def script(call: dict[str, Any], _: int) -> Reply:
        with lock:
            state["open"] += 1
            state["most"] = max(state["most"], state["open"])
        barrier.wait(timeout=20)  # all three must be open at once for this to pass
        with lock:
            state["open"] -= 1
        return said("x")

    with serving(script) as stub:
        answers = respond(model(stub.url, concurrency=3), requests(12))
    assert len(answers) == 12
    assert state["most"] == 3


def test_nothing_answered_is_asked_twice_and_failures_are_asked_again(tmp_path: Path) -> None:
    fine = False

    def script(call: dict[str, Any], _: int) -> Reply:
        number = int(text_of(call)[9])
        if number == 1 and not fine:
            return failed(500)
        if number == 2 and not fine:
            return Reply(b"garbage")
        return failed(400, code="content_filter") if number == 3 else said(f"answer {number}")

    with serving(script) as stub:
        with model(stub.url, attempts=1) as asked:
            first = ask(asked, requests(5), tmp_path / "r.jsonl")
        assert [r.status for r in first.values()] == ["ok", "error", "garbage", "refused", "ok"]
        fine = True
        stub.calls.clear()
        with model(stub.url) as asked:
            second = ask(asked, requests(5), tmp_path / "r.jsonl")
        assert sorted(text_of(call)[9] for call, _ in stub.calls) == ["1", "2"]
        stub.calls.clear()
        with model(stub.url) as asked:
            assert ask(asked, requests(5), tmp_path / "r.jsonl") == second
        assert stub.calls == []
    assert [r.status for r in second.values()] == ["ok", "ok", "ok", "refused", "ok"]


def test_a_killed_run_has_kept_what_had_arrived(tmp_path: Path) -> None:
    class Killed(EndpointModel):
        def respond(self, items: Any) -> Iterator[Response]:
            for count, response in enumerate(super().respond(items)):
                if count == 4:
                    raise KeyboardInterrupt
                yield response

    with serving(lambda call, _: said("yes")) as stub:
        dying = Killed(Endpoint(stub.url, "stub", concurrency=1))
        with pytest.raises(KeyboardInterrupt), dying:
            ask(dying, requests(10), tmp_path / "r.jsonl")
        kept = read_responses(tmp_path / "r.jsonl")[0]
        assert len(kept) == 4
        with model(stub.url) as asked:
            whole = ask(asked, requests(10), tmp_path / "r.jsonl")
            assert asked.usage.calls == 6
    assert len(whole) == 10


def test_the_cost_of_an_answer_survives_the_store(tmp_path: Path) -> None:
    with serving(lambda call, _: said("yes", prompt=1000, new=50)) as stub:
        with model(stub.url) as asked:
            first = ask(asked, requests(2), tmp_path / "r.jsonl")
        with model(stub.url) as asked:
            assert ask(asked, requests(2), tmp_path / "r.jsonl") == first
    assert sum(r.prompt_tokens for r in first.values()) == 2000
    assert {r.attempts for r in first.values()} == {1}


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("17", 17.0),
        ("-3", None),
        ("soon", None),
        ("1e400", None),
        ("Thu, 01 Jan 2026 00:00:30 GMT", 30.0),
        ("Wed, 31 Dec 2025 00:00:00 GMT", 0.0),
    ],
)
def test_retry_after_in_every_form(header: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(header, datetime(2026, 1, 1, tzinfo=UTC)) == seconds


@pytest.mark.parametrize(
    ("given_url", "used"),
    [
        ("http://host:8000", "http://host:8000/v1"),
        ("http://host:8000/v1/", "http://host:8000/v1"),
        ("https://host/api/chat/completions", "https://host/api"),
    ],
)
def test_urls_are_brought_into_one_form(given_url: str, used: str) -> None:
    assert checked_url(given_url) == used


@pytest.mark.parametrize(
    "url", ["host:8000", "ftp://host", "http://", "http://a:b@host", "http://h:x/v1", "http://h?a"]
)
def test_urls_that_cannot_be_asked_are_refused(url: str) -> None:
    with pytest.raises(UsageError):
        checked_url(url)


def test_the_key_comes_from_the_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFIMED_API_KEY", " abc \n")
    assert read_key() == "abc"
    file = tmp_path / "key"
    file.write_text("def\n")
    assert read_key(file) == "def"
    file.write_text("two words")
    with pytest.raises(UsageError) as raised:
        read_key(file)
    assert "two" not in str(raised.value).replace(str(file), "")


def test_served_models_are_listed_and_an_absent_server_is_a_data_error() -> None:
    with serving(lambda call, _: said("x"), models=("a", "b")) as stub:
        assert served_models(Endpoint(stub.url, "?")) == ["a", "b"]
        url = stub.url
    with pytest.raises(DataError, match="which models"):
        served_models(Endpoint(url, "?"))


def test_prices_are_read_and_multiplied(tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text("m: {prompt_per_million: 0.5, completion_per_million: 2, currency: EUR}\n")
    prices = read_prices(file)
    assert prices == {"m": Price(0.5, 2.0, "EUR")}
    assert price_of(prices, "m", "x").of(2_000_000, 500_000) == pytest.approx(2.0)
    with pytest.raises(UsageError, match="does not name"):
        price_of(prices, "n", "x")


@pytest.mark.parametrize(
    "text",
    [
        "[",
        "- 1",
        "m: 3",
        "m: {prompt_per_million: -1, completion_per_million: 0}",
        "m: {prompt_per_million: .nan, completion_per_million: 0}",
        "m: {prompt_per_million: true, completion_per_million: 0}",
        "m: {prompt_per_million: 1}",
        "m: {prompt_per_million: 1, completion_per_million: 1, per_image: 3}",
    ],
)
def test_a_malformed_price_table_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text(text)
    with pytest.raises(UsageError):
        read_prices(file)


def test_data_urls_hold_png() -> None:
    assert data_url(np.zeros((2, 2, 3), np.uint8)).startswith("data:image/png;base64,iVBOR")


def test_questions_about_one_image_encode_it_once() -> None:
    loaded: list[int] = []

    def load() -> np.ndarray:
        loaded.append(1)
        return np.zeros((4, 4, 3), np.uint8)

    items = [
        Request(f"q{i}", (Message("user", (0, f"{i}?")),), (Picture("same", load),))
        for i in range(5)
    ]
    with serving(lambda call, _: said("x")) as stub:
        respond(model(stub.url), items)
        urls = {call["messages"][0]["content"][0]["image_url"]["url"] for call, _ in stub.calls}
    assert len(loaded) == len(urls) == 1


def test_the_loopback_is_known_by_name_and_number() -> None:
    ours = ["http://localhost:1/v1", "http://127.0.0.1/v1", "http://127.9.9.9", "http://[::1]:8/v1"]
    assert all(is_loopback(url) for url in ours)
    others = [
        "http://localhost.example.org",
        "http://127.example.org",
        "http://10.0.0.1",
        "http://example.org/127.0.0.1",
    ]
    assert not any(is_loopback(url) for url in others)


def test_extra_settings_are_a_json_object_and_never_ours() -> None:
    assert parse_extra('{"seed": 3}') == {"seed": 3}
    for text in ("", "[]", "3", "{", "[" * 100_000):
        with pytest.raises(UsageError, match="JSON object"):
            parse_extra(text)
    for name in ("model", "messages", "stream", "n"):
        with pytest.raises(UsageError, match="set by the client"):
            Endpoint("http://h", "m", extra={name: 1})
