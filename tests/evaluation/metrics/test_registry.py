"""The list of metrics: every one is total, bounded, best for the gold text and worst for nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infimed.core.errors import DataError, UsageError
from infimed.evaluation.metrics.labels import hierarchical_f1, label_f1, labels
from infimed.evaluation.metrics.registry import BUILT_IN, METRICS
from infimed.evaluation.metrics.rubric import clipped_ratio, rubric_score
from infimed.evaluation.metrics.words import contains, precision
from infimed.evaluation.spec import parse_task

REPORTS = [
    "Findings: Pleural effusion, left, 45 mm. No pneumothorax. Impression: Left pleural effusion.",
    "Findings: Consolidation in the right upper zone. Impression: Right consolidation.",
    "Findings: Pneumothorax, right. Impression: Right pneumothorax, large.",
]


def value(name: str, answers: list[str], golds: list[str]) -> float:
    metric = METRICS[name]
    rows = metric.measure(answers, golds)
    assert rows.shape[0] == len(answers) and np.isfinite(rows).all()
    return float(metric.combine(rows.sum(axis=0)))


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_gold_text_is_best_and_an_empty_answer_worst(name: str) -> None:
    assert METRICS[name].direction == "higher"
    golds = ["I cannot help with that."] * 3 if name == "refusal" else REPORTS
    assert value(name, golds, golds) == pytest.approx(METRICS[name].best, abs=2e-3)
    assert value(name, ["", "", ""], golds) == 0.0


@pytest.mark.parametrize("name", BUILT_IN)
def test_no_answers_are_no_error(name: str) -> None:
    assert METRICS[name].measure([], []).shape[0] == 0


@given(st.lists(st.tuples(st.text(max_size=30), st.text(max_size=30)), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_every_metric_is_total_and_bounded(texts: list[tuple[str, str]]) -> None:
    for name in BUILT_IN:
        found = value(name, [a for a, _ in texts], [b for _, b in texts])
        assert np.isnan(found) or -1e-9 <= found <= METRICS[name].best + 1e-9, name


@pytest.mark.parametrize("name", sorted(set(METRICS) - set(BUILT_IN)))
def test_an_optional_metric_says_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("radgraph", "RaTEScore", "green_score", "bert_score", "nltk.corpus"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(UsageError, match="infimed judge" if METRICS[name].judged else "install"):
        METRICS[name].measure(["clear"], ["clear"])


def test_every_metric_states_its_domain_and_title() -> None:
    assert all(metric.domain and metric.title for metric in METRICS.values())


def test_a_metric_of_a_whole_set_cannot_be_the_score() -> None:
    task = "name: t\ntitle: T\nsource: {dataset: d}\nwhere: {task: [report]}\n"
    assert parse_task(task + "metrics: {report: [rouge_l, bleu_4, cider]}", "t.yaml")
    with pytest.raises(DataError, match="value per answer"):
        parse_task(task + "metrics: {report: [bleu_4]}", "t.yaml")
    with pytest.raises(DataError, match="did you mean 'rouge_l'"):
        parse_task(task + "metrics: {report: [rougel]}", "t.yaml")


@pytest.mark.parametrize(
    ("answer", "gold", "found"),
    [
        ("it is the left lung", "left lung", 1.0),
        ("abnormal", "normal", 0.0),
        ("about 3.141 cm", "3.14", 1.0),
        ("13.14", "3.14", 0.0),
        ("1,200 ml", "1200", 1.0),
        ("肺部有积液", "积液", 1.0),
        ("lung", "", 0.0),
    ],
)
def test_a_gold_answer_is_named_by_whole_words_or_its_number(
    answer: str, gold: str, found: float
) -> None:
    assert contains(answer, gold) == found


def test_precision_is_of_what_was_said() -> None:
    assert precision("left lung base", "left lung") == pytest.approx(2 / 3)


def test_labels_are_sets_and_none_is_no_label() -> None:
    assert labels("Lung > Opacity; heart\nNone") == {("lung", "opacity"), ("heart",)}
    assert label_f1("heart; lung", "lung; heart") == (1.0, 4.0)
    assert label_f1("none", "none") == (1.0, 1.0)
    assert label_f1("", "none") == (0.0, 1.0)
    assert label_f1("heart", "none") == (0.0, 1.0)


def test_a_label_that_stops_early_is_partly_right() -> None:
    said, gold = "lung > opacity", "lung > opacity > left"
    assert label_f1(said, gold)[0] == 0.0
    assert hierarchical_f1(said, gold) == (pytest.approx(0.8), 5.0)


def test_rubric_points_missing_verdicts_and_clipping() -> None:
    assert rubric_score([5, 3, -4], [True, None, True]).score == pytest.approx(1 / 8)
    assert rubric_score([5, 3, -4], [True, None, True]).missing == 1
    assert rubric_score([-1], [True]).score is None
    with pytest.raises(ValueError):
        rubric_score([1], [])
    assert clipped_ratio(np.array([[3.0, 2.0], [-1.0, 2.0]])).tolist() == [1.0, 0.0]
