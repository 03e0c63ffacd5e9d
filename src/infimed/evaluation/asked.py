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
    (`closed`, say) would take any source. Where several sets are read as one, a benchmark is in the
    last that holds it: the user's own copy of the same data set, which comes first, stays their own.
    """
    benchmarks = {spec.name for spec in specs if spec.layouts}
    found: dict[str, list[tuple[int, Record]]] = {spec.name: [] for spec in specs}
    home: dict[str, int] = {}
    for number, part in enumerate(getattr(shards, "sets", (shards,))):
        for record in part:
            if record.source in benchmarks:
                home[record.source] = number
            for spec in specs:
                if record.split != spec.split and record.split not in prior_splits:
                    continue
                if (not spec.layouts or record.source == spec.name) and matches(record, spec.where):
                    found[spec.name].append((number, record))
    made = {}
    for spec in specs:
        own = [
            record
            for number, record in found[spec.name]
            if (home.get(record.source) == number) == bool(spec.layouts)
        ]
        made[spec.name] = TaskRecords(
            [record for record in own if record.split == spec.split],
            [record for record in own if record.split in prior_splits],
        )
    return made
