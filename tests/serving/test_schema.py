"""Automata of JSON schemas take exactly the values of the schema, and constrained answers are such values."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from infimed.inference.requests import Sampling
from infimed.serving.answers import Vocabulary
from infimed.serving.engine import Engine
from infimed.serving.refusals import Refusal
from infimed.serving.schema import DEAD, Automaton
from infimed.serving.settings import Limits
from tests.conftest import tiny_tokenizer_json
from tests.serving.test_engine import ask, done, finish, put
from tests.serving.world import settings_of, tiny_local

REPORT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "finding": {"type": "string", "maxLength": 12},
        "side": {"enum": ["left", "right", None]},
        "sizes": {"type": "array", "items": {"type": "integer"}, "maxItems": 3},
        "seen": {"type": "boolean"},
        "share": {"type": ["number", "null"]},
        "more": {"$ref": "#/$defs/more"},
    },
    "required": ["finding", "side", "sizes", "seen", "share", "more"],
    "additionalProperties": False,
    "$defs": {"more": {"anyOf": [{"type": "null"}, {"type": "string", "minLength": 2}]}},
}

values = st.fixed_dictionaries(
    {
        "finding": st.text(max_size=12).filter(
            lambda t: not any("\ud800" <= c <= "\udfff" for c in t)
        ),
        "side": st.sampled_from(["left", "right", None]),
        "sizes": st.lists(st.integers(-(10**14), 10**14), max_size=3),
        "seen": st.booleans(),
        "share": st.none() | st.integers(-999, 999).map(lambda n: n / 8),
        "more": st.none() | st.text('äb\n"', min_size=2),
    }
).map(lambda value: {name: value[name] for name in REPORT["properties"]})


def accepts(automaton: Automaton, text: str) -> bool:
    state = automaton.walk(Automaton.START, text.encode())
    return state != DEAD and automaton.accepts(state)


@pytest.fixture(scope="module")
def automaton() -> Automaton:
    return Automaton(REPORT, 10_000)


@given(values)
def test_every_value_of_the_schema_is_taken(automaton, value):
    assert accepts(automaton, json.dumps(value, ensure_ascii=False))
    if value["finding"].isascii():
        assert accepts(automaton, json.dumps(value))


@given(values, st.data())
def test_what_is_taken_after_a_change_is_still_a_value(automaton, value, data):
    text = json.dumps(value, ensure_ascii=False)
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from(['"', "}", "1", "a", ",", "\\", "-", ""]))
    changed = text[:at] + other + text[at + 1 :]
    if accepts(automaton, changed):
        assert is_value(json.loads(changed))


def is_value(value: Any) -> bool:
    """The slow and obvious check of REPORT."""
    whole = lambda n: isinstance(n, int) and not isinstance(n, bool)  # noqa: E731
    return (
        list(value) == list(REPORT["properties"])
        and isinstance(value["finding"], str)
        and len(value["finding"]) <= 12
        and value["side"] in ("left", "right", None)
        and len(value["sizes"]) <= 3
        and all(map(whole, value["sizes"]))
        and isinstance(value["seen"], bool)
        and (value["share"] is None or isinstance(value["share"], int | float))
        and (value["more"] is None or len(value["more"]) >= 2)
    )


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"type": "integer"}, ["0", "-7", "123"], ["01", "-", "1.5", "", "+1", "1e3"]),
        ({"type": "number"}, ["0", "0.5", "-1e3", "2.50E-7"], [".5", "1.", "e3", "1e", "--1"]),
        ({"type": "string"}, ['""', '"a\\n\\u00e4ä"'], ['"', '"\n"', '"\\x"', '"\\ud800"', "a"]),
        ({"type": "boolean"}, ["true", "false"], ["True", "tru", "null"]),
        ({"const": {"a": [1]}}, ['{"a": [1]}'], ['{"a":[1]}', "{}"]),
        ({"type": "array", "items": {"type": "null"}, "minItems": 1, "maxItems": 2}, ["[null]", "[null, null]"], ["[]", "[null, null, null]", "[null,]"]),
        ({"type": "object", "properties": {}, "required": [], "additionalProperties": False}, ["{}"], ["{ }", '{"a": 1}']),
    ],
)  # fmt: skip
def test_simple_schemas_take_what_they_say(schema, right, wrong):
    made = Automaton(schema, 10_000)
    assert all(accepts(made, text) for text in right)
    assert not any(accepts(made, text) for text in wrong)


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "thing"},
        {"type": "string", "pattern": "a+"},
        {"type": "object", "properties": {"a": {"type": "null"}}, "additionalProperties": False},
        {"type": "object", "properties": {}},
        {"type": "array"},
        {"type": "array", "items": {"type": "null"}, "maxItems": 65},
        {"type": "string", "minLength": 3, "maxLength": 2},
        {"enum": []},
        {"enum": ["\ud800"]},
        {"$ref": "#/$defs/a", "$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}},
        {"$ref": "https://example.org/schema"},
        {"anyOf": [{"type": "null"}] * 17},
        {"type": "array", "items": {"type": "string", "maxLength": 1000}, "maxItems": 64},
        {"type": "array", "items": [1]},
        {"allOf": [{"type": "null"}]},
    ],
)
def test_what_is_not_supported_is_refused_by_name(schema):
    with pytest.raises(Refusal) as refused:
        Automaton(schema, 10_000)
    assert refused.value.code in ("invalid_schema", "invalid_text")
    assert str(refused.value.param).startswith("response_format")


def test_what_the_docs_promise_fits_in_the_default_limit():
    most = Limits().schema_states
    finding = {name: {"type": "string"} for name in ("finding", "site", "side", "certainty")}
    one = {"type": "object", "properties": finding, "required": [*finding], "additionalProperties": False}  # fmt: skip
    automaton = Automaton({"type": "array", "items": one}, most)
    found = [dict.fromkeys(finding, "é")] * 64
    assert accepts(automaton, json.dumps(found)) and not accepts(automaton, json.dumps([*found, found[0]]))  # fmt: skip
    automaton = Automaton({"type": "string", "maxLength": 1000}, most)
    assert accepts(automaton, json.dumps("a" * 1000)) and not accepts(automaton, json.dumps("a" * 1001))  # fmt: skip


def test_the_vocabulary_knows_the_bytes_of_every_token():
    vocabulary, tokenizer = Vocabulary(tiny_tokenizer_json()), tiny_local().processor.tokenizer
    for text in ("Is there an effusion?", "Größe: 5 µm, 肺", "\n\t{}"):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert b"".join(vocabulary.bytes[number] for number in ids) == text.encode()
    assert not {0, 1, 2, 3} & set(vocabulary.bytes)


def test_a_tokenizer_of_other_pieces_has_no_schemas():
    other = json.loads(tiny_tokenizer_json())
    other["decoder"] = {"type": "Metaspace"}
    with pytest.raises(ValueError, match="byte-level"):
        Vocabulary(json.dumps(other))


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(1.0, 0.9, seed=1), Sampling(2.0, seed=2)]
)
def test_answers_that_end_are_values_of_the_schema(sampling):
    from dataclasses import replace

    engine, heard = Engine(tiny_local(), settings_of()), []
    for number in range(4):
        asked = ask(number, schema=REPORT)
        request = replace(asked.request, sampling=sampling, max_new_tokens=300)
        heard.append(put(engine, replace(asked, request=request))[1])
    finish(engine)
    complete = [done(events) for events in heard if done(events).finish == "stop"]
    assert all(is_value(json.loads(said.text)) for said in complete)
    assert complete, "no answer came to its end"


def test_a_constrained_choice_is_the_likeliest_among_the_allowed():
    """Against masking with every token of the vocabulary tried."""
    from infimed.serving.answers import Answer, Form

    local = tiny_local()
    form = Form(Automaton(REPORT, 10_000), Vocabulary(tiny_tokenizer_json()))
    answer = Answer(0, 0, 0, local.processor.raw_text, (2,), 400, Sampling(), form=form)
    generator = torch.Generator().manual_seed(0)
    while answer.open:
        logits = torch.randn(320, generator=generator)
        logits[1] = 99.0  # a control token, never allowed
        allowed = [
            number
            for number, text in form.vocabulary.bytes.items()
            if form.automaton.walk(answer.state, text) != DEAD
        ] + ([2] if form.automaton.accepts(answer.state) else [])
        best = max(allowed, key=lambda number: float(logits[number]))
        assert answer.choose(logits, int(logits.argmax())) == best
        answer.put(best)
