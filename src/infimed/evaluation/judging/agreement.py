"""How far a judge agrees with the rules: shown wherever a judge's score is.

For whole answers the rule is the task's own first metric; for criteria and gold statements, which no
rule scores, it is whether half of their words stand in the answer. A rule that gives a share counts as
"right" from `RIGHT` on. Kappa is Cohen's, over the verdicts that are yes or no, with an interval over
whole groups; low agreement says that one of the two is wrong, not which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from infimed.core.agreement import weighted_kappa
from infimed.core.statistics import Estimate, Measured, compare_sums
from infimed.evaluation.judging.scores import rubric_by_tag
from infimed.evaluation.judging.verdicts import FAILED, VERDICTS, Verdicts
from infimed.evaluation.metrics.rubric import clipped_ratio
from infimed.evaluation.metrics.words import recall
from infimed.evaluation.sample import Sample

RIGHT: Final = 0.5
WORDS_RULE: Final = f"recall of the statement's words >= {RIGHT:g}"
OUTCOMES: Final = (*VERDICTS, FAILED)
_CODES: Final = {"yes": 1, "no": 0}


@dataclass(frozen=True, slots=True)
class Agreement:
    """Verdicts against a rule, over answers or statements.

    Attributes:
        unit: "answers" or "statements". rule: what decides right and wrong.
        right, wrong: by the rule -> verdict ("failed" among them) -> count.
        kappa: n is how many verdicts are yes or no; mean None where nothing varies.
    """

    unit: str
    rule: str
    right: Mapping[str, int]
    wrong: Mapping[str, int]
    kappa: Estimate


@dataclass(frozen=True, slots=True)
class RowVerdicts:
    """A judge's verdicts on one row of the table.

    Attributes:
        verdicts: verdict ("failed" among them) -> count, over all that was asked. empty: answers
            that say nothing and were not shown to the judge. unjudged: samples without a whole set of
            verdicts, left out of the judge's scores. agreement: with the rules.
        tags: tag of criteria -> rubric score over these criteria alone; n is how many answers have one.
    """

    row: str
    verdicts: Mapping[str, int]
    empty: int
    unjudged: int
    agreement: tuple[Agreement, ...]
    tags: Mapping[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JudgeSummary:
    """Who judged a task, by which prompt, and what came of it."""

    judge: str
    fingerprint: str
    prompt: str
    rows: tuple[RowVerdicts, ...]

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> JudgeSummary:
        """Inverse of `dataclasses.asdict`."""
        rows = [
            RowVerdicts(
                **{
                    **row,
                    "tags": {tag: Estimate(**of) for tag, of in row.get("tags", {}).items()},
                    "agreement": tuple(
                        Agreement(**{**one, "kappa": Estimate(**one["kappa"])})
                        for one in row["agreement"]
                    ),
                }
            )
            for row in value["rows"]
        ]
        return JudgeSummary(value["judge"], value["fingerprint"], value["prompt"], tuple(rows))


def row_verdicts(
    row: str,
    samples: Sequence[Sample],
    verdicts: Verdicts,
    scores: Sequence[float | None],
    texts: Sequence[str],
    rule: str,
    *,
    seed: int = 0,
) -> RowVerdicts:
    """Counts and agreement of one row.

    Args:
        scores: of the rule, per sample. texts: the answers as read. rule: the rule's name.
    """
    whole: list[tuple[bool, str, str]] = []
    statements: list[tuple[bool, str, str]] = []
    empty = unjudged = 0
    for at, (sample, items) in enumerate(zip(samples, verdicts.samples, strict=True)):
        empty += any(one.status == "empty" for one in items)
        unjudged += bool(items) and not verdicts.whole(at)
        for one in items:
            if one.status == "empty":
                continue  # the judge was not asked, so it cannot agree
            if one.item.aspect in ("criterion", "entails"):
                right = recall(texts[at], one.item.statement) >= RIGHT
                statements.append((right, one.counted, sample.group))
            elif one.item.aspect != "contradicts":
                right = (scores[at] or 0.0) >= RIGHT
                whole.append((right, one.counted, sample.group))
    found = []
    if whole:
        found.append(_agreement("answers", rule, whole, seed))
    if statements:
        found.append(_agreement("statements", WORDS_RULE, statements, seed))
    counts = {name: verdicts.counts[name] for name in OUTCOMES}
    tags = _by_tag(verdicts, [sample.group for sample in samples], seed)
    return RowVerdicts(row, counts, empty, unjudged, tuple(found), tags)


def _by_tag(verdicts: Verdicts, groups: Sequence[str], seed: int) -> dict[str, Estimate]:
    """Rubric scores by tag of the criteria, over the answers that have one."""
    made = {}
    for tag, rows in rubric_by_tag(verdicts.samples).items():
        there = np.flatnonzero(rows[:, 1])
        own = [groups[at] for at in there.tolist()]
        measured = [Measured([rows[there]], clipped_ratio)]
        made[tag] = compare_sums(measured, own, seed=seed)[0].rows[0]
    return made


def _agreement(
    unit: str, rule: str, pairs: Sequence[tuple[bool, str, str]], seed: int
) -> Agreement:
    counts = {side: dict.fromkeys(OUTCOMES, 0) for side in (True, False)}
    for right, verdict, _ in pairs:
        counts[right][verdict] += 1
    kappa = weighted_kappa(
        [int(right) for right, _, _ in pairs],
        [_CODES.get(verdict, -1) for _, verdict, _ in pairs],
        2,
        groups=[group for _, _, group in pairs],
        seed=seed,
    )
    return Agreement(unit, rule, counts[True], counts[False], kappa)
