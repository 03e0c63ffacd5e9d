"""Measures agree with the rules they speak of; distributions and draws agree with slow counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from infimed.curation import curate, default_rubric
from infimed.curation import ledger as tables
from infimed.curation.distributions import BINS, read_distributions
from infimed.curation.explaining import limits_in_force
from infimed.curation.ledger_columns import Lot, read_decisions, rows_where
from infimed.curation.measures import MEASURES, Measure, threshold
from infimed.curation.report import draw
from infimed.curation.rules.base import Example, Rule
from tests.curation.clinic import Memory, clinic, picture

RULES = {rule.id: rule for rule in default_rubric().rules}


def beyond(measure: Measure, rule: Rule, example: Example) -> bool:
    signals = example.signals()
    sources = signals.images if measure.of == "image" else (signals.text,)
    limit = rule.limits(signals.modality, example.record.task)[measure.limit]
    columns = {
        name: np.array([float(getattr(source, name)) for source in sources])
        for name in measure.columns
    }
    values = measure.value(columns)
    return bool(measure.beyond(values, np.full(len(values), limit)).any())


@pytest.mark.parametrize("measure", MEASURES, ids=lambda m: m.key)
def test_every_measure_names_a_limit_of_the_rubric(measure: Measure) -> None:
    assert threshold(measure, default_rubric()) is not None
    assert measure.limit in RULES[measure.rule].thresholds


@pytest.mark.parametrize("measure", MEASURES, ids=lambda m: m.key)
def test_a_rules_passing_example_lies_inside_every_limit_of_its_measures(measure: Measure) -> None:
    assert not beyond(measure, RULES[measure.rule], RULES[measure.rule].passes)


@pytest.mark.parametrize("rule", sorted({m.rule for m in MEASURES}))
def test_a_rules_failing_example_lies_beyond_a_limit_of_its_measures(rule: str) -> None:
    ours = [m for m in MEASURES if m.rule == rule]
    assert any(beyond(m, RULES[rule], RULES[rule].fails) for m in ours)


@pytest.mark.parametrize("measure", MEASURES, ids=lambda m: m.key)
def test_a_place_on_the_axis_is_inverted(measure: Measure) -> None:
    for share in (0.1, 0.5, 0.9):
        assert measure.position(np.array([measure.at(share)]))[0] == pytest.approx(share)
    assert measure.position(np.array([-1e9, 1e9])).tolist() == [0.0, 1.0]


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ledger")
    curate(clinic(), folder)
    return folder


def test_distributions_equal_a_count_record_by_record(ledger: Path) -> None:
    rows = tables.read_ledger(ledger, tables.SIGNALS).to_pylist()
    found = read_distributions(ledger, default_rubric(), read_decisions(ledger, len(rows)))
    sharp = next(d for d in found if d.measure.limit == "min_sharpness")
    expected: dict[str, list[float]] = {}
    for row in rows:
        for image in row["images"]:
            if image["width"] > 0 and image["sharpness"] > 0:
                expected.setdefault(row["modality"], []).append(image["sharpness"])
    rule = RULES["readability.blurred_image"]
    assert sharp.strips.keys() == expected.keys()
    for modality, values in expected.items():
        strip = sharp.strips[modality]
        limit = rule.thresholds["min_sharpness"].at(modality, "")
        assert strip.n == len(values) == strip.counts.sum()
        assert strip.beyond == sum(value < limit for value in values)


def test_a_claimed_modality_can_only_make_the_drawn_limit_laxer(tmp_path: Path) -> None:
    source = Memory()
    for number, text in enumerate(("CT of the lung.", "PET scan of the body.", "A large cyst.")):
        source.ask((source.image(picture(number)),), "Describe it.", text, "caption")
    curate(source, tmp_path)
    found = read_distributions(tmp_path, default_rubric(), read_decisions(tmp_path, 3))
    sharp = next(d for d in found if d.measure.limit == "min_sharpness")
    limit = RULES["readability.blurred_image"].thresholds["min_sharpness"]
    general = limit.at("", "")
    expected = {general, min(general, limit.at("CT", "")), min(general, limit.at("PT", ""))}
    assert set(sharp.strips[""].limits) == expected
    assert len(expected) > 1
    said = [
        limits_in_force(tables.explain(tmp_path, f"r{number}"), default_rubric())[
            sharp.measure.rule
        ]
        for number in range(3)
    ]
    assert "and 1.1, as the text says PT: both must object" in said[1]
    assert "as the text says" not in said[2]


def test_the_nearest_records_are_the_nearest(ledger: Path) -> None:
    rows = tables.read_ledger(ledger, tables.SIGNALS).to_pylist()
    keep = {v["row"]: v["keep"] for v in tables.read_ledger(ledger, tables.VERDICTS).to_pylist()}
    found = read_distributions(ledger, default_rubric(), read_decisions(ledger, len(rows)))
    sharp = next(d for d in found if d.measure.limit == "min_sharpness")
    gaps = sorted(
        abs(image["sharpness"] - near_limit(row["modality"]))
        for row in rows
        for image in row["images"]
        if keep[row["row"]] and image["sharpness"] > near_limit(row["modality"])
    )
    assert sharp.kept[0].value - sharp.kept[0].limit == pytest.approx(gaps[0])
    assert all(keep[near.row] for near in sharp.kept)
    assert [n.distance for n in sharp.kept] == sorted(n.distance for n in sharp.kept)


def near_limit(modality: str) -> float:
    return RULES["readability.blurred_image"].thresholds["min_sharpness"].at(modality, "closed")


def test_decisions_equal_the_verdicts_row_by_row(ledger: Path) -> None:
    rows = tables.read_ledger(ledger, tables.VERDICTS).to_pylist()
    found = read_decisions(ledger, 0)  # grows by itself
    assert found.keep.tolist() == [row["keep"] for row in rows]
    for row in rows:
        for rule in found.rules:
            assert found.dropped_by(rule)[row["row"]] == (row["reasons"] == [rule])
    assert not found.dropped_by("no.such").any()


def test_a_draw_does_not_depend_on_batches_or_order() -> None:
    rows = np.arange(5000)
    whole, parts = Lot(20, 7, "x"), Lot(20, 7, "x")
    whole.offer(rows)
    for part in np.array_split(np.random.default_rng(0).permutation(rows), 13):
        parts.offer(part)
    assert whole.rows == parts.rows
    assert len(set(whole.rows)) == 20
    other = Lot(20, 8, "x")
    other.offer(rows)
    assert other.rows != whole.rows


def test_rows_of_a_few_records_are_found_and_absent_ones_are_empty(ledger: Path) -> None:
    found = rows_where(ledger, tables.VERDICTS, [3, 1, 10_000])
    assert [found[1][0]["row"], found[3][0]["row"], found[10_000]] == [1, 3, []]
    assert rows_where(ledger, tables.VERDICTS, []) == {}


def test_a_drawing_holds_every_limit_and_value_inside_its_axis(ledger: Path) -> None:
    rows = tables.read_ledger(ledger, tables.SIGNALS, ["row"]).num_rows
    for found in read_distributions(ledger, default_rubric(), read_decisions(ledger, rows)):
        drawing = draw(found)
        assert drawing is not None
        assert all(0 <= x <= 1000 for strip in drawing.strips for x, _ in strip.limits)
        assert all(strip.path for strip in drawing.strips)
        assert sum(s.n for s in found.strips.values()) == sum(
            int(s.counts.sum()) for s in found.strips.values()
        )
    assert BINS % 60 == 0
