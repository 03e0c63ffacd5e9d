"""How far a confidence can be believed: calibration, and the risk of answering only when sure.

Pure functions of confidences in 0..1 and of what was right. Samples of equal confidence are never
told apart, so no result depends on the order of the samples. Cost: one sort.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infimed.core.statistics import LEVEL, RESAMPLES, Estimate, group_index, resample_counts

Floats = NDArray[np.float64]
BINS = 10
MOST_POINTS = 100
"""Points kept of a risk-coverage curve; its area is of all of them."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Samples of similar confidence: their mean confidence, the share that is right, how many."""

    confidence: float
    accuracy: float
    n: int


@dataclass(frozen=True, slots=True)
class Reliability:
    """Bins in rising confidence. ece: mean distance of confidence and accuracy, weighted by n."""

    bins: tuple[Bin, ...]
    ece: float


@dataclass(frozen=True, slots=True)
class Point:
    """Answering the surest `coverage` of the samples is wrong in `risk` of them; both shares."""

    coverage: float
    risk: float


@dataclass(frozen=True, slots=True)
class RiskCoverage:
    """A curve by rising coverage. aurc: mean risk over all coverages 1/n ... 1; lower is better."""

    points: tuple[Point, ...]
    aurc: float


def _checked(confidence: Sequence[float], right: Sequence[float]) -> tuple[Floats, Floats]:
    sure, good = np.asarray(confidence, np.float64), np.asarray(right, np.float64)
    if len(sure) != len(good) or not len(sure):
        raise ValueError(f"{len(sure)} confidences and {len(good)} answers")
    if not ((sure >= 0) & (sure <= 1)).all() or not np.isin(good, (0.0, 1.0)).all():
        raise ValueError("confidences must be in 0..1, and an answer is right (1) or wrong (0)")
    return sure, good


def reliability(
    confidence: Sequence[float], right: Sequence[float], *, bins: int = BINS
) -> Reliability:
    """Expected calibration error over bins of equal mass.

    A block of equal confidences goes whole into the bin of its middle rank; so bins can differ in
    size, and there are fewer where there are few distinct confidences. Equal mass rather than equal
    width: Nixon et al., *Measuring Calibration in Deep Learning* (2019), arXiv:1904.01685.

    Raises:
        ValueError: lengths differ, nothing is given, or a value is out of range.
    """
    sure, good = _checked(confidence, right)
    _, inverse, counts = np.unique(sure, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2
    places = np.minimum((middle * bins / len(sure)).astype(np.int64), bins - 1)[inverse]
    made = []
    for place in np.unique(places):
        own = places == place
        made.append(Bin(float(sure[own].mean()), float(good[own].mean()), int(own.sum())))
    ece = sum(one.n * abs(one.confidence - one.accuracy) for one in made) / len(sure)
    return Reliability(tuple(made), float(ece))


def risk_coverage(confidence: Sequence[float], right: Sequence[float]) -> RiskCoverage:
    """Risk at every coverage when the surest are answered first, and the area under the curve.

    Within a block of equal confidences the errors are spread evenly: the mean over its orders. The
    points are the ends of blocks, where a threshold can really cut. Geifman & El-Yaniv, *Selective
    Classification for Deep Neural Networks* (2017), arXiv:1705.08500; the area is the mean of the
    risks at coverages k/n (Geifman et al. 2019, arXiv:1805.08206).

    Raises:
        ValueError: lengths differ, nothing is given, or a value is out of range.
    """
    sure, good = _checked(confidence, right)
    n = len(sure)
    wrong, counts = _blocks(sure, good)
    ends = np.cumsum(counts)
    aurc = float(_risks(wrong, counts).mean())
    total = np.cumsum(wrong)
    kept = range(len(ends))
    if len(ends) > MOST_POINTS:
        wanted = np.arange(1, MOST_POINTS + 1) * n / MOST_POINTS
        kept = np.unique(np.searchsorted(ends, wanted)).tolist()
    points = tuple(Point(float(ends[i] / n), float(total[i] / ends[i])) for i in kept)
    return RiskCoverage(points, aurc)


def _blocks(sure: Floats, good: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Errors and samples of each block of equal confidence, the surest first."""
    _, inverse, counts = np.unique(-sure, return_inverse=True, return_counts=True)
    wrong = np.bincount(inverse, weights=1 - good, minlength=len(counts)).astype(np.float64)
    return wrong, counts.astype(np.int64)


def _risks(wrong: Floats, counts: NDArray[np.int64]) -> Floats:
    """Risk when the surest 1 ... n are answered [n]; within a block the mean over its orders."""
    errors = np.cumsum(np.repeat(wrong / counts, counts))
    return np.asarray(errors / np.arange(1, len(errors) + 1))


@dataclass(frozen=True, slots=True)
class Abstaining:
    """What it brings to answer the surest only, against answering as many at random.

    Attributes:
        accuracy: share right of all, which is that of any random part. at_coverage: of the surest `coverage`.
        gain: the second minus the first. aurc: area under the risk-coverage curve.
        random_aurc: its value for random abstention, which is the share of wrong answers.
        excess: the first minus the second; below 0 is better than random.
    """

    coverage: float
    accuracy: Estimate
    at_coverage: Estimate
    gain: Estimate
    aurc: Estimate
    random_aurc: Estimate
    excess: Estimate


def abstaining(
    confidence: Sequence[float],
    right: Sequence[float],
    groups: Sequence[Hashable],
    *,
    coverage: float = 0.7,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Abstaining:
    """`Abstaining` with 95 % intervals: percentiles over resampled groups, all values in the same resamples.

    Raises:
        ValueError: lengths differ, nothing is given, or a value is out of range.
    """
    sure, good = _checked(confidence, right)
    index, number = group_index(groups)
    if len(index) != len(sure) or not 0 < coverage <= 1:
        raise ValueError(f"{len(sure)} confidences, {len(index)} groups, a coverage of {coverage}")

    def values(chosen: NDArray[np.int64]) -> list[float]:
        risks = _risks(*_blocks(sure[chosen], good[chosen]))
        kept = int(np.ceil(coverage * len(chosen) - 1e-9))
        error, aurc, at = float(risks[-1]), float(risks.mean()), float(risks[kept - 1])
        return [1 - error, 1 - at, error - at, aurc, error, aurc - error]

    order = np.argsort(index, kind="stable")
    sizes = np.bincount(index, minlength=number)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    members = [order[starts[group] : starts[group + 1]] for group in range(number)]
    drawn = []
    if number > 1:
        for block in resample_counts(number, resamples, seed):
            for counts in block.astype(np.int64):
                times = np.repeat(np.arange(number), counts)
                drawn.append(values(np.concatenate([members[group] for group in times])))
    tail = 100 * (1 - LEVEL) / 2
    limits = np.percentile(drawn, [tail, 100 - tail], axis=0) if drawn else None
    found = [
        Estimate(
            value,
            None if limits is None else float(limits[0, at]),
            None if limits is None else float(limits[1, at]),
            len(sure),
            number,
        )
        for at, value in enumerate(values(np.arange(len(sure))))
    ]
    return Abstaining(coverage, *found)
