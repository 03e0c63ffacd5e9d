"""calibration.json: what it says is applied, and another model's is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from infimed.core.errors import DataError
from infimed.serving.applications.calibration import (
    FILE,
    UNKNOWN,
    judge,
    judge_options,
    read_calibration,
)
from tests.serving.applications.files import calibration, kind


def test_a_file_is_read_back(tmp_path):
    made = calibration(yes_no=kind(), choice=kind("options", "temperature", [(2.0, 0.0)]))
    made.save(tmp_path)
    assert read_calibration(tmp_path, "model") == made
    assert read_calibration(tmp_path / "nowhere", "model") is None


def test_another_models_file_is_refused(tmp_path):
    calibration(yes_no=kind()).save(tmp_path)
    with pytest.raises(DataError, match="another model") as caught:
        read_calibration(tmp_path, "other")
    assert "infimed calibrate" in str(caught.value)


def broken(**change: Any) -> dict[str, Any]:
    return {**calibration(yes_no=kind()).model_dump(mode="json"), **change}


def test_the_unbroken_file_is_taken(tmp_path):
    (tmp_path / FILE).write_text(json.dumps(broken()))
    assert read_calibration(tmp_path, "model") is not None


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        broken(format=2),
        broken(surprise=1),
        broken(share=0),
        broken(kinds={"diagnosis": kind()}),
        broken(kinds={"choice": kind()}),
        broken(kinds={"yes_no": kind("options", "temperature")}),
        broken(kinds={"yes_no": kind("answer", "platt", [(-1.0, 0.0)])}),
        broken(kinds={"yes_no": kind("answer", "platt", [(1.0, 0.0), (2.0, 0.0)])}),
        broken(kinds={"yes_no": kind("answer", "isotonic", [(0.5, 0.9), (0.2, 0.1)])}),
        broken(kinds={"yes_no": kind("answer", "isotonic", [(0.2, 0.9), (0.5, 0.1)])}),
        broken(kinds={"yes_no": kind("answer", "isotonic", [(0.2, 0.1), (0.5, 1.1)])}),
        broken(kinds={"choice": kind("options", "platt")}),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, value):
    (tmp_path / FILE).write_text(json.dumps(value))
    with pytest.raises(DataError):
        read_calibration(tmp_path, "model")


def test_a_confidence_is_the_mapped_signal_and_abstention_is_below_the_threshold():
    made = calibration(yes_no=kind("answer", "isotonic", [(0.2, 0.4), (0.8, 0.9)], threshold=0.6))
    low = judge(made, "yes_no", {"answer": 0.2, "first_token": 0.99})
    assert (low.raw, low.confidence, low.threshold, low.abstained) == (0.2, 0.4, 0.6, True)
    assert judge(made, "yes_no", {"answer": 0.8}).abstained is False
    edge = judge(made, "yes_no", {"answer": 0.44})
    assert edge.confidence == pytest.approx(0.6) and edge.abstained is False


def test_what_cannot_be_known_is_none():
    made = calibration(yes_no=kind())
    assert judge(made, "open", {"answer": 0.3}).raw == 0.3
    assert judge(made, "open", {"answer": 0.3}).confidence is None
    assert judge(made, "yes_no", {}) == UNKNOWN
    assert judge(None, "yes_no", {"yes_no": 0.7}).raw == 0.7
    assert judge(None, "yes_no", {"yes_no": 0.7}).abstained is None


def test_a_target_that_cannot_be_met_means_always_abstaining():
    made = calibration(yes_no=kind(threshold=None))
    judged = judge(made, "yes_no", {"answer": 0.999})
    assert judged.abstained is True and judged.threshold is None


def test_options_are_calibrated_together():
    made = calibration(choice=kind("options", "temperature", [(2.0, 0.0)], threshold=0.7))
    judged, shares = judge_options(made, [0.6, 0.4])
    assert shares == pytest.approx([0.36 / 0.52, 0.16 / 0.52]) and judged.raw == 0.6
    assert judged.confidence == max(shares) and judged.abstained is True
    plain, same = judge_options(None, [0.6, 0.4])
    assert same == [0.6, 0.4] and plain.confidence is None and plain.raw == 0.6
