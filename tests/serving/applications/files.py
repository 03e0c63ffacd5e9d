"""Calibrations for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from infimed.serving.applications.calibration import Calibration


def kind(
    signal: str = "answer",
    method: str = "platt",
    points: Sequence[tuple[float, float]] = ((1.0, 0.0),),
    threshold: float | None = 0.5,
) -> dict[str, Any]:
    """One kind of answer, as it stands in the file."""
    return {
        "signal": signal,
        "method": method,
        "points": [list(point) for point in points],
        "threshold": threshold,
        "target": {"name": "coverage", "value": 0.7},
        "n": 100,
        "groups": 40,
        "accuracy": 0.6,
        "coverage": 0.7,
        "risk": 0.3,
        "nll": {"raw": 0.7},
        "aurc": {signal: 0.2},
        "ece_raw": 0.1,
        "ece": 0.05,
    }


def calibration(model: str = "model", **kinds: dict[str, Any]) -> Calibration:
    """A calibration of these kinds."""
    return Calibration.model_validate(
        {
            "model_hash": model,
            "preset": "ask/1",
            "data_sha256": "0" * 64,
            "split": "calibration",
            "share": 1.0,
            "tasks": ["phantom_closed"],
            "kinds": kinds,
        }
    )
