"""Controls: what can be said without an image, against slow references."""

from __future__ import annotations

import numpy as np
import pytest

from infimed.data.record import question_record
from infimed.evaluation.controls import (
    control_answers,
    fit_logistic,
    majority_answers,
    question_features,
)
from infimed.evaluation.sample import Sample, make_samples
from infimed.evaluation.spec import load_task
from tests.evaluation.fakes import radiology


def samples(rows: list[tuple[str, str, str]], task: str = "closed") -> list[Sample]:
    records = [
        question_record(
            id=f"{i}", question=q, answer=a, images=(), task=task, facts={"question_type": t}
        )
        for i, (q, a, t) in enumerate(rows)
    ]
    return make_samples(records, load_task(task))


def test_the_majority_comes_from_training_and_ignores_spelling() -> None:
    train = samples(
        [
            ("a?", "Yes", "X"),
            ("b?", "yes", "X"),
            ("c?", "yes", "Y"),
            ("d?", "no", "Y"),
            ("e?", "no", "Y"),
        ]
    )
    test = samples([("f?", "no", "X"), ("g?", "no", "Y"), ("h?", "no", "Z")])
    assert majority_answers(train, test, by_type=False) == ["yes"] * 3
    assert majority_answers(train, test, by_type=True) == ["yes", "no", "yes"]


def test_the_majority_of_a_choice_is_its_most_often_right_option() -> None:
    def choice(name: str, answer: str, choices: tuple[str, ...]) -> Sample:
        record = question_record(
            id=name, question="?", answer=answer, choices=choices, images=(), task="choice"
        )
        return make_samples([record], load_task("choice"))[0]

    train = [choice(f"t{i}", "MRI" if i else "CT", ("CT", "MRI")) for i in range(4)]
    test = [
        choice("a", "CT", ("CT", "MRI", "US")),
        choice("b", "US", ("US", "CT")),
        choice("c", "x", ("x", "y")),
    ]
    answers = majority_answers(train, test, by_type=False)
    said = [sample.options[ord(letter) - 65] for sample, letter in zip(test, answers, strict=True)]
    assert said[:2] == ["MRI", "CT"]
    assert answers[2] == "A"


def test_logistic_weights_reach_the_optimum_of_a_slow_fit() -> None:
    rng = np.random.default_rng(0)
    features = np.hstack([rng.normal(size=(80, 5)), np.ones((80, 1))]).astype(np.float32)
    classes = (features[:, 0] + 0.5 * rng.normal(size=80) > 0).astype(np.int64) + (
        features[:, 1] > 1
    )
    fast = fit_logistic(features, classes, 3, iterations=3000)
    slow = np.zeros((6, 3))
    targets = np.eye(3)[classes]
    for _ in range(60_000):
        odds = np.exp(features @ slow)
        odds /= odds.sum(1, keepdims=True)
        slow -= 0.3 * (features.T @ (odds - targets) / 80 + 1e-3 * slow)
    assert np.abs(features @ fast - features @ slow).max() < 0.05


def test_features_are_unit_bags_of_words_and_pairs() -> None:
    features = question_features(["Is the mass large?", "zzz"], {"mass": 0, "mass large": 1})
    assert features[0] == pytest.approx([2**-0.5, 2**-0.5, 1])
    assert features[1] == pytest.approx([0, 0, 1])


def test_a_planted_language_prior_is_found_by_the_question_only_model() -> None:
    rows = [
        (f"Is there {'air' if i % 2 else 'fluid'} in case {i}?", "yes" if i % 2 else "no", "X")
        for i in range(60)
    ]
    train, test = samples(rows[:40]), samples(rows[40:])
    assert control_answers("question-only linear", train, test) == [sample.gold for sample in test]


def test_without_training_records_there_is_no_control() -> None:
    assert control_answers("majority", [], samples([("a?", "yes", "X")])) is None


def test_controls_never_look_at_the_gold_answers_of_the_test() -> None:
    spec = load_task("vqa_rad_disjoint")
    train = make_samples([r for r in radiology() if r.split == "train"], spec)
    test = make_samples([r for r in radiology() if r.split == "test"], spec)
    other = make_samples([r for r in radiology(seed=9) if r.split == "test"], spec)
    assert [s.gold for s in test] != [s.gold for s in other]
    for name in spec.controls:
        assert control_answers(name, train, test) == control_answers(name, train, other)
