"""Numbers and findings of a comparison in words: what stands in a cell, in the headline, in the warnings."""

from __future__ import annotations

from collections.abc import Sequence

from infimed.core.page import share
from infimed.core.statistics import Estimate
from infimed.evaluation.compare.pairing import Pair
from infimed.evaluation.compare.table import FEW_GROUPS, Comparison, Scored, TaskTable

HOW_ASKED = {
    "model": "",
    "text-only": "asked without images",
    "image-zeroed": "shown a grey picture instead of every image",
}
"""Label of a first row -> what must be said about it."""


def mean(estimate: Estimate, *, signed: bool = False) -> str:
    """``61.3`` in per cent, or a dash."""
    if estimate.mean is None:
        return "–"
    return f"{100 * estimate.mean:+.1f}" if signed else f"{100 * estimate.mean:.1f}"


def interval(estimate: Estimate, *, signed: bool = False) -> str:
    """``55.0 to 67.2`` in per cent; "no interval" with fewer than two groups."""
    if estimate.mean is None:
        return ""
    if estimate.low is None or estimate.high is None:
        return "no interval"
    low, high = 100 * estimate.low, 100 * estimate.high
    near_zero = any(value and abs(value) < 0.05 for value in (low, high))
    form = f"{'+' if signed else ''}.{2 if signed and near_zero else 1}f"  # never round to zero
    return " to ".join("0.0" if value == 0 else format(value, form) for value in (low, high))


def flags(scored: Scored) -> list[str]:
    """What a score includes besides read answers: it stands in the same cell."""
    said = []
    if scored.errors:
        said.append(f"{share(scored.errors)} failed, counted as wrong")
    if scored.unparsed:
        said.append(f"{share(scored.unparsed)} unparsed")
    if scored.truncated:
        said.append(f"{share(scored.truncated)} cut off")
    return said


def p_value(p: float) -> str:
    """``p = 0.031``, ``p < 0.001``."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.995 else "p = 1.00"


def asked_how(label: str) -> str:
    """What must be said about a model that was asked under this label; "" for the usual way."""
    return HOW_ASKED.get(label, f"asked as “{label}”")


def headline(found: Comparison) -> list[str]:
    """One sentence for every model against the reference."""
    reference = found.names[found.reference]
    said = []
    for name in found.others:
        pairs = [
            p for t in found.tasks for p in t.pairs if p.model == name and p.column == "overall"
        ]
        better, worse, equal = (
            [p for p in pairs if p.verdict == verdict]
            for verdict in ("better", "worse", "not told apart")
        )
        open_ = [p for p in pairs if not p.verdict]
        parts = [
            f"better on {_tasks(better)}" if better else "",
            f"worse on {_tasks(worse)}" if worse else "",
            f"not told apart on {_tasks(equal)}" if equal else "",
            f"not comparable on {_tasks(open_)}" if open_ else "",
        ]
        said.append(f"{name} against {reference}: {'; '.join(filter(None, parts))}.")
    if not said:
        several = f"{len(found.tasks)} tasks" if len(found.tasks) != 1 else "one task"
        said.append(f"{reference} on {several}. Nothing to compare it with was given.")
    return said


def _tasks(pairs: Sequence[Pair]) -> str:
    return ", ".join(pair.task for pair in pairs)


def warnings(found: Comparison) -> list[str]:
    """What limits these numbers, most serious first."""
    said = []
    for task in found.tasks:
        for name, scored in zip(found.names, task.overall, strict=True):
            if scored is not None and scored.errors:
                said.append(
                    f"{name}, {task.name}: {share(scored.errors)} of the answers failed or are missing and "
                    "count as wrong. Ask again before comparing."
                )
    for task in found.tasks:
        said += [
            f"{pair.model} and {pair.reference}, {task.name}: no difference, because {pair.reason}."
            for pair in task.pairs
            if pair.column == "overall" and pair.reason
        ]
    for task in found.tasks:
        for name, label in zip(found.names, task.asked, strict=True):
            if label and asked_how(label):
                said.append(f"{name}, {task.name}: {asked_how(label)}; no score of the benchmark.")
    sampled = [
        f"{task.name} ({', '.join(f'{limit:,}' for limit in limits)})"
        for task in found.tasks
        if (limits := sorted({limit for limit in task.limits if limit is not None}))
    ]
    if sampled:
        said.append(
            "Seeded samples, not whole sets, were asked: "
            + ", ".join(sampled)
            + ". Numbers reported "
            "elsewhere are of whole sets."
        )
    few = [task.name for task in found.tasks if _few_groups(task)]
    if few:
        said.append(
            f"Fewer than {FEW_GROUPS} patients or images: {', '.join(few)}. Such intervals are too narrow."
        )
    if len(found.models) > 2 or len(found.tasks) > 1:
        said.append(
            "Many differences are shown and none is corrected for that: of twenty equal pairs about one "
            "will look different."
        )
    said.append("Not a medical device. A score on questions is no proof of safety for patients.")
    return said


def _few_groups(task: TaskTable) -> bool:
    return any(groups < FEW_GROUPS for _, groups in task.sizes)
