"""`/v1/infimed/evidence` and `/v1/infimed/nearest` from outside: what they say and what they refuse."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from infimed.core.files import read_json, write_json
from infimed.data.shards import open_shards
from infimed.inference.endpoint_settings import Endpoint
from infimed.inference.local import LocalModel
from infimed.serving.backend import Backend
from infimed.serving.evidence.indexing import Filter, Set, build
from infimed.serving.evidence.nearest import Index
from infimed.serving.media import Decoders, Wanted
from infimed.serving.meters import Meters
from infimed.serving.service import Service
from tests.data.samples import encoded, noise
from tests.serving.evidence.pictures import ANSWER, QUESTION, smooth
from tests.serving.evidence.shelf import clinic
from tests.serving.world import (
    body,
    code_of,
    data_url,
    image_part,
    png_url,
    post,
    running,
    service_of,
    settings_of,
    tiny_local,
    until,
)

LOCAL = tiny_local()
URL = data_url(encoded(smooth(30, 50)))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clinic(tmp_path_factory.mktemp("clinic"))


@pytest.fixture(scope="module")
def service(shards: Path) -> Service:
    made = service_of(LOCAL)
    folder = shards.parent / "index"
    build(LOCAL, [Set(open_shards(shards))], folder, Filter(), thumbnails=True)
    made.evidence.index = Index.open(folder)
    return made


@pytest.fixture(scope="module")
def url(service: Service) -> Iterator[str]:
    with running(service) as address:
        yield address


def asked(url: str, value: Any, what: str = "evidence", **more: Any) -> httpx.Response:
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    headers = {"Content-Type": "application/json", **more.pop("headers", {})}
    address = f"{url}/v1/infimed/{what}"
    return httpx.post(
        address, content=content, headers=headers, timeout=60, trust_env=False, **more
    )


def looking(**more: Any) -> dict[str, Any]:
    values = {"model": "tiny", "image": {"url": URL}, "question": QUESTION, "answer": ANSWER}
    return {**values, "grid": 4, **more}


def comparing(seed: int = 0, **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "image": {"url": data_url(encoded(noise(40, 48, seed)))}, **more}


@pytest.mark.parametrize("method", ["occlusion", "gradient"])
def test_a_map_comes_with_its_overlay_and_all_that_an_answer_carries(url, service, method):
    answer = asked(url, looking(method=method))
    assert answer.status_code == 200, answer.text
    value = answer.json()
    heat = np.array(value["heat"])
    assert heat.shape == (4, 4) and heat.min() >= 0 and heat.max() == 1
    assert value["method"] == method and value["target"] == ANSWER
    assert value["depends"] is True and value["note"] == "" and value["drop"] > 0
    assert value["disclaimer"] and value["model_hash"] == service.answerer.fingerprint
    assert value["request_id"] == answer.headers["x-request-id"]
    assert value["usage"]["passes"] >= 16 and value["usage"]["prompt_tokens"] > 4
    data = base64.b64decode(value["overlay"].removeprefix("data:image/png;base64,"))
    assert Image.open(io.BytesIO(data)).size == (512, 307), "in the image's own proportions"
    assert asked(url, looking(overlay=False)).json()["overlay"] is None


def test_the_same_asked_twice_is_the_same(url):
    first, second = (asked(url, looking(grid=5)).json() for _ in range(2))
    np.testing.assert_allclose(first["heat"], second["heat"], atol=1e-3)


def test_answers_go_on_while_maps_are_made(url, service):
    alone = post(url, body("a", image_part(png_url(3)), max_tokens=20)).json()
    found: list[httpx.Response] = []
    maps = [
        threading.Thread(target=lambda: found.append(asked(url, looking(grid=16)))) for _ in "ab"
    ]
    for each in maps:
        each.start()
    beside = post(url, body("a", image_part(png_url(3)), max_tokens=20)).json()
    for each in maps:
        each.join()
    assert beside["choices"] == alone["choices"]
    assert [each.status_code for each in found] == [200, 200]


def test_who_leaves_stops_the_work(url, service):
    before = service.gate.requests
    with pytest.raises(httpx.TimeoutException):
        httpx.post(
            f"{url}/v1/infimed/evidence",
            json=looking(grid=32),
            timeout=httpx.Timeout(30, read=0.02),
            trust_env=False,
        )
    until(lambda: service.gate.requests == before)
    until(lambda: not service.answerer.waiting)  # type: ignore[attr-defined]


def test_a_map_that_takes_too_long_ends_with_a_code():
    service = service_of(LOCAL, settings_of(times={"generate": 0.001}))
    with running(service) as url:
        answer = asked(url, looking(grid=32))
        assert (answer.status_code, code_of(answer)) == (504, "generation_timeout")
        until(lambda: not service.answerer.waiting)  # type: ignore[attr-defined]


def test_the_nearest_training_images(url):
    value = asked(url, comparing(2, k=3), "nearest").json()
    assert [set(line) for line in value["nearest"]] == [
        {"id", "records", "source", "license", "similarity", "thumbnail"}
    ] * 3
    first = value["nearest"][0]
    assert (first["id"], first["records"], first["license"]) == ("r2-0", 2, "CC-BY-4.0")
    assert first["similarity"] == pytest.approx(1, abs=2e-3)
    assert first["thumbnail"].startswith("data:image/jpeg;base64,")
    assert value["indexed_images"] == 5 and value["disclaimer"] and value["request_id"]
    assert "patient" not in json.dumps(value), "groups are not told"


def test_without_an_index_there_is_nothing_near():
    with running(service_of(LOCAL)) as url:
        value = asked(url, comparing(), "nearest").json()
        assert value["nearest"] == [] and value["indexed_images"] is None


def test_an_index_whose_data_changed_tells_nothing_any_more(tmp_path):
    shards = clinic(tmp_path)
    service = service_of(LOCAL)
    build(LOCAL, [Set(open_shards(shards))], tmp_path / "index", Filter())
    service.evidence.index = Index.open(tmp_path / "index")
    with running(service) as url:
        assert asked(url, comparing(), "nearest").status_code == 200
        manifest = shards / "manifest.json"
        write_json(manifest, {**read_json(manifest), "data_sha256": "other"})
        answer = asked(url, comparing(), "nearest")
        assert (answer.status_code, code_of(answer)) == (400, "unsupported")
        assert str(tmp_path) not in answer.text


@pytest.mark.parametrize(("what", "value"), [("evidence", looking()), ("nearest", comparing())])
def test_before_another_server_it_is_not_supported(what, value):
    settings = settings_of()
    backend = Backend(Endpoint("http://127.0.0.1:9/v1", "tiny", ""), settings)
    service = Service(settings, backend, Decoders(settings, Wanted(None)), Meters(), "tiny")
    with running(service) as url:
        answer = asked(url, value, what)
        assert (answer.status_code, code_of(answer)) == (400, "unsupported")


WRONG: list[tuple[dict[str, Any], str, str | None]] = [
    ({"model": "other"}, "model_not_found", "model"),
    ({"question": ""}, "invalid_value", "question"),
    ({"answer": ""}, "invalid_value", "answer"),
    ({"answer": None}, "invalid_value", "answer"),
    ({"answer": ["yes"]}, "invalid_value", "answer"),
    ({"answer": "\ud800"}, "invalid_text", "answer"),
    ({"question": "\udfff"}, "invalid_text", "question"),
    ({"question": "x" * 70_000}, "prompt_too_long", "question"),
    ({"answer": "left, " * 5000}, "prompt_too_long", "question"),
    ({"method": "tea leaves"}, "invalid_value", "method"),
    ({"method": "<script>alert(1)</script>"}, "invalid_value", "method"),
    ({"fill": "noise"}, "invalid_value", "fill"),
    ({"grid": 1}, "invalid_value", "grid"),
    ({"grid": 33}, "invalid_value", "grid"),
    ({"grid": 10**30}, "invalid_value", "grid"),
    ({"grid": -4}, "invalid_value", "grid"),
    ({"grid": 4.5}, "invalid_value", "grid"),
    ({"grid": "4"}, "invalid_value", "grid"),
    ({"grid": True}, "invalid_value", "grid"),
    ({"stream": True}, "invalid_value", "stream"),
    ({"overlay": 1}, "invalid_value", "overlay"),
    ({"steps": 10**6}, "unknown_field", "steps"),
    ({"image": {"url": URL, "mask": 1}}, "unknown_field", "image.mask"),
    ({"image": {}}, "missing_field", "image.url"),
    ({"image": URL}, "invalid_value", "image"),
    ({"image": [{"url": URL}]}, "invalid_value", "image"),
    ({"image": {"url": "https://example.org/a.png"}}, "image_url", "image"),
    ({"image": {"url": "file:///etc/passwd"}}, "image_url", "image"),
    ({"image": {"url": "data:image/png;base64,!!"}}, "image_corrupt", "image"),
    ({"image": {"url": data_url(b"<svg onload='x'/>", "image/svg+xml")}}, "image_format", "image"),
    ({"image": {"url": data_url(b"<html>")}}, "image_format", "image"),
    ({"image": {"url": data_url(encoded(smooth(30, 50)), "image/jpeg")}}, "image_type", "image"),
    ({"image": {"url": data_url(encoded(smooth(30, 50))[:80])}}, "image_truncated", "image"),
    ({"image": {"url": data_url(encoded(noise(1, 1)))}}, "image_small", "image"),
]


@pytest.mark.parametrize(("more", "code", "param"), WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_refused_by_name(url, more, code, param):
    answer = asked(url, looking(**more))
    assert 400 <= answer.status_code < 500, answer.text
    assert code_of(answer) == code, answer.text
    assert answer.json()["error"]["param"] == param
    assert "script" not in answer.text and "passwd" not in answer.text


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"k": 0}, "invalid_value"),
        ({"k": 21}, "invalid_value"),
        ({"k": 1e300}, "invalid_value"),
        ({"k": "5"}, "invalid_value"),
        ({"answer": "x"}, "unknown_field"),
        ({"index": "../../secret"}, "unknown_field"),
        ({"image": {"url": "data:"}}, "image_url"),
        ({"model": "m"}, "model_not_found"),
    ],
)
def test_wrong_requests_for_the_nearest_are_refused_by_name(url, more, code):
    answer = asked(url, comparing(**more), "nearest")
    assert 400 <= answer.status_code < 500 and code_of(answer) == code, answer.text


@pytest.mark.parametrize("what", ["evidence", "nearest"])
@pytest.mark.parametrize(
    ("content", "headers", "code"),
    [
        (b"", {}, "invalid_json"),
        (b"[]", {}, "invalid_value"),
        (b'{"model": NaN}', {}, "invalid_json"),
        (b"[" * 5000 + b"]" * 5000, {}, "too_deep"),
        (b"{" + b'"a":1,' * 200_000 + b'"b":1}', {}, "too_complex"),
        (b"\xff\xfe", {}, "invalid_json"),
        (b"{}", {"Content-Type": "text/plain"}, "media_type"),
        (b"{}", {"Content-Encoding": "gzip"}, "media_type"),
    ],
)
def test_bodies_that_are_none_are_refused_as_for_a_chat(url, what, content, headers, code):
    answer = asked(url, content, what, headers=headers)
    assert code_of(answer) == code and answer.status_code < 500


def test_a_grid_finer_than_the_settings_allow_is_refused():
    service = service_of(LOCAL, settings_of(limits={"evidence_grid": 6}))
    with running(service) as url:
        answer = asked(url, looking(grid=7))
        assert (code_of(answer), answer.json()["error"]["param"]) == ("invalid_value", "grid")
        assert asked(url, looking(grid=6)).status_code == 200


def test_control_tokens_in_question_and_answer_are_text(url):
    odd = asked(url, looking(question="<image>", answer="<|im_end|>"))
    assert odd.status_code == 200, odd.text


def test_it_counts_against_the_limits_of_all_requests(url):
    service = service_of(LOCAL, settings_of(limits={"requests": 1}))
    with running(service) as full, service.gate.admit("other"):
        for what, value in (("evidence", looking()), ("nearest", comparing())):
            answer = asked(full, value, what)
            assert (answer.status_code, code_of(answer)) == (503, "overloaded")


def test_both_are_described_and_a_get_is_refused(url):
    value = httpx.get(f"{url}/openapi.json", trust_env=False).json()
    for what in ("evidence", "nearest"):
        operation = value["paths"][f"/v1/infimed/{what}"]["post"]
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        assert schema["additionalProperties"] is False
        assert schema["properties"]["image"]["properties"]["url"]["type"] == "string"
        assert "$ref" not in json.dumps(schema)
        assert code_of(httpx.get(f"{url}/v1/infimed/{what}", trust_env=False)) == "method_not_allowed"  # fmt: skip


def test_a_model_as_the_engine_has_it_is_left_as_it_was(url, service):
    before = {name: tensor.clone() for name, tensor in LOCAL.model.state_dict().items()}
    learns = [p.requires_grad for p in LOCAL.model.parameters()]
    asked(url, looking(method="gradient"))
    assert learns == [p.requires_grad for p in LOCAL.model.parameters()]
    assert all((tensor == before[n]).all() for n, tensor in LOCAL.model.state_dict().items())
    assert isinstance(service.answerer.local, LocalModel)  # type: ignore[attr-defined]
