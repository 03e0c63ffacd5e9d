"""Counts of stages, reading of differences, choice of examples and drawing of curves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from infimed.core.sampling import alternate
from infimed.core.statistics import Estimate
from infimed.evaluation.report import Cell, Column, Difference, Row, Scoreboard, TaskScores
from infimed.pipeline.figures import bands_of, binned, curves, smoothed, tick
from infimed.pipeline.report_data import (
    Step,
    curve_steps,
    low_to_high_ratio,
    read_steps,
    stage_numbers,
)
from infimed.pipeline.report_examples import _Place, choose_answers
from infimed.pipeline.report_results import plain_result, points, signed, small_findings, warnings
from tests.pipeline.fake_run import fake_recipe, write_metrics

RECIPE = fake_recipe()


def board(
    model: tuple[float, float, float], gap: tuple[float, float, float], groups: int = 80
) -> Scoreboard:
    """A closed task of a model and its blind twin with the given mean, low, high."""

    def estimate(values: tuple[float, float, float]) -> Estimate:
        return Estimate(*values, n=400, groups=groups)

    columns = (
        Column("overall", "overall", "all"),
        Column("subset=small_findings", "small findings", "subset"),
    )
    rows = (Row("model", "model"), Row("trained-blind", "model"), Row("low-grid", "model"))
    cells = [
        Cell(r.name, c.name, "score", estimate(model), 0.0, 0.0, 0.0) for r in rows for c in columns
    ]
    gaps = [
        Difference("model", r.name, c.name, "score", estimate(gap))
        for r in rows[1:]
        for c in columns
    ]
    return Scoreboard(
        (TaskScores("closed", "Own data", rows, columns, tuple(cells), tuple(gaps), ()),)
    )


def said(made: Scoreboard) -> str:
    return " ".join(plain_result(made, {"closed": ["closed"]}, RECIPE))


def test_stage_numbers_equal_sums_over_the_log(tmp_path: Path) -> None:
    write_metrics(tmp_path / "metrics.jsonl", RECIPE, 7)
    rows = read_steps(tmp_path)
    stages = stage_numbers(tmp_path, rows, RECIPE)
    assert [stage.name for stage in stages] == [stage.name for stage in RECIPE.stages]
    own = [row for row in rows if row["stage"] == stages[1].name]
    seconds = sum(row["seconds"] + row["wait_seconds"] for row in own)
    assert stages[1].steps == 7
    assert stages[1].samples == sum(row["samples"] for row in own)
    assert stages[1].tokens_per_second == pytest.approx(sum(row["tokens"] for row in own) / seconds)
    assert stages[1].flops_per_second == pytest.approx(sum(row["flops"] for row in own) / seconds)
    assert stages[1].padded_tokens_per_second == pytest.approx(
        7 * RECIPE.stages[1].row_tokens / seconds, rel=1e-3
    )
    assert stages[1].fill == pytest.approx(
        sum(row["tokens"] for row in own) / (7 * RECIPE.stages[1].row_tokens), rel=1e-3
    )
    assert stages[1].rows is None
    assert stages[1].mfu is None  # the log of a version that measured no peak
    peaked = [row | {"peak_flops_per_second": 1e12} for row in rows]
    assert stage_numbers(tmp_path, peaked, RECIPE)[1].mfu == pytest.approx(
        stages[1].flops_per_second / 1e12
    )


def test_the_resolution_ratio_needs_both_stages(tmp_path: Path) -> None:
    write_metrics(tmp_path / "metrics.jsonl", RECIPE, 3)
    stages = stage_numbers(tmp_path, read_steps(tmp_path), RECIPE)
    named = {stage.name: stage for stage in stages}
    low, high = named["pretrain-low"], named["pretrain-high"]
    assert low_to_high_ratio(stages) == pytest.approx(
        low.samples_per_second / high.samples_per_second
    )
    assert low_to_high_ratio([high]) is None


def test_lines_of_the_log_that_are_no_steps_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"event": "started"}\n{"torn')
    assert read_steps(tmp_path) == []


def test_use_of_the_images_is_claimed_only_when_the_interval_leaves_out_zero() -> None:
    assert "it uses the images" in said(board((0.8, 0.75, 0.85), (0.3, 0.2, 0.4)))
    assert "is not shown" in said(board((0.5, 0.45, 0.55), (0.01, -0.05, 0.06)))
    assert "do not help here" in said(board((0.4, 0.35, 0.45), (-0.1, -0.2, -0.05)))


def test_the_low_grid_is_called_lower_only_when_the_interval_leaves_out_zero() -> None:
    assert (
        "10.0 points (95 % interval 5.0 to 15.0) lower"
        in small_findings(board((0.8, 0.7, 0.9), (0.1, 0.05, 0.15)), RECIPE)[0].reading
    )
    assert (
        "10.0 points (95 % interval 5.0 to 15.0) higher"
        in small_findings(board((0.8, 0.7, 0.9), (-0.1, -0.15, -0.05)), RECIPE)[0].reading
    )
    assert (
        "no difference is shown"
        in small_findings(board((0.8, 0.7, 0.9), (0.1, -0.01, 0.2)), RECIPE)[0].reading
    )


def test_few_patients_and_unreadable_answers_are_warned_of() -> None:
    assert any(
        "only 12 patients" in line
        for line in warnings(board((0.8, 0.7, 0.9), (0.1, 0, 0.2), groups=12), RECIPE)
    )
    assert not any(
        "only" in line for line in warnings(board((0.8, 0.75, 0.85), (0.1, 0, 0.2)), RECIPE)
    )
    assert "not a medical device" in warnings(None, RECIPE)[0]


def test_signed_points_use_a_real_minus_and_keep_the_sign_of_small_limits() -> None:
    assert points(-0.031) == "−3.1"
    assert signed(Estimate(0.02, -0.001, 0.041, 5, 5)) == "+2.0 (−0.1 to +4.1)"
    assert signed(Estimate(None, None, None, 0, 0)) == ""


def test_alternate_takes_from_every_group_in_turn() -> None:
    assert alternate([[1, 2, 3], [], [4], [5, 6]], 5) == [1, 4, 5, 2, 6]


def _places(count: int) -> list[_Place]:
    kinds = ("closed", "choice", "report")
    return [
        _Place(i, "t", kinds[i % 3], f"type{i % 5}", i % 7 != 0, f"image{i}") for i in range(count)
    ]


def test_answers_are_drawn_half_right_half_wrong_with_all_types_and_distinct_images() -> None:
    chosen = choose_answers(_places(600), seed=4)
    short = [place for place in chosen if place.kind != "report"]
    assert sum(place.right for place in short) == len(short) // 2 == 10
    assert {place.type for place in short} == {f"type{i}" for i in range(5)}
    assert len({place.image for place in chosen}) == len(chosen) == 24
    assert chosen == choose_answers(_places(600), seed=4)
    assert chosen != choose_answers(_places(600), seed=5)


def test_few_answers_are_all_shown_once() -> None:
    places = [_Place(i, "t", "closed", "", i == 0, "same") for i in range(4)]
    assert sorted(place.offset for place in choose_answers(places, seed=1)) == [0, 1, 2, 3]


def _steps(tmp_path: Path, count: int) -> list[Step]:
    write_metrics(tmp_path / "metrics.jsonl", RECIPE, count)
    return curve_steps(read_steps(tmp_path))


def test_curves_are_well_formed_svg_in_page_colours(tmp_path: Path) -> None:
    for figure in curves(_steps(tmp_path, 30)):
        root = ElementTree.fromstring(figure.svg.replace("xlink:href", "href"))
        assert root.get("viewBox") and root.get("aria-label")
        assert "var(--ink)" in figure.svg
        assert "#0102" not in figure.svg and "#0103" not in figure.svg
        assert "mathdefault" not in figure.svg


def test_sources_have_a_curve_each_and_their_names_cannot_become_markup(tmp_path: Path) -> None:
    names = ("a</text><script>", "b$x$", "c", "d")
    steps = [
        replace(step, source_loss=dict.fromkeys(names[: 2 + number % 3], 1.0 + number))
        for number, step in enumerate(_steps(tmp_path, 30))
    ]
    figure = next(figure for figure in curves(steps) if figure.title == "Loss by source")
    root = ElementTree.fromstring(figure.svg.replace("xlink:href", "href"))
    said = " ".join(text.strip() for text in root.itertext())
    assert "a</text><script>" in said and "b$x$" in said and "3 of 4 sources" in figure.caption
    assert "<script" not in figure.svg
    one = [replace(step, source_loss={"a": 1.0}) for step in steps]
    assert "Loss by source" not in {figure.title for figure in curves(one)}


def test_the_same_steps_give_the_same_curves(tmp_path: Path) -> None:
    steps = _steps(tmp_path, 10)
    assert [f.svg for f in curves(steps)] == [f.svg for f in curves(steps)]


def test_one_step_and_no_step_can_be_drawn(tmp_path: Path) -> None:
    steps = _steps(tmp_path, 1)
    assert len(curves(steps[:1])) == 4
    assert curves([]) == []


def test_bands_cover_every_step_once(tmp_path: Path) -> None:
    bands = bands_of(_steps(tmp_path, 4))
    expected = [(4 * i + 1, 4 * i + 4) for i in range(len(RECIPE.stages))]
    assert [(band.first, band.last) for band in bands] == expected


def test_binned_means_keep_the_mean_and_drop_what_is_not_finite() -> None:
    y = np.arange(1000, dtype=np.float64)
    x, means = binned(y, y, 100)
    assert len(x) == 100 and means.mean() == pytest.approx(y.mean())
    y[5] = np.nan
    assert np.isfinite(binned(np.arange(1000.0), y, 100)[1]).all()


def test_smoothed_equals_a_plain_running_mean() -> None:
    y = np.random.default_rng(0).random(200)
    half = 2
    expected = [
        y[i - min(half, i, 199 - i) : i + min(half, i, 199 - i) + 1].mean() for i in range(200)
    ]
    assert np.allclose(smoothed(y), expected)


def test_ticks_are_short() -> None:
    assert [tick(v) for v in (0, 0.5, 0.001, 0.0005, 2.5e-5, 1200, 40_000)] == [
        "0", "0.5", "0.001", "5e-4", "2.5e-5", "1200", "40k",
    ]  # fmt: skip
