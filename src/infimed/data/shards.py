"""Reading shards: records by number, images by content hash, planning columns without messages.

Opening reads the manifest and the image index only; records are read in row groups that are kept
in a small cache, images with one `pread` each. Nothing is unpacked and no member name is used as
a path. A `ShardSet` may be used from several threads, survives a fork, and pickles as its path.
"""

from __future__ import annotations

import json
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infimed.core.errors import DataError
from infimed.core.files import read_json, sha256_file
from infimed.data import imaging, schema
from infimed.data.manifest import data_hash
from infimed.data.measure import Measure, token_lengths
from infimed.data.record import Facts, ImageRef, Record
from infimed.data.tarstore import TarReader

__all__ = ["DamagedRecord", "Measure", "ShardSet", "open_shards", "token_lengths"]

CACHED_BYTES: Final = 128 * 2**20
"""Row groups kept as Arrow tables: 0.1 MB each where records are short, so over 300,000 records."""

INDEX_COLUMNS: Final = tuple(name for name in schema.RECORDS.names if name not in schema.HEAVY)


class DamagedRecord(DataError):
    """One stored record that cannot be read back, though its shard can. `record_id` may be ''."""

    def __init__(self, where: str, record_id: str, problem: str) -> None:
        self.record_id = record_id
        super().__init__(
            f"a stored record is damaged ({problem})", where=where, seen=record_id or None,
            fix="import the data again",
        )  # fmt: skip


def open_shards(path: Path | str, *, verify: bool = False) -> ShardSet:
    """Open finished shards.

    Args:
        verify: hash every file against the manifest (reads all bytes once).

    Raises:
        DataError: no shards there, unfinished, of another version, or damaged.
    """
    return ShardSet(Path(path), verify=verify)


class ShardSet:
    """Immutable records and images of one import. See `open_shards`."""

    def __init__(self, path: Path, *, verify: bool = False) -> None:
        self.path = path
        manifest = _manifest(path)
        self._files: dict[str, dict[str, Any]] = manifest["files"]
        self.data_hash = str(manifest.get("data_sha256"))
        self.counts: dict[str, Any] = manifest["counts"]
        _check_files(path, self._files, verify)
        if data_hash(self._files) != self.data_hash:
            raise DataError(
                "the manifest does not agree with itself", where=str(path / "manifest.json")
            )
        names = sorted(name for name in self._files if name.startswith("records-"))
        self._tables = [_open_parquet(path / name) for name in names]
        for name, table in zip(names, self._tables, strict=True):
            _check_columns(path / name, table)
        starts, groups = 0, []
        for number, table in enumerate(self._tables):
            for group in range(table.num_row_groups):
                groups.append((starts, number, group))
                starts += table.metadata.row_group(group).num_rows
        self._groups = groups
        self._group_starts = [start for start, _, _ in groups]
        self._length = starts
        if starts != self.counts["records"]:
            raise DataError(
                "the shards hold another number of records than stated", where=str(path)
            )
        self._images = _open_parquet(path / "images.parquet").read().combine_chunks()
        self._sha256 = _keys(self._images)
        self._facts, self._tar = self._images["facts"], self._images["tar"]
        self._offset, self._size = (self._images[name].to_numpy() for name in ("offset", "size"))
        self._tars = TarReader(path)
        self._lock = threading.Lock()
        self._cache: OrderedDict[int, pa.Table] = OrderedDict()
        self._cached_bytes = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return (ShardSet, (self.path,))

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Record]:
        for number in range(len(self._groups)):
            yield from (schema.from_row(row) for row in self._read_group(number).to_pylist())

    def record(self, number: int) -> Record:
        """Record `number`, 0 <= number < len.

        Raises:
            IndexError: there is no such record.
            DamagedRecord: its stored form cannot be read.
        """
        if not 0 <= number < self._length:
            raise IndexError(f"record {number} of {self._length}")
        group = bisect_right(self._group_starts, number) - 1
        with self._lock:
            rows = self._cache.get(group)
            if rows is not None:
                self._cache.move_to_end(group)
        if rows is None:
            rows = self._read_group(group)
            with self._lock:
                self._keep(group, rows)
        at = number - self._group_starts[group]
        return self._made({name: rows[name][at].as_py() for name in rows.column_names}, number)

    def _keep(self, group: int, rows: pa.Table) -> None:
        if group in self._cache:  # another thread read it too
            return
        self._cache[group] = rows
        self._cached_bytes += rows.nbytes
        while self._cached_bytes > CACHED_BYTES and len(self._cache) > 1:
            self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes

    def records(self, begin: int, end: int) -> list[Record]:
        """Records `begin` to `end` - 1 in one sweep, about ten times faster than one by one.

        Raises:
            IndexError: a number outside the set.
            DamagedRecord: a stored form cannot be read; `record` tells which.
        """
        if not 0 <= begin <= end <= self._length:
            raise IndexError(f"records {begin} to {end} of {self._length}")
        found: list[Record] = []
        group = bisect_right(self._group_starts, begin) - 1
        while begin < end:
            start = self._group_starts[group]
            rows = self._read_group(group).slice(begin - start, end - begin).to_pylist()
            found.extend(self._made(row, begin + i) for i, row in enumerate(rows))
            begin += len(rows)
            group += 1
        return found

    def _made(self, row: dict[str, Any], number: int) -> Record:
        try:
            return schema.from_row(row)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            where, name = f"{self.path} record {number}", type(error).__name__
            raise DamagedRecord(where, str(row.get("id") or ""), name) from None

    def select(self, numbers: Iterable[int]) -> Iterator[Record]:
        """The records with these numbers, in the order given."""
        return (self.record(int(number)) for number in numbers)

    def index(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Planning columns of all records in order (default: all but messages and image facts).

        Raises:
            DataError: no such column.
        """
        wanted = list(INDEX_COLUMNS if columns is None else columns)
        unknown = [name for name in wanted if name not in schema.RECORDS.names]
        if unknown:
            raise DataError(
                "no such column",
                where=str(self.path),
                seen=unknown[0],
                accepted=schema.RECORDS.names,
            )
        with self._lock:
            return pa.concat_tables([table.read(columns=wanted) for table in self._tables])

    @property
    def images(self) -> pa.Table:
        """The image index (columns of `schema.IMAGES`), sorted by sha256."""
        return self._images

    def problems(self) -> Iterator[dict[str, str]]:
        """What was not imported: where, what, fix, code."""
        with (self.path / "problems.jsonl").open(encoding="utf-8") as handle:
            for line in handle:
                yield json.loads(line)

    def holds(self, ref: ImageRef) -> bool:
        """Whether the image is in this set."""
        name = (ref.sha256 or ref.locator.removeprefix(schema.LOCATOR_PREFIX)).encode(
            "ascii", "replace"
        )
        row = int(np.searchsorted(self._sha256, name))
        return row < len(self._sha256) and bool(self._sha256[row] == name)

    def image_facts(self, sha256: str) -> Facts:
        """Stored facts of an image. Raises DataError when it is not there."""
        return self._facts_of(self._find(sha256))

    def image_bytes(self, sha256: str) -> bytes:
        """Stored bytes (PNG or JPEG) of an image, checked against its hash."""
        return self._bytes_of(self._find(sha256), sha256)

    def pixels(self, ref: ImageRef) -> NDArray[np.uint8]:
        """The image as uint8 [H, W, 3] RGB, rendered with its stored facts and those of `ref`."""
        return imaging.rgb_of(self.planes(ref))

    def planes(self, ref: ImageRef) -> NDArray[np.uint8]:
        """`pixels` without repeating a single grey channel: uint8 [H, W] or [H, W, 3]."""
        sha256 = ref.sha256 or ref.locator.removeprefix(schema.LOCATOR_PREFIX)
        row = self._find(sha256)
        facts = ref.facts
        if "window_center" not in facts:
            facts = {**self._facts_of(row), **facts}
        try:
            return imaging.decode_planes(self._bytes_of(row, sha256), facts)
        except imaging.ImageError as error:
            raise imaging.ImageError(error.code, where=f"{self.path} image {sha256}") from None

    def close(self) -> None:
        """Close the files; further reads open them again."""
        self._tars.close()

    def _facts_of(self, row: int) -> dict[str, Any]:
        stored: str = self._facts[row].as_py()
        facts: dict[str, Any] = {} if stored == "{}" else json.loads(stored)
        return facts

    def _bytes_of(self, row: int, sha256: str) -> bytes:
        tar: str = self._tar[row].as_py()
        return self._tars.read(tar, int(self._offset[row]), int(self._size[row]), sha256)

    def _find(self, sha256: str) -> int:
        key = sha256.encode("ascii", "replace")
        row = int(self._sha256.searchsorted(key))
        if row >= len(self._sha256) or self._sha256[row] != key:
            raise DataError("no such image in these shards", where=str(self.path), seen=sha256[:80])
        return row

    def _read_group(self, number: int) -> pa.Table:
        _, table, group = self._groups[number]
        try:
            with self._lock:
                return self._tables[table].read_row_group(group)
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                "a shard cannot be read", where=str(self.path), fix="import the data again"
            ) from error


def _manifest(path: Path) -> dict[str, Any]:
    if not (path / "manifest.json").is_file():
        raise DataError(
            "no finished shards here",
            where=str(path),
            fix=f"run `infimed data import SOURCE --out {path}`; an interrupted import goes on where it stopped",
        )
    manifest = read_json(path / "manifest.json")
    if not isinstance(manifest, dict) or not manifest.get("complete"):
        raise DataError("the shards are not complete", where=str(path), fix="run the import again")
    if manifest.get("format_version") != schema.FORMAT_VERSION:
        raise DataError(
            "shards of another format version",
            where=str(path),
            seen=manifest.get("format_version"),
            accepted=str(schema.FORMAT_VERSION),
            fix="import the data again with this version of InfiMed",
        )
    files = manifest.get("files")
    whole = isinstance(files, dict) and all(
        isinstance(entry, dict)
        and isinstance(entry.get("sha256"), str)
        and isinstance(entry.get("bytes"), int)
        for entry in files.values()
    )
    counts = manifest.get("counts")
    if not whole or not isinstance(counts, dict) or "records" not in counts:
        raise DataError("the manifest is damaged", where=str(path / "manifest.json"))
    return manifest


def _check_files(path: Path, files: dict[str, dict[str, Any]], verify: bool) -> None:
    for name, entry in files.items():
        file = path / name
        if "/" in name or not file.is_file() or file.stat().st_size != entry["bytes"]:
            raise DataError("a file of the shards is missing or has another size", where=str(file))
        if verify and sha256_file(file) != entry["sha256"]:
            raise DataError(
                "a file of the shards was changed or damaged",
                where=str(file),
                fix="import the data again",
            )


def _open_parquet(file: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            "a shard cannot be read", where=str(file), fix="import the data again"
        ) from error


def _check_columns(file: Path, table: pq.ParquetFile) -> None:
    missing = sorted(set(schema.RECORDS.names) - set(table.schema_arrow.names))
    if missing:
        raise DataError(
            "a shard lacks a column",
            where=str(file),
            seen=", ".join(missing),
            fix="import the data again",
        )


def _keys(images: pa.Table) -> NDArray[np.bytes_]:
    """The sha256 column as a sorted array of 64-byte strings, without a copy where possible."""
    if images.num_rows == 0:
        return np.zeros(0, dtype="S64")
    keys = np.array(images["sha256"].to_pylist(), dtype="S64")
    if len(keys) > 1 and not (keys[:-1] < keys[1:]).all():
        raise DataError("the image index is not sorted", where="images.parquet")
    return keys
