"""Operators are pure and leave their input alone; the damaged source is a source; the figures are right."""

from __future__ import annotations

import numpy as np
import pytest

from infimed.core.errors import DataError
from infimed.core.seeds import stream
from infimed.curation.corruption import CORE, HELD_OUT, OPERATORS, Context, Operator
from infimed.curation.corruption.base import Corrupted
from infimed.curation.corruption.measuring import auroc, measure, threshold_at
from infimed.curation.corruption.running import run
from infimed.curation.corruption.source import CorruptedSource, FirstRecords, PhantomSource
from infimed.curation.corruption.training import human_labels, read_labels, rows_and_labels
from infimed.curation.findings import DIMENSIONS
from infimed.curation.scoring import (
    Evaluator,
    default_evaluator,
    feature_names,
    fit_evaluator,
    pooled,
)


@pytest.fixture(scope="module")
def clinic() -> PhantomSource:
    return PhantomSource(330, seed=77, size=96)


def damaged(operator: Operator, clinic: PhantomSource, seed: int, severity: int) -> list[Corrupted]:
    context = Context(clinic.pixels, clinic.records)
    made = []
    for row, record in enumerate(clinic.records):
        one = operator.apply(record, context, stream(seed, operator.number, row), severity)
        if one is not None:
            made.append(one)
        if len(made) == 3:
            break
    return made


def test_the_catalogue_is_complete_and_six_operators_are_held_out() -> None:
    assert [o.number for o in OPERATORS] == list(range(1, len(OPERATORS) + 1))
    assert HELD_OUT == (3, 11, 13, 17, 23, 25)
    assert len(CORE) == 22 and set(CORE) <= {o.number for o in OPERATORS}


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda o: f"{o.number}")
def test_an_operator_damages_deterministically_and_leaves_the_clean_twin_alone(
    operator: Operator, clinic: PhantomSource
) -> None:
    before = [record.to_json() for record in clinic.records]
    for severity in (1, 2, 3):
        first = damaged(operator, clinic, 5, severity)
        again = damaged(operator, clinic, 5, severity)
        assert [one.record for one in first] == [one.record for one in again]
        for one, other in zip(first, again, strict=True):
            assert one.images.keys() == other.images.keys()
            for number, content in one.images.items():
                assert np.array_equal(content, other.images[number])  # type: ignore[arg-type]
            assert one.images or one.beside or one.record.to_json() not in before
    assert [record.to_json() for record in clinic.records] == before


def test_every_core_operator_applies_to_the_phantom_clinic(clinic: PhantomSource) -> None:
    for operator in OPERATORS:
        if operator.number in CORE:
            assert any(damaged(operator, clinic, 1, severity) for severity in (1, 2, 3)), operator


def test_a_damaged_source_serves_clean_rows_damaged_rows_and_rows_beside(
    clinic: PhantomSource,
) -> None:
    record, twin = clinic.record(0), clinic.record(1)
    black = np.zeros((40, 50, 3), np.uint8)
    source = CorruptedSource(
        clinic, {0: Corrupted(record, {0: black})}, [Corrupted(twin, beside=True)]
    )
    assert len(source) == len(clinic) + 1
    assert source.record(1) == twin == source.record(len(clinic))
    changed = source.record(0).images[0]
    assert (changed.width, changed.height) == (50, 40)
    assert np.array_equal(source.pixels(changed), black)
    assert np.array_equal(source.pixels(twin.images[0]), clinic.pixels(twin.images[0]))
    assert source.data_hash != clinic.data_hash
    broken = CorruptedSource(clinic, {0: Corrupted(record, {0: b"\xff\xd8\xff"})})
    with pytest.raises(DataError):
        broken.pixels(broken.record(0).images[0])


def test_auroc_is_the_share_of_pairs_in_the_right_order() -> None:
    random = np.random.default_rng(3)
    bad, good = random.integers(0, 9, 40) / 9, random.integers(2, 12, 60) / 9
    slow = np.mean([(b < g) + 0.5 * (b == g) for b in bad for g in good])
    assert auroc(bad, good) == pytest.approx(slow)


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.05, 0.5])
def test_at_most_the_given_share_of_clean_scores_lies_below_the_threshold(rate: float) -> None:
    random = np.random.default_rng(4)
    for scores in (random.random(997), random.integers(0, 5, 200) / 5.0, np.ones(10)):
        limit = threshold_at(scores, rate)
        assert (scores < limit).mean() <= rate
        higher = scores[scores > limit]
        assert not len(higher) or (scores < higher.min()).mean() > rate


def test_a_small_benchmark_finds_gross_damage_and_keeps_clean_records(
    clinic: PhantomSource,
) -> None:
    gross = [o for o in OPERATORS if o.number in (2, 5, 7, 18, 36)]
    small = FirstRecords(clinic, 120)
    outcome = run(small, gross, per_operator=5, seed=1)
    report = measure(outcome, default_evaluator(), {}, 1)
    assert report.clean == 120 and report.clean_rejected <= 0.02
    assert {score.number for score in report.operators} == {2, 5, 7, 18, 36}
    assert all(score.rules >= 0.6 for score in report.operators)
    again = measure(run(small, gross, per_operator=5, seed=1), default_evaluator(), {}, 1)
    assert again.operators == report.operators
    rows, ok = rows_and_labels(outcome)
    assert len(rows) == len(ok["relevance"]) == 120 + len(outcome.cases)


def fake_rows(n: int) -> list[dict[str, tuple[float, ...]]]:
    random = np.random.default_rng(5)
    return [
        {
            name: tuple(random.integers(0, 2, len(feature_names(name))).astype(float))
            for name in DIMENSIONS
        }
        for _ in range(n)
    ]


def test_an_evaluator_survives_json_and_refuses_features_it_does_not_know(tmp_path) -> None:  # type: ignore[no-untyped-def]
    rows = fake_rows(80)
    labels: list[bool | None] = [row["accuracy"][0] == 0 for row in rows]
    made = fit_evaluator(rows, {"accuracy": labels})
    made.save(tmp_path / "e.json")
    read = Evaluator.load(tmp_path / "e.json")
    assert read == made
    p = read.probabilities(rows)
    assert np.all(p["accuracy"][np.array(labels)] > 0.5)
    assert np.allclose(pooled(p), np.prod(np.stack(list(p.values())), axis=0))
    value = made.to_dict()
    value["dimensions"]["accuracy"]["features"] = ["other"]
    with pytest.raises(DataError, match="other features"):
        Evaluator.from_dict(value)
    with pytest.raises(DataError):
        Evaluator.from_dict({"format": 1, "dimensions": 3})


def test_a_gate_closes_its_dimension() -> None:
    rows = fake_rows(1)
    p = default_evaluator().probabilities(rows, [frozenset({"relevance"})])
    assert p["relevance"].tolist() == [0.0] and pooled(p).tolist() == [0.0]


def test_labels_are_read_from_json_lines_and_csv_and_bad_ones_are_named(tmp_path) -> None:  # type: ignore[no-untyped-def]
    lines = tmp_path / "l.jsonl"
    lines.write_text('{"record_id": "a", "dimension": "accuracy", "ok": true}\n\n'
                     '{"record_id": "b", "dimension": "relevance", "ok": "u"}\n')  # fmt: skip
    assert read_labels(lines) == [("a", "accuracy", True)]
    table = tmp_path / "l.csv"
    table.write_text("record_id,dimension,ok\na,accuracy,no\n")
    assert read_labels(table) == [("a", "accuracy", False)]
    for text in ("{", "[1]", '{"record_id": "a"}', '{"record_id":"a","dimension":"beauty","ok":1}',
                 '{"record_id":"a","dimension":"accuracy","ok":"perhaps"}'):  # fmt: skip
        lines.write_text(text + "\n")
        with pytest.raises(DataError, match=r"l\.jsonl:1"):
            read_labels(lines)
    with pytest.raises(DataError):
        read_labels(tmp_path / "missing.csv")


def test_the_majority_of_raters_counts_and_unknown_records_are_an_error(
    clinic: PhantomSource,
) -> None:
    from infimed.curation.corruption.running import Judged

    judged = [Judged(row, frozenset(), (), 1) for row in fake_rows(2)]
    labels = [("a", "accuracy", True), ("a", "accuracy", False), ("b", "accuracy", False)]
    rows, ok = human_labels(labels, ["a", "b"], judged)
    assert len(rows) == 2 and ok["accuracy"] == [None, False]
    with pytest.raises(DataError):
        human_labels(labels, ["x", "y"], judged)
