"""From a judge's levels to P(ok) per dimension and overall, and to what is rejected.

Plain arrays in, plain arrays out, so that evidence of other tiers joins as columns (`extras`).

Per dimension: indicators of the judge's level (0, 1, 2, U) alone and times each extra column, and plain
columns of the dimension's own (what the rules think of it, the grounding gap) -> L2 logistic -> isotonic,
the latter on scores of folds the logistic did not see. A dimension looks at its own level only: the base rate of one dimension may then change without disturbing another, which the
correction for base rates (`label_shift`) relies on. Overall: the product, not a mean, so that one fatal
defect is not averaged away; where defects go together or exclude one another the product is corrected
by how often they were seen together (`label_shift.Joint`), and one logistic of two numbers takes back
the overconfidence of a judge whose errors in several dimensions have one cause.

Unknown is not zero: U is a level of its own whose meaning is learned; a record without a judgement
(refused, garbage, timeout) falls back on the base rate and the extras; and every P(ok) comes with the
interval it would move in if its unknown dimensions were 0 or 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from infimed.core.seeds import stream
from infimed.curation.calibration import (
    Floats,
    Isotonic,
    Logistic,
    StratumThresholds,
    fit_isotonic,
    fit_logistic,
    logit,
    stratum_thresholds,
)
from infimed.curation.label_shift import (
    Joint,
    JointByStratum,
    adapt_joint,
    fit_joint,
    independent_joint,
    likelihood_ratios,
)

Codes = NDArray[np.int8]
_Arrays = tuple[Codes, Floats, Floats]
"""Codes [n, d], extras [n, f] and plain columns [n, d, g], checked."""
U, NONE = 3, -1
"""Codes of a level beside 0, 1 and 2: cannot tell, and no judgement."""
LEVEL_CODES: Final = (0, 1, 2, U, NONE)
FOLDS: Final = 5
FEWEST: Final = 5
"""A code seen less often than this in training says nothing yet: the base rate stands in."""
FEWEST_WHOLE: Final = 20
"""Records labelled in every dimension that it takes to see how defects go together."""
UNCHANGED: Final = Logistic((0.0,), (1.0,), (1.0,), 0.0)
"""Leaves a log-odds as it is."""
_SMOOTHING: Final = 0.5


def level_features(codes: ArrayLike, extras: Floats, plain: Floats | None = None) -> Floats:
    """Features [n, 4 + f + 4f + g] of one dimension's codes [n], extras [n, f] and plain columns [n, g]:
    indicators of 0, 1, 2 and U, the extras, each indicator times each extra, and the plain columns as
    they are. NONE has no indicator."""
    column = np.asarray(codes)
    indicators = np.stack([(column == code).astype(np.float64) for code in (0, 1, 2, U)], axis=1)
    crossed = (indicators[:, :, None] * extras[:, None, :]).reshape(len(column), -1)
    parts = [indicators, extras, crossed] if plain is None else [indicators, extras, crossed, plain]
    return np.hstack(parts)


@dataclass(frozen=True)
class DimensionModel:
    """P(ok) of one dimension.

    Attributes:
        logistic, isotonic: features -> logit -> probability. prior: share of ok in the data that the
            labelled records come from.
        known: codes seen often enough in training.
    """

    logistic: Logistic
    isotonic: Isotonic
    prior: float
    known: frozenset[int]

    def probability(self, codes: ArrayLike, extras: Floats, plain: Floats | None = None) -> Floats:
        """P(ok) [n] under the base rate of that data."""
        column = np.asarray(codes)
        made = self.isotonic(self.logistic.logit(level_features(column, extras, plain)))
        return np.where(self.knows(column), made, self.prior)

    def knows(self, codes: ArrayLike) -> NDArray[np.bool_]:
        """Which codes were seen often enough to mean something [n]."""
        return np.isin(np.asarray(codes), sorted(self.known))


@dataclass(frozen=True)
class Scores:
    """What a scorer says of n records.

    Attributes:
        p_ok: [n], overall. dimensions: [n, d], P(ok) of each.
        low, high: [n], P(ok) if every unknown dimension were level 0, or level 2.
    """

    p_ok: Floats
    dimensions: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class JudgeScorer:
    """A model per dimension, how defects go together, and the last correction of P(ok)."""

    names: tuple[str, ...]
    models: tuple[DimensionModel, ...]
    joint: Joint
    overall: Logistic
    extra_names: tuple[str, ...] = ()
    plain_names: tuple[str, ...] = ()

    def ratios(
        self, codes: ArrayLike, extras: ArrayLike | None = None, plain: ArrayLike | None = None
    ) -> Floats:
        """P(evidence | defect) / P(evidence | ok) [n, d]; arguments as in `score`."""
        return _ratios(self.models, self._checked(codes, extras, plain))

    def _checked(
        self, codes: ArrayLike, extras: ArrayLike | None, plain: ArrayLike | None
    ) -> _Arrays:
        counts = (len(self.names), len(self.extra_names), len(self.plain_names))
        return _arrays(codes, extras, plain, *counts)

    def adapt(
        self,
        codes: ArrayLike,
        extras: ArrayLike | None,
        strata: Sequence[str],
        *,
        plain: ArrayLike | None = None,
        shrinkage: float = 100.0,
    ) -> JointByStratum:
        """Base rates in these unlabelled records, over all and per stratum, for `score`."""
        ratios = self.ratios(codes, extras, plain)
        return adapt_joint(self.joint, ratios, strata, shrinkage=shrinkage)

    def score(
        self,
        codes: ArrayLike,
        extras: ArrayLike | None = None,
        *,
        plain: ArrayLike | None = None,
        joints: JointByStratum | None = None,
        strata: Sequence[str] | None = None,
    ) -> Scores:
        """P(ok) of records.

        Args:
            codes: [n, d] levels: 0, 1, 2, 3 for U, -1 for no judgement. extras: finite [n, f].
            plain: finite [n, d, g], columns of each dimension's own.
            joints: base rates as `adapt` found them, with the strata [n] of the records; without
                them those of the training records hold.
        """
        levels, columns, own = self._checked(codes, extras, plain)
        if joints is not None and (strata is None or len(strata) != len(levels)):
            raise ValueError("base rates per stratum need the stratum of every record")
        made = []
        for supposed in (levels, *supposing(levels)):
            ratios = _ratios(self.models, (supposed, columns, own))
            made.append(self.posterior(ratios, joints, strata))
        (p_ok, dimensions), (low, _), (high, _) = made
        return Scores(p_ok, dimensions, np.minimum(low, p_ok), np.maximum(high, p_ok))

    def posterior(
        self, ratios: Floats, joints: JointByStratum | None, strata: Sequence[str] | None
    ) -> tuple[Floats, Floats]:
        """(P(ok) [n], P(ok) of each dimension [n, d]) of likelihood ratios [n, d]; see `score`."""
        p_ok, dimensions = np.empty(len(ratios)), np.empty(ratios.shape)
        if joints is None or strata is None:
            p_ok, dimensions = self.joint.posterior(ratios)
        else:
            names = np.asarray(strata, object)
            for name in set(strata):
                own = names == name
                p_ok[own], dimensions[own] = joints.of(name).posterior(ratios[own])
        return self.overall.probability(logit(p_ok)[:, None]), dimensions

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; `from_dict` inverts it exactly."""
        return {
            "names": list(self.names),
            "extras": list(self.extra_names),
            "plain": list(self.plain_names),
            "joint": self.joint.to_dict(),
            "overall": self.overall.to_dict(),
            "models": [
                {
                    "logistic": model.logistic.to_dict(),
                    "isotonic": model.isotonic.to_dict(),
                    "prior": model.prior,
                    "known": sorted(model.known),
                }
                for model in self.models
            ],
        }

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> JudgeScorer:
        """Inverse of `to_dict`."""
        models = tuple(
            DimensionModel(
                Logistic.from_dict(entry["logistic"]),
                Isotonic.from_dict(entry["isotonic"]),
                float(entry["prior"]),
                frozenset(int(code) for code in entry["known"]),
            )
            for entry in value["models"]
        )
        return JudgeScorer(
            tuple(value["names"]),
            models,
            Joint.from_dict(value["joint"]),
            Logistic.from_dict(value["overall"]),
            tuple(value["extras"]),
            tuple(value["plain"]),
        )


def supposing(codes: Codes) -> tuple[Codes, Codes]:
    """The codes with every unknown level (U, NONE) taken for 0, and for 2."""
    unknown = (codes == U) | (codes == NONE)
    low, high = (np.where(unknown, level, codes).astype(np.int8) for level in (0, 2))
    return low, high


def _arrays(
    codes: ArrayLike,
    extras: ArrayLike | None,
    plain: ArrayLike | None,
    dimensions: int,
    columns: int,
    own: int,
) -> _Arrays:
    levels = np.asarray(codes)
    if levels.ndim != 2 or levels.shape[1] != dimensions:
        raise ValueError(f"levels must be [n, {dimensions}], got {levels.shape}")
    if not np.isin(levels, LEVEL_CODES).all():
        raise ValueError(f"levels are coded {LEVEL_CODES}")
    rows = len(levels)
    made = np.zeros((rows, 0)) if extras is None else np.asarray(extras, np.float64)
    if made.shape != (rows, columns) or not np.isfinite(made).all():
        raise ValueError(f"extras must be finite and [{rows}, {columns}], got {made.shape}")
    shape = (rows, dimensions, own)
    beside = np.zeros(shape) if plain is None else np.asarray(plain, np.float64)
    if beside.shape != shape or not np.isfinite(beside).all():
        raise ValueError(f"plain columns must be finite and {list(shape)}, got {beside.shape}")
    return levels.astype(np.int8), made, beside


def fold_of(groups: Sequence[str], folds: int, seed: int) -> NDArray[np.int64]:
    """The fold of each record [n]; records of one group (a patient, an image) stay together."""
    names = sorted(set(groups))
    dealt = stream(seed, "judge-folds").permutation(len(names)) % folds
    place = dict(zip(names, dealt.tolist(), strict=True))
    return np.array([place[group] for group in groups], np.int64)


def fit_judge_scorer(
    codes: ArrayLike,
    ok: ArrayLike,
    extras: ArrayLike | None = None,
    *,
    names: Sequence[str],
    extra_names: Sequence[str] = (),
    plain: ArrayLike | None = None,
    plain_names: Sequence[str] = (),
    labelled: ArrayLike | None = None,
    population: tuple[ArrayLike, ArrayLike | None, ArrayLike | None] | None = None,
    groups: Sequence[str] | None = None,
    l2: float = 1.0,
    seed: int = 0,
) -> JudgeScorer:
    """Fit on labelled records.

    Args:
        codes, extras, plain: as in `JudgeScorer.score`. ok: [n, d], whether each dimension is really
            ok. labelled: [n, d], where `ok` is known; everywhere when None.
        population: codes, extras and plain columns of records as they come, where the labelled ones
            were not drawn as they come (a sample enriched with suspects). What the evidence means does
            not depend on how records were drawn; how common defects are does, and is taken from here.
        groups: [n], kept together in the folds; every record alone when None.

    Raises:
        ValueError: fewer than 2 groups, wrong shapes or codes.
    """
    counts = (len(names), len(extra_names), len(plain_names))
    given = _arrays(codes, extras, plain, *counts)
    levels, columns, own = given
    labels = np.asarray(ok, bool)
    known = np.ones(labels.shape, bool) if labelled is None else np.asarray(labelled, bool)
    if labels.shape != levels.shape or known.shape != levels.shape:
        raise ValueError(f"labels must be {levels.shape}, got {labels.shape}")
    chosen = groups if groups is not None else [str(index) for index in range(len(levels))]
    if len(chosen) != len(levels) or len(set(chosen)) < 2:
        raise ValueError("fitting needs a group for every record and at least two groups")
    fold = fold_of(chosen, min(FOLDS, len(set(chosen))), seed)
    models = []
    for at in range(len(names)):
        use = known[:, at]
        arrays = (levels[use, at], columns[use], own[use, at])
        models.append(_fit_dimension(arrays, labels[use, at], fold[use], l2))
    whole = known.all(axis=1)
    joint = independent_joint([1 - model.prior for model in models])
    if whole.sum() >= FEWEST_WHOLE:
        joint = fit_joint(labels[whole])
    if population is not None:
        drawn = _arrays(*population, *counts)
        models = [_rebased(model, drawn, at) for at, model in enumerate(models)]
        joint = joint.tilted([1 - model.prior for model in models])
    p_ok = joint.posterior(_ratios(models, given))[0][whole]
    sound = np.asarray(labels[whole].all(axis=1), bool)
    overall = UNCHANGED
    if 0 < sound.sum() < len(sound):
        overall = fit_logistic(logit(p_ok)[:, None], sound, l2)
    return JudgeScorer(
        tuple(names), tuple(models), joint, overall, tuple(extra_names), tuple(plain_names)
    )


def _ratios(models: Sequence[DimensionModel], given: _Arrays) -> Floats:
    levels, columns, own = given
    p = [m.probability(levels[:, at], columns, own[:, at]) for at, m in enumerate(models)]
    return likelihood_ratios(np.stack(p, axis=1), np.array([model.prior for model in models]))


def _rebased(model: DimensionModel, drawn: _Arrays, at: int) -> DimensionModel:
    """The model with the base rate of these records: the mean of what it thinks of them."""
    levels, columns, own = drawn
    p = model.probability(levels[:, at], columns, own[:, at])[model.knows(levels[:, at])]
    return replace(model, prior=float(p.mean())) if len(p) else model


def _fit_dimension(
    given: tuple[Codes, Floats, Floats], ok: NDArray[np.bool_], fold: NDArray[np.int64], l2: float
) -> DimensionModel:
    codes = given[0]
    if len(codes) == 0:  # nobody labelled this dimension: ok, and its evidence says nothing
        return DimensionModel(UNCHANGED, Isotonic((0.0,), (1.0,)), 1 - 1e-6, frozenset())
    features = level_features(*given)
    held_out = np.empty(len(codes))
    parts = np.unique(fold)
    for number in parts:
        inside = fold == number
        others = ~inside if len(parts) > 1 else inside
        held_out[inside] = fit_logistic(features[others], ok[others], l2).logit(features[inside])
    known = frozenset(code for code in LEVEL_CODES if np.count_nonzero(codes == code) >= FEWEST)
    return DimensionModel(
        fit_logistic(features, ok, l2),
        fit_isotonic(held_out, ok, smoothing=_SMOOTHING),
        float((ok.sum() + 0.5) / (len(ok) + 1)),
        known,
    )


@dataclass(frozen=True)
class Decision:
    """What was rejected, and how each stratum fared.

    Attributes:
        rejected: [n]. thresholds: P(ok) below which a stratum's records are rejected.
        retained: stratum -> (records, kept), so that a filter that hits one hospital or modality
            harder than another is seen.
    """

    rejected: NDArray[np.bool_]
    thresholds: StratumThresholds
    retained: Mapping[str, tuple[int, int]]


def decide_by_score(
    p_ok: ArrayLike,
    strata: Sequence[str],
    *,
    target_precision: float = 0.90,
    ok: ArrayLike | None = None,
    shrinkage: float = 50.0,
) -> Decision:
    """Reject as much as the target precision of rejects allows, per stratum.

    Args:
        p_ok: [n], for the records at hand (shifted to their base rates).
        strata: [n], such as "source / modality".
        ok: labels [n] to set the thresholds by; without them the expectation under p_ok is used,
            which is as good as p_ok is calibrated.
    """
    p = np.asarray(p_ok, np.float64)
    thresholds = stratum_thresholds(
        p, p if ok is None else ok, strata, target_precision, shrinkage=shrinkage
    )
    rejected = thresholds.rejected(p, strata)
    names = np.asarray(strata, object)
    retained = {
        name: (int((names == name).sum()), int(((names == name) & ~rejected).sum()))
        for name in sorted(set(strata))
    }
    return Decision(rejected, thresholds, retained)
