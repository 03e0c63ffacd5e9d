"""From a raw probability to one that can be believed, and the confidence below which to abstain.

A map is fitted on (raw probability of the answer, whether it was right) pairs by likelihood:

- ``temperature``: p^b / (p^b + (1-p)^b), b = 1/T at least 0; over several options p_i^b / sum p_j^b. One
  number, so it needs few pairs. Guo et al., *On Calibration of Modern Neural Networks* (2017), arXiv:1706.04599.
- ``platt``: sigmoid(slope * logit p + offset), slope at least 0. Platt (1999), with his smoothed targets.
- ``isotonic``: pool adjacent violators, then straight lines between the middles of the pools, so that what was
  told apart stays so within the range of the middles. Zadrozny & Elkan (2002).

Which of them: the one with the lowest negative log-likelihood on folds that it did not see; folds are of whole
groups. Pure functions; the same pairs give the same map. Cost: milliseconds for thousands of pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from infimed.core.seeds import stream
from infimed.core.statistics import group_index, wilson_interval

Floats = NDArray[np.float64]
Method = Literal["temperature", "platt", "isotonic"]
METHODS: tuple[Method, ...] = get_args(Method)

SMALLEST: Final = 1e-12
"""Raw probabilities are kept this far from 0 and 1."""
FOLDS: Final = 5
FEW: Final = 50
"""Below so many pairs only the temperature is tried."""
FOR_ISOTONIC: Final = 200
"""Below so many pairs isotonic regression is not tried: it has as many numbers as it finds pools."""
_MOST_POWER: Final = 100.0
_STEPS: Final = 80
_RIDGE: Final = 1e-6


@dataclass(frozen=True, slots=True)
class ProbabilityMap:
    """A map from raw to calibrated probability, never falling.

    Attributes:
        method: see the module. points: ``temperature`` one pair (b, 0); ``platt`` one pair (slope, offset);
            ``isotonic`` pairs (raw, calibrated) of rising raw probability.
    """

    method: Method
    points: tuple[tuple[float, float], ...]

    def __call__(self, raw: float) -> float:
        """The calibrated probability of one answer."""
        return float(self.of(np.array([raw]))[0])

    def of(self, raw: Floats) -> Floats:
        """Calibrated probabilities [n] of raw ones [n] in 0..1."""
        first, second = self.points[0]
        if self.method == "temperature":
            return _sigmoid(first * _logit(raw))
        if self.method == "platt":
            return _sigmoid(first * _logit(raw) + second)
        x, y = np.array(self.points, np.float64).T
        return np.interp(raw, x, y)

    def shares(self, raw: Sequence[float]) -> list[float]:
        """Calibrated shares of several options whose raw shares sum to 1; their order stays.

        Raises:
            ValueError: the map is no temperature.
        """
        if self.method != "temperature":
            raise ValueError("only a temperature maps the shares of several options")
        return _powered(np.array([raw], np.float64), self.points[0][0])[0].tolist()


@dataclass(frozen=True, slots=True)
class Fitted:
    """The chosen map and why.

    Attributes:
        map: fitted on all pairs. held_out: calibrated probabilities [n] by maps that did not see the pair's
            group. nll: mean negative log-likelihood (nats) on held-out folds by method; ``raw`` without a map.
    """

    map: ProbabilityMap
    held_out: tuple[float, ...]
    nll: dict[str, float]


def _logit(raw: Floats) -> Floats:
    inside = np.clip(raw, SMALLEST, 1 - SMALLEST)
    return np.asarray(np.log(inside) - np.log1p(-inside))


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))


def _powered(shares: Floats, power: float) -> Floats:
    """Rows p_i^power / sum p_j^power of [n, k]; NaN stands for no option and stays."""
    scores = power * np.log(np.clip(shares, SMALLEST, 1.0))
    odds = np.exp(scores - np.nanmax(scores, axis=1, keepdims=True))
    return np.asarray(odds / np.nansum(odds, axis=1, keepdims=True))


def negative_log_likelihood(probability: Floats, right: Floats) -> float:
    """Mean of -log(probability of what happened) in nats, of probabilities [n] and outcomes [n] 0 or 1."""
    inside = np.clip(probability, SMALLEST, 1 - SMALLEST)
    return float(-(right * np.log(inside) + (1 - right) * np.log1p(-inside)).mean())


def temperature_of_shares(
    shares: Sequence[Sequence[float]], right: Sequence[int]
) -> ProbabilityMap:
    """The temperature that makes the right options likeliest.

    Args:
        shares: per question the raw shares of its options. right: number of the right one.

    Raises:
        ValueError: nothing is given, or lengths differ.
    """
    if not shares or len(shares) != len(right):
        raise ValueError(f"{len(shares)} questions and {len(right)} right options")
    table = np.full((len(shares), max(map(len, shares))), np.nan)
    for row, own in zip(table, shares, strict=True):
        row[: len(own)] = own
    at = np.arange(len(table)), np.asarray(right)
    return ProbabilityMap(
        "temperature", ((_power(lambda power: _missed(_powered(table, power)[at])), 0.0),)
    )


def _missed(probability: Floats) -> float:
    return float(-np.log(np.clip(probability, SMALLEST, 1.0)).mean())


def _power(loss: Callable[[float], float]) -> float:
    """The power in 0..100 with the least loss, which is convex in it: golden sections."""
    ratio = (5**0.5 - 1) / 2
    low, high = 0.0, _MOST_POWER
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = loss(left), loss(right)
    for _ in range(_STEPS):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = loss(right)
    return (low + high) / 2


def _temperature(raw: Floats, right: Floats) -> ProbabilityMap:
    logit = _logit(raw)
    power = _power(lambda power: negative_log_likelihood(_sigmoid(power * logit), right))
    return ProbabilityMap("temperature", ((power, 0.0),))


def _platt(raw: Floats, right: Floats) -> ProbabilityMap:
    """Newton's method on two numbers; where the slope would be negative the map is constant."""
    good, bad = float(right.sum()), float((1 - right).sum())
    target = np.where(right > 0, (good + 1) / (good + 2), 1 / (bad + 2))
    columns = np.stack([_logit(raw), np.ones(len(raw))], axis=1)
    weights = np.array([1.0, 0.0])
    for _ in range(_STEPS):
        said = _sigmoid(columns @ weights)
        slope = columns.T @ (said - target) + _RIDGE * weights
        curve = (columns * (said * (1 - said))[:, None]).T @ columns + _RIDGE * np.eye(2)
        step = np.linalg.solve(curve, slope)
        step *= min(
            1.0, 5.0 / max(float(np.abs(step).max()), SMALLEST)
        )  # far from the optimum it overshoots
        weights = weights - step
        if float(np.abs(step).max()) < 1e-9:
            break
    if weights[0] < 0:
        return ProbabilityMap("platt", ((0.0, float(np.log(target.mean() / (1 - target.mean())))),))
    return ProbabilityMap("platt", ((float(weights[0]), float(weights[1])),))


def pools(raw: Floats, right: Floats) -> list[tuple[float, float, int]]:
    """Pool adjacent violators: (mean raw, share right, n) of each pool, both rising.

    Equal raw probabilities are pooled first, so the order of the pairs has no effect.
    """
    values, inverse = np.unique(raw, return_inverse=True)
    count = np.bincount(inverse).astype(np.float64)
    good = np.bincount(inverse, weights=right)
    made: list[list[float]] = []  # sums of raw, of right, and n
    for value, n, sure in zip(values.tolist(), count.tolist(), good.tolist(), strict=True):
        made.append([value * n, sure, n])
        while len(made) > 1 and made[-2][1] * made[-1][2] >= made[-1][1] * made[-2][2]:
            last = made.pop()
            made[-1] = [a + b for a, b in zip(made[-1], last, strict=True)]
    return [(total / n, sure / n, round(n)) for total, sure, n in made]


def _isotonic(raw: Floats, right: Floats) -> ProbabilityMap:
    edge = 1 / (2 * (len(raw) + 1))  # nobody is certain after n pairs
    points = [(x, min(max(y, edge), 1 - edge)) for x, y, _ in pools(raw, right)]
    return ProbabilityMap("isotonic", tuple(points))


_FITS: Final = {"temperature": _temperature, "platt": _platt, "isotonic": _isotonic}


def fit_method(method: Method, raw: Sequence[float] | Floats, right: Sequence[float] | Floats) -> ProbabilityMap:  # fmt: skip
    """One map of a method.

    Raises:
        ValueError: lengths differ, nothing is given, or a value is out of range.
    """
    return _FITS[method](*_checked(raw, right))


def fit(
    raw: Sequence[float] | Floats,
    right: Sequence[float] | Floats,
    groups: Sequence[Hashable],
    *,
    methods: Sequence[Method] = METHODS,
    seed: int = 0,
) -> Fitted:
    """The best of the methods that this many pairs allow; see the module.

    Args:
        raw: probability of each answer in 0..1 [n]. right: 1 or 0 [n]. groups: patient or image of each [n].

    Raises:
        ValueError: lengths differ, nothing is given, a value is out of range, or there is one group only.
    """
    sure, good = _checked(raw, right)
    fold = folds(groups, seed=seed)
    if len(fold) != len(sure):
        raise ValueError(f"{len(sure)} answers and {len(fold)} groups")
    if len(sure) < FEW:
        methods = ("temperature",)
    elif len(sure) < FOR_ISOTONIC:
        methods = [method for method in methods if method != "isotonic"]
    said: dict[Method, Floats] = {}
    for method in methods:
        said[method] = np.zeros(len(sure))
        for number in np.unique(fold):
            inside = fold != number
            said[method][~inside] = _FITS[method](sure[inside], good[inside]).of(sure[~inside])
    nll = {method: negative_log_likelihood(own, good) for method, own in said.items()}
    best = min(said, key=lambda method: nll[method])
    found: dict[str, float] = {"raw": negative_log_likelihood(sure, good)}
    found.update((str(method), value) for method, value in nll.items())
    return Fitted(_FITS[best](sure, good), tuple(said[best].tolist()), found)


def folds(groups: Sequence[Hashable], *, seed: int = 0, count: int = FOLDS) -> NDArray[np.int64]:
    """Fold of each sample [n]: whole groups, dealt by a seed.

    Raises:
        ValueError: there are fewer than two groups.
    """
    index, number = group_index(groups)
    if number < 2:
        raise ValueError(f"{number} groups; at least two are needed to hold one out")
    dealt = np.empty(number, np.int64)
    dealt[stream(seed, "calibration folds").permutation(number)] = np.arange(number) % count
    return dealt[index]


def _checked(
    raw: Sequence[float] | Floats, right: Sequence[float] | Floats
) -> tuple[Floats, Floats]:
    sure, good = np.asarray(raw, np.float64), np.asarray(right, np.float64)
    if len(sure) != len(good) or not len(sure):
        raise ValueError(f"{len(sure)} probabilities and {len(good)} answers")
    if not ((sure >= 0) & (sure <= 1)).all() or not np.isin(good, (0.0, 1.0)).all():
        raise ValueError("probabilities must be in 0..1, and an answer is right (1) or wrong (0)")
    return sure, good


def threshold_for_coverage(confidence: Sequence[float], coverage: float) -> float:
    """The greatest threshold that at least a share `coverage` of the confidences reach.

    Raises:
        ValueError: nothing is given, or `coverage` is not in (0, 1].
    """
    if not len(confidence) or not 0 < coverage <= 1:
        raise ValueError(f"{len(confidence)} confidences and a coverage of {coverage}")
    ordered = sorted(confidence, reverse=True)
    return float(ordered[min(len(ordered), _ceil(coverage * len(ordered))) - 1])


def _ceil(value: float) -> int:
    return int(np.ceil(value - 1e-9))  # 0.7 * 10 is more than 7


def threshold_for_risk(
    confidence: Sequence[float], right: Sequence[float], risk: float, *, level: float = 0.9
) -> float | None:
    """The smallest threshold above which errors are at most a share `risk`, by the upper limit of their
    Wilson interval of this level; None where there is none.

    The limit is of one threshold that was looked for among many, and counts questions as independent: a
    careful choice, not a guarantee.

    Raises:
        ValueError: lengths differ, or nothing is given.
    """
    sure, good = _checked(confidence, right)
    values, inverse = np.unique(-sure, return_inverse=True)
    wrong = np.cumsum(np.bincount(inverse, weights=1 - good))
    n = np.cumsum(np.bincount(inverse))
    for at in range(len(values) - 1, -1, -1):
        if wilson_interval(round(wrong[at]), int(n[at]), level)[1] <= risk:
            return float(-values[at])
    return None
