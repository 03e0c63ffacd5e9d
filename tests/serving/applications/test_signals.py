"""Raw probabilities of a written answer."""

from __future__ import annotations

from math import log

import pytest

from infimed.serving.applications.session import letter_shares
from infimed.serving.applications.signals import kind_of, share_of_decision, signals
from infimed.serving.asking import Done, First, TokenScore


def first(text: str, probability: float, **others: float) -> First:
    scores = {text: probability, **others}
    top = tuple(TokenScore(word, log(p)) for word, p in sorted(scores.items(), key=lambda i: -i[1]))
    return First(TokenScore(text, log(probability)), top)


def done(text: str, logprob: float | None = log(0.2), tokens: int = 2) -> Done:
    return Done(text, "stop", 5, tokens, logprob=logprob)


def test_all_signals_of_a_plain_yes():
    found = signals(first(" Yes", 0.6, no=0.2, the=0.1), done("Yes"))
    assert found == {
        "first_token": pytest.approx(0.6),
        "answer": pytest.approx(0.2),
        "per_token": pytest.approx(0.2**0.5),
        "yes_no": pytest.approx(0.75),
    }


def test_words_for_both_decisions_are_added_up():
    assert share_of_decision(first("no", 0.3, No=0.1, yes=0.4, Yes=0.2)) == pytest.approx(0.4)
    assert share_of_decision(first("是", 0.3, 否=0.1)) == pytest.approx(0.75)


def test_an_answer_that_begins_otherwise_is_as_likely_as_all_of_it():
    found = signals(first("On", 0.9, Not=0.1), done("On the left, so yes."))
    assert found["yes_no"] == found["answer"] and share_of_decision(first("On", 0.9)) is None


def test_a_server_that_tells_nothing_gives_nothing():
    assert signals(None, done("yes", None)) == {}
    assert signals(None, done("", 0.0, tokens=0)) == {}
    assert set(signals(first("x", 0.5), done("x", None))) == {"first_token"}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("yes", "yes_no"),
        ("On the left, so no.", "yes_no"),
        ("left", "open"),
        ("", "open"),
        ("没有", "yes_no"),
    ],
)
def test_the_kind_of_an_answer(text, kind):
    assert kind_of(text) == kind


def test_shares_of_letters():
    said = first("B", 0.5, A=0.25, **{"(A": 0.05, "the": 0.1, "Z": 0.1, "Be": 0.0001})
    assert letter_shares(said, 3) == pytest.approx([0.3 / 0.8, 0.5 / 0.8, 0.0])
    assert sum(letter_shares(said, 3) or []) == pytest.approx(1)
    assert letter_shares(None, 3) is None and letter_shares(first("the", 0.9), 3) is None
    assert letter_shares(First(TokenScore("a", log(0.4)), ()), 2) == pytest.approx([1.0, 0.0])
