"""What is asked and where it is kept: the records of each task, and the files of each label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from infimed.data.record import Record
from infimed.evaluation.sample import Shards
from infimed.evaluation.spec import TaskSpec, matches


def responses_path(out: Path, task: str, label: str) -> Path:
    """Where a label's answers to a task are."""
    return out / task / f"{label}.responses.jsonl"


def manifest_path(out: Path, task: str, label: str) -> Path:
    """Where it is written what was asked."""
    return out / task / f"{label}.run.json"


@dataclass(frozen=True, slots=True)
class TaskRecords:
    """Records of a task: those that are asked, and those the controls may learn from."""

    asked: list[Record]
    prior: list[Record]


def collect(
    shards: Shards, specs: Sequence[TaskSpec], prior_splits: Sequence[str] = ("train",)
) -> dict[str, TaskRecords]:
    """The records of every task, in one pass over the shards.

    The controls learn from `prior_splits`: what the model was trained on, so that both start equal.
    Records of a benchmark belong to its own task only, also where a task over imported data
    (`closed`, say) would take any source.
    """
    found = {spec.name: TaskRecords([], []) for spec in specs}
    benchmarks = {spec.name: spec for spec in specs if spec.layouts}
    for record in shards:
        own = benchmarks.get(record.source)
        for spec in specs if own is None else (own,):
            asked, prior = record.split == spec.split, record.split in prior_splits
            if not (asked or prior) or not matches(record, spec.where):
                continue
            if asked:
                found[spec.name].asked.append(record)
            if prior:
                found[spec.name].prior.append(record)
    return found
