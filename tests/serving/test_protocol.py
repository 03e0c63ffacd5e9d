"""What a request may say: every field known and in range, or a refusal that names it and quotes nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infimed.serving.protocol import ChatRequest, parse
from infimed.serving.refusals import CODES, Refusal
from infimed.serving.service import conversation
from infimed.serving.settings import Limits
from tests.serving.world import body, image_part, png_url, user

LIMITS = Limits()
CANARY = "JaneRoe19560401"


def refused(value: Any, limits: Limits = LIMITS) -> Refusal:
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    with pytest.raises(Refusal) as error:
        parse(content, limits)
    assert CANARY not in json.dumps(error.value.body("r"))
    return error.value


def test_a_request_of_every_field_is_taken():
    made = parse(
        json.dumps(
            body(
                "What is this?",
                image_part(png_url(), detail="low", frame=0),
                n=1,
                stream=True,
                stream_options={"include_usage": True},
                temperature=1,
                top_p=0.5,
                top_k=3,
                seed=-5,
                stop=["a"],
                logprobs=True,
                top_logprobs=2,
                response_format={"type": "text"},
                frequency_penalty=0,
                presence_penalty=0,
                user=CANARY,
            )
        ).encode(),
        LIMITS,
    )
    assert isinstance(made, ChatRequest) and made.temperature == 1.0 and made.new_tokens == 6


def test_turns_become_those_of_the_house_with_images_in_order():
    turns = [
        {"role": "developer", "content": "Be brief."},
        user("a", image_part("data:1"), image_part("data:2"), "b"),
        {"role": "assistant", "content": "yes", "refusal": None},
        user(image_part("data:3"), "c"),
    ]
    made = parse(json.dumps({"model": "tiny", "messages": turns}).encode(), LIMITS)
    found = [(turn.role, turn.content) for turn in conversation(made)]
    assert found == [
        ("system", ("Be brief.",)),
        ("user", ("a", 0, 1, "b")),
        ("assistant", ("yes",)),
        ("user", (2, "c")),
    ]


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"modle": CANARY}, "unknown_field", "modle"),
        ({"tools": []}, "unknown_field", "tools"),
        ({"n": 2}, "invalid_value", "n"),
        ({"temperature": 2.5}, "invalid_value", "temperature"),
        ({"temperature": "0"}, "invalid_value", "temperature"),
        ({"top_p": 0}, "invalid_value", "top_p"),
        ({"seed": 2**63}, "invalid_value", "seed"),
        ({"stream": "yes"}, "invalid_value", "stream"),
        ({"max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"max_tokens": 2049}, "too_many_tokens", "max_tokens"),
        ({"max_tokens": 4, "max_completion_tokens": 5}, "invalid_value", "max_tokens"),
        ({"stop": ["a"] * 5}, "invalid_value", "stop"),
        ({"stop": ""}, "invalid_value", "stop"),
        ({"stop": "\ud800"}, "invalid_text", "stop"),
        ({"top_logprobs": 2}, "invalid_value", "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "invalid_value", "top_logprobs"),
        ({"stream_options": {}}, "invalid_value", "stream_options"),
        ({"presence_penalty": 1}, "invalid_value", "presence_penalty"),
        ({"response_format": {"type": "json_object"}}, "invalid_value", "response_format"),
        ({"model": None}, "invalid_value", "model"),
        ({"messages": []}, "invalid_value", "messages"),
        ({"messages": [user()]}, "invalid_value", "messages.0.content"),
        ({"messages": [{"role": "tool", "content": CANARY}]}, "invalid_value", "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "missing_field", "messages.0.content"),
        ({"messages": [user(), {"role": "assistant", "content": "a"}]}, "invalid_value", None),
        ({"messages": [user("\ud800 " + CANARY)]}, "invalid_text", "messages.0.content.0"),
        ({"messages": [user(*["a" * 40_000] * 2)]}, "prompt_too_long", "messages"),
        ({"messages": [user(*[image_part("data:")] * 5)]}, "too_many_images", "messages"),
        ({"messages": [user({"type": "video_url"})]}, "invalid_value", "messages.0.content.0"),
        ({"messages": [user(image_part("x", frame=-1))]}, "invalid_value", None),
        ({"messages": [user(image_part("x", fram=1))]}, "unknown_field", None),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(change, code, param):
    error = refused({**body("left?"), **change})
    assert error.code == code
    assert param is None or error.param == param


def test_images_are_a_users():
    turns = [{"role": "system", "content": [image_part("data:")]}, user("a")]
    assert refused({"model": "tiny", "messages": turns}).param == "messages.0.content.0"


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"\xff\xfe{}", "invalid_json"),
        (b'{"a": NaN}', "invalid_json"),
        (b'{"a": ' + b"9" * 5000 + b"}", "invalid_json"),
        (b"[]", "invalid_value"),
        (b'"text"', "invalid_value"),
        (b"[" * 50_000 + b"]" * 50_000, "too_deep"),
        (b'{"a":' * 20 + b"1" + b"}" * 20, "too_deep"),
        (b"[" + b"1," * 200_000 + b"1]", "too_complex"),
    ],
)
def test_a_body_that_is_no_request_is_refused(raw, code):
    assert refused(raw).code == code


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
part = st.one_of(
    anything,
    st.fixed_dictionaries({"type": st.sampled_from(["text", "image_url", "input_audio"])}, optional={"text": anything, "image_url": anything}),
    st.fixed_dictionaries({"type": st.just("text"), "text": st.text()}),
    st.fixed_dictionaries({"type": st.just("image_url"), "image_url": st.fixed_dictionaries({"url": st.text()}, optional={"detail": anything, "frame": anything})}),
)  # fmt: skip
turn = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "system", "assistant", "developer", "tool"])},
    optional={"content": st.text() | st.lists(part, max_size=4) | anything, "name": anything},
)


@given(st.lists(turn, max_size=4) | anything, st.dictionaries(st.sampled_from([*list(ChatRequest.model_fields), "x"]), anything, max_size=3))  # fmt: skip
def test_whatever_the_parts_are_the_answer_is_a_request_or_a_refusal_of_a_known_code(turns, more):
    raw = json.dumps({"model": "tiny", "messages": turns, **more}).encode()
    try:
        made = parse(raw, LIMITS)
    except Refusal as error:
        assert error.code in CODES and 400 <= error.status < 500
        json.dumps(error.body("r")).encode()
        return
    for message in conversation(made):
        assert message.role in ("user", "system", "assistant") and message.content


@given(st.binary(max_size=200))
def test_no_bytes_break_the_parser(raw):
    try:
        parse(raw, LIMITS)
    except Refusal as error:
        assert error.status < 500


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"n": 2}, "accepted: 1"),
        ({"response_format": {"type": "json_object"}}, "accepted types: 'text', 'json_schema'"),
        ({"presence_penalty": 0.1}, "at most 0"),
        ({"temperature": -1}, "at least 0"),
        ({"top_p": 0}, "above 0"),
    ],
)
def test_a_refused_value_says_what_is_accepted_and_not_what_was_sent(more, said):
    value = {"model": "m", "messages": [{"role": "user", "content": "a"}], **more}
    with pytest.raises(Refusal) as error:
        parse(json.dumps(value).encode(), Limits())
    assert said in error.value.message and "json_object" not in error.value.message
