"""Verdicts, and the planted checks with answers whose truth is known."""

from __future__ import annotations

import pytest

from infimed.core.errors import DataError
from infimed.studies.analysis import analyse, conclude
from infimed.studies.cells import distinct, plan
from infimed.studies.definition import load_study
from infimed.studies.runner import run_cells
from infimed.studies.statistics import Effect
from tests.studies.fakes import STUDY, AtOnce, FakeCells, by_weighting, tiny_study


def effect(low, high):
    return Effect((low + high) / 2, low, high, 0.01, 100, 20, 3)


@pytest.mark.parametrize(
    ("expects", "low", "high", "verdict", "words"),
    [
        ("more", 0.01, 0.05, "supported", "over"),
        ("more", -0.05, -0.01, "refuted", "against"),
        ("more", -0.02, 0.02, "bounded", "no effect that matters"),
        ("more", -0.01, 0.09, "not shown", "too wide"),
        ("more", -0.09, 0.02, "bounded", "is ruled out"),
        ("less", -0.02, 0.09, "bounded", "is ruled out"),
        ("less", -0.09, 0.02, "not shown", "too wide"),
        ("less", -0.05, -0.01, "supported", "against"),
        ("less", 0.01, 0.05, "refuted", "over"),
        ("none", -0.02, 0.02, "supported", "no effect that matters"),
        ("none", -0.02, 0.05, "not shown", "too wide"),
        ("none", 0.04, 0.09, "refuted", "over"),
        ("none", -0.02, -0.01, "bounded", "against"),
    ],
)
def test_the_verdict_follows_from_the_interval(expects, low, high, verdict, words):
    conclusion = tiny_study().presets["nano"].conclusion.model_copy(update={"expects": expects})
    found, sentence = conclude(conclusion, effect(low, high))
    assert found == verdict and words in sentence
    assert f"[{100 * low:+.1f}, {100 * high:+.1f}]" in sentence


def test_one_seed_decides_nothing():
    one = Effect(0.2, 0.15, 0.25, 0.001, 100, 20, 1)
    verdict, sentence = conclude(tiny_study().presets["nano"].conclusion, one)
    assert verdict == "not shown" and "+20.0 points in the one seed that ran" in sentence


def test_without_its_arms_a_study_says_that_it_did_not_run():
    assert conclude(tiny_study().presets["nano"].conclusion, None)[0] == "not run"


def found(study, accuracy, out):
    planned = plan([study], "nano", "test")
    run_cells(distinct(planned), out, executor=AtOnce(), do=FakeCells(accuracy))
    return analyse(study, "nano", planned, out)


def test_a_study_finds_what_was_planted(tmp_path):
    made = found(tiny_study(), by_weighting(token=0.5, document=0.8, sqrt=0.65), tmp_path)
    assert made.verdict == "supported" and made.seeds == 3 and made.done == made.cells == 9
    assert made.primary.mean == pytest.approx(0.3, abs=0.04)
    assert made.gaps[0].share.mean == pytest.approx(0.5, abs=0.1)
    assert all(d.adjusted >= d.effect.p for d in made.differences)


def test_a_study_half_done_compares_what_is_there(tmp_path):
    study = tiny_study()
    planned = plan([study], "nano", "test")
    some = [one.cell for one in planned if one.seed == 1 and one.arm != "c"]
    run_cells(
        some, tmp_path, executor=AtOnce(), do=FakeCells(by_weighting(token=0.5, document=0.8))
    )
    made = analyse(study, "nano", planned, tmp_path)
    assert made.verdict == "not shown" and "one seed" in made.sentence
    assert (made.done, made.cells, made.seeds) == (2, 9, 0)
    assert made.differences[1].effect is None and made.gaps[0].why == "not run"


def planted(cell):
    """What a trained model would do: learn from clean records, less from damaged ones, nothing from chance."""
    damage = cell.damage
    if damage is None:
        return 0.85
    return 0.5 if damage.operators == (16,) else 0.65


def test_planted_checks_pass_where_the_truth_is_known(tmp_path):
    made = found(load_study("planted"), planted, tmp_path)
    effects = {(d.compared.arm, d.compared.against): d.effect for d in made.differences}
    copy = effects["copy", "clean"]
    assert copy.low <= 0 <= copy.high and copy.mean != 0
    assert all(effects["broken", other].high < 0 for other in ("clean", "raw", "random"))
    assert made.gaps[0].share.low <= 0 <= made.gaps[0].share.high
    assert [check.passed for check in made.checks] == [True, True, True]


@pytest.mark.parametrize(
    ("wrong", "which"),
    [
        (lambda cell: 0.6 if cell.recipe.train.seed > 1000 else planted(cell), 0),
        (lambda cell: 0.8 if cell.damage and cell.damage.operators == (16,) else planted(cell), 1),
        (lambda cell: 0.84 if cell.damage and cell.damage.keep == "random" else planted(cell), 2),
    ],
    ids=["a copy that differs", "broken labels that do no harm", "a random drop that helps"],
)
def test_a_planted_check_fails_where_the_machinery_would_be_wrong(tmp_path, wrong, which):
    made = found(load_study("planted"), wrong, tmp_path)
    assert [check.passed for check in made.checks] == [at != which for at in range(3)]


def test_a_planted_check_without_its_arms_or_without_a_gap_says_so(tmp_path):
    study = load_study("planted")
    assert [c.passed for c in analyse(study, "nano", [], tmp_path).checks] == [None] * 3
    flat = found(
        study, lambda cell: 0.5 if cell.damage and cell.damage.operators == (16,) else 0.8, tmp_path
    )
    assert flat.checks[2].passed is None and "not shown" in flat.checks[2].figure


@pytest.mark.parametrize(
    ("expects", "against", "kind"),
    [("same", "b", "comparison"), ("closes nothing", "b", "gap")],
)
def test_a_check_needs_its_comparison_or_gap(expects, against, kind):
    checks = f"checks: [{{says: A, expects: {expects}, arm: c, against: {against}}}]\n"
    with pytest.raises(DataError, match=f"needs the {kind} c - {against}"):
        tiny_study(STUDY + checks)
