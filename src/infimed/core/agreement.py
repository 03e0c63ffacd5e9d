"""How far raters agree beyond chance: weighted Cohen kappa for two, Krippendorff's alpha for any number.

Levels are ordered codes 0..k-1; a rating that is missing or "cannot tell" is -1 and takes no part. Both
statistics are functions of a k x k table summed over units, so their intervals resample those tables:
2,000 resamples of 200 units take a few milliseconds.

Sources: Cohen, *Weighted kappa*, Psychological Bulletin 70 (1968); Krippendorff, *Computing
Krippendorff's alpha-reliability* (2011). Intervals: percentile bootstrap over whole groups of units
(`infimed.core.statistics`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from infimed.core.statistics import LEVEL, RESAMPLES, Estimate, group_index, resample_counts

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
Metric = Literal["nominal", "ordinal", "interval"]
Statistic = Callable[[Floats], Floats]
"""Tables [..., k, k] -> statistic [...]; NaN where it is not defined."""

MISSING: Final = -1


def quadratic_weights(k: int) -> Floats:
    """Disagreement (i - j)^2, float64 [k, k]."""
    place = np.arange(k, dtype=np.float64)
    return np.square(place[:, None] - place[None, :])


def kappa_of_table(table: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """Weighted kappa of a k x k table of counts or shares (rows: first rater).

    Args:
        weights: disagreement of each cell, 0 on the diagonal; quadratic when None.

    None where it is not defined: an empty table, or both raters constant at the same level.
    """
    cells = np.asarray(table, np.float64)
    value = float(_kappa(weights)(cells))
    return value if np.isfinite(value) else None


def _kappa(weights: ArrayLike | None) -> Statistic:
    def statistic(tables: Floats) -> Floats:
        k = tables.shape[-1]
        cost = quadratic_weights(k) if weights is None else np.asarray(weights, np.float64)
        total = tables.sum(axis=(-2, -1))
        rows, columns = tables.sum(axis=-1), tables.sum(axis=-2)
        with np.errstate(divide="ignore", invalid="ignore"):
            expected = np.einsum("...i,...j,ij->...", rows, columns, cost) / total
            observed = (tables * cost).sum(axis=(-2, -1))
            return np.asarray(np.where(expected > 0, 1 - observed / expected, np.nan))

    return statistic


def weighted_kappa(
    first: Sequence[int] | Codes,
    second: Sequence[int] | Codes,
    k: int,
    *,
    groups: Sequence[Hashable] | None = None,
    weights: ArrayLike | None = None,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Estimate:
    """Weighted kappa of two raters over the units that both rated, with an interval.

    Args:
        first, second: codes [n], -1 where missing. k: number of levels. groups: of units that belong
            together (one image); each unit its own when None.

    Raises:
        ValueError: lengths differ, or a code is not in -1..k-1.
    """
    a, b = _codes(first, k), _codes(second, k)
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} ratings")
    both = (a >= 0) & (b >= 0)
    tables = np.zeros((len(a), k, k))
    tables[np.flatnonzero(both), a[both], b[both]] = 1
    return _estimate(tables, both, groups, _kappa(weights), resamples, level, seed)


def alpha_of_coincidences(table: ArrayLike, metric: Metric = "ordinal") -> float | None:
    """Krippendorff's alpha of a coincidence matrix [k, k]; None where nothing varies."""
    value = float(_alpha(metric)(np.asarray(table, np.float64)))
    return value if np.isfinite(value) else None


def _alpha(metric: Metric) -> Statistic:
    def statistic(tables: Floats) -> Floats:
        marginal = tables.sum(axis=-1)
        delta = _delta(marginal, metric)
        n = marginal.sum(axis=-1)
        observed = (tables * delta).sum(axis=(-2, -1))
        expected = np.einsum("...c,...k,...ck->...", marginal, marginal, delta)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(
                np.where(expected > 0, 1 - (n - 1) * observed / expected, np.nan), np.float64
            )

    return statistic


def _delta(marginal: Floats, metric: Metric) -> Floats:
    """Squared differences between levels [..., k, k] for marginals [..., k]."""
    k = marginal.shape[-1]
    if metric == "nominal":
        return np.broadcast_to(1.0 - np.eye(k), (*marginal.shape, k))
    if metric == "interval":
        return np.broadcast_to(quadratic_weights(k), (*marginal.shape, k))
    # Ordinal: values between the two levels, those of both ends counted half.
    running = np.cumsum(marginal, axis=-1) - marginal / 2
    return np.asarray(np.square(running[..., :, None] - running[..., None, :]), np.float64)


def coincidences(ratings: Sequence[Sequence[int]] | Codes, k: int) -> Floats:
    """Coincidence matrix of every unit, float64 [units, k, k].

    Args:
        ratings: codes [raters, units], -1 where missing. A unit with one rating contributes nothing.
    """
    codes = _codes(np.asarray(ratings, np.int64), k)
    counts = np.stack([(codes == level).sum(axis=0) for level in range(k)], axis=1).astype(float)
    raters = counts.sum(axis=1)
    pairs = counts[:, :, None] * counts[:, None, :]
    diagonal = np.arange(k)
    pairs[:, diagonal, diagonal] -= counts
    weight = np.where(raters >= 2, 1 / np.maximum(raters - 1, 1), 0.0)
    return np.asarray(pairs * weight[:, None, None], np.float64)


def krippendorff_alpha(
    ratings: Sequence[Sequence[int]] | Codes,
    k: int,
    *,
    metric: Metric = "ordinal",
    groups: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Estimate:
    """Krippendorff's alpha over any number of raters, with an interval; missing ratings allowed.

    Args:
        ratings: codes [raters, units], -1 where missing. k: number of levels.

    Raises:
        ValueError: a code is not in -1..k-1.
    """
    codes = _codes(np.asarray(ratings, np.int64), k)
    tables = coincidences(codes, k)
    paired = (codes >= 0).sum(axis=0) >= 2
    return _estimate(tables, paired, groups, _alpha(metric), resamples, level, seed)


def _codes(values: Sequence[int] | Codes, k: int) -> Codes:
    codes = np.asarray(values, np.int64)
    if codes.size and (codes.min() < MISSING or codes.max() >= k):
        raise ValueError(f"codes must be between {MISSING} and {k - 1}")
    return codes


def _estimate(
    tables: Floats,
    used: NDArray[np.bool_],
    groups: Sequence[Hashable] | None,
    statistic: Statistic,
    resamples: int,
    level: float,
    seed: int,
) -> Estimate:
    """The statistic of the summed tables [units, k, k], and limits from resampled groups of units."""
    names = np.flatnonzero(used).tolist() if groups is None else [
        group for group, here in zip(groups, used.tolist(), strict=True) if here
    ]  # fmt: skip
    index, count = group_index(names)
    held = np.zeros((count, *tables.shape[1:]))
    np.add.at(held, index, tables[used])
    value = float(statistic(held.sum(axis=0)))
    n = int(used.sum())
    if not np.isfinite(value):
        return Estimate(None, None, None, n, count)
    if count < 2:
        return Estimate(value, None, None, n, count)
    flat = held.reshape(count, -1)
    drawn = np.concatenate(
        [
            statistic((counts @ flat).reshape(-1, *tables.shape[1:]))
            for counts in resample_counts(count, resamples, seed)
        ]
    )
    drawn = drawn[np.isfinite(drawn)]
    tail = (1 - level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail]) if len(drawn) else (np.nan, np.nan)
    if not np.isfinite(low):
        return Estimate(value, None, None, n, count)
    return Estimate(value, float(low), float(high), n, count)
