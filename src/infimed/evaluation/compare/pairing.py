"""Two models on the same questions: the paired difference, and who alone was right.

Only questions that both were asked can be paired: the same task by the hash of what decides its
questions, the same ids, and each question with the same text, options, images and gold answer.
Anything else is said instead of a number. Differences are the other model minus the reference, with
the clustered bootstrap of `infimed.core.statistics`; whole groups are resampled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from infimed.core.statistics import Estimate, compare_rows, mcnemar_p
from infimed.evaluation.compare.loading import Answered, ModelScores, TaskOf
from infimed.evaluation.report import SCORE

MARKED = ("closed", "choice", "open")
"""Kinds of question that an answer is simply right or wrong on."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A model against the reference on one set of questions.

    Attributes:
        task, model, reference: which. column: "overall" or "kind=NAME"; title: as it is shown.
        estimate: model minus reference, None where they cannot be paired; `reason` then says why.
        only_model, only_reference: questions that one alone answered rightly; None where questions of
            the set are not simply right or wrong. p: exact McNemar test, mid-p, two-sided.
    """

    task: str
    model: str
    reference: str
    column: str
    title: str
    estimate: Estimate | None
    reason: str = ""
    only_model: int | None = None
    only_reference: int | None = None
    p: float | None = None

    @property
    def verdict(self) -> str:
        """ "better", "worse" or "not told apart", by whether the interval holds zero; "" unpaired."""
        found = self.estimate
        if found is None or found.low is None or found.high is None:
            return ""
        return "better" if found.low > 0 else "worse" if found.high < 0 else "not told apart"


def unpaired(task: TaskOf, other: TaskOf) -> str:
    """Why two models cannot be paired on a task, or ""."""
    if not task.asked_sha256 or not other.asked_sha256:
        return "the folder does not say what decided the questions (run.json is missing)"
    if task.asked_sha256 != other.asked_sha256:
        return "the task differs: other records, prompt, length, images or option order"
    ours, theirs = ({a.id: a for a in one.answers} for one in (task, other))
    if not ours or not theirs:
        return "single answers are missing (samples.jsonl)"
    if ours.keys() != theirs.keys():
        both = len(ours.keys() & theirs.keys())
        return f"other questions were asked ({len(ours):,} and {len(theirs):,}, {both:,} of them in both)"
    changed = sum(ours[id].asked != theirs[id].asked for id in ours)
    if changed:
        return f"the data differ: {changed:,} questions have another text, options, image or answer"
    judges = [one.scores.judge for one in (task, other) if SCORE in one.scores.needs_judge]
    if len({(judge.fingerprint, judge.prompt) for judge in judges if judge is not None}) > 1:
        said = " and ".join(f"{judge.judge} ({judge.prompt})" for judge in judges if judge)
        return f"the scores are of two judges or prompts: {said}"
    for one in (task, other):
        if not agrees(one):
            return "scores.json and samples.jsonl of a folder disagree; run infimed score on it"
    return ""


def agrees(task: TaskOf) -> bool:
    """Whether the mean of the single answers is the score that the folder states."""
    stated = task.scores.cell(task.row).estimate
    weight = math.fsum(a.weight for a in task.answers)
    mean = math.fsum(a.score * a.weight for a in task.answers) / weight if weight else None
    if mean is not None and "rubric" in task.scores.needs_judge:
        mean = min(1.0, max(0.0, mean))  # as the score of a rubric is stated
    if stated.n != len(task.answers) or (stated.mean is None) != (mean is None):
        return False
    return mean is None or stated.mean is None or math.isclose(mean, stated.mean, abs_tol=1e-6)


def pair(name: str, model: ModelScores, reference: ModelScores) -> list[Pair]:
    """`model` minus `reference` on a task: overall and, where there are several, by kind."""
    ours, theirs = model.tasks.get(name), reference.tasks.get(name)
    lacking = [one.name for one, has in ((model, ours), (reference, theirs)) if has is None]
    were = "was" if len(lacking) == 1 else "were"
    reason = f"{' and '.join(lacking)} {were} not asked this task" if lacking else ""
    if ours is not None and theirs is not None:
        reason = unpaired(ours, theirs)
    if reason or ours is None or theirs is None:
        return [Pair(name, model.name, reference.name, "overall", "overall", None, reason)]
    by_id = {answer.id: answer for answer in theirs.answers}
    both = [(answer, by_id[answer.id]) for answer in ours.answers]
    kinds = sorted({answer.kind for answer, _ in both})
    columns = [("overall", "overall", both)]
    if len(kinds) > 1:
        columns += [
            (f"kind={kind}", kind, [two for two in both if two[0].kind == kind]) for kind in kinds
        ]
    return [
        _pair(name, model.name, reference.name, column, title, members)
        for column, title, members in columns
    ]


def _pair(
    task: str,
    model: str,
    reference: str,
    column: str,
    title: str,
    both: Sequence[tuple[Answered, Answered]],
) -> Pair:
    groups = [ours.group for ours, _ in both]
    rows = [
        ([answer.score for answer in side], [answer.weight for answer in side])
        for side in ([ours for ours, _ in both], [theirs for _, theirs in both])
    ]
    estimate = compare_rows(rows, groups).differences[1]
    if not all(ours.kind in MARKED for ours, _ in both):
        return Pair(task, model, reference, column, title, estimate)
    alone = sum(ours.score >= 1 > theirs.score for ours, theirs in both)
    beaten = sum(theirs.score >= 1 > ours.score for ours, theirs in both)
    p = mcnemar_p(alone, beaten)[1]
    return Pair(task, model, reference, column, title, estimate, "", alone, beaten, p)
