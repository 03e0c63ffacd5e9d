"""Field maps: what a row becomes, and the mistakes of a map that are named."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from infimed.core.errors import DataError
from infimed.data.fieldmap import (
    FieldMap,
    SeveralAnswers,
    choice_answer,
    kind_of,
    listed,
    lookup,
    options_of,
    render,
    written_answer,
)


def layout(**changes: Any) -> FieldMap:
    return FieldMap.model_validate(
        {"files": {"test": ["t.json"]}, "question": "q", "answer": "a", **changes}
    )


def test_a_path_goes_through_objects_and_lists_and_a_whole_name_goes_first() -> None:
    row = {
        "data": {"Correct Option": "B"},
        "list": [1, {"x": 2}],
        "a.b": "whole",
        "a": {"b": "deep"},
    }
    assert lookup(row, "data.Correct Option") == "B"
    assert lookup(row, "list.1.x") == 2
    assert lookup(row, "a.b") == "whole"
    assert lookup(row, "list.7") is None and lookup(row, "data.no.such") is None


def test_a_template_fills_fields_and_drops_lines_without_any() -> None:
    row = {"findings": "", "impression": "Normal.", "id": "10000032", "many": ["a", "b"]}
    assert render(row, "Findings: {findings}\nImpression: {impression}") == "Impression: Normal."
    assert render(row, "files/p{id:.2}/p{id}") == "files/p10/p10000032"
    assert render(row, "{many}\nfixed") == "a\nb\nfixed"
    assert render({"x": "{y} \\1"}, "<{x}>") == "<{y} \\1>"


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ({"B": "two", "A": "one", "C": None}, ["one", "two"]),
        (["one", "two"], ["one", "two"]),
        (["A. one", "B. two"], ["one", "two"]),
        (["A: one", "two"], ["A: one", "two"]),
        (["A", "B"], ["A", "B"]),
        ("['one', 'two']", ["one", "two"]),
        ('["one", "two"]', ["one", "two"]),
        ("A 甲\nB 乙", ["甲", "乙"]),
        ([{"letter": "A", "content": "one"}, {"key": "B", "value": "two"}], ["one", "two"]),
        ([0.5, 1], ["0.5", "1"]),
        (None, []),
    ],
)
def test_options_are_read_in_every_form_and_lose_their_own_letters(
    value: Any, texts: list[str]
) -> None:
    assert [text for _, text in options_of({"o": value}, layout(options="o"))] == texts


def test_an_empty_option_keeps_the_letters_of_the_others() -> None:
    found = options_of({"a": "one", "b": "", "c": "three"}, layout(options=["a", "b", "c"]))
    assert found == [("A", "one"), ("C", "three")]


@pytest.mark.parametrize(
    ("how", "answer", "right"),
    [
        ("letter", "B", "two"),
        ("letter", " b) ", "two"),
        ("letter", ["B"], "two"),
        ("index", 1, "two"),
        ("number", "2", "two"),
        ("text", "TWO", "two"),
    ],
)
def test_the_right_option_is_found_however_it_is_stated(how: str, answer: Any, right: str) -> None:
    options = [("A", "one"), ("B", "two")]
    assert choice_answer({"a": answer}, layout(answer_is=how), options) == right


@pytest.mark.parametrize("answer", ["AB", ["A", "B"], [], "A,B"])
def test_several_right_options_are_refused_by_name(answer: Any) -> None:
    with pytest.raises(SeveralAnswers):
        choice_answer({"a": answer}, layout(answer_is="letter"), [("A", "one"), ("B", "two")])


@pytest.mark.parametrize(
    ("how", "answer"), [("letter", "E"), ("index", 9), ("number", 0), ("index", "x"), ("text", "")]
)
def test_an_answer_outside_the_options_is_refused(how: str, answer: Any) -> None:
    with pytest.raises((DataError, IndexError)):
        choice_answer({"a": answer}, layout(answer_is=how), [("A", "one"), ("B", "two")])


def test_a_list_of_answers_is_all_of_them_or_alternatives() -> None:
    assert written_answer({"a": ["x", "y"]}, layout()) == ("x, y", [])
    assert written_answer({"a": "['3', 'three']"}, layout(many="first")) == ("3", ["3", "three"])


def test_a_rubric_stands_for_the_answer_by_its_positive_criteria() -> None:
    rubric = [{"criterion": "asks", "points": 5}, {"criterion": "harms", "points": -5}]
    assert written_answer({"r": rubric}, layout(answer="", rubric="r"))[0] == "asks"


def test_the_kind_is_stated_by_a_field_or_seen() -> None:
    by_field = layout(kind={"t": {"OPEN": "open"}})
    assert kind_of({"t": " OPEN "}, by_field, [], "x") == "open"
    with pytest.raises(DataError, match="no kind"):
        kind_of({"t": "other"}, by_field, [], "x")
    assert [kind_of({}, layout(), o, a) for o, a in ((["x"], ""), ([], "No"), ([], "lung"))] == [
        "choice",
        "closed",
        "open",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"questoin": "q"}, "Extra inputs"),
        ({"ask": "x"}, "one of question, ask and turns"),
        ({"answer": ""}, "one of answer and rubric"),
        ({"files": {"tset": ["x"]}}, "unknown split 'tset'"),
        ({"files": {}}, "at least 1"),
        ({"kind": "opne"}, "unknown kind 'opne'"),
        ({"kind": {"t": {"A": "opne"}}}, "unknown kind 'opne'"),
        ({"options": "o", "choices": ["a"]}, "options or choices"),
    ],
)
def test_a_mistake_in_a_map_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        layout(**change)


@given(st.text(alphabet="[]{}'\",:()abc_.0123456789 ", max_size=40))
@settings(max_examples=150, deadline=None)
def test_text_that_looks_like_a_list_is_never_run(text: str) -> None:
    assert isinstance(listed(text), (str, list, dict, set, tuple))


def test_code_in_an_option_list_stays_text() -> None:
    text = "[__import__('os').getcwd()]"
    assert listed(text) == text
