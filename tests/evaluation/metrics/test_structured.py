"""Structured reports: the macro F1 against a slow reference that follows the definition word by word."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from infimed.data.record import question_record
from infimed.evaluation.metrics.structured import (
    Question,
    chosen,
    consistent,
    macro_f1,
    places,
)
from infimed.evaluation.runner import evaluate, score
from infimed.inference.stubs import Scripted, constant, oracle
from tests.evaluation.fakes import FakeShards, image

YES_NO = ("yes", "no")
AREAS = ("apex", "left lung", "lung", "unspecified")


def form(rng: np.random.Generator, report: str, skill: float) -> list[Question]:
    """A report of three levels with up to two instances, answered with some skill."""
    made: list[Question] = []

    def ask(path: str, text: str, above: tuple[str, ...], options, gold, multi=False) -> None:  # type: ignore[no-untyped-def]
        said = frozenset(gold)
        if rng.random() > skill:
            drawn = (
                [o for o in options if rng.random() < 0.4]
                if multi
                else [options[int(rng.integers(len(options)))]]
            )
            said = frozenset(drawn)
        made.append(Question(report, path, text, above, tuple(options), frozenset(gold), said))

    for topic in ("signs", "diseases"):
        there = rng.random() < 0.6
        top = f"Any {topic}?"
        ask(topic, top, (), YES_NO, ["yes" if there else "no"])
        if not there:
            continue
        for name in ("opacity", "nodule"):
            above: tuple[str, ...] = (top,)
            for number in range(2):
                found = rng.random() < 0.5
                text = f"Is there {'another' if number else 'a'} {name} ({topic})?"
                ask(f"{topic}_{name}", text, above, YES_NO, ["yes" if found else "no"])
                if not found:
                    break
                above = (*above, text)
                gold = [area for area in AREAS[:3] if rng.random() < 0.5] or ["unspecified"]
                ask(f"{topic}_{name}_area", "In which area?", above, AREAS, gold, multi=True)
                above = (*above, "In which area?")
    return made


def slow_macro_f1(reports: list[list[Question]]) -> float:
    """By the definition: name every place of every report, fill the gaps, mean F1 over set places."""
    asked: dict[tuple[str, int], tuple[str, ...]] = {}
    filled = []
    for questions in reports:
        counts: dict[str, int] = {}
        gold: dict[tuple[str, int], set[str]] = {}
        said: dict[tuple[str, int], set[str]] = {}
        answered: list[set[str]] = []
        for at, question in enumerate(questions):
            number = counts[question.path] = counts.get(question.path, -1) + 1
            place = (question.path, number)
            asked[place] = question.options
            gold[place] = set(question.gold)
            blocked, end = False, at
            for text in question.above[::-1]:  # the nearest earlier question of that text
                end = max(i for i in range(end) if questions[i].text == text)
                if set(questions[end].options) == set(YES_NO) and answered[end] != {"yes"}:
                    blocked = True
            binary = set(question.options) == set(YES_NO)
            answered.append(({"no"} if binary else set()) if blocked else set(question.said))
            said[place] = answered[-1]
        filled.append((gold, said))
    scores = []
    for place, options in asked.items():
        implied = {"no"} if set(options) == set(YES_NO) else set()
        for option in options:
            tp = fp = fn = 0
            for gold, said in filled:
                right, chosen_here = (
                    option in gold.get(place, implied),
                    option in said.get(place, implied),
                )
                tp += right and chosen_here
                fp += chosen_here and not right
                fn += right and not chosen_here
            if tp + fn:
                scores.append(2 * tp / (2 * tp + fp + fn))
    return sum(scores) / len(scores)


@pytest.mark.parametrize("seed", range(8))
def test_the_macro_f1_equals_the_slow_reference(seed: int) -> None:
    rng = np.random.default_rng(seed)
    reports = [form(rng, f"r{n}", skill=0.2 + 0.1 * seed) for n in range(25)]
    names, rows = places([question for report in reports for question in report])
    assert names == [f"r{n}" for n in range(25)] and rows.shape[0] == 25
    assert float(macro_f1(rows.sum(0))) == pytest.approx(slow_macro_f1(reports))


def test_the_right_answers_score_one_and_silence_what_is_implied() -> None:
    rng = np.random.default_rng(3)
    right = [form(rng, f"r{n}", skill=2.0) for n in range(10)]
    assert float(macro_f1(places([q for r in right for q in r])[1].sum(0))) == 1.0
    assert np.isnan(macro_f1(np.zeros(9)))


def test_below_a_no_everything_is_no_or_nothing() -> None:
    top = Question("r", "signs", "Any signs?", (), YES_NO, frozenset({"yes"}), frozenset({"no"}))
    below = Question("r", "signs_x", "Is there x?", ("Any signs?",), YES_NO, frozenset({"yes"}), frozenset({"yes"}))  # fmt: skip
    area = Question("r", "signs_x_area", "Where?", ("Any signs?", "Is there x?"), AREAS, frozenset({"apex"}), frozenset({"apex"}))  # fmt: skip
    assert consistent([top, below, area]) == [{"no"}, {"no"}, set()]
    unread = Question("r", "signs", "Any signs?", (), YES_NO, frozenset({"yes"}), frozenset())
    assert consistent([unread, below]) == [set(), {"no"}]


@pytest.mark.parametrize(
    ("text", "single", "found"),
    [
        ("left lung", False, {"left lung"}),
        ("the lung and the left lung", False, {"left lung", "lung"}),
        ("Apex, left lung", False, {"apex", "left lung"}),
        ("apex; unspecified", False, {"apex"}),
        ("none", False, {"unspecified"}),
        ("nowhere in particular", False, set()),
        ("", False, set()),
        (None, False, set()),
        ("apex or lung", True, set()),
        ("apex", True, {"apex"}),
    ],
)
def test_options_are_read_from_words_longer_names_first(
    text: str | None, single: bool, found: set[str]
) -> None:
    assert chosen(text, AREAS, single=single) == found


def report_shards(reports: int = 12) -> FakeShards:
    """Rad-ReStruct records as the task's layout makes them."""
    rng = np.random.default_rng(0)
    out = FakeShards()
    for n in range(reports):
        for at, q in enumerate(form(rng, f"report-{n}", skill=2.0)):
            binary = set(q.options) == set(YES_NO)
            out.append(
                question_record(
                    id=f"{n}-{at}",
                    question="\n".join([*q.above, q.text, "Possible answers:", *q.options]),
                    answer=", ".join(sorted(q.gold)),
                    images=(image(f"r{n}"),),
                    task="closed" if binary else "open",
                    source="rad_restruct",
                    split="test",
                    group=f"report-{n}",
                    facts={
                        "question_type": "single_choice" if binary else "multi_choice",
                        "path": q.path,
                        "asked": q.text,
                        "labels": sorted(q.gold),
                        "history": [[text, ["yes"]] for text in q.above],
                        "options": list(q.options),
                    },
                )
            )
    return out


def test_the_board_holds_the_macro_f1_of_whole_reports_with_an_interval(tmp_path: Path) -> None:
    shards = report_shards()
    golds = oracle({record.id: str(record.answer) for record in shards})
    evaluate(golds, shards, ["rad_restruct"], tmp_path, label="model")
    evaluate(constant("no"), shards, ["rad_restruct"], tmp_path, label="other")
    task = score(tmp_path, shards, ["rad_restruct"], ["model", "other"]).tasks[0]
    metric = "hierarchical_macro_f1"
    best, other = (task.cell(label, metric=metric).estimate for label in ("model", "other"))
    assert (best.mean, best.n, best.groups) == (1.0, 12, 12)
    assert other.mean is not None and other.low is not None and 0 < other.low <= other.mean < 1
    gap = task.difference("other", metric=metric).estimate
    assert gap.mean == pytest.approx(1.0 - other.mean)


def test_a_sample_of_questions_has_no_score_of_whole_reports(tmp_path: Path) -> None:
    shards = report_shards()
    model: Scripted = constant("no")
    evaluate(model, shards, ["rad_restruct"], tmp_path, label="model", limit=20)
    task = score(tmp_path, shards, ["rad_restruct"], ["model"]).tasks[0]
    assert all(cell.metric != "hierarchical_macro_f1" for cell in task.cells)
    assert any("whole reports" in note for note in task.notes)
