"""Shards without one group: a patient is taken out, everything else stays as it is.

Shards are immutable, so a new set is written beside the old one and takes its name: records of the
group and images that only they show are left out, files that hold neither are linked, every other
record and image keeps its bytes. The manifest gets a new data hash and a tombstone: a salted hash
of the group and counts, so that "was this patient removed?" can be answered by whoever knows the
group, and by nobody else.

Invariant: at any moment there is one complete set, under its own name or, between two renames of
`swap`, beside it; calling `build` and `swap` again completes what was begun. Cost: one copy of the
files that change.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infimed.core.errors import DataError
from infimed.core.files import atomic_open, read_json, sha256_file, write_json
from infimed.data import schema
from infimed.data.importing import ROW_GROUP
from infimed.data.manifest import data_hash
from infimed.data.shards import ShardSet, open_shards
from infimed.data.tarstore import TarReader, TarWriter

TOMBSTONES = "forgotten"
"""Key of the manifest: a list of {salt, group_sha256, records, images, data_before}."""


@dataclass(frozen=True)
class GroupRows:
    """What a group occupies in shards.

    Attributes:
        rows: its row numbers, ascending. record_ids: their ids. images: sha256 of images that no
            other record shows. data_before: hash of the shards. total: records in the shards.
    """

    rows: tuple[int, ...]
    record_ids: tuple[str, ...]
    images: tuple[str, ...]
    data_before: str
    total: int

    def row_map(self) -> NDArray[np.int64]:
        """New row number of every old row, -1 for removed ones; int64 [total]."""
        gone = np.zeros(self.total, bool)
        gone[list(self.rows)] = True
        return np.where(gone, -1, np.cumsum(~gone) - 1).astype(np.int64)


def find_group(shards: ShardSet, group: str) -> GroupRows:
    """The records and images of one group; empty when there is none."""
    index = shards.index(["id", "group", "image_sha256"])
    mine = np.array([name == group for name in index["group"].to_pylist()], bool)
    shown = index["image_sha256"].to_pylist()
    own = {sha for at in np.flatnonzero(mine) for sha in shown[at]}
    others = {sha for at in np.flatnonzero(~mine) for sha in shown[at]}
    ids = index["id"].to_pylist()
    rows = [int(at) for at in np.flatnonzero(mine)]
    return GroupRows(
        tuple(rows), tuple(ids[at] for at in rows), tuple(sorted(own - others)),
        shards.data_hash, len(shards),
    )  # fmt: skip


def was_forgotten(shards: Path, group: str) -> Mapping[str, Any] | None:
    """The tombstone of a group in these shards, None when there is none."""
    for stone in read_json(shards / "manifest.json").get(TOMBSTONES, []):
        if stone["group_sha256"] == _hashed(stone["salt"], group):
            return dict(stone)
    return None


def working_folder(shards: Path) -> Path:
    """Where the new set is written."""
    return shards.with_name(f".{shards.name}.forgetting")


def _replaced_folder(shards: Path) -> Path:
    return shards.with_name(f".{shards.name}.forgotten")


def build(shards: Path, group: str, found: GroupRows) -> str:
    """Write the new set beside `shards`; returns its data hash. Its manifest, last, completes it.

    Raises:
        DataError: nothing would be left.
    """
    if len(found.rows) == found.total:
        raise DataError(
            "every record is of this group; nothing would be left",
            where=str(shards),
            fix="remove the folder itself",
        )
    target = working_folder(shards)
    if (target / "manifest.json").is_file():
        return str(read_json(target / "manifest.json")["data_sha256"])
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    old = open_shards(shards)
    manifest = read_json(shards / "manifest.json")
    counts = _write_records(shards, target, set(found.rows), manifest["files"])
    _write_images(old, target, set(found.images))
    old.close()
    shutil.copyfile(shards / "problems.jsonl", target / "problems.jsonl")
    files = {
        file.name: {"sha256": sha256_file(file), "bytes": file.stat().st_size}
        for file in sorted(target.iterdir())
    }
    salt = secrets.token_hex(16)
    stone = {
        "salt": salt,
        "group_sha256": _hashed(salt, group),
        "records": len(found.rows),
        "images": len(found.images),
        "data_before": found.data_before,
    }
    made = {
        **manifest,
        "counts": {
            **manifest["counts"], **counts,
            "images": manifest["counts"]["images"] - len(found.images),
        },
        "files": files,
        "data_sha256": data_hash(files),
        TOMBSTONES: [*manifest.get(TOMBSTONES, []), stone],
    }  # fmt: skip
    for file in target.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    write_json(target / "manifest.json", made)
    return str(made["data_sha256"])


def swap(shards: Path) -> None:
    """Give the new set its name and delete the old one; completes itself when called again."""
    new, old = working_folder(shards), _replaced_folder(shards)
    if (new / "manifest.json").is_file():
        if shards.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(shards, old)
        os.replace(new, shards)
    shutil.rmtree(old, ignore_errors=True)


def _hashed(salt: str, group: str) -> str:
    return hashlib.sha256(f"{salt}\x1f{group}".encode()).hexdigest()


def _write_records(
    source: Path, target: Path, gone: set[int], files: Mapping[str, Any]
) -> dict[str, Any]:
    """Record tables without the rows `gone`; returns the counts of the manifest that change."""
    tasks: Counter[str] = Counter()
    splits: Counter[str] = Counter()
    first = records = uses = 0
    for name in sorted(name for name in files if name.startswith("records-")):
        table = pq.read_table(source / name)
        keep = np.array([first + i not in gone for i in range(table.num_rows)], bool)
        first += table.num_rows
        kept = table.filter(pa.array(keep))
        if kept.num_rows == table.num_rows:
            _link(source / name, target / name)
        elif kept.num_rows:
            with atomic_open(target / name) as handle:
                kept = kept.cast(schema.RECORDS)
                pq.write_table(kept, handle, row_group_size=ROW_GROUP, compression="zstd")
        records += kept.num_rows
        uses += sum(kept["n_images"].to_pylist())
        tasks.update(kept["task"].to_pylist())
        splits.update(kept["split"].to_pylist())
    return {
        "records": records,
        "image_uses": uses,
        "tasks": dict(sorted(tasks.items())),
        "splits": dict(sorted(splits.items())),
    }


def _write_images(shards: ShardSet, target: Path, gone: set[str]) -> None:
    """Tars and image index without the images `gone`."""
    rows = shards.images.to_pylist()
    reader = TarReader(shards.path)
    by_tar: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_tar.setdefault(row["tar"], []).append(row)
    for tar, members in sorted(by_tar.items()):
        kept = [row for row in members if row["sha256"] not in gone]
        if len(kept) == len(members):
            _link(shards.path / tar, target / tar)
        elif kept:
            with atomic_open(target / tar) as handle:
                writer = TarWriter(handle)
                for row in sorted(kept, key=lambda one: one["offset"]):
                    data = reader.read(tar, row["offset"], row["size"], row["sha256"])
                    suffix = "jpg" if row["format"] == "jpeg" else "png"
                    row["offset"] = writer.add(f"{row['sha256']}.{suffix}", data)
                writer.close()
    reader.close()
    left = [row for row in rows if row["sha256"] not in gone]
    with atomic_open(target / "images.parquet") as handle:
        pq.write_table(pa.Table.from_pylist(left, schema=schema.IMAGES), handle, compression="zstd")


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)
