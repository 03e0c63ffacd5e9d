"""The medevalkit column: which of MedEvalKit's rules reads which kind of answer."""

from __future__ import annotations

import pytest

from infimed.data.record import question_record
from infimed.evaluation.medevalkit.verdict import verdict
from infimed.evaluation.sample import Sample, make_samples
from infimed.evaluation.spec import TaskSpec, parse_task


def spec(rules: str = "common") -> TaskSpec:
    text = f"""
name: t
title: T
source: {{dataset: d}}
where: {{task: [closed, open, choice, report, caption]}}
shuffle_options: false
medevalkit: {rules}
"""
    return parse_task(text, "t.yaml")


def sample(kind: str, answer: str, choices: tuple[str, ...] = ()) -> Sample:
    record = question_record(
        id="r", question="?", answer=answer, images=(), task=kind, choices=choices
    )
    return make_samples([record], spec())[0]


@pytest.mark.parametrize(
    ("rules", "kind", "gold", "text", "value"),
    [
        ("common", "closed", "No", "normal", 1.0),
        ("slake", "closed", "Yes", "Yes, it is", 0.0),
        ("slake", "closed", "CT", "ct.", 1.0),
        ("common", "closed", "CT", "ct.", 0.0),
        ("common", "open", "Lung", " lung ", 1.0),
        ("slake", "open", "Lung", " lung ", 0.0),
        ("mmmu", "open", "lung", "lung", 0.0),
        ("common", "open", "lung", "", 0.0),
        ("common", "report", "Clear.", "clear", 1.0),
        ("common", "report", "Clear.", "", 0.0),
    ],
)
def test_each_kind_is_read_by_its_rule(
    rules: str, kind: str, gold: str, text: str, value: float
) -> None:
    assert verdict(sample(kind, gold), spec(rules), text) == (pytest.approx(value, abs=1e-6), 1.0)


def test_an_empty_choice_is_the_first_option() -> None:
    first, second = (sample("choice", gold, ("cyst", "tumour")) for gold in ("cyst", "tumour"))
    assert verdict(first, spec(), "")[0] == 1.0 and verdict(second, spec(), "")[0] == 0.0


def test_an_mmmu_guess_depends_on_the_question_alone() -> None:
    one = sample("choice", "cyst", ("cyst", "tumour"))
    assert verdict(one, spec("mmmu"), "?") == verdict(one, spec("mmmu"), "!")


def test_what_medevalkit_has_no_rule_for_has_no_weight() -> None:
    assert verdict(sample("caption", "x"), spec(), "x") == (0.0, 0.0)
    assert verdict(sample("open", "x"), spec("none"), "x") == (0.0, 0.0)
