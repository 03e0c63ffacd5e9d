"""`infimed data forget`: one patient out of shards, ledgers, plans, evaluation files and image indexes.

First everything is looked up and shown; with consent a journal is written beside the shards, the new
shards are built, every file that names the patient is replaced, and the shards are swapped last. A
run that was killed anywhere goes on from the journal when the same command is given again. The
journal names the group and its records; it is deleted at the end.

Checkpoints cannot be edited: those that were trained on a record of the group are listed, from the
plans and the position that each of them states, and the list is kept in the run folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from infimed.core.errors import DataError
from infimed.core.files import atomic_open, read_json, write_json
from infimed.curation.forgetting import exported, forget_rows, ledger_data, renumber
from infimed.data import forgetting
from infimed.data.forgetting import GroupRows
from infimed.data.shards import open_shards
from infimed.evaluation.folder import FILE as EVALUATION_FILE
from infimed.serving.evidence.index_files import names_data, without_records

RECORD_FILE: Final = "forgotten.json"
"""In a run folder: what was forgotten there and which checkpoints saw it."""
LISTS: Final = ("ledgers", "plans", "answers", "reports", "runs", "checkpoints", "indexes")
"""Fields of a `Target` that are paths."""


@dataclass(frozen=True)
class Target:
    """One set of shards and what hangs on it.

    Attributes:
        shards: its folder. found: the group's rows. ledgers: curation folders about these shards.
        plans: plan files. answers: evaluation files. reports: pages that may show the patient.
        runs: run folders. checkpoints: folders of checkpoints that were trained on the group.
        indexes: folders of image indexes of these shards, unfinished ones among them.
    """

    shards: Path
    found: GroupRows
    ledgers: tuple[Path, ...] = ()
    plans: tuple[Path, ...] = ()
    answers: tuple[Path, ...] = ()
    reports: tuple[Path, ...] = ()
    runs: tuple[Path, ...] = ()
    checkpoints: tuple[Path, ...] = ()
    indexes: tuple[Path, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; `from_dict` inverts it."""
        lists = {name: [str(path) for path in getattr(self, name)] for name in LISTS}
        return {"shards": str(self.shards), "found": vars(self.found), **lists}

    @staticmethod
    def from_dict(value: dict[str, Any]) -> Target:
        """Inverse of `to_dict`."""
        kept = value["found"]
        found = GroupRows(
            tuple(kept["rows"]), tuple(kept["record_ids"]), tuple(kept["images"]),
            kept["data_before"], kept["total"],
        )  # fmt: skip
        lists = {name: tuple(Path(path) for path in value.get(name, ())) for name in LISTS}
        return Target(Path(value["shards"]), found, **lists)


@dataclass(frozen=True)
class Survey:
    """What `forget` would do, or did. `already`: shards whose tombstones name the group."""

    group: str
    targets: tuple[Target, ...]
    already: tuple[Path, ...] = field(default_factory=tuple)


def survey(
    group: str, shards: Sequence[Path], runs: Sequence[Path], indexes: Sequence[Path] = ()
) -> Survey:
    """Look up everything that holds a group; changes nothing.

    Args:
        group: the records' group, as the shards state it. shards: folders of shards. runs: run
            folders or curation folders; shards inside a run folder are looked at too. indexes: folders of
            image indexes, beside those that lie in a run folder or next to shards.

    Raises:
        DataError: no shards were given or found, or none of them knows the group.
    """
    folders = list(
        dict.fromkeys([*map(_plain, shards), *(r / "shards" for r in map(_plain, runs))])
    )
    folders = [f for f in folders if f in map(_plain, shards) or _begun(f) or f.is_dir()]
    if not folders:
        raise DataError("no shards to look at", fix="give --shards DIR, or --runs of finished runs")
    targets, already = [], []
    for folder in folders:
        journal = _journal(folder)
        if journal.is_file():
            value = read_json(journal)
            if value["group"] != group:
                raise DataError(
                    "another removal was begun here and not finished",
                    where=str(folder),
                    fix="give the command for that group again first",
                )
            targets.append(Target.from_dict(value["target"]))
            continue
        opened = open_shards(folder)
        found = forgetting.find_group(opened, group)
        opened.close()
        if found.rows:
            beside = [*map(_plain, indexes), *_children(folder.parent)]
            targets.append(_dependents(folder, found, [_plain(run) for run in runs], beside))
        elif forgetting.was_forgotten(folder, group) is not None:
            already.append(folder)
    if not targets and not already:
        raise DataError(
            "no record is of this group",
            where=", ".join(map(str, folders)),
            seen=group,
            fix="groups are hashes where the import made them; see the column 'group' of the shards",
        )
    return Survey(group, tuple(targets), tuple(already))


def forget(found: Survey) -> None:
    """Carry a survey out. Every step may be interrupted and done again."""
    for target in found.targets:
        journal = _journal(target.shards)
        if not journal.is_file():
            write_json(journal, {"group": found.group, "target": target.to_dict()})
        if (
            target.shards.exists()
            and open_shards(target.shards).data_hash == target.found.data_before
        ):
            after = forgetting.build(target.shards, found.group, target.found)
        else:  # killed between or after the renames
            folder = forgetting.working_folder(target.shards)
            folder = folder if (folder / "manifest.json").is_file() else target.shards
            after = str(read_json(folder / "manifest.json")["data_sha256"])
        row_map, ids = target.found.row_map(), target.found.record_ids
        for folder in target.ledgers:
            forget_rows(folder, row_map, ids, target.found.data_before, after)
        for file in target.plans:
            renumber(file, "record", row_map, after)
        for file in target.answers:
            _without_answers(file, set(ids))
            if file.name == EVALUATION_FILE:
                _of_data(file, target.found.data_before, after)
        for folder in target.indexes:
            without_records(folder, set(ids), target.found.data_before, after)
        for file in target.reports:
            file.unlink(missing_ok=True)
        for run in target.runs:
            _note(run, target, after)
        forgetting.swap(target.shards)
        journal.unlink()


def _plain(path: Path) -> Path:
    return Path(path).resolve()


def _journal(shards: Path) -> Path:
    return shards.with_name(f".{shards.name}.forgetting.json")


def _begun(shards: Path) -> bool:
    return _journal(shards).is_file()


def _children(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else []


def _dependents(
    shards: Path, found: GroupRows, runs: Sequence[Path], beside: Sequence[Path]
) -> Target:
    """Files of these runs that are about these shards, and indexes among these folders and theirs."""
    ledgers: list[Path] = []
    plans: list[Path] = []
    answers: list[Path] = []
    reports: list[Path] = []
    mine: list[Path] = []
    seen: list[Path] = []
    for run in runs:
        for folder in (run, run / "ledger.parquet", run / "leakage"):
            if ledger_data(folder) == found.data_before:
                ledgers.append(folder)
                reports.extend(sorted(folder.glob("*.html")))
        reports.extend(exported(run, found.record_ids))
        if _data_now(run) != found.data_before:
            continue
        mine.append(run)
        for part in (run, run / "blind"):
            own = plan_files(part)
            plans.extend(own)
            seen.extend(_checkpoints(part, run, set(found.rows)))
        for folder in sorted(run.glob("evaluation*")):
            answers.extend(sorted(folder.rglob("*.json*")))
        reports.extend(sorted(run.glob("*.html")))
    unique = tuple(dict.fromkeys(reports))
    folders = dict.fromkeys([*beside, *(each for run in runs for each in _children(run))])
    indexes = tuple(folder for folder in folders if names_data(folder, found.data_before))
    return Target(
        shards,
        found,
        tuple(ledgers),
        tuple(plans),
        tuple(answers),
        unique,
        tuple(mine),
        tuple(seen),
        indexes,
    )


def _data_now(run: Path) -> str | None:
    """Hash of the shards that a run's plans and answers are about: of those it began with, as far as removals
    noted in its folder changed them since. `data.json` keeps what it began with."""
    file = run / "data.json"
    if not file.is_file():
        return None
    data = read_json(file).get("shards")
    for note in _notes(run):
        if note["data_before"] == data:
            data = note["data_after"]
    return data


def _notes(run: Path) -> list[dict[str, Any]]:
    """What was forgotten in a run folder, oldest first."""
    file = run / RECORD_FILE
    return read_json(file) if file.is_file() else []


def plan_files(part: Path) -> list[Path]:
    """Stage plans below a run folder or its blind twin's; token lengths are a cache of the old data and go with the plan."""
    files = sorted((part / "plan").glob("*.parquet"))
    return [file for file in files if "record" in pq.read_schema(file).names]


def _checkpoints(part: Path, run: Path, rows: set[int]) -> Iterator[Path]:
    """Checkpoints trained on one of these records, by plan and position."""
    first: list[int | None] = []
    for name in _stages(run):
        file = part / "plan" / f"{name}.parquet"
        first.append(_first_row(file, rows) if file.is_file() else None)
    for folder in sorted((part / "checkpoints").glob("step-*")):
        manifest = folder / "manifest.json"
        if not manifest.is_file():
            continue
        at = read_json(manifest).get("position") or {}
        stage, row = int(at.get("stage", len(first))), int(at.get("row", 0))
        if any(
            begun is not None and (number < stage or (number == stage and begun < row))
            for number, begun in enumerate(first)
        ):
            yield folder


def _stages(run: Path) -> list[str]:
    try:
        recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
        return [str(stage["name"]) for stage in recipe["stages"]]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        raise DataError("the run's recipe cannot be read", where=str(run / "recipe.yaml")) from None


def _first_row(file: Path, rows: set[int]) -> int | None:
    """First row of a plan that holds one of the records."""
    table = pq.read_table(file, columns=["row", "record"])
    hit = np.isin(table["record"].to_numpy(), sorted(rows))
    return int(table["row"].to_numpy()[hit].min()) if hit.any() else None


def _without_answers(file: Path, ids: set[str]) -> None:
    """Lines (JSONL) or requests (run.json) of removed records out of an evaluation file."""

    swapped: set[str] = set()

    def gone(item: Any) -> bool:
        """Whether a line is about one of them, or shows their images in the place of its own."""
        if not isinstance(item, dict):
            return False
        own = any(_names(str(item.get(key, "")), ids) for key in ("id", "images_of"))
        return own or item.get("key") in swapped

    if file.suffix == ".json":
        value = read_json(file)
        requests = value.get("requests") if isinstance(value, dict) else None
        if isinstance(requests, list) and any(map(gone, requests)):
            write_json(file, {**value, "requests": [one for one in requests if not gone(one)]})
        leaked = value.get("found") if isinstance(value, dict) else None
        if isinstance(leaked, dict) and any(_names(name, ids) for name in leaked):
            left = {name: kind for name, kind in leaked.items() if not _names(name, ids)}
            write_json(file, {**value, "found": left})
        return
    asked = file.with_name(file.name.replace(".responses.jsonl", ".run.json"))
    if asked != file and asked.is_file():  # only the request says whose images it showed
        requests = read_json(asked)["requests"]
        swapped |= {one["key"] for one in requests if "images_of" in one and gone(one)}
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = []
    for line in lines:
        try:
            if gone(json.loads(line)):
                continue
        except ValueError:
            pass  # a torn last line stays as it is
        kept.append(line)
    if len(kept) != len(lines):
        with atomic_open(file, "w") as handle:
            handle.writelines(kept)


def _of_data(file: Path, before: str, after: str) -> None:
    """Name the data as it is now, so that the answers that stay can be scored again."""
    value = read_json(file)
    shards = [
        {**one, "data_sha256": after} if one.get("data_sha256") == before else one
        for one in value.get("shards", ())
    ]
    if shards != value.get("shards", []):
        write_json(file, {**value, "shards": shards})


def _names(name: str, ids: set[str]) -> bool:
    """Whether a sample's name is of one of these records.

    `#2` names a repetition of it, `@1` an order of its options and `#j0` an item that a judge read.
    """
    item_of = re.sub(r"(#j|@)\d+$", "", name)
    return not ids.isdisjoint({name, item_of, re.sub(r"#\d+$", "", item_of)})


def _note(run: Path, target: Target, after: str) -> None:
    """Write down in the run folder which checkpoints saw what is gone; drop the length caches."""
    file = run / RECORD_FILE
    notes = _notes(run)
    if not any(note["data_after"] == after for note in notes):
        mine = [p for p in target.checkpoints if p.is_relative_to(run)]
        notes.append(
            {
                "data_before": target.found.data_before,
                "data_after": after,
                "records": len(target.found.rows),
                "checkpoints": [path.relative_to(run).as_posix() for path in mine],
            }
        )
        write_json(file, notes)
    for part in (run, run / "blind"):
        for lengths in (part / "plan").glob("lengths-*.parquet"):
            try:
                if pq.read_table(lengths, columns=["id"]).num_rows == target.found.total:
                    lengths.unlink()
            except (pa.ArrowException, KeyError, OSError):
                continue
