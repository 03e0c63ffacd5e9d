"""MedEvalKit's results per benchmark: the known mistakes are there, and nothing else is off."""

from __future__ import annotations

import pytest

from infimed.evaluation.medevalkit.aggregates import omnimedvqa, path_vqa, slake, supergpqa, vqa_rad

ROWS = [
    {"question": "q", "answer": "Yes", "response": "yes", "answer_type": "CLOSED"},
    {"question": "q", "answer": "arm", "response": "\\boxed{Arm}", "answer_type": "OPEN"},
    {"question": "q", "answer": "leg", "response": "arm", "answer_type": "OPEN"},
]


def always(question: str, said: str, gold: str) -> str:
    return "<judge>0</judge>"


def never(question: str, said: str, gold: str) -> str:
    return "0, no: <judge>1</judge>"


def test_open_accuracy_is_divided_twice() -> None:
    found = vqa_rad(ROWS)
    assert found["total metrics"] == {"total": 3, "right": 2, "acc": pytest.approx(2 / 3)}
    assert (found["open"]["em"], found["open"]["acc"]) == (0.5, 0.25)
    assert path_vqa(ROWS) == found


def test_a_judge_replaces_the_rule_for_open_answers() -> None:
    assert vqa_rad(ROWS, always)["total metrics"]["right"] == 3
    assert vqa_rad(ROWS, never)["total metrics"]["right"] == 1


def test_a_judge_wipes_out_closed_answers_of_pathvqa() -> None:
    found = path_vqa(ROWS, always)
    assert (found["close"]["acc"], found["total metrics"]["right"]) == (0.0, 2)


def test_a_judge_counts_closed_answers_of_slake_twice() -> None:
    found = slake([{**ROWS[0], "response": "Yes"}, *ROWS[1:]], always)
    assert (found["close"]["acc"], found["total metrics"]["acc"]) == (2.0, pytest.approx(4 / 3))


def test_slake_compares_a_capital_yes_as_a_phrase() -> None:
    talkative = [{**ROWS[0], "response": "Yes, there is"}, ROWS[1]]
    assert slake(talkative)["close"]["acc"] == 0.0
    assert vqa_rad(talkative)["close"]["acc"] == 1.0


def test_a_set_without_open_questions_is_a_division_by_zero() -> None:
    with pytest.raises(ZeroDivisionError):
        vqa_rad(ROWS[:1])


def test_groups_are_counted_and_supergpqas_are_swapped() -> None:
    rows = [
        {"choices": ["A. x", "B. y"], "answer": answer, "response": "A", "question_type": kind,
         "modality_type": "CT", "field": kind, "difficulty": "easy"}
        for answer, kind in (("A", "organ"), ("B", "plane"))
    ]  # fmt: skip
    found = omnimedvqa(rows)
    assert found["question type metrics"]["organ"] == {"total": 1, "right": 1, "acc": 1.0}
    assert found["modality type metrics"]["CT"]["acc"] == found["total metrics"]["acc"] == 0.5
    assert set(supergpqa(rows)["field"]) == {"easy"}
