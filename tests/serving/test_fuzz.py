"""Whatever is sent, the answer is one that `/openapi.json` describes, and never that the server failed.

Schemathesis makes requests from our own description, right ones and wrong ones, for every address; hypothesis makes
content parts that are nearly right. Bounded: a few dozen examples of each, the same in every run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infimed.serving.app import make_app
from infimed.serving.refusals import CODES
from tests.data.samples import dicom_bytes, encoded, noise
from tests.serving.test_media import grey16
from tests.serving.world import data_url, post, running, service_of, settings_of, tiny_local, user

schemathesis = pytest.importorskip("schemathesis")

LOCAL = tiny_local()
SMALL = {"limits": {"image_bytes": 2**20, "new_tokens": 16, "default_new_tokens": 4}}
DESCRIBED = make_app(service_of(LOCAL, settings_of(**SMALL))).app.openapi()  # type: ignore[attr-defined]
OPERATIONS = [(method, path) for path, ways in DESCRIBED["paths"].items() for method in ways]
TAKING = [(method, path) for method, path in OPERATIONS if "application/json" in DESCRIBED["paths"][path][method].get("requestBody", {}).get("content", {})]  # fmt: skip
ASKED = [(*each, True) for each in OPERATIONS] + [(*each, False) for each in TAKING]
"""What takes nothing cannot be asked wrongly, and a form that is none is asked below."""
BOUNDED = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(service_of(LOCAL, settings_of(**SMALL), processes=True)) as address:
        yield address


@pytest.mark.parametrize(("method", "path", "right"), ASKED, ids=lambda each: str(each))
def test_every_answer_is_one_that_is_described(url, method, path, right):
    import requests
    from schemathesis import GenerationMode
    from schemathesis.checks import CHECKS
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    assert CHECKS  # those of OpenAPI are registered
    schema = schemathesis.openapi.from_dict(DESCRIBED)
    mode = GenerationMode.POSITIVE if right else GenerationMode.NEGATIVE
    operation = schema[path][method]
    cases = operation.as_strategy(generation_mode=mode)
    session = requests.Session()
    session.trust_env = False

    @BOUNDED
    @given(case=cases)
    def ask(case: Any) -> None:
        if right and isinstance(case.body, dict) and "model" in case.body:
            case.body["model"] = "tiny"  # a description cannot say what is served
        # What follows the description may still be refused: no image, no text, more than a limit.
        case.call_and_validate(
            base_url=url, session=session, excluded_checks=[positive_data_acceptance]
        )

    ask()
    assert httpx.get(f"{url}/health", trust_env=False).status_code == 200


PNG = encoded(noise(24, 40))
DICOM = dicom_bytes(grey16())


def cut(data: bytes) -> st.SearchStrategy[bytes]:
    """An image, cut or with other bytes somewhere."""
    places = st.tuples(st.integers(0, len(data)), st.binary(max_size=8), st.integers(0, 64))
    changed = places.map(lambda p: data[: p[0]] + p[1] + data[p[0] + len(p[1]) + p[2] :])
    return st.one_of(st.just(data), changed)


KINDS = st.sampled_from(
    ["image/png", "image/jpeg", "application/dicom", "application/octet-stream", "text/html", "image/svg+xml", "IMAGE/PNG", "x"]
)  # fmt: skip
URLS = st.one_of(
    st.tuples(st.one_of(cut(PNG), cut(DICOM), st.binary(max_size=200)), KINDS).map(lambda both: data_url(*both)),
    st.text(max_size=60),
    st.sampled_from(["file-" + "0" * 64, "file:///etc/passwd", "https://127.0.0.1/", "data:", "data:;base64,", "data:image/png;base64,%%%"]),
)  # fmt: skip
WORDS = st.one_of(
    st.text(max_size=80),
    st.lists(st.sampled_from(["<image>", "<|im_end|>", "<|im_start|>", "assistant", "\n", "\u200b", "\ud800", "\0", "data: [DONE]\n\n"]), max_size=8).map("".join),
)  # fmt: skip
JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=9)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=9), inner, max_size=3)),
    max_leaves=8,
)  # fmt: skip
IMAGES = st.fixed_dictionaries(
    {"url": URLS}, optional={"frame": st.one_of(st.integers(-1, 3), JUNK), "detail": st.sampled_from(["low", "x", None])}
)  # fmt: skip
PARTS = st.one_of(
    st.fixed_dictionaries({"type": st.just("text"), "text": WORDS}),
    st.fixed_dictionaries({"type": st.just("image_url"), "image_url": IMAGES}),
    st.fixed_dictionaries({"type": st.sampled_from(["text", "image_url", "video_url", ""])}, optional={"text": JUNK, "image_url": JUNK}),
    JUNK,
)  # fmt: skip
TURNS = st.one_of(
    st.lists(PARTS, min_size=1, max_size=4).map(lambda parts: {"role": "user", "content": parts}),
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system", "tool"]), "content": st.one_of(WORDS, JUNK)}),
)  # fmt: skip


@settings(BOUNDED, max_examples=150)
@given(turns=st.lists(TURNS, max_size=3), stream=st.booleans(), ended=st.booleans())
def test_content_parts_that_are_nearly_right(url, turns, stream, ended):
    asked = [*turns, user("lung?")] if ended else turns
    value = {"model": "tiny", "messages": asked, "max_tokens": 2, "stream": stream}
    answer = post(url, json.dumps(value).encode())
    assert answer.status_code < 500, answer.text
    assert str(answer.status_code) in DESCRIBED["paths"]["/v1/chat/completions"]["post"]["responses"]  # fmt: skip
    if answer.status_code == 200:
        assert answer.text.endswith("data: [DONE]\n\n") if stream else answer.json()["choices"]
        return
    error = answer.json()["error"]
    assert CODES[error["code"]][0] == answer.status_code
    for leak in ("Traceback", "0x", "site-packages", "pydantic"):
        assert leak not in answer.text


@settings(BOUNDED, max_examples=60)
@given(value=JUNK)
def test_bodies_that_are_anything(url, value):
    answer = post(url, json.dumps(value).encode())
    assert 400 <= answer.status_code < 500 and answer.json()["error"]["code"] in CODES


@settings(BOUNDED, max_examples=60)
@given(
    data=st.one_of(cut(PNG), cut(DICOM), st.binary(max_size=300)),
    kind=KINDS,
    name=st.text(max_size=30),
)
def test_uploads_that_are_anything(url, data, kind, name):
    answer = httpx.post(f"{url}/v1/infimed/files", files={"file": (name, data, kind)}, trust_env=False)  # fmt: skip
    assert answer.status_code < 500
    if answer.status_code == 200:  # it is an image, or begins as one
        shown = post(url, {"model": "tiny", "max_tokens": 1, "messages": [user({"type": "image_url", "image_url": {"url": answer.json()["id"]}})]})  # fmt: skip
        assert shown.status_code < 500


def test_every_status_of_a_refusal_is_described():
    responses = DESCRIBED["paths"]["/v1/chat/completions"]["post"]["responses"]
    assert {str(status) for status, _ in CODES.values()} - {"405", "499"} <= set(responses)
    for ways in DESCRIBED["paths"].values():
        for operation in ways.values():
            assert "500" in operation["responses"] and "422" not in operation["responses"]
    assert json.dumps(DESCRIBED).count("HTTPValidationError") == 0
