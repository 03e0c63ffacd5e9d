"""What a judge writes becomes levels or a named status; nothing it writes can end a run."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infimed.curation.findings import QUALITY
from infimed.curation.judge_parsing import JUDGEMENT_STATUSES, judgement_of, parse_judgement
from infimed.inference.requests import Response


def answer(**levels: object) -> str:
    """A complete answer: 2 everywhere but where said otherwise."""
    filled: dict[str, object] = {**dict.fromkeys(QUALITY, 2), **levels}
    return json.dumps({name: {"level": level, "evidence": ""} for name, level in filled.items()})


@pytest.mark.parametrize(
    "wrap",
    [
        "{}",
        "```json\n{}\n```",
        "```\n{}\n```\n",
        "Here is my judgement:\n\n{}\n\nI hope this helps.",
        '<think>Perhaps {{"completeness": 0}}?</think>\n{}',
        '{{"note": 1}} {}',
    ],
)
def test_json_is_found_bare_fenced_and_among_words(wrap: str) -> None:
    found = parse_judgement(wrap.format(answer(accuracy=0, relevance="u", completeness="1")))
    assert found.status == "ok"
    assert found.levels == {
        "completeness": "1",
        "accuracy": "0",
        "consistency": "2",
        "relevance": "U",
        "readability": "2",
    }


def test_levels_may_stand_alone_and_keys_in_capitals() -> None:
    found = parse_judgement(json.dumps({name.upper(): 2 for name in QUALITY}))
    assert set(found.levels.values()) == {"2"}


def test_of_several_judgements_the_last_holds() -> None:
    found = parse_judgement(answer(accuracy=0) + "\nOn reflection:\n" + answer(accuracy=1))
    assert found.levels["accuracy"] == "1"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no JSON object"),
        ("The record is fine.", "no JSON object"),
        ("{", "no JSON object"),
        ("[2, 2, 2, 2, 2]", "no JSON object"),
        (answer(accuracy=3), "no such level of accuracy"),
        (answer(accuracy=-1), "no such level"),
        (answer(accuracy=True), "no such level"),
        (answer(accuracy=1.5), "no such level"),
        (answer(accuracy=None), "no such level"),
        (answer(accuracy="good"), "no such level"),
        (answer(accuracy=[2]), "no such level"),
        (json.dumps({"completeness": 2}), "no level for accuracy"),
        (answer()[:-20], "no level for completeness"),
        ('{"accuracy": 2, "Accuracy": 0}', "judged twice"),
        ("{" * 5000, "no JSON object"),
        ('{"a":' * 100_000, "no JSON object"),
    ],
)
def test_garbage_is_named_and_has_no_level(text: str, why: str) -> None:
    found = parse_judgement(text)
    assert (found.status, dict(found.levels)) == ("garbage", {})
    assert why in found.detail


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I cannot assess medical images.",
        "抱歉，我无法评估。",
    ],
)
def test_refusals_in_words_are_refusals(text: str) -> None:
    assert parse_judgement(text).status == "refused"


def test_a_judgement_that_begins_with_an_apology_is_still_a_judgement() -> None:
    assert parse_judgement("I'm sorry for the delay. " + answer()).status == "ok"


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60) | st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda x: st.dictionaries(st.sampled_from([*QUALITY, "level"]), x, max_size=6), max_leaves=8).map(json.dumps))  # fmt: skip
def test_whatever_a_judge_writes_gets_a_status(text: str) -> None:
    found = parse_judgement(text)
    assert found.status in JUDGEMENT_STATUSES
    assert bool(found.levels) == (found.status == "ok")


def test_quoted_evidence_is_looked_up_in_the_record() -> None:
    text = json.dumps(
        {
            **dict.fromkeys(QUALITY, 2),
            "accuracy": {"level": 0, "evidence": '"LEFT  pleural effusion"'},
            "consistency": {"level": 0, "evidence": "right lower lobe"},
        }
    )
    found = parse_judgement(text, "There is a left pleural effusion.")
    assert (found.quoted["accuracy"], found.quoted["consistency"]) == (True, False)
    assert found.quoted["relevance"] is None


def test_a_failed_response_keeps_its_status() -> None:
    for status in ("refused", "garbage", "timeout", "error"):
        assert judgement_of(Response("q", "", status)).status == status
    assert judgement_of(Response("q", answer()[:40], "truncated")).status == "truncated"
    assert judgement_of(Response("q", answer(), "truncated")).status == "ok"


def test_what_is_kept_of_a_judges_words_has_no_identifier() -> None:
    """Also of one that the limit of evidence would cut in two, and in a refusal."""
    quote = "x" * 140 + " mail jane.doe@example.org"
    text = json.dumps({**dict.fromkeys(QUALITY, 2), "accuracy": {"level": 0, "evidence": quote}})
    found = parse_judgement(text, f"Seen: {quote}.")
    assert found.evidence["accuracy"].endswith("x mail [EMAIL]")
    assert found.quoted["accuracy"] is True, "looked up as it was said"
    refusal = "I'm sorry, I cannot assess jane.doe@example.org."
    assert parse_judgement(refusal).status == "refused"
    kept = [parse_judgement(refusal).detail, judgement_of(Response("q", refusal, "refused")).detail]
    assert all("[EMAIL]" in words and "jane.doe" not in words for words in kept)
