"""An index of training images on disk: features, what they belong to, and a manifest that names both.

    manifest.json      format, tower, shards with the hash of their data, files, what was left out and why
    features-N.npy     float16 [images, width], each of length 1
    rows-N.parquet     by image: record ids, source, licence, split, image hash, thumbnail

Invariant: the manifest, written last and by one rename, is what counts; files that it does not name are left over
and are deleted by the next writer. Nothing here needs a model.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from infimed.core.errors import DataError
from infimed.core.files import atomic_open, read_json, write_json

FORMAT: Final = 1
KIND: Final = "infimed index of training images"
MANIFEST: Final = "manifest.json"
JOB: Final = "job.json"
"""In the folder of an index that is being made: what it is made of."""
BLOCK_BYTES: Final = 32 * 2**20
"""Features that are read at once."""
ROW_GROUP: Final = 1024

ROWS: Final = pa.schema(
    [
        ("ids", pa.list_(pa.string())),
        ("source", pa.string()),
        ("license", pa.string()),
        ("split", pa.string()),
        ("image_sha256", pa.string()),
        ("thumbnail", pa.binary()),
    ]
)

Halves = NDArray[np.float16]


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an index.

    Raises:
        DataError: there is no complete index of this format.
    """
    file = folder / MANIFEST
    if not file.is_file():
        raise DataError(
            "no index of training images here",
            where=str(folder),
            fix="infimed index RUN --out DIR",
        )
    value = read_json(file)
    names = ("tower", "width", "rows", "shards", "files", "generation")
    if not isinstance(value, dict) or value.get("kind") != KIND or not all(n in value for n in names):  # fmt: skip
        raise DataError("this is no index of training images", where=str(file))
    if value.get("format") != FORMAT:
        raise DataError(
            "an index of another format",
            where=str(file),
            seen=value.get("format"),
            accepted=str(FORMAT),
            fix="make it again with infimed index",
        )
    return value


def is_index(folder: Path) -> bool:
    """Whether a folder holds an index of any format."""
    try:
        value = read_json(folder / MANIFEST)
    except (DataError, OSError):
        return False
    return isinstance(value, dict) and value.get("kind") == KIND


def open_features(folder: Path, manifest: dict[str, Any]) -> Halves:
    """The features as a read-only memory map [images, width].

    Raises:
        DataError: the file is missing, damaged or of another shape than stated.
    """
    file = folder / Path(str(manifest["files"]["features"])).name
    shape = (int(manifest["rows"]), int(manifest["width"]))
    try:
        # An empty file cannot be mapped.
        made = np.load(file, mmap_mode="r" if shape[0] else None, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"the features cannot be read ({type(error).__name__})", where=str(file)) from error  # fmt: skip
    if made.shape != shape or made.dtype != np.float16 or not made.flags.c_contiguous:
        raise DataError(
            "the features are not what the manifest states",
            where=str(file),
            seen=f"{made.dtype} {made.shape}",
            accepted=f"float16 {shape}",
            fix="make the index again with infimed index",
        )
    return np.asarray(made) if not shape[0] else made


def open_rows(folder: Path, manifest: dict[str, Any]) -> pq.ParquetFile:
    """The table of what the images belong to.

    Raises:
        DataError: the file is missing, damaged or of another length than stated.
    """
    file = folder / Path(str(manifest["files"]["rows"])).name
    try:
        made = pq.ParquetFile(file, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"the rows cannot be read ({type(error).__name__})", where=str(file)) from error  # fmt: skip
    if made.metadata.num_rows != manifest["rows"] or not set(ROWS.names) <= set(made.schema_arrow.names):  # fmt: skip
        raise DataError("the rows are not what the manifest states", where=str(file))
    return made


def blocks(features: Halves) -> Iterator[tuple[int, Halves]]:
    """The first row of each block of at most `BLOCK_BYTES`, and the block."""
    step = max(1, BLOCK_BYTES // max(1, features.shape[1] * features.itemsize))
    for start in range(0, len(features), step):
        yield start, features[start : start + step]


def write_index(
    folder: Path, features: Iterable[Halves], rows: pa.Table, about: dict[str, Any]
) -> None:
    """Write an index into a folder, or a new state of the one that is there.

    Args:
        features: float16 [any number, width] each, as many together as `rows`.
        about: the manifest without format, files, width and number of rows; `generation` names the files.
    """
    number, width = int(about["generation"]), int(about["width"])
    names = {"features": f"features-{number}.npy", "rows": f"rows-{number}.parquet"}
    _write_features(folder / names["features"], features, (rows.num_rows, width))
    with atomic_open(folder / names["rows"]) as handle:
        pq.write_table(rows.cast(ROWS), handle, row_group_size=ROW_GROUP, compression="zstd")
    state = {"kind": KIND, "format": FORMAT, **about, "rows": rows.num_rows, "files": names}
    write_json(folder / MANIFEST, state)
    clean(folder)


def _write_features(file: Path, features: Iterable[Halves], shape: tuple[int, int]) -> None:
    """A .npy file, without holding it in memory."""
    partial = file.with_name(f".{file.name}.partial")
    if shape[0]:
        made = open_memmap(partial, "w+", np.float16, shape)
        at = 0
        for block in features:
            made[at : at + len(block)] = block
            at += len(block)
        assert at == shape[0], "as many features as rows"
        made.flush()
    else:
        with open(partial, "wb") as handle:
            np.save(handle, np.zeros(shape, np.float16), allow_pickle=False)
    with open(partial, "rb") as handle:
        os.fsync(handle.fileno())
    os.replace(partial, file)


def clean(folder: Path) -> None:
    """Delete what the manifest does not name and an index would."""
    named = set(read_manifest(folder)["files"].values())
    for pattern in ("features-*.npy", "rows-*.parquet", ".features-*.partial", ".rows-*.partial"):
        for file in folder.glob(pattern):
            if file.name not in named:
                file.unlink()


def check_data(folder: Path, manifest: dict[str, Any]) -> None:
    """That the shards beside are still those that were indexed, where they are on this machine at all.

    Raises:
        DataError: they were changed since; records may be gone that the index still knows.
    """
    for shards in manifest["shards"]:
        file = folder / str(shards["path"]) / "manifest.json"
        if file.is_file() and read_json(file).get("data_sha256") != shards["data_sha256"]:
            raise DataError(
                "the data were changed after they were indexed",
                where=str(folder),
                seen=str(file.parent),
                fix="infimed data forget … --index DIR for a removed patient; else make the index again",
            )


def names_data(folder: Path, data_hash: str) -> bool:
    """Whether a folder is an index of these shards, finished or not."""
    if (folder / JOB).is_file():
        job = read_json(folder / JOB)
        return isinstance(job, dict) and data_hash in job.get("shards", ())
    if not is_index(folder):
        return False
    return any(one["data_sha256"] == data_hash for one in read_manifest(folder)["shards"])


def without_records(folder: Path, ids: set[str], before: str, after: str) -> None:
    """Take records out of an index; images that no other record shows go with them.

    Args:
        before, after: hash of the shards before and after the same was done to them. Nothing is
            done where the index names `before` no more. One that is not finished is deleted: it would
            not go on with other data anyway.
    """
    if (folder / JOB).is_file():
        shutil.rmtree(folder)
        return
    if not folder.is_dir():
        return
    manifest = read_manifest(folder)
    if all(one["data_sha256"] != before for one in manifest["shards"]):
        clean(folder)  # killed after the manifest was written
        return
    table = open_rows(folder, manifest).read()
    left = [[name for name in names if name not in ids] for names in table["ids"].to_pylist()]
    stay = np.array([bool(names) for names in left], bool)
    table = table.set_column(0, "ids", pa.array(left, pa.list_(pa.string()))).filter(pa.array(stay))
    features = open_features(folder, manifest)
    shards = [
        {**one, "data_sha256": after} if one["data_sha256"] == before else one
        for one in manifest["shards"]
    ]
    kept = (block[stay[start : start + len(block)]] for start, block in blocks(features))
    about = {
        **manifest,
        "shards": shards,
        "generation": int(manifest["generation"]) + 1,
        "records": len({name for names in table["ids"].to_pylist() for name in names}),
    }
    write_index(folder, kept, table, about)
