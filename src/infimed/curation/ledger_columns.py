"""Reading a ledger column by column, in bounded memory whatever its length.

A table is one Parquet file or a folder of them, read in batches with the wanted columns only; what
is kept of all records is a few bytes each (`Decisions`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infimed.core.errors import DataError
from infimed.core.seeds import derive_seed
from infimed.curation import ledger

BATCH_ROWS: Final = 65_536
SEVERAL: Final = -2
KEPT: Final = -1

Integers = NDArray[np.int64]


def files_of(out: Path, name: str) -> list[Path]:
    """The Parquet files of a ledger table, in order.

    Raises:
        DataError: there is no such table.
    """
    path = ledger.path_of(Path(out), name)
    found = [path] if path.is_file() else sorted(path.rglob("*.parquet")) if path.is_dir() else []
    if not found:
        raise DataError(
            "no curation ledger here",
            where=str(path),
            fix="run: infimed curate run SHARDS --out FOLDER",
        )
    return found


def batches(out: Path, name: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Batches of the wanted columns; fields of images as ``images.list.element.NAME``.

    Raises:
        DataError: the table is missing or damaged.
    """
    for file in files_of(out, name):
        try:
            with pq.ParquetFile(file) as opened:
                yield from opened.iter_batches(BATCH_ROWS, columns=list(columns))
        except (pa.ArrowException, OSError) as error:
            raise _damaged(file) from error


class RowRanges:
    """A table with one row a record, in row order, read by ranges of rows; one row group is held."""

    def __init__(self, file: Path) -> None:
        try:
            self._file = pq.ParquetFile(file)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(file) from error
        self.rows: int = self._file.metadata.num_rows
        self._held: tuple[tuple[int, tuple[str, ...]], pa.Table] | None = None

    def read(self, begin: int, count: int, columns: list[str] | None = None) -> pa.Table:
        """At most `count` rows from `begin` on; `columns` may name fields of images (see `batches`)."""
        pieces = []
        for group in range(self._file.num_row_groups):
            rows = self._file.metadata.row_group(group).num_rows
            if begin < rows:
                piece = self._group(group, columns).slice(begin, count)
                pieces.append(piece)
                count -= piece.num_rows
                if not count:
                    break
            begin = max(0, begin - rows)
        return pa.concat_tables(pieces)

    def _group(self, group: int, columns: list[str] | None) -> pa.Table:
        key = (group, tuple(columns or ()))
        if self._held is None or self._held[0] != key:
            self._held = (key, self._file.read_row_group(group, columns=columns))
        return self._held[1]


def rows_between(
    out: Path, name: str, begin: int, end: int, columns: list[str] | None = None
) -> pa.Table:
    """The rows of a table whose row number lies in [begin, end), in the order they are stored in."""
    files = files_of(out, name)
    inside = (ds.field("row") >= begin) & (ds.field("row") < end)
    try:
        table = ds.dataset([str(file) for file in files], format="parquet")
        return table.to_table(columns, filter=inside)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(files[0]) from error


def column_names(out: Path, name: str) -> set[str]:
    """Names of a table's columns; those of image fields as ``images.list.element.NAME``.

    Raises:
        DataError: the table is missing or damaged.
    """
    file = files_of(out, name)[0]
    try:
        with pq.ParquetFile(file) as opened:
            nested = {opened.schema.column(i).path for i in range(len(opened.schema))}
            return nested | set(opened.schema_arrow.names)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(file) from error


def _damaged(file: Path) -> DataError:
    return DataError("the ledger cannot be read", where=str(file), fix="run the curation again")


def rows_where(out: Path, name: str, rows: Iterable[int]) -> dict[int, list[dict[str, Any]]]:
    """Row number -> the table's rows of that record, for a few records in one pass."""
    wanted = sorted(set(rows))
    found: dict[int, list[dict[str, Any]]] = {row: [] for row in wanted}
    if wanted:
        table = ds.dataset([str(file) for file in files_of(out, name)], format="parquet")
        near = (ds.field("row") >= wanted[0]) & (ds.field("row") <= wanted[-1])
        for line in table.to_table(filter=near & ds.field("row").isin(wanted)).to_pylist():
            found[line["row"]].append(line)
    return found


def rows_of_ids(out: Path, ids: Iterable[str]) -> dict[str, int]:
    """Record id -> row number, for a few ids; those that are not there are left out."""
    wanted = sorted(set(ids))
    if not wanted:
        return {}
    table = ds.dataset([str(file) for file in files_of(out, ledger.VERDICTS)], format="parquet")
    found = table.to_table(["record_id", "row"], filter=ds.field("record_id").isin(wanted))
    return dict(zip(found["record_id"].to_pylist(), found["row"].to_pylist(), strict=True))


@dataclass(frozen=True)
class Decisions:
    """Every verdict in 3 bytes a record.

    Attributes:
        keep: bool [n], by row number; False where there is no such row. exists: bool [n].
        sole: int16 [n], the number in `rules` of the one rule that drops the record, `KEPT`, or
            `SEVERAL` where more than one does.
        rules: rule ids in order of first appearance.
    """

    keep: NDArray[np.bool_]
    exists: NDArray[np.bool_]
    sole: NDArray[np.int16]
    rules: tuple[str, ...]

    def dropped_by(self, rule: str) -> NDArray[np.bool_]:
        """Whether this rule alone drops the record; bool [n]."""
        if rule not in self.rules:
            return np.zeros(len(self.sole), bool)
        return np.asarray(self.sole == self.rules.index(rule))


def read_decisions(out: Path, records: int) -> Decisions:
    """All verdicts; `records` sizes the arrays, which grow where row numbers go further.

    Raises:
        DataError: the verdicts are missing or damaged.
    """
    keep, exists = np.zeros(records, bool), np.zeros(records, bool)
    sole = np.full(records, KEPT, np.int16)
    codes: dict[str, int] = {}
    for batch in batches(out, ledger.VERDICTS, ["row", "keep", "reasons"]):
        rows = batch["row"].to_numpy()
        if len(rows) and rows.max() >= len(keep):
            more = int(rows.max()) + 1 - len(keep)
            keep, exists = np.pad(keep, (0, more)), np.pad(exists, (0, more))
            sole = np.pad(sole, (0, more), constant_values=KEPT)
        keep[rows] = batch["keep"].to_numpy(zero_copy_only=False)
        exists[rows] = True
        reasons = batch["reasons"]
        counts = pc.fill_null(pc.list_value_length(reasons), 0).to_numpy(zero_copy_only=False)
        sole[rows[counts > 1]] = SEVERAL
        encoded = pc.dictionary_encode(pc.list_flatten(reasons))
        names = encoded.dictionary.to_pylist()
        table = np.array([codes.setdefault(name, len(codes)) for name in names], np.int16)
        parents = pc.list_parent_indices(reasons).to_numpy()
        single = counts[parents] == 1
        if len(table):
            sole[rows[parents[single]]] = table[encoded.indices.to_numpy()[single]]
    return Decisions(keep, exists, sole, tuple(codes))


class Lot:
    """A seeded draw of `count` rows from a stream: those whose hash of (seed, row) is smallest.

    The draw does not depend on the order or the batches in which rows are offered.
    """

    def __init__(self, count: int, seed: int, *names: str) -> None:
        self.count = count
        self._salt = np.uint64(derive_seed(seed, *names))
        self._rows: Integers = np.zeros(0, np.int64)

    def offer(self, rows: Integers) -> None:
        """Let these rows take part."""
        merged = np.unique(np.concatenate([self._rows, rows.astype(np.int64)]))
        order = np.argsort(mixed(merged, self._salt), kind="stable")[: self.count]
        self._rows = merged[order]

    @property
    def rows(self) -> list[int]:
        """The drawn rows in the order of the draw."""
        return [int(row) for row in self._rows]


def mixed(rows: Integers, salt: np.uint64) -> NDArray[np.uint64]:
    """Row numbers hashed with a salt (the finaliser of splitmix64); uint64 [n]."""
    with np.errstate(over="ignore"):
        value = rows.astype(np.uint64) + salt
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(value ^ (value >> np.uint64(31)))
