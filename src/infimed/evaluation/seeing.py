"""How much of a score is seeing: the model against every way of answering without its image.

The verdict is no stronger than the intervals: "better with its images" needs the paired difference to
every such way above zero, and at least one of them must be the model itself (or its blind twin)
without its own image. It says that the images are used, not that they are understood.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from infimed.core.statistics import Estimate, mcnemar
from infimed.evaluation.controlled import PRIOR, SWAPPED
from infimed.evaluation.evidence import FEW_GROUPS, FEW_QUESTIONS, PairedTest, Seeing, Verdict
from infimed.evaluation.report import SCORE, Cell, Column, Difference, Row, percent
from infimed.evaluation.stored import RowResult

ZEROED = "image-zeroed"
ITSELF = (ZEROED, SWAPPED, "trained-blind")
"""Rows in which the model, or its twin, answers without its own image."""


def few(estimate: Estimate) -> bool:
    """Whether there are too few questions or groups for a claim."""
    return estimate.n < FEW_QUESTIONS or estimate.groups < FEW_GROUPS


def main_columns(columns: Sequence[Column]) -> list[Column]:
    """All questions, and each kind of them."""
    return [column for column in columns if column.group in ("all", "kind")]


def seeing(
    rows: Sequence[Row],
    columns: Sequence[Column],
    cells: Sequence[Cell],
    differences: Sequence[Difference],
    *,
    shown: bool,
) -> tuple[Seeing, ...]:
    """The verdict on every main column of a task whose questions show images.

    Args:
        shown: False where the first row itself was asked without images.
    """
    score = {(c.row, c.column): c.estimate for c in cells if c.metric == SCORE}
    gap = {(d.control, d.column): d.estimate for d in differences if d.metric == SCORE}
    blind = [row.name for row in rows[1:] if row.kind == "control" or row.name in (*ITSELF, PRIOR)]
    found = []
    for column in main_columns(columns):
        own = {
            name: one
            for name in blind
            if (one := gap[name, column.name]).mean is not None and one.n > 0
        }
        model = score[rows[0].name, column.name]
        if not shown:
            words = "asked without images: what is seen cannot be told"
            found.append(Seeing(column.name, model, "", None, None, "not asked", words, tuple(own)))
        elif model.mean is not None:
            found.append(_judged(column.name, model, own, score))
    return tuple(found)


def _judged(
    column: str,
    model: Estimate,
    gaps: Mapping[str, Estimate],
    score: Mapping[tuple[str, str], Estimate],
) -> Seeing:
    best = min(gaps, key=lambda name: (gaps[name].mean, name)) if gaps else ""
    verdict, words = _verdict(model, gaps, best)
    other, gap = (score[best, column], gaps[best]) if best else (None, None)
    return Seeing(column, model, best, other, gap, verdict, words, tuple(gaps))


def _verdict(model: Estimate, gaps: Mapping[str, Estimate], best: str) -> tuple[Verdict, str]:
    if not any(name in gaps for name in ITSELF):
        return "not asked", "never asked without its own images: --controls zeroed,swapped"
    if few(model) or any(one.low is None for one in gaps.values()):
        return "too few", f"{model.n} questions of {model.groups} groups are too few for a claim"
    apart = percent(gaps[best], signed=True)
    worse = [name for name, one in gaps.items() if one.high is not None and one.high < 0]
    if worse:
        name = min(worse, key=lambda one: (gaps[one].mean, one))
        return "worse with its images", (
            f"worse with its images than {name} without them: "
            f"{percent(gaps[name], signed=True)} points"
        )
    level = [name for name, one in gaps.items() if one.low is None or one.low <= 0]
    if level:
        name = min(level, key=lambda one: (gaps[one].mean, one))
        return "not shown to see", (
            f"not shown to see: no difference to {name} is shown, "
            f"{percent(gaps[name], signed=True)} points"
        )
    return "better with its images", (
        f"better with its images than any of {len(gaps)} ways without them; "
        f"the nearest is {best}, {apart} points away"
    )


def paired_tests(
    rows: Sequence[Row],
    results: Mapping[str, RowResult],
    columns: Sequence[tuple[Column, list[int]]],
) -> tuple[PairedTest, ...]:
    """McNemar's test of the first row against every other, where all scores are right or wrong."""
    first, found = rows[0].name, []
    mains = {column.name for column in main_columns([column for column, _ in columns])}
    scores = {name: _binary(result) for name, result in results.items()}
    for column, members in columns:
        if column.name not in mains:
            continue
        for row in rows[1:]:
            chosen = np.intersect1d(members, results[row.name].covered)
            one, other = scores[first][chosen], scores[row.name][chosen]
            if not len(chosen) or not np.isin(np.concatenate([one, other]), (0.0, 1.0)).all():
                continue
            test = mcnemar(one, other)
            found.append(
                PairedTest(
                    first, row.name, column.name, test.n, test.only_first, test.only_second,
                    test.exact, test.mid_p,
                )
            )  # fmt: skip
    return tuple(found)


def _binary(result: RowResult) -> np.ndarray:
    """Score of each question; what has none is -1 and no test takes it."""
    scores = result.assessment.scores()
    return np.array([-1.0 if score is None else score for score in scores])
