"""Base rates of records nobody labelled: silence, and what all records share, is no evidence of defects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from infimed.curation.calibration import Isotonic, Logistic
from infimed.curation.deciding import decide_ledger
from infimed.curation.evaluator_fitting import fit_on_labels
from infimed.curation.findings import DIMENSIONS, QUALITY, Finding
from infimed.curation.judge_parsing import Judgement
from infimed.curation.label_shift import likelihood_ratios
from infimed.curation.score_pass import score_ledger
from infimed.curation.scoring import (
    DimensionModel,
    Evaluator,
    default_evaluator,
    feature_names,
    features,
    fit_evaluator,
)
from infimed.curation.signals import Signals, TextSignals
from tests.curation.judged_world import kept, write_judgements, write_labels, write_ledger

STRATA = ["a / ct"] * 700 + ["b / us"] * 300
NOTE = Finding("accuracy.test", 1, "accuracy", "note", "question", "the left lung")


def scores(folder: Path, column: str = "p_ok") -> np.ndarray:  # type: ignore[type-arg]
    return np.asarray(pq.read_table(folder / "scores.parquet")[column].to_numpy(), np.float64)


def noting(p_noted: float, p_else: float, prior: float) -> Evaluator:
    """P(ok) in accuracy with a note and without one, at that base rate."""
    count = len(feature_names("accuracy"))
    logistic = Logistic((0.0,) * count, (1.0,) * count, (0.0, -8.0), 4.0)
    knots = Isotonic((0.1, 0.9), (p_noted, p_else))
    if p_noted > p_else:
        logistic = Logistic((0.0,) * count, (1.0,) * count, (0.0, 8.0), -4.0)
        knots = Isotonic((0.1, 0.9), (p_else, p_noted))
    return Evaluator({"accuracy": DimensionModel(logistic, knots, prior)})


def test_records_no_rule_speaks_of_are_trusted_in_every_dimension(tmp_path: Path) -> None:
    """Some damage no rule sees; that they saw none anywhere is still no sign of it."""
    folder = write_ledger(tmp_path / "l", STRATA)
    made = decide_ledger(folder, default_evaluator())
    for name in DIMENSIONS:
        assert scores(folder, name).min() > 0.99, name
    assert made.by_score == 0


def test_an_objection_elsewhere_neither_excuses_nor_accuses() -> None:
    signals = Signals(TextSignals(words=9, medical_terms=2), (), "ct")
    drop = Finding("accuracy.test", 1, "accuracy", "drop", "question", "the left lung")
    alone, with_drop = features(signals, ()), features(signals, (drop,))
    for name in DIMENSIONS:
        assert (alone[name] == with_drop[name]) == (name != "accuracy")


@pytest.mark.parametrize("share", [0.6, 0.9])
def test_features_that_tell_nothing_apart_are_worth_nothing(tmp_path: Path, share: float) -> None:
    """However many records look alike, their look moves no base rate."""
    random = np.random.default_rng(2)
    plain = features(Signals(TextSignals(words=9, medical_terms=2), (), "ct"), ())
    labels = (random.random(101) < share).tolist()
    made = fit_evaluator([plain] * 101, {"relevance": labels})
    model = made.models["relevance"]
    p = model.probability(np.array([plain["relevance"]]))
    ratio = likelihood_ratios(p[:, None], np.array([model.prior]))
    assert ratio[0, 0] == pytest.approx(1.0, abs=1e-9)
    assert model.prior == pytest.approx(np.mean(labels), abs=0.05)
    folder = write_ledger(tmp_path / "l", STRATA)
    score_ledger(folder, made)
    assert scores(folder) == pytest.approx(p[0], abs=1e-6)


def test_a_note_on_every_record_does_not_condemn_them_all(tmp_path: Path) -> None:
    """A source may look strange without being bad: no more defects than the evaluator was fitted with."""
    folder = write_ledger(tmp_path / "l", STRATA, findings={row: [NOTE] for row in range(700)})
    made = decide_ledger(folder, noting(0.6, 0.97, 0.9))
    assert scores(folder)[:700] == pytest.approx(0.6, abs=0.01)
    assert made.by_score == 0


def test_a_note_that_no_record_has_does_not_condemn_them_all(tmp_path: Path) -> None:
    """Among the labelled records those with a note were the sound ones, and here nothing is noted."""
    folder = write_ledger(tmp_path / "l", STRATA)
    made = decide_ledger(folder, noting(0.99, 0.85, 0.9))
    assert scores(folder) == pytest.approx(0.85, abs=0.01)
    assert made.by_score == 0


def test_fewer_defects_are_found_by_rules_alone(tmp_path: Path) -> None:
    """Fitted where a third was defective, asked where fewer are noted: the rate that explains the notes."""
    noted = np.arange(0, 1000, 5)
    folder = write_ledger(tmp_path / "l", STRATA, findings={row: [NOTE] for row in noted.tolist()})
    judge = noting(0.1, 0.95, 0.67)
    score_ledger(folder, judge)
    p_noted, p_else = judge.models["accuracy"].probability(np.array([[0.0, 1.0], [0.0, 0.0]]))
    share = (p_else - 0.67) / (p_else - p_noted)  # of the fitted records that had a note
    note_if_ok, note_if_bad = share * p_noted / 0.67, share * (1 - p_noted) / 0.33
    defects = (0.2 - note_if_ok) / (note_if_bad - note_if_ok)
    p = scores(folder)
    assert p[noted] == pytest.approx(1 - note_if_bad * defects / 0.2, abs=0.01)
    assert np.delete(p, noted) == pytest.approx(1 - (1 - note_if_bad) * defects / 0.8, abs=0.01)


def refusing(root: Path) -> Evaluator:
    """Fitted where a judge was asked about all, and what it refused was often defective."""
    random = np.random.default_rng(6)
    folder = write_ledger(root / "labelled", ["a / ct"] * 600)
    refused = np.arange(600) % 10 == 0
    ok = np.where(refused, random.random(600) < 0.5, random.random(600) < 0.9)
    said = {
        row: Judgement("refused") if refused[row]
        else Judgement("ok", {**dict.fromkeys(QUALITY, "2"), "accuracy": "2" if ok[row] else "0"})
        for row in range(600)
    }  # fmt: skip
    write_judgements(folder, said)
    write_labels(folder, {row: [True, bool(ok[row]), True, True, True] for row in range(600)})
    return fit_on_labels(folder, default_evaluator())


@pytest.mark.parametrize("every", [0, 20, 8, 3])
def test_where_no_judge_was_asked_its_silence_does_not_condemn(tmp_path: Path, every: int) -> None:
    """Nor where it was asked about some and found them in order, but for a twentieth."""
    folder = write_ledger(tmp_path / "l", STRATA)
    asked = range(0, len(STRATA), every) if every else ()
    bad = [row for row in asked if row % (20 * every) == 0]
    write_judgements(
        folder,
        {
            row: Judgement(
                "ok", {**dict.fromkeys(QUALITY, "2"), "accuracy": "0" if row in bad else "2"}
            )
            for row in asked
        },
    )
    decide_ledger(folder, refusing(tmp_path))
    silent = np.setdiff1d(np.arange(len(STRATA)), asked)
    assert scores(folder)[silent].min() > 0.3 and kept(folder)[silent].all()


def test_what_a_judge_says_may_show_more_defects_than_were_labelled(tmp_path: Path) -> None:
    folder = write_ledger(tmp_path / "l", STRATA)
    levels = {
        "2": dict.fromkeys(QUALITY, "2"),
        "0": {**dict.fromkeys(QUALITY, "2"), "accuracy": "0"},
    }
    write_judgements(
        folder, {r: Judgement("ok", levels["0" if r % 2 else "2"]) for r in range(1000)}
    )
    made = decide_ledger(folder, refusing(tmp_path))
    assert made.by_score == 500
    assert 1 - scores(folder, "accuracy").mean() == pytest.approx(0.5, abs=0.05)


def test_a_record_more_likely_in_order_is_not_dropped_in_bad_company(tmp_path: Path) -> None:
    """1,000 rejects that are certain would pay for 71 that are not, and 0.95 would still be defective."""
    certain, doubtful = range(1000), range(1000, 1071)
    other = Finding("relevance.test", 1, "relevance", "note", "question", "x")
    findings = {row: [other] for row in certain} | {row: [NOTE] for row in doubtful}
    folder = write_ledger(tmp_path / "l", ["a / ct"] * 2000, findings=findings)
    count = len(feature_names("relevance"))
    weights = (0.0, -9.0) + (0.0,) * (count - 2)
    logistic = Logistic((0.0,) * count, (1.0,) * count, weights, 4.0)
    relevance = DimensionModel(logistic, Isotonic((0.1, 0.9), (0.001, 0.999)), 0.5)
    judge = Evaluator({**noting(0.7, 0.98, 0.97).models, "relevance": relevance})
    decide_ledger(folder, judge)
    assert scores(folder)[doubtful] == pytest.approx(0.7, abs=0.05)
    assert np.flatnonzero(~kept(folder)).tolist() == list(certain)
    decide_ledger(folder, judge, target_precision=0.2)
    assert np.flatnonzero(~kept(folder)).tolist() == [*certain, *doubtful], (
        "so low a target asks for it"
    )
