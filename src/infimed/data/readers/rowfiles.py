"""The rows of a benchmark's files: JSON (an array, an object by key), JSONL, CSV, Parquet.

A row comes with the place it stands at; in Parquet the image bytes stay where they are and the row
carries locators instead. A file that cannot be read is one problem, and so is a broken row.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infimed.core.errors import DataError
from infimed.data.fieldmap import FieldMap, Join, lookup, plain
from infimed.data.locators import with_fragment
from infimed.data.readers.base import SPLIT_NAMES, ReadProblem, csv_rows, json_items, json_lines
from infimed.data.readers.parquet import holds_bytes
from infimed.data.record import Split


@dataclass(frozen=True, slots=True)
class Found:
    """One file of a layout: which split its rows are, and the field that holds them ('' for all)."""

    split: Split
    file: Path
    inner: str


def matching_files(folder: Path, layout: FieldMap) -> list[Found]:
    """The files of a layout below a folder, by split and name; [] where a split has none of `test`'s.

    Of several patterns of a split the first counts that matches anything.
    """
    found: list[Found] = []
    for split, patterns in layout.files.items():
        for pattern in patterns:
            name, _, inner = pattern.partition("#")
            files = sorted(file for file in folder.glob(name) if file.is_file())
            if files:
                found += [Found(SPLIT_NAMES[split], file, inner) for file in files]
                break
    return found


def joined(folder: Path, join: Join) -> dict[str, Any]:
    """Rows of a second file by their key.

    Raises:
        DataError: the file is missing or is no object by key.
    """
    files = sorted(folder.glob(join.file))
    if not files:
        raise DataError("a file of this benchmark is missing", where=str(folder / join.file))
    if not join.by:
        whole = json.loads(files[0].read_text(encoding="utf-8-sig"))
        if not isinstance(whole, dict):
            raise DataError("expected a JSON object by key", where=str(files[0]))
        return {str(key): value for key, value in whole.items()}
    rows = (
        csv_rows(files[0]) if files[0].suffix.lower() in (".csv", ".tsv") else json_items(files[0])
    )
    return {
        plain(lookup(item[1], join.by)): item[1]
        for item in rows
        if not isinstance(item, ReadProblem)
    }


def rows_of(
    one: Found, relative: str, layout: FieldMap
) -> Iterator[tuple[str, dict[str, Any], list[str]] | ReadProblem]:
    """(where, row with ``_place`` and ``_key``, image locators in Parquet) of one file."""
    try:
        if one.file.suffix.lower() == ".parquet":
            yield from _parquet_rows(one.file, relative, layout)
            return
        stem = relative.rpartition(".")[0]
        for number, item in enumerate(_text_rows(one, layout)):
            if isinstance(item, ReadProblem):
                yield item
                continue
            where, key, value = item
            row = _as_row(value)
            if row is None:
                yield ReadProblem(where, "the row is neither an object nor a list", "", "json")
                continue
            yield where, {**row, "_key": key, "_place": f"{stem}-{number}"}, []
    except (
        pa.ArrowException,
        OSError,
        UnicodeDecodeError,
        json.JSONDecodeError,
        csv.Error,
    ) as error:
        yield ReadProblem(
            relative, f"not readable ({type(error).__name__})", "copy the file again", "corrupt"
        )


def _as_row(value: object) -> dict[str, Any] | None:
    """A row as an object; a list becomes an object keyed by position."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, list):
        return {str(at): item for at, item in enumerate(value)}
    return None


def _text_rows(one: Found, layout: FieldMap) -> Iterator[tuple[str, str, Any] | ReadProblem]:
    """(where, key, value) of a JSON, JSONL or CSV file."""
    file, suffix = one.file, one.file.suffix.lower()
    if suffix in (".csv", ".tsv") and layout.columns:
        with file.open(encoding="utf-8-sig", newline="") as handle:
            for number, cells in enumerate(csv.reader(handle), start=1):
                if len(cells) != len(layout.columns):
                    yield ReadProblem(
                        f"{file.name} row {number}",
                        f"the row has {len(cells)} cells, not {len(layout.columns)}",
                        "quote cells that hold the separator",
                        "csv",
                    )
                    continue
                yield f"{file.name} row {number}", "", dict(zip(layout.columns, cells, strict=True))
        return
    if suffix in (".csv", ".tsv"):
        source: Any = csv_rows(file)
    elif suffix == ".json" and (one.inner or _is_object(file)):
        whole = json.loads(file.read_text(encoding="utf-8-sig"))
        rows = lookup(whole, one.inner) if one.inner else whole
        if isinstance(rows, Mapping):
            for key, value in rows.items():
                yield f"{file.name}: {key}", str(key), value
            return
        source = ((f"{file.name}[{at}]", value) for at, value in enumerate(rows or ()))
    else:
        source = json_lines(file) if suffix == ".jsonl" else json_items(file)
    for item in source:
        yield item if isinstance(item, ReadProblem) else (item[0], "", item[1])


def _is_object(file: Path) -> bool:
    """Whether a .json file is one object: no array, and not one object a line."""
    with file.open(encoding="utf-8-sig") as handle:
        first, second = handle.readline(), handle.readline()
    if not first.lstrip().startswith("{"):
        return False
    try:
        json.loads(first)
    except json.JSONDecodeError:
        return True
    return not second.strip()


def _parquet_rows(
    file: Path, relative: str, layout: FieldMap
) -> Iterator[tuple[str, dict[str, Any], list[str]]]:
    """Rows without image bytes, and the locators of those bytes, which are fetched when decoded."""
    with pq.ParquetFile(file) as table:
        schema = table.schema_arrow
        heavy = {name for name in schema.names if holds_bytes(schema.field(name).type)}
        shown = [name for name in layout.images if name in heavy]
        light = [name for name in schema.names if name not in heavy]
        number = 0
        for group in range(table.num_row_groups):
            rows = table.read_row_group(group, columns=light).to_pylist()
            present = {name: _present(table, group, name) for name in shown}
            for at, row in enumerate(rows):
                images = []
                for name in shown:
                    count = present[name][at]
                    is_list = pa.types.is_list(schema.field(name).type)
                    for item in range(count):
                        extra = {"item": item} if is_list else {}
                        images.append(with_fragment(relative, row=number, column=name, **extra))
                stem = relative.removesuffix(".parquet")
                yield (
                    f"{relative} row {number}",
                    {**row, "_key": "", "_place": f"{stem}-{number}"},
                    images,
                )
                number += 1


def _present(table: pq.ParquetFile, group: int, column: str) -> list[int]:
    """Images a row holds in a column, reading its smallest leaf (the path, where there is one)."""
    paths = [table.schema.column(i).path for i in range(len(table.schema))]
    leaves = [path for path in paths if path.split(".")[0] == column]
    leaf = next((path for path in leaves if path.endswith(".path")), leaves[0])
    cells = table.read_row_group(group, columns=[leaf]).column(0).to_pylist()
    return [0 if cell is None else len(cell) if isinstance(cell, list) else 1 for cell in cells]
