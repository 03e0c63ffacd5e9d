"""Figures: points where the values are, labels escaped, and everything inside the frame."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest

from infimed.evaluation.compare.added import mcnemar_of, reliability, risk_coverage
from infimed.evaluation.compare.drawing import Series, chart, legend, radar

HOSTILE = "a<b>&\"'"
AXES = ["one", "two_long_name_of_a_task", HOSTILE, "four"]


def markers(svg: str, number: int) -> list[tuple[float, float]]:
    found = re.findall(rf'<circle class="mark-{number}" cx="([\d.]+)" cy="([\d.]+)"', svg)
    return [(float(x), float(y)) for x, y in found]


def test_a_radar_puts_scores_at_their_distance_from_the_middle() -> None:
    svg = radar(AXES, [("m", [1.0, 0.5, 0.25, 0.0])])
    assert markers(svg, 0) == [(190.0, 55.0), (240.0, 155.0), (190.0, 180.0), (190.0, 155.0)]


def test_a_missing_score_breaks_the_line_and_has_no_marker() -> None:
    svg = radar(AXES, [("m", [1.0, None, 0.25, 0.5])])
    assert len(markers(svg, 0)) == 3
    (path,) = re.findall(r'<path class="line-0" d="([^"]*)"', svg)
    assert path.count("M") == 2 and not path.endswith("Z")


def test_figures_are_well_formed_with_text_from_data_escaped() -> None:
    series = [(HOSTILE, [0.1, 0.2, 0.3, 0.4])] * 7
    for svg in (
        radar(AXES, series),
        chart([Series(HOSTILE, ((0.1, 0.2), (0.9, 1.0)))], "x", HOSTILE, HOSTILE, diagonal=True),
        legend([HOSTILE] * 6),
    ):
        assert "<b>" not in svg
        ElementTree.fromstring(svg)
    assert "mark-5" in radar(AXES, series) and "mark-6" not in radar(AXES, series)


def test_a_chart_runs_from_the_lower_left_to_the_upper_right() -> None:
    svg = chart([Series("m", ((0.0, 0.0), (1.0, 1.0), (0.5, 2.0)))], "x", "y", "label")
    (x0, y0), (x1, y1), (x2, y2) = markers(svg, 0)
    assert x0 < x2 < x1 and y0 > y1 == y2


def test_a_radar_of_two_axes_is_refused() -> None:
    with pytest.raises(ValueError, match="three"):
        radar(AXES[:2], [])


def test_added_values_of_one_or_of_every_row_are_read() -> None:
    bins = {"bins": [{"confidence": 0.8, "accuracy": 0.7, "n": 10}, {"confidence": 0.2, "n": 0}]}
    assert reliability({**bins, "ece": 0.1}) == ([(0.8, 0.7, 10.0)], 0.1)
    tests = [
        {"row": "model", "control": "majority", "column": c, "mid_p": p}
        for c, p in (("kind=open", 1), ("overall", 0.25))
    ]
    assert mcnemar_of({"mcnemar": tests}, "majority") == 0.25
    assert mcnemar_of({"mcnemar": tests}, "other") is mcnemar_of({}, "majority") is None
    curve = [{"coverage": 1.0, "risk": 0.4}, {"coverage": 0.5, "risk": 0.1}, {"coverage": None}]
    assert risk_coverage(curve) == [(0.5, 0.1), (1.0, 0.4)]


@pytest.mark.parametrize("value", [None, 3, "x", {}, {"bins": 3}, [1], [None], {"bins": [3, {}]}])
def test_added_values_of_another_form_are_left_out(value: object) -> None:
    assert reliability(value)[0] == [] and risk_coverage(value) == []
