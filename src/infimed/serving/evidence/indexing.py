"""Making an index of training images: choose records, run the tower over their images, write parts, then the whole.

A part is written by one rename as soon as it is computed, so a run that was killed goes on from the last one. What may not
be shown to whoever asks the server is never written: see `kept_back`.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infimed.core.console import progress
from infimed.core.errors import DataError
from infimed.core.files import (
    atomic_open,
    read_json,
    sha256_json,
    write_json,
)
from infimed.data.record import ImageRef
from infimed.data.shards import ShardSet
from infimed.data.thumbnails import thumbnail
from infimed.inference.local import LocalModel
from infimed.serving.evidence.index_files import (
    JOB,
    ROWS,
    Halves,
    is_index,
    read_manifest,
    write_index,
)
from infimed.serving.evidence.nearest import pooled, tower_fingerprint

PART: Final = 2048
"""Images whose features are written together; what is lost when a run is killed."""
TOGETHER: Final = 8
"""Images that go through the tower together; see `inference.local.IMAGES_PER_PASS`."""
THUMBNAIL_SIDE: Final = 96
UNSTATED: Final = ("", "unknown")
"""Licences that say nothing."""


@dataclass(frozen=True)
class Filter:
    """Which records may be in an index.

    Attributes:
        splits: that are looked at. licenses: that may be shown; none for every stated one.
        consents: values of the fact `consent` that allow showing.
    """

    splits: tuple[str, ...] = ("train",)
    licenses: tuple[str, ...] = ()
    consents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Set:
    """Shards to index. `numbers`: records that were trained on, ascending; None for all of the splits."""

    shards: ShardSet
    numbers: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Indexed:
    """What was made.

    Attributes:
        images, records: in the index. left_out: records by reason, and images that could not be read.
        resumed: images that were there from an earlier, killed run. reused: all of it was there.
    """

    images: int
    records: int
    left_out: dict[str, int]
    resumed: int = 0
    reused: bool = False


@dataclass
class _Image:
    """One image with the records of one source and licence that show it."""

    where: int
    record: int
    sha256: str
    source: str
    license: str
    split: str
    ids: list[str] = field(default_factory=list)


def kept_back(license: str, consent: object, chosen: Filter) -> str:
    """Why a record may not be shown; "" where it may.

    A licence must be named, or be stated at all where none are named. A record without a word on consent is left to
    its licence; one that has the fact `consent` is shown only where its value is named, whatever it says.
    """
    if chosen.licenses:
        if license not in chosen.licenses:
            return "licence not named"
    elif license.strip().lower() in UNSTATED:
        return "licence not stated"
    if consent is not None and consent not in chosen.consents:
        return "consent not named"
    return ""


def build(
    local: LocalModel, sets: Sequence[Set], out: Path, chosen: Filter, *, thumbnails: bool = False
) -> Indexed:
    """Write an index of the images of training records.

    Args:
        thumbnails: store small copies of the images too; they are patient data.

    Raises:
        DataError: nothing may be shown, or `out` holds something else.
    """
    images, left_out = choose(sets, chosen)
    tower = tower_fingerprint(local)
    job = {
        "tower": tower,
        "shards": [each.shards.data_hash for each in sets],
        "images": sha256_json([[i.where, i.record, i.sha256, i.license, *i.ids] for i in images]),
        "filter": [list(chosen.splits), list(chosen.licenses), list(chosen.consents)],
        "thumbnails": thumbnails,
    }
    done = _finished(out, job)
    if done is not None:
        return done
    if not images:
        seen = ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "no records"
        raise DataError(
            "no training record with an image may be shown",
            where=", ".join(str(each.shards.path) for each in sets),
            seen=seen,
            fix="name what may be shown with --license and --consent; infimed data inspect lists licences",
        )
    work = _working(out)
    resumed = _work_folder(work, job)
    with progress("images", len(images), resumed, "images") as advance:
        for number in range(-(-len(images) // PART)):
            if not _part(work, number).is_file():
                part = images[number * PART : (number + 1) * PART]
                for count in _write_part(_part(work, number), local, sets, part, thumbnails):
                    advance(count)
    return _assemble(work, out, images, left_out, job, sets, local, resumed)


def choose(sets: Sequence[Set], chosen: Filter) -> tuple[list[_Image], dict[str, int]]:
    """The images to index in the order of their first records, and how many records were left out by reason.

    An image that a licence or source shows differently is one entry for each. Where records give one stored image
    different windows, the first record's is taken.
    """
    found: dict[tuple[str, str, str, str], _Image] = {}
    left_out: Counter[str] = Counter()
    for where, one in enumerate(sets):
        columns = one.shards.index(["id", "source", "license", "split", "facts", "image_sha256"])
        trained = None if one.numbers is None else set(one.numbers.tolist())
        for number, row in enumerate(_lines(columns)):
            if not row["image_sha256"] or row["split"] not in chosen.splits:
                continue
            if trained is not None and number not in trained:
                left_out["not trained on"] += 1
                continue
            facts = row["facts"]
            consent = json.loads(facts).get("consent") if '"consent"' in facts else None
            reason = kept_back(row["license"], consent, chosen)
            if reason:
                left_out[reason] += 1
                continue
            for sha256 in row["image_sha256"]:
                key = (sha256, row["source"], row["license"], row["split"])
                if key not in found:
                    found[key] = _Image(where, number, *key)
                if row["id"] not in found[key].ids:
                    found[key].ids.append(row["id"])
    return list(found.values()), dict(sorted(left_out.items()))


def _lines(columns: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in columns.to_batches(max_chunksize=4096):
        yield from batch.to_pylist()


def _finished(out: Path, job: dict[str, Any]) -> Indexed | None:
    """What is in `out` already, None when it is free.

    Raises:
        DataError: it holds something else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not is_index(out):
        raise DataError(
            "the folder is not empty and holds no index",
            where=str(out),
            fix="choose another --out",
        )
    manifest = read_manifest(out)
    if manifest.get("job") == sha256_json(job):
        shutil.rmtree(_working(out), ignore_errors=True)  # of a run that was killed at its very end
        left_out = dict(manifest["left_out"])
        return Indexed(manifest["rows"], manifest["records"], left_out, reused=True)
    raise DataError(
        "holds an index of other data, another model or other options",
        where=str(out),
        fix=f"choose another --out, or remove {out} first",
    )


def _working(out: Path) -> Path:
    return out.with_name(f".{out.name}.building")


def _work_folder(work: Path, job: dict[str, Any]) -> int:
    """Prepare the folder of parts; returns how many images of an earlier run of the same job are in it."""
    mark = work / JOB
    if not (mark.is_file() and read_json(mark) == job):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        write_json(mark, job)
        return 0
    return PART * len(list(work.glob("part-*.parquet")))


def _part(work: Path, number: int) -> Path:
    return work / f"part-{number:06d}.parquet"


def _write_part(
    file: Path, local: LocalModel, sets: Sequence[Set], images: Sequence[_Image], thumbnails: bool
) -> Iterator[int]:
    """Features of some images by their place among them; yields how many were looked at. Unreadable ones have no line."""
    lines: list[dict[str, Any]] = []
    for start in range(0, len(images), TOGETHER):
        batch = images[start : start + TOGETHER]
        ready = []
        for at, image in enumerate(batch, start):
            shards = sets[image.where].shards
            ref = _reference(shards, image)
            try:
                ready.append((at, shards.pixels(ref), ref, shards))
            except (DataError, OSError):
                continue
        if ready:
            made = pooled(local, [pixels for _, pixels, _, _ in ready]).astype(np.float16)
            for (at, _, ref, shards), feature in zip(ready, made, strict=True):
                small = _thumbnail(shards, ref) if thumbnails else None
                lines.append({"at": at, "feature": feature.tobytes(), "thumbnail": small})
        yield len(batch)
    table = pa.Table.from_pylist(lines, schema=_PART)
    with atomic_open(file) as handle:
        pq.write_table(table, handle)


_PART: Final = pa.schema([("at", pa.int64()), ("feature", pa.binary()), ("thumbnail", pa.binary())])


def _reference(shards: ShardSet, image: _Image) -> ImageRef:
    refs = shards.record(image.record).images
    return next(ref for ref in refs if ref.sha256 == image.sha256)


def _thumbnail(shards: ShardSet, ref: ImageRef) -> bytes | None:
    uri = thumbnail(shards, ref, "", THUMBNAIL_SIDE).uri
    return base64.b64decode(uri.partition(",")[2]) if uri else None


def _assemble(
    work: Path,
    out: Path,
    images: Sequence[_Image],
    left_out: dict[str, int],
    job: dict[str, Any],
    sets: Sequence[Set],
    local: LocalModel,
    resumed: int,
) -> Indexed:
    """One index of all parts."""
    width = int(local.model.config.vision_config.hidden_size)
    parts = [_part(work, number) for number in range(-(-len(images) // PART))]
    places: list[int] = []
    thumbnails: list[bytes | None] = []
    for number, part in enumerate(parts):
        table = pq.read_table(part, columns=["at", "thumbnail"])
        places.extend(number * PART + at for at in table["at"].to_pylist())
        thumbnails.extend(table["thumbnail"].to_pylist())
    kept = [images[place] for place in places]
    if not kept:
        raise DataError("no image of the training records could be read", where=str(out))
    if len(kept) < len(images):
        left_out = {**left_out, "images not readable": len(images) - len(kept)}
    columns = {
        "ids": [image.ids for image in kept],
        "source": [image.source for image in kept],
        "license": [image.license for image in kept],
        "split": [image.split for image in kept],
        "image_sha256": [image.sha256 for image in kept],
        "thumbnail": thumbnails,
    }
    records = len({name for image in kept for name in image.ids})
    about = {
        "generation": 0,
        "tower": job["tower"],
        "width": width,
        "records": records,
        "shards": [
            {"path": os.path.relpath(each.shards.path.resolve(), out.resolve()), "data_sha256": each.shards.data_hash}
            for each in sets
        ],
        "filter": job["filter"],
        "thumbnails": job["thumbnails"],
        "left_out": left_out,
        "job": sha256_json(job),
    }  # fmt: skip
    whole = work / "whole"
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir()
    write_index(whole, _features(parts, width), pa.Table.from_pydict(columns, ROWS), about)
    os.replace(whole, out)  # over an empty folder at most, see `_finished`
    shutil.rmtree(work)
    return Indexed(len(kept), records, left_out, resumed)


def _features(parts: Sequence[Path], width: int) -> Iterator[Halves]:
    for part in parts:
        rows = pq.read_table(part, columns=["feature"])["feature"].to_pylist()
        yield np.frombuffer(b"".join(rows), np.float16).reshape(-1, width)
