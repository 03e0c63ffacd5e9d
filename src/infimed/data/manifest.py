"""The manifest of shards: what they hold, the hash of every file, and whether they are complete."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from infimed.core.errors import DataError
from infimed.core.files import read_json, sha256_json


@dataclass(frozen=True, slots=True)
class ImportSummary:
    """What an import did.

    Attributes:
        path: the finished shards. data_hash: see `ShardSet.data_hash`.
        records, images, image_uses, shards, problems: counts; `image_uses` counts an image once a
            record that shows it.
        problem_codes: problems by code. kept_shards: shards taken over from an earlier, killed run.
        tasks, splits: records by task and by split.
    """

    path: Path
    data_hash: str
    records: int
    images: int
    image_uses: int
    shards: int
    problems: int
    problem_codes: Mapping[str, int]
    tasks: Mapping[str, int]
    splits: Mapping[str, int]
    kept_shards: int = 0


def data_hash(files: Mapping[str, Mapping[str, object]]) -> str:
    """One hash over the manifest's file hashes; problems are no part of the data."""
    return sha256_json(
        {name: entry["sha256"] for name, entry in files.items() if name != "problems.jsonl"}
    )


def summary_of(out: Path) -> ImportSummary:
    """The summary of finished shards, from their manifest."""
    manifest = read_json(out / "manifest.json")
    counts = manifest["counts"]
    return ImportSummary(
        path=out,
        data_hash=manifest["data_sha256"],
        records=counts["records"],
        images=counts["images"],
        image_uses=counts["image_uses"],
        shards=counts["shards"],
        problems=counts["problems"],
        problem_codes=counts["problem_codes"],
        tasks=counts["tasks"],
        splits=counts["splits"],
    )


def finished_import(
    out: Path, fingerprint: str, *, overwrite: bool = False
) -> ImportSummary | None:
    """The summary when `out` already holds this very import, None when `out` is free.

    Args:
        overwrite: remove shards of other data or options, as for a cache; nothing else is removed.

    Raises:
        DataError: `out` holds something else.
    """
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise DataError("is not a folder", where=str(out), fix="choose another --out")
    if not out.is_dir() or not any(out.iterdir()):
        return None
    if (out / "manifest.json").is_file():
        manifest = read_json(out / "manifest.json")
        if isinstance(manifest, dict) and manifest.get("fingerprint") == fingerprint:
            return summary_of(out)
        if overwrite:
            shutil.rmtree(out)
            return None
        raise DataError(
            "holds shards of other data or other options; shards are never changed",
            where=str(out),
            fix=f"choose another --out, or remove {out} first",
        )
    raise DataError(
        "the folder is not empty and holds no shards", where=str(out), fix="choose another --out"
    )
