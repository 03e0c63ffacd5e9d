"""From a cell to data: the folder of records its recipe reads, imported once for all cells that share it.

Each folder below `data/` is named by the content that decides it and is complete or absent; two processes that
need the same one wait for one another. A cell's recipe is then an ordinary one that `infimed run` reads too.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from infimed.core.errors import DataError
from infimed.core.files import read_json, sha256_json, write_json
from infimed.core.recipe import Data, Recipe
from infimed.core.run import RunFolder
from infimed.curation.corruption.measuring import scores, threshold_at
from infimed.curation.corruption.running import judge, rubric_for
from infimed.curation.scoring import default_evaluator
from infimed.data.record import Record
from infimed.data.shards import ShardSet, open_shards
from infimed.pipeline.run import import_step
from infimed.studies.base import Base
from infimed.studies.cells import FORMAT
from infimed.studies.clinic import RECORDS, write_modality, write_records
from infimed.studies.damage import (
    CLEAN_LOST,
    Verdicts,
    counts_of,
    damage_records,
    kept,
    without_findings,
)
from infimed.studies.definition import Damage

COUNTS: Final = "counts.json"
SCORES: Final = "scores.json"


@dataclass(frozen=True)
class Bound:
    """A recipe on data that are there.

    Attributes:
        recipe: with its `data.root`. run: folder with the shards and planning columns. counts: what was
            damaged and dropped; {} without damage.
    """

    recipe: Recipe
    run: RunFolder
    counts: dict[str, int]

    @property
    def shards(self) -> ShardSet:
        """The imported records."""
        return open_shards(self.run / "shards")


def bind(
    base: Base,
    recipe: Recipe,
    damage: Damage | None,
    damage_seed: int,
    store: Path,
    root: Path | None,
    workers: int = 1,
) -> Bound:
    """The recipe on its data, which are made and imported where they are not there yet.

    Args:
        store: folder for data of all cells. root: the user's data, for bases without a clinic.

    Raises:
        DataError: the user's data are not there, or cannot be damaged as wanted.
    """
    clean = _clean(base, recipe, store, root)
    return clean if damage is None else _spoilt(clean, damage, damage_seed, store, workers)


def _clean(base: Base, recipe: Recipe, store: Path, root: Path | None) -> Bound:
    data = recipe.data.model_dump(mode="json", exclude={"root"})
    key = sha256_json([base.model_dump(mode="json", exclude={"minutes", "limit"}), data])[:16]
    folder = store / f"clean-{key}"
    with _alone(folder):
        if base.clinic is not None:
            write_modality(folder / "root", base.clinic)
            return Bound(*_imported(recipe, folder / "root", folder), {})
        if root is None or not root.exists():
            raise DataError(
                f"the studies of preset {base.name!r} need your data",
                where="--data",
                seen=None if root is None else str(root),
                fix="give --data FOLDER",
            )
        if not base.further:
            return Bound(*_imported(recipe, root, folder, as_given=True), {})
        return Bound(*_imported(recipe, _merged(base, recipe, folder, root), folder), {})


def _merged(base: Base, recipe: Recipe, folder: Path, root: Path) -> Path:
    """The user's data and the further folders as one data set."""
    merged = folder / "root"
    if (merged / RECORDS).is_file():
        return merged
    _, first = _imported(recipe, root, folder / "sources" / "0", as_given=True)
    sets = [open_shards(first / "shards")]
    for number, name in enumerate(base.further, start=1):
        other = (root / name).resolve()
        if not other.exists():
            raise DataError("no such folder", where="further data of the preset", seen=name)
        plain = recipe.model_copy(update={"data": Data(root=other)})
        _, run = _imported(plain, other, folder / "sources" / str(number), as_given=True)
        sets.append(open_shards(run / "shards"))
    write_records(merged, [record for shards in sets for record in shards], sets)
    return merged


def _imported(
    recipe: Recipe, root: Path, folder: Path, *, as_given: bool = False
) -> tuple[Recipe, RunFolder]:
    """The recipe on `root` with its shards in `folder`.

    Args:
        as_given: read the data as the recipe says; otherwise they are records that the studies wrote.
    """
    data = recipe.data.model_copy(update={"root": root})
    if not as_given:
        plain: dict[str, Any] = {
            "reader": "records", "options": {}, "split_file": None, "splits": None, "describe": False,
        }  # fmt: skip
        data = data.model_copy(update=plain)
    made = recipe.model_copy(update={"data": data})
    run = RunFolder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    import_step(made, run)
    return made, run


def _spoilt(clean: Bound, damage: Damage, seed: int, store: Path, workers: int) -> Bound:
    """The recipe on a damaged version of its data."""
    made = damage.model_dump(mode="json")
    key = {"format": FORMAT, "clean": clean.run.path.name, "damage": made, "seed": seed}
    folder = store / f"damaged-{sha256_json(key)[:16]}"
    with _alone(folder):
        if not (folder / COUNTS).is_file():
            write_json(folder / COUNTS, _write(clean, damage, seed, folder, store, workers))
        return Bound(*_imported(clean.recipe, folder / "root", folder), read_json(folder / COUNTS))


def _write(
    clean: Bound, damage: Damage, seed: int, folder: Path, store: Path, workers: int
) -> dict[str, int]:
    """Write the records that an arm trains on; returns what was damaged and dropped."""
    shards = clean.shards
    records = list(shards)
    trained = clean.recipe.data.train_splits
    found = damage_records(records, trained, damage, seed, shards.pixels)
    spoilt = [found[at].record if at in found else record for at, record in enumerate(records)]
    if not damage.facts:
        # What is asked keeps its facts: they say which questions belong to which measure.
        spoilt = [without_findings(r) if r.split in trained else r for r in spoilt]
    changed = {at: one.images for at, one in found.items()}
    train = np.array([record.split in trained for record in records], bool)
    damaged = np.isin(np.arange(len(records)), sorted(found))
    if damage.keep == "all":
        write_records(folder / "root", spoilt, [shards], changed)
        return counts_of(train, damaged, np.ones(len(records), bool))
    # Rules and evaluator are asked once of the whole damaged set, for all filters of it.
    whole = _spoilt(clean, damage.model_copy(update={"keep": "all"}), seed, store, workers)
    dropped, score = _aligned(records, _scored(whole, workers))
    _, before = _aligned(records, _scored(clean, workers))
    threshold = threshold_at(before[train], CLEAN_LOST)
    stays = kept(Verdicts(train, dropped, score, threshold), damage.keep, seed)
    places = np.flatnonzero(stays).tolist()
    left = {new: changed[old] for new, old in enumerate(places) if old in changed}
    write_records(folder / "root", [spoilt[at] for at in places], [shards], left)
    return counts_of(train, damaged, stays)


def _scored(bound: Bound, workers: int) -> dict[str, list[float]]:
    """Record id -> [1 where a rule drops it, pooled P(ok)], by the real engine; kept beside the shards."""
    file = bound.run / SCORES
    if not file.is_file():
        shards = bound.shards
        judged = judge(shards, rubric_for(shards), workers)
        pooled, _ = scores(judged, default_evaluator())
        said = zip(shards, judged, pooled.tolist(), strict=True)
        write_json(file, {r.id: [float(bool(one.drops)), score] for r, one, score in said})
    found: dict[str, list[float]] = read_json(file)
    return found


def _aligned(
    records: Sequence[Record], scored: Mapping[str, list[float]]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Dropped and score in the order of the records; what was not even imported is dropped."""
    table = np.array([scored.get(record.id, [1.0, 0.0]) for record in records]).reshape(-1, 2)
    return table[:, 0] > 0, table[:, 1]


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process makes this folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f".{folder.name}.lock"), "a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def source_identity(root: Path | None) -> dict[str, Any]:
    """What tells the user's data from other data: names and sizes of its files."""
    if root is None:
        return {}
    files = sorted(file for file in root.rglob("*") if file.is_file())
    listed = [[file.relative_to(root).as_posix(), file.stat().st_size] for file in files]
    return {"files": len(listed), "listing": sha256_json(listed)}
