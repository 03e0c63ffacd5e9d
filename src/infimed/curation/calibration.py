"""From scores to probabilities that can be trusted, and from probabilities to reject thresholds.

Pure NumPy on plain arrays; nothing here knows of records, rules or judges. A fitted object is frozen,
small, and survives JSON exactly. Cost: `fit_logistic` a few Newton steps of O(n f^2), `fit_isotonic`
and the thresholds O(n log n).

Sources: Newton's method for the penalised logistic loss (Hastie, Tibshirani & Friedman, *The
Elements of Statistical Learning*, 4.4.1); pool adjacent violators (Ayer et al. 1955; Zadrozny & Elkan
2002); expected calibration error (Naeini et al. 2015).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_NEWTON_STEPS: Final = 100
_TOLERANCE: Final = 1e-10
NOTHING: Final = 0.0
"""The threshold below which no probability lies: nothing is rejected."""


def sigmoid(x: ArrayLike) -> Floats:
    """1 / (1 + e^-x) without overflow."""
    z = np.asarray(x, np.float64)
    small = np.exp(-np.abs(z))
    return np.where(z >= 0, 1 / (1 + small), small / (1 + small))


def logit(p: ArrayLike, margin: float = 1e-12) -> Floats:
    """log(p / (1 - p)), with p kept `margin` away from 0 and 1."""
    q = np.clip(np.asarray(p, np.float64), margin, 1 - margin)
    return np.asarray(np.log(q) - np.log1p(-q), np.float64)


def _labels(y: ArrayLike, n: int) -> Floats:
    array = np.asarray(y, np.float64)
    if array.shape != (n,):
        raise ValueError(f"{n} rows need labels of shape ({n},), not {array.shape}")
    if not ((array >= 0) & (array <= 1)).all():
        raise ValueError("labels must be booleans, or probabilities between 0 and 1")
    return array


def _probabilities(p: ArrayLike) -> Floats:
    array = np.asarray(p, np.float64)
    if array.ndim != 1 or not ((array >= 0) & (array <= 1)).all():
        raise ValueError("probabilities must be one-dimensional and between 0 and 1")
    return array


@dataclass(frozen=True, slots=True)
class Logistic:
    """P(y) = sigmoid(bias + weights . (x - mean) / scale).

    Attributes:
        mean, scale, weights: a number per feature, in the order of the columns.
        bias: of the standardised features.
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float

    def logit(self, x: ArrayLike) -> Floats:
        """Log-odds [n] of features x [n, f].

        Raises:
            ValueError: the number of columns differs from the fit.
        """
        array = np.asarray(x, np.float64)
        if array.ndim != 2 or array.shape[1] != len(self.weights):
            raise ValueError(f"expected [n, {len(self.weights)}] features, got {array.shape}")
        return self.bias + ((array - np.array(self.mean)) / np.array(self.scale)) @ np.array(
            self.weights
        )

    def probability(self, x: ArrayLike) -> Floats:
        """P(y) [n] of features x [n, f]."""
        return sigmoid(self.logit(x))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; `from_dict` inverts it exactly."""
        return {
            "mean": list(self.mean),
            "scale": list(self.scale),
            "weights": list(self.weights),
            "bias": self.bias,
        }

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> Logistic:
        """Inverse of `to_dict`."""
        mean, scale, weights = (
            tuple(map(float, value[name])) for name in ("mean", "scale", "weights")
        )
        return Logistic(mean, scale, weights, float(value["bias"]))


def fit_logistic(x: ArrayLike, y: ArrayLike, l2: float = 1.0) -> Logistic:
    """The weights that minimise  sum of log losses + l2/2 * |weights|^2  on standardised features.

    The bias is not penalised. A feature that never varies gets weight 0. With labels of one class
    only the answer is the smoothed base rate (k + 1/2) / (n + 1) and no weights.

    Args:
        x: finite features [n, f]; f may be 0. y: labels [n], booleans or probabilities.
        l2: penalty on each weight per standard deviation of its feature, above 0.

    Raises:
        ValueError: no rows, wrong shapes, features that are not finite, or l2 <= 0.
    """
    array = np.asarray(x, np.float64)
    if array.ndim != 2 or len(array) == 0 or not np.isfinite(array).all():
        raise ValueError(f"features must be finite and [n, f] with n >= 1, got {array.shape}")
    if l2 <= 0:
        raise ValueError(f"l2 must be above 0, got {l2}")
    rows, columns = array.shape
    labels = _labels(y, rows)
    mean, spread = array.mean(0), array.std(0)
    varies = spread > 1e-12 * np.maximum(1.0, np.abs(mean))
    scale = np.where(varies, spread, 1.0)
    total = float(labels.sum())
    beta = np.zeros(columns + 1)
    beta[0] = float(logit((total + 0.5) / (rows + 1)))
    if 0 < total < rows:
        standard = np.where(varies, (array - mean) / scale, 0.0)
        beta = _newton(np.hstack([np.ones((rows, 1)), standard]), labels, l2, beta)
    return Logistic(
        tuple(mean.tolist()), tuple(scale.tolist()), tuple(beta[1:].tolist()), float(beta[0])
    )


def _newton(design: Floats, labels: Floats, l2: float, beta: Floats) -> Floats:
    """Newton steps, halved while the loss would rise; the loss is convex, so this converges."""
    penalty = np.full(design.shape[1], l2)
    penalty[0] = 0.0

    def loss(b: Floats) -> float:
        z = design @ b
        return float((np.logaddexp(0.0, z) - labels * z).sum() + 0.5 * (penalty * b * b).sum())

    current = loss(beta)
    for _ in range(_NEWTON_STEPS):
        p = sigmoid(design @ beta)
        gradient = design.T @ (p - labels) + penalty * beta
        curvature = np.maximum(p * (1 - p), 1e-12)
        hessian = (design * curvature[:, None]).T @ design + np.diag(penalty)
        step = np.linalg.solve(hessian + 1e-12 * np.eye(len(beta)), gradient)
        factor = 1.0
        while factor > 1e-8 and loss(beta - factor * step) > current:
            factor /= 2
        beta = beta - factor * step
        before, current = current, loss(beta)
        if np.abs(gradient).max() < _TOLERANCE * len(design) or before - current <= 0:
            break
    return beta


@dataclass(frozen=True, slots=True)
class Isotonic:
    """A non-decreasing, piecewise linear map from score to probability; constant past its ends.

    Attributes:
        scores: knots, strictly increasing. values: probability at each knot, non-decreasing.
    """

    scores: tuple[float, ...]
    values: tuple[float, ...]

    def __call__(self, score: ArrayLike) -> Floats:
        """Probabilities, of the shape of `score`."""
        array = np.asarray(score, np.float64)
        return np.asarray(np.interp(array, self.scores, self.values), np.float64)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; `from_dict` inverts it exactly."""
        return {"scores": list(self.scores), "values": list(self.values)}

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> Isotonic:
        """Inverse of `to_dict`."""
        return Isotonic(tuple(map(float, value["scores"])), tuple(map(float, value["values"])))


def fit_isotonic(score: ArrayLike, y: ArrayLike, *, smoothing: float = 0.0) -> Isotonic:
    """The non-decreasing function of `score` with the least squared error to `y`.

    Equal scores are one point. A block of pooled points keeps its two outer scores as knots, and
    between blocks the map is linear, so that it has no jumps.

    Args:
        score: finite [n]. y: labels [n], booleans or probabilities.
        smoothing: weight of one contrary label at each end (a 1 at the lowest score, a 0 at the
            highest). Above 0, no probability is exactly 0 or 1, however few labels there are.

    Raises:
        ValueError: no scores, a score that is not finite, or labels of another shape.
    """
    array = np.asarray(score, np.float64)
    if array.ndim != 1 or len(array) == 0 or not np.isfinite(array).all():
        raise ValueError(f"scores must be finite and [n] with n >= 1, got {array.shape}")
    labels = _labels(y, len(array))
    points, place = np.unique(array, return_inverse=True)
    weight = np.bincount(place, minlength=len(points)).astype(np.float64)
    total = np.bincount(place, weights=labels, minlength=len(points))
    if smoothing > 0:
        weight[0] += smoothing
        total[0] += smoothing
        weight[-1] += smoothing
    blocks: list[tuple[float, float, int]] = []
    """(sum of labels, weight, first point), means strictly increasing."""
    for first, (one, all_) in enumerate(zip(total.tolist(), weight.tolist(), strict=True)):
        start = first
        while blocks and blocks[-1][0] * all_ >= one * blocks[-1][1]:
            more, heavier, start = blocks.pop()
            one, all_ = one + more, all_ + heavier
        blocks.append((one, all_, start))
    scores: list[float] = []
    values: list[float] = []
    ends = [start - 1 for _, _, start in blocks[1:]] + [len(points) - 1]
    for (one, all_, start), end in zip(blocks, ends, strict=True):
        for index in dict.fromkeys((start, end)):
            scores.append(float(points[index]))
            values.append(one / all_)
    return Isotonic(tuple(scores), tuple(values))


def expected_calibration_error(p: ArrayLike, y: ArrayLike, bins: int = 15) -> float:
    """Mean over the samples of |mean probability - share of positives| in their bin.

    Bins are of equal width over 0..1, each closed at its upper end (0 falls into the first).

    Args:
        p: probabilities [n]. y: labels [n].

    Raises:
        ValueError: no samples, values outside 0..1, or other shapes.
    """
    probability = _probabilities(p)
    labels = _labels(y, len(probability))
    if len(probability) == 0 or bins < 1:
        raise ValueError("a calibration error needs samples and at least one bin")
    place = np.clip(np.ceil(probability * bins).astype(np.int64) - 1, 0, bins - 1)
    gap = np.bincount(place, weights=probability - labels, minlength=bins)
    return float(np.abs(gap).sum() / len(probability))


def _curve(p_ok: Floats, ok: Floats) -> tuple[Floats, Floats, Floats]:
    """Thresholds that differ in what they reject, with (rejected, bad among them) at each.

    Threshold k rejects every record below it; it is the next larger value that occurs, and the
    last one lies just above the largest. All [number of distinct values].
    """
    values, place = np.unique(p_ok, return_inverse=True)
    count = np.bincount(place, minlength=len(values)).astype(np.float64)
    bad = np.bincount(place, weights=1 - ok, minlength=len(values))
    thresholds = np.append(values[1:], np.nextafter(values[-1], 2.0))
    return thresholds, np.cumsum(count), np.cumsum(bad)


def _coded(names: Sequence[str]) -> tuple[list[str], list[int], NDArray[np.int32]]:
    """(the different names in order, where each is first, the number of each name [n]); an array of strings
    would cost the longest of them for every one."""
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        first.setdefault(str(name), index)
    order = sorted(first)
    number = {name: at for at, name in enumerate(order)}
    place = np.fromiter((number[str(name)] for name in names), np.int32, len(names))
    return order, [first[name] for name in order], place


def _target(target_precision: float) -> float:
    if not 0 < target_precision <= 1:
        raise ValueError(f"target_precision must lie in (0, 1], got {target_precision}")
    return target_precision - 1e-12


def reject_threshold(p_ok: ArrayLike, ok: ArrayLike, target_precision: float) -> float:
    """The largest threshold t such that, of the records with p_ok < t, the share that is really bad
    is at least `target_precision`.

    Where no threshold reaches the target (or there are no records) it is 0.0, below which nothing
    lies: nothing is rejected. Where rejecting everything reaches it, it lies just above the largest
    p_ok seen.

    Args:
        p_ok: probabilities [n].
        ok: what they really were [n], booleans. Probabilities are taken as expectations:
            `reject_threshold(p, p, target)` sets a threshold on unlabelled records, as good as p is
            calibrated.

    Raises:
        ValueError: values outside 0..1, other shapes, or a target outside (0, 1].
    """
    probability = _probabilities(p_ok)
    target = _target(target_precision)
    labels = _labels(ok, len(probability))
    if len(probability) == 0:
        return NOTHING
    thresholds, rejected, bad = _curve(probability, labels)
    good = np.flatnonzero(bad >= target * rejected)
    return float(thresholds[good[-1]]) if len(good) else NOTHING


@dataclass(frozen=True, slots=True)
class StratumThresholds:
    """A reject threshold per stratum, those of their parents, and the pooled one for all others.

    Attributes:
        pooled: over all strata together; also for strata never seen.
        own: thresholds of the strata that had enough rejects to have one.
        rejects: records of each stratum below its threshold when it was set.
        target_precision: what was aimed for.
        parents: thresholds of the parents that had enough rejects. parent_of: stratum -> parent.
    """

    pooled: float
    own: Mapping[str, float]
    rejects: Mapping[str, int]
    target_precision: float
    parents: Mapping[str, float] = field(default_factory=dict)
    parent_of: Mapping[str, str] = field(default_factory=dict)

    def of(self, stratum: str) -> float:
        """The threshold of one stratum; records with P(ok) below it are rejected."""
        above = self.parents.get(self.parent_of.get(stratum, ""), self.pooled)
        return self.own.get(stratum, above)

    def rejected(self, p_ok: ArrayLike, strata: Sequence[str]) -> NDArray[np.bool_]:
        """Which records are rejected [n]."""
        probability = _probabilities(p_ok)
        limits = np.fromiter((self.of(stratum) for stratum in strata), np.float64, len(strata))
        return np.asarray(probability < limits, np.bool_)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; `from_dict` inverts it exactly."""
        return {
            "pooled": self.pooled,
            "own": dict(self.own),
            "rejects": dict(self.rejects),
            "target_precision": self.target_precision,
            "parents": dict(self.parents),
            "parent_of": dict(self.parent_of),
        }

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> StratumThresholds:
        """Inverse of `to_dict`."""
        return StratumThresholds(
            float(value["pooled"]),
            {str(name): float(number) for name, number in value["own"].items()},
            {str(name): int(number) for name, number in value["rejects"].items()},
            float(value["target_precision"]),
            {str(name): float(number) for name, number in value.get("parents", {}).items()},
            {str(name): str(parent) for name, parent in value.get("parent_of", {}).items()},
        )


@dataclass(frozen=True, slots=True)
class _Level:
    """What a part of the records leans on: its threshold and its precision at every threshold."""

    threshold: float
    precision: Floats


def stratum_thresholds(
    p_ok: ArrayLike,
    ok: ArrayLike,
    strata: Sequence[str],
    target_precision: float = 0.90,
    *,
    shrinkage: float = 50.0,
    fewest_rejects: int = 20,
    parents: Sequence[str] | None = None,
) -> StratumThresholds:
    """`reject_threshold` per stratum, with precision shrunk towards that of the level above.

    At threshold t the precision of a stratum is taken as

        (bad below t + shrinkage * precision above at t) / (records below t + shrinkage),

    so a stratum speaks for itself as it gathers more than `shrinkage` rejects, and a stratum with
    none gets the threshold of the level above: its parent's, whose precision is shrunk towards that
    of all records in the same way. One with fewer than `fewest_rejects` records below both its own
    threshold and the one above gets the latter outright.

    Args:
        p_ok: probabilities [n]. ok: booleans or probabilities [n], as in `reject_threshold`.
        strata: name of each record's stratum [n], such as "source / modality".
        shrinkage: weight of the precision above, in rejected records, at least 0.
        parents: name of the parent of each record's stratum [n], such as "source"; a stratum has one
            parent. Without them all records together are the level above.

    Raises:
        ValueError: as in `reject_threshold`.
    """
    probability = _probabilities(p_ok)
    labels = _labels(ok, len(probability))
    if len(strata) != len(probability):
        raise ValueError(f"{len(probability)} probabilities and {len(strata)} strata")
    if parents is not None and len(parents) != len(probability):
        raise ValueError(f"{len(probability)} probabilities and {len(parents)} parents")
    pooled = reject_threshold(probability, labels, target_precision)
    if len(probability) == 0:
        return StratumThresholds(pooled, {}, {}, target_precision)
    thresholds, rejected, bad = _curve(probability, labels)
    target = _target(target_precision)

    def level(inside: NDArray[np.bool_], above: _Level) -> tuple[_Level, bool, Floats]:
        """(the part's level, whether it has a threshold of its own, its sorted probabilities)."""
        order = np.argsort(probability[inside], kind="stable")
        sorted_p = probability[inside][order]
        bad_before = np.append(0.0, np.cumsum(1 - labels[inside][order]))
        below = np.searchsorted(sorted_p, thresholds, side="left")
        shrunk = (bad_before[below] + shrinkage * above.precision) / np.maximum(
            below + shrinkage, 1e-9
        )
        enough = np.flatnonzero((shrunk >= target) & (below + shrinkage > 0))
        chosen = float(thresholds[enough[-1]]) if len(enough) else NOTHING
        own = np.count_nonzero(sorted_p < max(chosen, above.threshold)) >= fewest_rejects
        return (_Level(chosen, shrunk) if own else above), bool(own), sorted_p

    everything = _Level(pooled, bad / rejected)
    levels: dict[str, _Level] = {}
    held: dict[str, float] = {}
    if parents is not None:
        names, _, place = _coded(parents)
        for index, name in enumerate(names):
            levels[name], has_own, _ = level(place == index, everything)
            if has_own:
                held[name] = levels[name].threshold
    names, first, place = _coded(strata)
    own: dict[str, float] = {}
    rejects: dict[str, int] = {}
    parent_of: dict[str, str] = {}
    for index, name in enumerate(names):
        above = everything
        if parents is not None:
            parent_of[name] = str(parents[first[index]])
            above = levels[parent_of[name]]
        made, has_own, sorted_p = level(place == index, above)
        if has_own:
            own[name] = made.threshold
        rejects[name] = int(np.count_nonzero(sorted_p < made.threshold))
    return StratumThresholds(pooled, own, rejects, target_precision, held, parent_of)
