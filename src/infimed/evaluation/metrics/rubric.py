"""Rubric scores: points of the met criteria over the points that could be had.

Source: HealthBench (Arora et al. 2025): points may be negative, an answer may score below 0, and the
score of a set is the mean clipped to [0, 1]. Who says whether a criterion is met is the judge's
business; a missing verdict is counted as not met and reported, never guessed. Direction: higher is
better. Domain: whatever the rubric is about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class RubricScore:
    """Score of one answer (None where no criterion has positive points), and missing verdicts."""

    score: float | None
    missing: int


def rubric_score(points: Sequence[float], met: Sequence[bool | None]) -> RubricScore:
    """Score one answer.

    Args:
        points: of each criterion. met: the judge's verdict on each, None where there is none.

    Raises:
        ValueError: there are not as many verdicts as criteria.
    """
    possible = sum(value for value in points if value > 0)
    earned = sum(value for value, verdict in zip(points, met, strict=True) if verdict)
    missing = sum(verdict is None for verdict in met)
    return RubricScore(earned / possible if possible else None, missing)


def clipped_ratio(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean clipped to [0, 1] from sums [..., 2] of scores and of their number; NaN without any."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.clip(sums[..., 0] / sums[..., 1], 0.0, 1.0)
