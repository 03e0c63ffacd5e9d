"""MedEvalKit's HealthBench arithmetic; its grader is a language model and not part of scoring."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

BOOTSTRAPS = 1000


def parse_json_to_dict(text: str) -> dict[str, Any]:
    """The JSON object in a grader's reply, a Markdown fence around it removed; {} where it is none."""
    bare = text.strip().removeprefix("```json").removeprefix("```").removesuffix("```")
    try:
        found = json.loads(bare)
    except json.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def calculate_score(points: Sequence[float], criteria_met: Sequence[bool]) -> float | None:
    """Points of the met criteria over the sum of the positive ones; None where none is positive."""
    possible = sum(value for value in points if value > 0)
    if possible == 0:
        return None
    return sum(value for value, met in zip(points, criteria_met, strict=True) if met) / possible


def compute_clipped_stats(
    values: Sequence[float], stat: Literal["mean", "n", "bootstrap_std"], *, seed: int = 0
) -> float:
    """Mean clipped to [0, 1], count, or the standard deviation of 1,000 resampled clipped means.

    The original draws from NumPy's unseeded global generator; here the draw has a seed.
    """
    if stat == "n":
        return len(values)
    array = np.asarray(values, dtype=np.float64)
    if stat == "mean":
        return float(np.clip(array.mean(), 0, 1))
    drawn = np.random.default_rng(seed).choice(array, (BOOTSTRAPS, len(array)))
    return float(np.clip(drawn.mean(axis=1), 0, 1).std())
