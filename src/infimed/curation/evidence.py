"""The weight of evidence: what rules, signals, a judge and the grounding gap say of each record.

Before base rates: P(ok) by the rules at the evaluator's own, and for an evaluator that knows a judge the
likelihood ratio of everything together, by dimension. And which piece of evidence counts most: the one
without which the log-odds of a defect would fall furthest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from infimed.curation.calibration import Floats, logit
from infimed.curation.findings import DIMENSIONS, QUALITY
from infimed.curation.judge_scoring import NONE, Codes, supposing
from infimed.curation.label_shift import likelihood_ratios
from infimed.curation.score_features import PartFeatures
from infimed.curation.scoring import Evaluator, feature_names

DROPPING, NOTING, JUDGE, GROUNDING = (
    "rules that drop", "rules that note", "judge", "grounding",
)  # fmt: skip
_NAMED: Final = {"drops": DROPPING, "notes": NOTING}
LARGEST_GAP: Final = 5.0
"""Grounding gaps beyond this, in nats per token, count as this: a single odd answer is no lever."""
_LEAST_GAIN: Final = 1e-9


@dataclass(frozen=True)
class Weighed:
    """A part of the records, weighed.

    Attributes:
        rows, record_ids, strata: [n]. drops, gates: [n, 7], as in `PartFeatures`.
        judged: [n], whether there are levels. heard: [n], levels or a grounding gap.
        rules: P(ok) by the rules [n, 7], before base rates and gates; 1 where the evaluator has no model.
        ratios: P(evidence | defect) / P(evidence | ok) [n, 5], and the same if every level that is not
            known were 0, or 2; None for an evaluator that knows no judge.
        strongest: dimension -> the evidence that counts most against each record [n], or "".
    """

    rows: NDArray[np.int64]
    record_ids: list[str]
    strata: list[str]
    drops: NDArray[np.bool_]
    gates: NDArray[np.bool_]
    judged: NDArray[np.bool_]
    heard: NDArray[np.bool_]
    rules: Floats
    ratios: tuple[Floats, Floats, Floats] | None
    strongest: Mapping[str, list[str]]


def weigh(evaluator: Evaluator, seen: PartFeatures) -> Weighed:
    """Weigh a part of the records."""
    judged = np.asarray((seen.codes != NONE).any(axis=1), bool)
    rules = np.column_stack([by_rules(evaluator, name, seen.inputs[name]) for name in DIMENSIONS])
    ratios = None
    if evaluator.evidence is not None:
        plain = plain_columns(evaluator.evidence.plain_names, rules, seen.gaps)
        first, *supposed = (
            ratios_of(evaluator, rules, codes, seen.log_length, plain)
            for codes in (seen.codes, *supposing(seen.codes))
        )
        ratios = (first, supposed[0], supposed[1])
    return Weighed(
        seen.rows, seen.record_ids, seen.strata, seen.drops, seen.gates,
        judged, judged | np.isfinite(seen.gaps).any(axis=1), rules, ratios,
        {
            name: _strongest(evaluator, name, at, seen, rules)
            for at, name in enumerate(DIMENSIONS)
        },
    )  # fmt: skip


def by_rules(evaluator: Evaluator, dimension: str, x: Floats) -> Floats:
    """P(ok) [n] of features [n, f] at the evaluator's base rate; 1 where it has no model."""
    model = evaluator.models.get(dimension)
    return np.ones(len(x)) if model is None else model.probability(x)


def plain_columns(wanted: Sequence[str], rules: Floats, gaps: Floats) -> Floats:
    """What stands beside a judge's levels [n, 5, g], the `wanted` of `scoring.PLAIN` in order."""
    n = len(rules)
    measured = np.isfinite(gaps)
    held = np.clip(np.where(measured, gaps, 0.0), -LARGEST_GAP, LARGEST_GAP)
    shared = {
        "gap_without": held[:, 0],
        "gap_swapped": held[:, 1],
        "gap_measured": measured[:, 0].astype(np.float64),
    }
    made = np.zeros((n, len(QUALITY), len(wanted)))
    for at, name in enumerate(wanted):
        if name == "rules":
            made[:, :, at] = logit(rules[:, : len(QUALITY)], 1e-4)
        else:
            made[:, :, at] = shared[name][:, None]
    return made


def ratios_of(
    evaluator: Evaluator, rules: Floats, codes: Codes, log_length: Floats, plain: Floats
) -> Floats:
    """Likelihood ratios [n, 5]. Where a level was never seen in training the rules alone speak."""
    assert evaluator.evidence is not None
    ratios = evaluator.evidence.ratios(codes, log_length[:, None], plain)
    for at, name in enumerate(QUALITY):
        strange = ~evaluator.evidence.models[at].knows(codes[:, at])
        ratios[strange, at] = rules_ratio(evaluator, name, rules[strange, at])
    return ratios


def rules_ratio(evaluator: Evaluator, dimension: str, p_ok: Floats) -> Floats:
    """P(evidence | defect) / P(evidence | ok) [n] of the rules alone, in one dimension."""
    model = evaluator.models.get(dimension)
    if model is None:
        return np.ones(len(p_ok))
    return likelihood_ratios(p_ok[:, None], np.array([model.prior]))[:, 0]


def _strongest(
    evaluator: Evaluator, dimension: str, at: int, seen: PartFeatures, rules: Floats
) -> list[str]:
    """The evidence without which a defect would be least likely [n]; "" where none speaks for one."""
    n = len(seen)
    best, name_of = np.full(n, _LEAST_GAIN), np.full(n, "", object)
    x = seen.inputs[dimension]
    whole = _log_ratio(evaluator, dimension, at, seen, rules, rules[:, at], seen.codes, seen.gaps)

    def offer(name: str, rows: NDArray[np.bool_], without: Floats) -> None:
        gain = np.where(rows, whole - without, 0.0)
        better = gain > best
        best[better] = gain[better]
        name_of[better] = name

    for column, feature in enumerate(feature_names(dimension)):
        rows = x[:, column] > 0
        if not rows.any() or dimension not in evaluator.models:
            continue
        changed = x.copy()
        changed[:, column] = 0.0
        p_ok = by_rules(evaluator, dimension, changed)
        without = _log_ratio(evaluator, dimension, at, seen, rules, p_ok, seen.codes, seen.gaps)
        offer(_NAMED.get(feature, feature), rows, without)
    if evaluator.evidence is not None and at < len(QUALITY):
        judged = seen.codes[:, at] != NONE
        if judged.any():
            codes = np.full_like(seen.codes, NONE)
            without = _log_ratio(
                evaluator, dimension, at, seen, rules, rules[:, at], codes, seen.gaps
            )
            offer(JUDGE, judged, without)
        measured = np.asarray(np.isfinite(seen.gaps).any(axis=1), bool)
        if measured.any():
            gaps = np.full_like(seen.gaps, np.nan)
            without = _log_ratio(
                evaluator, dimension, at, seen, rules, rules[:, at], seen.codes, gaps
            )
            offer(GROUNDING, measured, without)
    # A rule that drops outweighs everything, whatever the evaluator thinks of it.
    name_of[seen.drops[:, at]] = DROPPING
    return [str(name) for name in name_of]


def _log_ratio(
    evaluator: Evaluator,
    dimension: str,
    at: int,
    seen: PartFeatures,
    rules: Floats,
    p_ok: Floats,
    codes: Codes,
    gaps: Floats,
) -> Floats:
    """log P(evidence | defect) / P(evidence | ok) [n] in one dimension, its P(ok) by rules as given."""
    if evaluator.evidence is None or at >= len(QUALITY):
        return np.log(rules_ratio(evaluator, dimension, p_ok))
    changed = rules.copy()
    changed[:, at] = p_ok
    plain = plain_columns(evaluator.evidence.plain_names, changed, gaps)
    model = evaluator.evidence.models[at]
    p = model.probability(codes[:, at], seen.log_length[:, None], plain[:, at])
    ratio = likelihood_ratios(p[:, None], np.array([model.prior]))[:, 0]
    strange = ~model.knows(codes[:, at])
    ratio[strange] = rules_ratio(evaluator, dimension, p_ok[strange])
    return np.log(ratio)
