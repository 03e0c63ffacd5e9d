"""Extraction: each rule by example, the known mistakes of other harnesses, and no guessing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infimed.evaluation.extract import (
    UNPARSED,
    Extraction,
    boxed,
    letter,
    marked,
    polarity,
    short,
    whole,
    yes_no,
)

OPTIONS = ["pneumonia", "edema", "effusion", "normal"]


@pytest.mark.parametrize(
    ("text", "value", "rule"),
    [
        ("yes", "yes", "first word"),
        ("No.", "no", "first word"),
        ("**Yes**", "yes", "first word"),
        ("Yes, but no effusion", "yes", "first word"),
        ("No, there is a mass", "no", "first word"),
        ("There is no evidence of pneumonia", "no", "first decisive word"),
        ("\\boxed{yes}", "yes", "boxed"),
        ("$\\boxed{\\text{No}}$", "no", "boxed"),
        ("<think>yes or no? yes</think><answer>no</answer>", "no", "answer tag"),
        ("No fluid on the left. The answer is yes.", "yes", "answer mark"),
        ("<think>yes</think> no", "no", "first word"),
    ],
)
def test_yes_no_reads_the_first_decisive_word(text: str, value: str, rule: str) -> None:
    found = yes_no(text)
    assert (found.value, found.rule) == (value, rule)


@pytest.mark.parametrize(
    "text",
    ["", " ", "unknown", "normal", "eyes appear fine", "another abnormal node noted", "I do not know",
     "I cannot say yes or no", "no idea", "<think>yes", "\\boxed{}", "None"],
)  # fmt: skip
def test_yes_no_never_guesses(text: str) -> None:
    assert yes_no(text).value is None
    assert yes_no(text).rule == UNPARSED


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("B", "1"),
        ("b", "1"),
        ("(B)", "1"),
        ("**C**", "2"),
        ("B.", "1"),
        ("B. edema", "1"),
        ("B: edema", "1"),
        ("C: effusion", "2"),
        ("effusion", "2"),
        ("Effusion.", "2"),
        ("C is correct", "2"),
        ("Option D", "3"),
        ("\\boxed{\\text{C}}", "2"),
        ("$\\boxed{\\textbf{B}}$", "1"),
        ("Answer: C", "2"),
        ("The answer is (C).", "2"),
        ("答案: B", "1"),
        ("Let me think.\n\nB.", "1"),
        ("B\n\nExplanation: ...", "1"),
        ("<think>maybe A</think><answer>D</answer>", "3"),
        ("Let's think. A is wrong. B is wrong. Therefore C.", "2"),
        ("The correct answer is D because A is ruled out: see figure", "3"),
        ("I think this is the effusion of the patient", "2"),
        ("A mass suggests edema", "1"),
    ],
)
def test_letter_reads_the_chosen_option(text: str, index: str) -> None:
    assert letter(text, OPTIONS).value == index


@pytest.mark.parametrize(
    "text",
    ["", "A and B", "A or B", "I cannot determine the answer.", "I do not know", "E", "error",
     "none of the above", "edema or effusion", "A mass is seen", "x"],
)  # fmt: skip
def test_letter_never_guesses(text: str) -> None:
    assert letter(text, OPTIONS).value is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("不是", "no"),
        ("是的，存在", "yes"),
        ("没有积液", "no"),
        ("答案：有", "yes"),
        ("答案是yes", "yes"),
        ("\\boxed{否}", "no"),
        ("“没有”", "no"),
        ("是否存在无法判断", None),
        ("不能确定", None),
        ("可能存在", None),
        ("不正常", None),
    ],
)
def test_chinese_yes_and_no_begin_a_clause(text: str, value: str | None) -> None:
    assert yes_no(text).value == value


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("选B", "1"),
        ("（Ｂ）", "1"),
        ("答案：Ｃ", "2"),
        ("正确答案为D", "3"),
        ("B。因为它对", "1"),
        ("A和B", None),
    ],
)
def test_letters_are_read_in_chinese_and_full_width_text(text: str, index: str | None) -> None:
    assert letter(text, OPTIONS).value == index


@pytest.mark.parametrize(
    ("gold", "value"),
    [
        ("Yes.", "yes"),
        ("不包含", "no"),
        ("有", "yes"),
        ("不正常", None),
        ("lung", None),
        ("", None),
    ],
)
def test_a_gold_answer_is_a_decision_or_not(gold: str, value: str | None) -> None:
    assert polarity(gold) == value


@pytest.mark.parametrize(
    "text", ["**Answer:** B. edema", "The answer is **B**", "Final Answer: **B**"]
)
def test_a_mark_may_be_set_in_bold(text: str) -> None:
    assert letter(text, OPTIONS) == Extraction("1", "answer mark")


def test_an_option_inside_a_longer_named_option_does_not_count() -> None:
    assert letter("it is the left lung here", ["lung", "left lung", "heart"]).value == "1"


@given(st.text(max_size=80))
@settings(max_examples=150, deadline=None)
def test_every_extractor_is_total(text: str) -> None:
    for found in (yes_no(text), letter(text, OPTIONS), short(text), whole(text)):
        assert (found.value is None) == (found.rule == UNPARSED)


@given(st.lists(st.sampled_from(["refused", "sorry", "unclear", "see", "image", "12"]), max_size=6))
@settings(max_examples=50, deadline=None)
def test_text_without_an_answer_is_unparsed(words: list[str]) -> None:
    text = " ".join(words)
    assert yes_no(text).value is None
    assert letter(text, OPTIONS).value is None


def test_the_last_box_wins_and_braces_are_matched() -> None:
    assert boxed("\\boxed{a} then \\boxed{x^{2}}") == "x^{2}"
    assert boxed("\\boxed{open") == "open"
    assert boxed("none") is None


def test_explicit_marks_come_before_the_text() -> None:
    rules = [rule for rule, _ in marked("The answer is 3. \\boxed{4} <answer>5</answer>")]
    assert rules == ["boxed", "answer tag", "answer mark", "text"]


def test_a_short_answer_is_the_first_line_with_words() -> None:
    assert short("\n...\nright lung\nbecause").value == "right lung"
    assert short("Answer: lung").value == "lung"
