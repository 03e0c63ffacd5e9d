"""Means with honest uncertainty: bootstrap intervals that resample groups, not samples.

Questions about one patient or image rise and fall together, so an interval over questions is too
narrow. Everything here resamples whole groups with replacement and takes the ratio of sums (a group
with many questions weighs more, as it does in the mean itself). One seed gives one answer on every
machine; 2,000 resamples of 1,000 groups take about 30 ms on one core.

Method: the cluster bootstrap of Davison & Hinkley, *Bootstrap Methods and their Application*
(1997), section 3.8, with percentile limits. When every group scores the same the interval has no
width: it says that no variation was seen, not that the value is certain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from infimed.core.seeds import stream

Floats: TypeAlias = NDArray[np.float64]
Numbers: TypeAlias = Sequence[float] | Floats
Key = TypeVar("Key", bound=Hashable)

RESAMPLES = 2000
LEVEL = 0.95
_CELLS = 4_000_000
"""Most counts held at once: 32 MB of float64."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its interval.

    Attributes:
        mean: weighted mean, or None without samples (or without weight).
        low, high: limits of the interval; None with fewer than two groups, where nothing can be
            said about variation between groups.
        n: samples. groups: how many groups they come from.
    """

    mean: float | None
    low: float | None
    high: float | None
    n: int
    groups: int


def group_index(groups: Sequence[Hashable]) -> tuple[NDArray[np.int64], int]:
    """Number the groups in order of first appearance: (index per sample, number of groups)."""
    seen: dict[Hashable, int] = {}
    index = np.fromiter(
        (seen.setdefault(group, len(seen)) for group in groups), np.int64, len(groups)
    )
    return index, len(seen)


def resample_counts(groups: int, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each group is drawn in each resample: blocks [rows, groups], rows summing to groups.

    The draw depends on (groups, seed) only, so two estimates over the same groups share it.
    """
    generator = stream(seed, "bootstrap", groups)
    rows = max(1, min(resamples, _CELLS // max(1, groups)))
    for start in range(0, resamples, rows):
        block = min(rows, resamples - start)
        drawn = generator.integers(0, groups, size=(block, groups))
        drawn += (np.arange(block) * groups)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=block * groups)
        yield counts.reshape(block, groups).astype(np.float64)


def _ratios(sums: Floats, resamples: int, seed: int) -> Floats:
    """Resampled sums [resamples, columns] of per-group sums [groups, columns]."""
    return np.concatenate([counts @ sums for counts in resample_counts(len(sums), resamples, seed)])


def _sums(columns: Sequence[Floats], index: NDArray[np.int64], groups: int) -> Floats:
    """Per-group sums of columns: [groups, columns]."""
    return np.stack(
        [np.bincount(index, weights=column, minlength=groups) for column in columns], axis=1
    )


def _limits(draws: Floats, level: float) -> tuple[float | None, float | None]:
    finite = draws[np.isfinite(draws)]
    if finite.size == 0:
        return None, None
    tail = (1 - level) / 2
    low, high = np.quantile(finite, [tail, 1 - tail])
    return float(low), float(high)


def _checked(
    values: Numbers, weights: Numbers | None, groups: Sequence[Hashable]
) -> tuple[Floats, Floats]:
    array = np.asarray(values, dtype=np.float64)
    weight = np.ones(len(array)) if weights is None else np.asarray(weights, dtype=np.float64)
    if not len(array) == len(weight) == len(groups):
        raise ValueError(f"{len(array)} values, {len(weight)} weights and {len(groups)} groups")
    if not (np.isfinite(array).all() and np.isfinite(weight).all() and (weight >= 0).all()):
        raise ValueError("values must be finite, and weights finite and at least 0")
    return array, weight


def clustered_bootstrap(
    values: Numbers,
    groups: Sequence[Hashable],
    *,
    weights: Numbers | None = None,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Estimate:
    """Mean of `values` [n] with a percentile interval that resamples `groups` [n].

    Args:
        weights: [n], at least 0; the estimate is sum(w*v)/sum(w). A micro-averaged ratio (F1 over
            all findings) is a weighted mean with its denominators as weights.

    Raises:
        ValueError: lengths differ, or a value is not finite.
    """
    array, weight = _checked(values, weights, groups)
    index, count = group_index(groups)
    total = weight.sum()
    if total == 0:
        return Estimate(None, None, None, len(array), count)
    mean = float((array * weight).sum() / total)
    if count < 2:
        return Estimate(mean, None, None, len(array), count)
    drawn = _ratios(_sums([array * weight, weight], index, count), resamples, seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = _limits(drawn[:, 0] / drawn[:, 1], level)
    return Estimate(mean, low, high, len(array), count)


def paired_clustered_bootstrap(
    first: Numbers,
    second: Numbers,
    groups: Sequence[Hashable],
    *,
    first_weights: Numbers | None = None,
    second_weights: Numbers | None = None,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Estimate:
    """Mean of `first` minus mean of `second` on the same samples, with an interval.

    Both are resampled with the same groups each time, so what makes a group easy for both cancels.

    Raises:
        ValueError: lengths differ, or a value is not finite.
    """
    a, a_weight = _checked(first, first_weights, groups)
    b, b_weight = _checked(second, second_weights, groups)
    index, count = group_index(groups)
    if a_weight.sum() == 0 or b_weight.sum() == 0:
        return Estimate(None, None, None, len(a), count)
    mean = float((a * a_weight).sum() / a_weight.sum() - (b * b_weight).sum() / b_weight.sum())
    if count < 2:
        return Estimate(mean, None, None, len(a), count)
    sums = _sums([a * a_weight, a_weight, b * b_weight, b_weight], index, count)
    drawn = _ratios(sums, resamples, seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = _limits(drawn[:, 0] / drawn[:, 1] - drawn[:, 2] / drawn[:, 3], level)
    return Estimate(mean, low, high, len(a), count)


def majority(values: Sequence[Key]) -> Key | None:
    """The most frequent value; the smallest by its text where several are; None without values."""
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], str(value))) if counts else None
