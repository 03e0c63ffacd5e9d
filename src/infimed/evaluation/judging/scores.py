"""From verdicts to rows of numbers: the metrics that need a judge.

A sample counts only when each of its items has a verdict; the others are left out and their share is
told. "Undecided" is not met, not said, not contradicted, and its share is told too. An answer that
failed or says nothing is worth 0 and contradicts nothing, as in every other metric.

Sources: HealthBench (Arora et al. 2025) for `rubric`; K-QA (Manes et al. 2024, and its evaluation code)
for `completeness` (Comp: mean share of the needed statements that the answer entails) and
`contradictions` (Hall: mean number of gold statements, needed or nice to have, that it contradicts).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from infimed.evaluation.judging.verdicts import Judged
from infimed.evaluation.metrics.rubric import rubric_score

Floats = NDArray[np.float64]
Row = tuple[float, float]

WHOLE = frozenset({"answer", "report", "refusal"})
"""Judged in one piece, beside the rules: such answers get the metric "judge"."""
_NOTHING: Row = (0.0, 0.0)


def _met(one: Judged) -> bool | None:
    return None if one.verdict in (None, "undecided") else one.verdict == "yes"


def judged_right(items: Sequence[Judged]) -> Row:
    """(1, 1) where the judge says yes, (0, 1) for no; one that is undecided weighs nothing."""
    (one,) = items
    return _NOTHING if one.verdict == "undecided" else (float(one.verdict == "yes"), 1.0)


def rubric(items: Sequence[Judged]) -> Row:
    """Points of the met criteria over the positive ones; may be negative."""
    found = rubric_score([one.item.points for one in items], [_met(one) for one in items])
    return _NOTHING if found.score is None else (found.score, 1.0)


def completeness(items: Sequence[Judged]) -> Row:
    """Share of the needed statements that the answer entails."""
    needed = [one for one in items if one.item.aspect == "entails"]
    return sum(one.verdict == "yes" for one in needed) / len(needed), 1.0


def contradictions(items: Sequence[Judged]) -> Row:
    """Number of gold statements that the answer contradicts."""
    stated = [one for one in items if one.item.aspect == "contradicts"]
    return float(sum(one.verdict == "yes" for one in stated)), 1.0


_BY_ASPECT: dict[str, tuple[frozenset[str], Callable[[Sequence[Judged]], Row]]] = {
    "judge": (WHOLE, judged_right),
    "rubric": (frozenset({"criterion"}), rubric),
    "completeness": (frozenset({"entails"}), completeness),
    "contradictions": (frozenset({"contradicts"}), contradictions),
}


def judged_rows(metric: str, samples: Sequence[Sequence[Judged]]) -> Floats:
    """Rows [n, 2] of (value, weight) of a judged metric; no weight where a sample has no whole verdict.

    Args:
        samples: per sample its items; empty where it was not judged.
    """
    aspects, of = _BY_ASPECT[metric]
    rows = np.zeros((len(samples), 2))
    for at, items in enumerate(samples):
        own = [one for one in items if one.item.aspect in aspects]
        if own and all(one.verdict for one in own):
            rows[at] = of(own)
    return rows


def rubric_by_tag(samples: Sequence[Sequence[Judged]]) -> dict[str, Floats]:
    """Tag of criteria -> rows [n, 2]: the rubric's score over the criteria of that tag alone.

    As HealthBench counts them: an answer without a positive criterion of the tag has no score there.
    """
    tags = sorted({tag for items in samples for one in items for tag in one.item.tags})
    found = {tag: np.zeros((len(samples), 2)) for tag in tags}
    for at, items in enumerate(samples):
        if not all(one.verdict for one in items):
            continue
        for tag in {tag for one in items for tag in one.item.tags}:
            found[tag][at] = rubric([one for one in items if tag in one.item.tags])
    return found
