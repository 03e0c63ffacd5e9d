"""Which questions of a task were in what a model may have learned from: `matching.leakage`, per task.

A scan compares the questions that are asked with training records, once; ``TASK/leakage.json`` keeps
which were found and how, without any text. Scoring makes two columns of it, so that every row stands
with and without what leaked. Cost: one decode of every image on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from infimed.core.errors import DataError
from infimed.core.files import read_json, sha256_json, write_json
from infimed.data.record import ImageRef, Record
from infimed.evaluation.asked import collect
from infimed.evaluation.evidence import Leakage
from infimed.evaluation.report import Column
from infimed.evaluation.sample import Sample, Shards, limited, make_samples
from infimed.evaluation.spec import TaskSpec, load_task

FILE = "leakage.json"
STRENGTH = ("image and question", "image", "question")


class _Records:
    """Some records of a shard set, as the matcher wants them."""

    def __init__(self, shards: Shards, records: Sequence[Record]) -> None:
        self._shards, self._records = shards, records

    def __len__(self) -> int:
        return len(self._records)

    def record(self, number: int, /) -> Record:
        return self._records[number]

    def pixels(self, ref: ImageRef, /) -> NDArray[np.uint8]:
        return self._shards.pixels(ref)


@dataclass(frozen=True)
class Training:
    """What a model may have learned from.

    Attributes:
        name: shown in the table. shards: where it is. splits: which parts of it; empty for all.
    """

    name: str
    shards: Shards
    splits: tuple[str, ...] = ()

    def records(self) -> list[Record]:
        """Its records.

        Raises:
            DataError: there is none.
        """
        found = [one for one in self.shards if not self.splits or one.split in self.splits]
        if not found:
            raise DataError(
                "no training record here to look for leaks in",
                where=self.name,
                seen=", ".join(self.splits) or None,
                fix="--against takes a run folder, or shards made by `infimed data import`",
            )
        return found


def scan(
    training: Training,
    shards: Shards,
    tasks: Sequence[str],
    out: Path,
    *,
    limit: int | None = None,
    workers: int = 1,
    on_progress: Callable[[int], None] = lambda n: None,
) -> dict[str, Leakage]:
    """Look for the questions of every task in the training data; writes ``out/TASK/leakage.json``.

    Raises:
        DataError: the training data has no record.
    """
    from infimed.matching.leakage import find_leaks, read_side

    specs = [load_task(name) for name in tasks]
    records = collect(shards, specs)
    taught = training.records()
    learned = read_side(_Records(training.shards, taught), workers=workers, on_progress=on_progress)
    identity = sha256_json(sorted(_identity(record) for record in taught))
    found = {}
    for spec in specs:
        asked = limited(records[spec.name].asked, spec.name, limit)
        ids = [sample.id for sample in make_samples(asked, spec)]
        side = read_side(_Records(shards, asked), workers=workers, on_progress=on_progress)
        kinds: dict[str, str] = {}
        for leak in find_leaks(learned, side):
            name = ids[leak.other_row]
            kinds[name] = min(leak.kind, kinds.get(name, leak.kind), key=STRENGTH.index)
        counts = [sum(kind == one for kind in kinds.values()) for one in STRENGTH]
        found[spec.name] = Leakage(
            against=training.name,
            against_sha256=identity,
            training_records=len(taught),
            questions=len(ids),
            image=counts[1],
            question=counts[2],
            both=counts[0],
            unreadable=learned.unreadable + side.unreadable,
        )
        kept = {name: kinds[name] for name in ids if name in kinds}
        write_json(
            out / spec.name / FILE, {**asdict(found[spec.name]), "asked": _asked(ids), "found": kept}
        )
    return found


def _identity(record: Record) -> str:
    return f"{record.source}/{record.id}"


def _asked(ids: Sequence[str]) -> str:
    return sha256_json(list(ids))


@dataclass(frozen=True)
class Leaks:
    """A stored scan as scoring uses it: how each found question was found, columns, block, notes."""

    kinds: dict[str, str]
    columns: list[tuple[Column, list[int]]]
    leakage: Leakage | None
    notes: list[str]


def read_leaks(out: Path, task: str, samples: Sequence[Sample]) -> Leaks:
    """The stored scan of a task, where there is one for just these questions.

    Raises:
        DataError: the file is damaged.
    """
    path = out / task / FILE
    if not path.exists():
        return Leaks({}, [], None, [])
    value = read_json(path)
    try:
        kinds: dict[str, str] = {str(key): str(kind) for key, kind in value.pop("found").items()}
        asked = value.pop("asked")
        block = Leakage(**value)
    except (AttributeError, KeyError, TypeError) as error:
        raise DataError(
            "the leakage scan cannot be read", where=str(path), fix="remove it and scan again"
        ) from error
    if asked != _asked([sample.id for sample in samples]):
        note = "the leakage scan is of other questions and is not used: scan again"
        return Leaks({}, [], None, [note])
    inside = [at for at, sample in enumerate(samples) if sample.id in kinds]
    outside = [at for at, sample in enumerate(samples) if sample.id not in kinds]
    columns = [
        (Column("leak=found", "found in training", "leak"), inside),
        (Column("leak=not found", "not found in training", "leak"), outside),
    ]
    return Leaks(kinds, [one for one in columns if inside and one[1]], block, [])

