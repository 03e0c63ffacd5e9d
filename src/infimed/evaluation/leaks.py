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
from infimed.evaluation.folder import trained_on
from infimed.evaluation.report import Column
from infimed.evaluation.sample import Sample, Shards, limited, make_samples
from infimed.evaluation.spec import load_task

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
        name: shown in the table. shards: where it is. splits: which parts of it; None for its
            training part, or all of it where there is no such part.
    """

    name: str
    shards: Shards
    splits: tuple[str, ...] | None = None

    def records(self) -> list[Record]:
        """Its records.

        Raises:
            DataError: there is none.
        """
        wanted = ("train",) if self.splits is None else self.splits
        found = [one for one in self.shards if one.split in wanted]
        if self.splits is None and not found:
            found = list(self.shards)
        if not found:
            raise DataError(
                "no training record here to look for leaks in",
                where=self.name,
                seen=", ".join(wanted),
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
    from infimed.matching.leakage import Side, find_leaks, read_side

    specs = [load_task(name) for name in tasks]
    records = collect(shards, specs)
    taught = training.records()
    identity = sha256_json([_identity(record) for record in taught])
    learned: Side | None = None
    found = {}
    for spec in specs:
        asked = limited(records[spec.name].asked, spec.name, limit)
        ids = [sample.id for sample in make_samples(asked, spec)]
        known = _scanned(out, spec.name, identity, ids)
        if known is not None:
            found[spec.name] = known
            continue
        if learned is None:
            whole = _Records(training.shards, taught)
            learned = read_side(whole, workers=workers, on_progress=on_progress)
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
            out / spec.name / FILE,
            {**asdict(found[spec.name]), "asked": _asked(ids), "found": kept},
        )
    return found


def _identity(record: Record) -> list[str]:
    """What decides whether a record leaks: its images and its text."""
    images = [image.sha256 or image.locator for image in record.images]
    return [record.question, record.response, *record.choices, *images]


def _scanned(out: Path, task: str, identity: str, ids: Sequence[str]) -> Leakage | None:
    """The result of the very same scan, where it is stored."""
    path = out / task / FILE
    if not path.exists():
        return None
    value = read_json(path)
    if not isinstance(value, dict) or value.get("against_sha256") != identity:
        return None
    if value.get("asked") != _asked(ids):
        return None
    return Leakage(**{key: value[key] for key in Leakage.__dataclass_fields__})


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


MOST_TRAINING_RECORDS = 200_000
"""Above so many records a run's own training data is only looked through when it is named."""


def training_of(against: str, model: Path) -> Training | None:
    """What to look for leaks in: the run or shards that were named, else what the run learned from.

    Args:
        against: a folder, "none", or "" for the model's own run.

    Raises:
        DataError: the folder holds no shards.
    """
    from infimed.core import console
    from infimed.data.shards import open_shards

    if against == "none":
        return None
    place = Path(against) if against else model
    run = (place / "recipe.yaml").is_file() and (place / "shards").is_dir()
    if not against and not run:
        return None
    shards = open_shards(place / "shards" if run else place)
    if not against and len(shards) > MOST_TRAINING_RECORDS:
        console.err.print(
            f"leakage: {len(shards):,} training records are not looked through; to do so: "
            f"--against {place}",
            markup=False,
        )
        return None
    return Training(place.resolve().name, shards, trained_on(place) if run else None)
