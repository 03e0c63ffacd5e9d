"""The server as an integrator sees it: OpenAI's own client, streams, schemas, limits, and the other addresses."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from infimed.data.record import Message
from infimed.inference.disclaimer import DISCLAIMER
from infimed.inference.requests import Request
from infimed.serving.service import Service
from tests.conftest import REPOSITORY
from tests.serving.test_schema import REPORT, is_value
from tests.serving.world import (
    LONG,
    body,
    code_of,
    image_part,
    picture,
    png_url,
    post,
    running,
    service_of,
    settings_of,
    tiny_local,
    until,
    user,
)

LOCAL = tiny_local()


def test_the_examples_of_the_docs_run(tmp_path, monkeypatch, capsys):
    from tests.data.samples import write_image

    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "chest.png")
    service = service_of(LOCAL)
    service.name = "nano"
    text = (REPOSITORY / "docs" / "serving.md").read_text()
    examples = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    assert len(examples) == 3
    known: dict[str, object] = {}  # each goes on where the one before it ended
    with running(service) as url:
        for example in examples:
            here = example.replace("http://127.0.0.1:8000", url)
            exec(compile(here, "docs/serving.md", "exec"), known)
    said = capsys.readouterr().out
    assert DISCLAIMER in said
    assert said.endswith(("yes\n", "no\n", "cannot tell\n")), "the structured answer is the last"


@pytest.fixture(scope="module")
def service() -> Service:
    return service_of(LOCAL)


@pytest.fixture(scope="module")
def url(service: Service) -> Iterator[str]:
    with running(service) as address:
        yield address


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as made:
        yield made


def offline(text: str, seed: int | None = 0, most: int = 6) -> str:
    pictures = () if seed is None else (picture(seed),)
    content = (text, *range(len(pictures)))
    (response,) = LOCAL.respond([Request("q", (Message("user", content),), pictures, most)])
    return response.text


def test_openais_client_gets_the_offline_answer_about_an_image(client):
    said = client.chat.completions.create(
        model="tiny", messages=[user("left mass?", image_part(png_url(4)))], max_tokens=12
    )
    assert said.choices[0].message.content == offline("left mass?", 4, 12)
    assert said.choices[0].finish_reason in ("stop", "length")
    assert said.usage.completion_tokens <= 12 and said.usage.prompt_tokens > 4
    assert said.usage.total_tokens == said.usage.prompt_tokens + said.usage.completion_tokens


def test_a_stream_is_the_same_answer_in_pieces(client):
    chunks = list(
        client.chat.completions.create(
            model="tiny",
            messages=[user("small lung?", image_part(png_url(2)))],
            max_tokens=24,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    pieces = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(pieces) == offline("small lung?", 2, 24) and len(list(filter(None, pieces))) > 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] in ("stop", "length")
    assert chunks[-1].usage.completion_tokens <= 24
    assert chunks[0].infimed == chunks[-2].infimed and chunks[0].infimed["disclaimer"] == DISCLAIMER


def test_every_answer_says_what_it_is(client, url):
    said = client.chat.completions.create(model="tiny", messages=[user("a")], max_tokens=2)
    own = said.infimed
    assert own["disclaimer"] == DISCLAIMER and own["model_hash"] == LOCAL.fingerprint
    assert own["model_hash_of"] == "weights" and own["abstained"] is None
    assert 0 < own["first_token_probability"] <= 1
    answer = post(url, body("a"))
    assert answer.headers["x-request-id"].startswith("req-")
    assert answer.headers["cache-control"] == "no-store" and "server" not in answer.headers


def test_logprobs_of_the_first_token(client):
    said = client.chat.completions.create(
        model="tiny", messages=[user("a")], max_tokens=2, logprobs=True, top_logprobs=3
    )
    (first,) = said.choices[0].logprobs.content
    assert next(t.token for t in first.top_logprobs) == first.token and len(first.top_logprobs) == 3
    assert first.logprob == pytest.approx(first.top_logprobs[0].logprob)


def test_equal_seeds_give_equal_answers(client):
    def say(seed: int) -> str:
        said = client.chat.completions.create(
            model="tiny", messages=[user("a")], max_tokens=20, temperature=1.5, seed=seed
        )
        return said.choices[0].message.content

    assert say(1) == say(1) and len({say(seed) for seed in range(4)}) > 1


def test_an_answer_ends_before_a_stop_string(client):
    whole = offline("left mass?", None, 24)
    word = whole[len(whole) // 2 :][:2]
    said = client.chat.completions.create(
        model="tiny", messages=[user("left mass?")], max_tokens=24, stop=[word]
    )
    assert said.choices[0].message.content == whole[: whole.index(word)].strip()
    assert said.choices[0].finish_reason == "stop"


def test_a_report_follows_its_schema(client):
    form = {"name": "report", "strict": True, "schema": REPORT}
    values = []
    for seed in range(4):
        said = client.chat.completions.create(
            model="tiny",
            messages=[user("a", image_part(png_url(seed)))],
            max_tokens=400,
            temperature=1.0,
            seed=seed,
            response_format={"type": "json_schema", "json_schema": form},
        )
        if said.choices[0].finish_reason == "stop":
            values.append(json.loads(said.choices[0].message.content))
    assert values and all(map(is_value, values))


def test_a_conversation_reuses_its_turns(client):
    turns = [user("left mass?", image_part(png_url(7)))]
    for asked in ("and right?", "of the lung?"):
        said = client.chat.completions.create(model="tiny", messages=turns, max_tokens=5)
        turns += [{"role": "assistant", "content": said.choices[0].message.content}, user(asked)]
    assert said.usage.prompt_tokens_details.cached_tokens > 10
    pictures = (picture(7),)
    parts = [("left mass?", 0), (turns[1]["content"],), ("and right?",)]
    roles = ("user", "assistant", "user")
    messages = tuple(Message(r, p) for r, p in zip(roles, parts, strict=True))
    (expected,) = LOCAL.respond([Request("q", messages, pictures, 5)])
    assert said.choices[0].message.content == expected.text


def test_many_at_once_are_answered_as_alone(url, service):
    questions = [(f"{n} lung?", n % 3 or None, 4 + n % 9) for n in range(24)]

    def ask(question: tuple[str, int | None, int]) -> str:
        text, seed, most = question
        parts = [text] if seed is None else [text, image_part(png_url(seed))]
        return post(url, body(*parts, max_tokens=most)).json()["choices"][0]["message"]["content"]

    with ThreadPoolExecutor(12) as pool:
        said = list(pool.map(ask, questions))
    assert said == [offline(*question) for question in questions]
    assert service.answerer.counts.most_together > 1


def test_errors_are_openais(client):
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="other", messages=[user("a")])
    assert missing.value.code == "model_not_found" and missing.value.request_id
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model="tiny", messages=[user("a")], extra_body={"tools": []})
    assert (wrong.value.code, wrong.value.param) == ("unknown_field", "tools")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_the_model_is_listed(client):
    (entry,) = client.models.list().data
    assert entry.id == "tiny" and entry.infimed["model_hash"] == LOCAL.fingerprint
    assert client.models.retrieve("tiny").id == "tiny"


@pytest.mark.parametrize(("path", "status"), [("/health", 200), ("/ready", 200), ("/metrics", 200), ("/openapi.json", 200), ("/docs", 404), ("/etc/passwd", 404), ("/v1/chat/completions", 405)])  # fmt: skip
def test_other_addresses(url, path, status):
    answer = httpx.get(url + path, trust_env=False)
    assert answer.status_code == status
    if status >= 400:
        assert code_of(answer) in ("not_found", "method_not_allowed")


def test_metrics_count_and_name_nothing_of_a_request(url):
    post(url, body("JaneRoe", user="JaneRoe"))
    httpx.get(f"{url}/JaneRoe", trust_env=False)
    page = httpx.get(f"{url}/metrics", trust_env=False).text
    assert 'infimed_requests_total{route="/v1/chat/completions",status="200"}' in page
    assert "infimed_engine_steps" in page and "JaneRoe" not in page


def test_the_description_names_every_field(url):
    value = httpx.get(f"{url}/openapi.json", trust_env=False).json()
    operation = value["paths"]["/v1/chat/completions"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert {"messages", "stream", "response_format"} <= set(schema["properties"])
    assert schema["additionalProperties"] is False

    def references(part: object) -> Iterator[str]:
        if isinstance(part, dict):
            if isinstance(part.get("$ref"), str):
                yield part["$ref"]
            for inner in part.values():
                yield from references(inner)
        elif isinstance(part, list):
            for inner in part:
                yield from references(inner)

    known = value["components"]["schemas"]
    assert all(name.removeprefix("#/components/schemas/") in known for name in references(value))


def test_too_many_are_refused_at_once_and_told_when_to_come_back():
    service = service_of(LOCAL, settings_of(limits={"requests": 2, "requests_per_client": 2}))
    with running(service) as url, service.gate.admit("other"), service.gate.admit("other"):
        answer = post(url, body("a"))
        assert (answer.status_code, code_of(answer)) == (503, "overloaded")
        assert int(answer.headers["retry-after"]) > 0
        assert httpx.get(f"{url}/health", trust_env=False).status_code == 200
    with running(service_of(LOCAL, service.settings)) as url:
        assert post(url, body("a")).status_code == 200


def test_one_client_may_not_take_all_places():
    service = service_of(LOCAL, settings_of(limits={"requests_per_client": 1}))
    with running(service) as url, service.gate.admit("127.0.0.1"):
        answer = post(url, body("a"))
        assert (answer.status_code, code_of(answer)) == (429, "too_many_requests")
        assert int(answer.headers["retry-after"]) > 0


def test_a_place_is_given_back_after_every_end(url, service):
    for value in (body("a"), body("a", stream=True), body("a", modle=1), b"{"):
        post(url, value)
    until(lambda: service.gate.requests == 0)
    assert service.gate.bytes == 0 and not service.gate.clients


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_row(stream):
    service = service_of(LOCAL)
    release = threading.Event()
    engine = service.answerer
    step = engine._step

    def slow() -> None:
        release.wait(0.02)
        step()

    engine._step = slow
    with running(service) as url:
        value = json.dumps(body("a", max_tokens=400, stream=stream, response_format=LONG)).encode()
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(value)}\r\n\r\n"
            connection.sendall(head.encode() + value)
            if stream:
                assert connection.recv(100)
            until(lambda: engine.running == 1)
        until(lambda: engine.running == 0)
        written = engine.counts.written_tokens
        release.set()
        assert written < 400
        assert post(url, body("a")).status_code == 200
        until(lambda: service.gate.requests == 0)


def test_a_stopping_server_refuses_and_says_so():
    service = service_of(LOCAL)
    with running(service) as url:
        service.gate.draining = True
        answer = post(url, body("a"))
        assert (answer.status_code, code_of(answer)) == (503, "draining")
        assert httpx.get(f"{url}/ready", trust_env=False).status_code == 503
        assert httpx.get(f"{url}/health", trust_env=False).status_code == 200


def test_an_engine_that_fails_gives_a_code_and_goes_on(monkeypatch):
    service = service_of(LOCAL)
    with running(service) as url:
        with monkeypatch.context() as broken:

            def fail(*_: object) -> None:
                raise RuntimeError("JaneRoe")

            broken.setattr("infimed.serving.engine.choose_next", fail)
            answer = post(url, body("a"))
            assert (answer.status_code, code_of(answer)) == (500, "internal")
            assert "JaneRoe" not in answer.text
        assert post(url, body("a")).status_code == 200
