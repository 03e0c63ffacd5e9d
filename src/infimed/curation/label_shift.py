"""Probabilities for data whose base rates differ from the data they were fitted on.

A calibrated P(ok | evidence) holds where defects are as common as among the labelled records. In
another source they are rarer or more common, and every probability is off in one direction. If the
evidence looks the same given ok and given defect ("label shift"), the correction is a factor on the
odds, and the new base rates can be had from unlabelled records: they maximise the likelihood of their
evidence, which the EM of Saerens, Latinne & Decaestecker (2002) climbs to. Alexandari, Kundaje &
Shrikumar (2020) show that this works as well as the scores are calibrated: calibrate first.

`shift_prior` and `estimate_prior` do this for one yes-no question. `Joint` does it for several
dimensions that may be defective together: it keeps how defects go together from the labelled records
(their odds ratios) and moves how common each is, by iterative proportional fitting (Deming & Stephan
1940). With independent defects P(ok) is then exactly the product over the dimensions; with records
that have one defect at most, where the product is too sure, it is the right sum.

Cost: O(n * patterns) a step of EM, with at most 2^d patterns and at most `MOST_RECORDS` records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from infimed.core.seeds import stream
from infimed.curation.calibration import Floats

MOST_RECORDS: Final = 20_000
"""Base rates are estimated from a random part of so many records; more would change no digit."""
MOST_DIMENSIONS: Final = 10
_STEPS: Final = 60
_EDGE: Final = 1e-6
_EM_STEPS: Final = 500
_EM_TOLERANCE: Final = 1e-6
_FITTING_STEPS: Final = 200


def _share(value: ArrayLike) -> Floats:
    array = np.asarray(value, np.float64)
    if not ((array >= 0) & (array <= 1)).all():
        raise ValueError(f"a base rate lies between 0 and 1, got {value!r}")
    return np.clip(array, _EDGE, 1 - _EDGE)


def shift_prior(p_ok: ArrayLike, before: ArrayLike, after: ArrayLike) -> Floats:
    """P(ok) where the share of ok records is `after` instead of `before`.

    Odds are multiplied by  after/(1-after) * (1-before)/before; 0 and 1 stay what they are. Shares
    may be given per record and are kept a millionth away from 0 and 1.
    """
    p, old, new = np.asarray(p_ok, np.float64), _share(before), _share(after)
    ok = p * (new / old)
    bad = (1 - p) * ((1 - new) / (1 - old))
    return np.asarray(ok / (ok + bad), np.float64)


def estimate_prior(
    p_ok: ArrayLike, before: float, *, expected: float | None = None, strength: float = 1.0
) -> float:
    """The share of ok records among unlabelled ones, from their scores.

    Args:
        p_ok: calibrated probabilities [n] under the base rate `before`.
        expected: what the share is taken to be before seeing them; `before` when None.
        strength: how many records that expectation counts for, at least 0. Without any evidence
            (no records, or scores that all equal `before`) the answer is the expectation.

    Returns:
        the q with  q = (sum of shifted probabilities + strength * expected) / (n + strength): the
        fixed point of EM, found by bisection, since the likelihood is concave in q.
    """
    start = float(_share(before))
    hoped = start if expected is None else float(_share(expected))
    p = np.asarray(p_ok, np.float64)
    if len(p) + strength <= 0:
        return hoped
    low, high = _EDGE, 1 - _EDGE
    for _ in range(_STEPS):
        middle = (low + high) / 2
        mean = (float(shift_prior(p, start, middle).sum()) + strength * hoped) / (len(p) + strength)
        low, high = (middle, high) if mean > middle else (low, middle)
    return (low + high) / 2


def likelihood_ratios(p_ok: Floats, before: Floats) -> Floats:
    """P(evidence | defect) / P(evidence | ok) per dimension [n, d], from calibrated P(ok) [n, d] under
    the base rates `before` [d]."""
    p = np.clip(p_ok, 1e-9, 1 - 1e-9)
    prior = _share(before)
    return np.asarray((1 - p) / p * (prior / (1 - prior)), np.float64)


@dataclass(frozen=True)
class Joint:
    """How often dimensions are defective together: a weight for each of the 2^d patterns.

    Attributes:
        weights: [2^d], summing to 1; bit j of the index says that dimension j is defective.
    """

    weights: tuple[float, ...]

    @property
    def dimensions(self) -> int:
        """d."""
        return len(self.weights).bit_length() - 1

    @property
    def patterns(self) -> Floats:
        """1 where defective: [2^d, d]."""
        index = np.arange(len(self.weights))[:, None]
        return ((index >> np.arange(self.dimensions)) & 1).astype(np.float64)

    @property
    def defects(self) -> Floats:
        """Share of records defective in each dimension [d]."""
        return np.asarray(np.array(self.weights) @ self.patterns, np.float64)

    def tilted(self, defects: ArrayLike) -> Joint:
        """The joint with these shares of defects [d] and the odds ratios of this one."""
        weights = _fitted(np.array(self.weights), self.patterns, _share(defects))
        return Joint(tuple(weights.tolist()))

    def posterior(self, ratios: Floats) -> tuple[Floats, Floats]:
        """(P(every dimension ok) [n], P(ok) of each [n, d]) given likelihood ratios [n, d]."""
        given = _posterior(ratios, np.array(self.weights), self.patterns)
        return given[:, 0], 1 - given @ self.patterns

    def estimate_defects(
        self, ratios: Floats, *, expected: ArrayLike | None = None, strength: float = 1.0
    ) -> Floats:
        """Shares of defects [d] among unlabelled records with these likelihood ratios [n, d], by EM.

        Args:
            expected: shares [d] taken to hold before seeing them; this joint's own when None.
            strength: how many records that expectation counts for.
        """
        hoped = _share(self.defects if expected is None else expected)
        if len(ratios) > MOST_RECORDS:
            chosen = stream(0, "label-shift", len(ratios)).permutation(len(ratios))[:MOST_RECORDS]
            ratios = ratios[np.sort(chosen)]
        base, patterns, shares = np.array(self.weights), self.patterns, hoped
        weights = base
        evidence = _evidence(ratios, patterns)
        for _ in range(_EM_STEPS):
            weights = _fitted(base, patterns, shares, start=weights)
            given = evidence * weights
            given /= given.sum(axis=1, keepdims=True)
            found = (given.sum(axis=0) @ patterns + strength * hoped) / (len(ratios) + strength)
            moved = float(np.abs(found - shares).max())
            shares = np.clip(found, _EDGE, 1 - _EDGE)
            if moved < _EM_TOLERANCE:
                break
        return np.asarray(shares, np.float64)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; `from_dict` inverts it exactly."""
        return {"weights": list(self.weights)}

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> Joint:
        """Inverse of `to_dict`."""
        return Joint(tuple(map(float, value["weights"])))


def _evidence(ratios: Floats, patterns: Floats) -> Floats:
    """Likelihood of the evidence under each pattern [n, 2^d], up to a factor per record."""
    logs = np.log(np.maximum(ratios, 1e-300)) @ patterns.T
    return np.asarray(np.exp(logs - logs.max(axis=1, keepdims=True)), np.float64)


def _posterior(ratios: Floats, weights: Floats, patterns: Floats) -> Floats:
    given = _evidence(ratios, patterns) * weights
    return np.asarray(given / given.sum(axis=1, keepdims=True), np.float64)


def _fitted(
    base: Floats, patterns: Floats, defects: Floats, *, start: Floats | None = None
) -> Floats:
    """Iterative proportional fitting of pattern weights to shares of defects.

    `start` may be any tilt of `base`, near the answer.
    """
    weights = (base if start is None else start).copy()
    for _ in range(_FITTING_STEPS):
        worst = 0.0
        for at, wanted in enumerate(defects):
            bad = patterns[:, at] > 0
            now = float(weights[bad].sum())
            worst = max(worst, abs(now - wanted))
            if not 0 < now < 1:  # a dimension that is never, or always, defective stays so
                continue
            weights = np.where(bad, weights * (wanted / now), weights * ((1 - wanted) / (1 - now)))
        if worst < 1e-10:
            break
    return np.asarray(weights / weights.sum(), np.float64)


def fit_joint(ok: ArrayLike, *, independent: float = 1.0) -> Joint:
    """The joint of labelled records ok [n, d].

    Args:
        independent: so many records are added as independent defects of the same rates would have
            them, so that no pattern is impossible just because it was not seen.

    Raises:
        ValueError: no records, or more than 10 dimensions.
    """
    labels = np.asarray(ok, bool)
    if labels.ndim != 2 or len(labels) == 0 or labels.shape[1] > MOST_DIMENSIONS:
        raise ValueError(f"labels must be [n, d] with n >= 1 and d <= {MOST_DIMENSIONS}")
    count = labels.shape[1]
    index = (~labels).astype(np.int64) @ (1 << np.arange(count))
    seen = np.bincount(index, minlength=2**count).astype(np.float64)
    rates = ((~labels).sum(axis=0) + 0.5) / (len(labels) + 1)
    alone = np.array(independent_joint(rates).weights)
    weights = (seen + independent * alone) / (len(labels) + independent)
    return Joint(tuple(weights.tolist()))


def independent_joint(defects: ArrayLike) -> Joint:
    """The joint of dimensions that are defective independently, with these shares of defects [d]."""
    rates = np.asarray(defects, np.float64)
    patterns = Joint((0.0,) * 2 ** len(rates)).patterns
    alone = np.where(patterns > 0, rates, 1 - rates).prod(axis=1)
    return Joint(tuple(alone.tolist()))


@dataclass(frozen=True)
class JointByStratum:
    """Joints of unlabelled records: pooled, and per stratum (shrunk towards it)."""

    pooled: Joint
    strata: Mapping[str, Joint]

    def of(self, stratum: str) -> Joint:
        """The joint of a stratum; the pooled one for strata never seen."""
        return self.strata.get(stratum, self.pooled)


def adapt_joint(
    joint: Joint, ratios: Floats, strata: Sequence[str], *, shrinkage: float = 100.0
) -> JointByStratum:
    """`joint` moved to the base rates of unlabelled records, over all and per stratum.

    Args:
        ratios: likelihood ratios [n, d]. strata: name of each record's stratum [n].
        shrinkage: how many records the pooled shares count for in each stratum.
    """
    if len(ratios) != len(strata):
        raise ValueError(f"{len(ratios)} records and {len(strata)} strata")
    pooled = joint.estimate_defects(ratios)
    names = np.asarray(strata, object)
    moved = {
        name: joint.tilted(
            joint.estimate_defects(ratios[names == name], expected=pooled, strength=shrinkage)
        )
        for name in sorted(set(strata))
    }
    return JointByStratum(joint.tilted(pooled), moved)
