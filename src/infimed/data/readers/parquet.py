"""Parquet with embedded image bytes: the layout of Hugging Face data sets.

An image column is a struct {bytes, path}, plain binary, or a list of either (``image``,
``images``). Text columns are those of `tables`, or ``conversations`` / ``messages``. The split is
read from the file's name (``test-00000-of-00001.parquet``) unless a column states it. Rows are
read in batches without the image bytes, which are fetched by row when an image is decoded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infimed.core.errors import DataError
from infimed.data.locators import with_fragment
from infimed.data.readers import llava
from infimed.data.readers.base import (
    SPLIT_NAMES,
    Defaults,
    Item,
    Options,
    ReadProblem,
    defaults,
    problem_of,
    walk_files,
)
from infimed.data.readers.messages import message_record
from infimed.data.readers.tables import ROW_OPTIONS, has_text, lower_keys, row_record
from infimed.data.record import ImageRef, Record

NAME = "parquet"
OPTIONS: Mapping[str, str] = {
    "image_column": "column with the image bytes (default: the first that holds images)",
    **ROW_OPTIONS,
}
SPLIT_IN_NAME = re.compile(r"^([a-z]+)(?:[-_.]|$)", re.IGNORECASE)


def detect(path: Path) -> bool:
    """A Parquet file, or a folder with one in it or in ``data/``, that can become records."""
    for file in _files(path):
        try:
            schema = pq.read_schema(file)
        except (pa.ArrowException, OSError):
            continue
        columns = {name.lower() for name in schema.names}
        return has_text(columns) or bool(columns & {"conversations", "messages"})
    return False


def read(path: Path, options: Options) -> Iterator[Item]:
    """Every row of every file, in file order."""
    common = defaults(path, options)
    root = path if path.is_dir() else path.parent
    files = _files(path)
    if not files:
        yield ReadProblem(str(path), "no Parquet file here", "", "reader")
    for file in files:
        relative = file.relative_to(root).as_posix()
        try:
            yield from _read_file(file, relative, _with_split(common, file, options), options)
        except (pa.ArrowException, OSError):
            yield ReadProblem(
                relative, "not a readable Parquet file", "copy the file again", "corrupt"
            )


def _read_file(file: Path, relative: str, common: Defaults, options: Options) -> Iterator[Item]:
    with pq.ParquetFile(file) as table:
        schema = table.schema_arrow
        column = options.get("image_column") or _image_column(schema)
        if column is not None and column not in schema.names:
            fix = f"columns are {', '.join(schema.names)}"
            yield ReadProblem(relative, f"no column {column!r}", fix, "column")
            return
        is_list = column is not None and pa.types.is_list(schema.field(column).type)
        wanted = [
            name
            for name in schema.names
            if name != column and not holds_bytes(schema.field(name).type)
        ]
        row_number = 0
        for group in range(table.num_row_groups):
            counts = _image_counts(table, group, column) if is_list else None
            rows = table.read_row_group(group, columns=wanted).to_pylist()
            rows = rows or [{}] * table.metadata.row_group(group).num_rows
            for position, row in enumerate(rows):
                where = f"{relative} row {row_number}"
                count = counts[position] if counts is not None else int(column is not None)
                try:
                    names = _locators(relative, row_number, column, count, is_list)
                    yield _record(row, names, f"{file.stem}-{row_number}", common, options)
                except DataError as error:
                    yield problem_of(error, where)
                except (AttributeError, KeyError, TypeError, ValueError) as error:
                    yield ReadProblem(where, f"not a record ({type(error).__name__})", "")
                row_number += 1


def _record(
    row: Mapping[str, Any], names: list[str], fallback_id: str, common: Defaults, options: Options
) -> Record:
    cells = lower_keys(row)
    if isinstance(cells.get("conversations"), list):
        return llava.make_record(cells, names, fallback_id, common, options)
    if isinstance(cells.get("messages"), list):
        return message_record({**cells, "images": names}, fallback_id, common, options)
    refs = tuple(ImageRef(name) for name in names)
    return row_record(cells, refs, fallback_id, common, options, group=names[0] if names else "")


def _locators(relative: str, row: int, column: str | None, count: int, is_list: bool) -> list[str]:
    if column is None:
        return []
    if not is_list:
        return [with_fragment(relative, row=row, column=column)]
    return [with_fragment(relative, row=row, column=column, item=item) for item in range(count)]


def _image_counts(table: pq.ParquetFile, group: int, column: str | None) -> list[int]:
    """Images a row, reading the smallest leaf of the list column that there is."""
    leaves = [
        table.schema.column(index).path
        for index in range(len(table.schema))
        if table.schema.column(index).path.split(".")[0] == column
    ]
    leaf = next((path for path in leaves if path.endswith(".path")), leaves[0])
    cells = table.read_row_group(group, columns=[leaf]).column(0)
    return [len(cell) if cell is not None else 0 for cell in cells.to_pylist()]


def _image_column(schema: pa.Schema) -> str | None:
    named = [name for name in schema.names if name.lower() in ("image", "images", "img", "picture")]
    others = [name for name in schema.names if name not in named]
    return next((name for name in (*named, *others) if holds_bytes(schema.field(name).type)), None)


def holds_bytes(kind: pa.DataType) -> bool:
    """Whether a column holds image bytes: binary, a struct with them, or a list of either."""
    if pa.types.is_list(kind):
        return holds_bytes(kind.value_type)
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and holds_bytes(field.type) for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _with_split(common: Defaults, file: Path, options: Options) -> Defaults:
    match = SPLIT_IN_NAME.match(file.stem)
    split = SPLIT_NAMES.get(match[1].lower()) if match else None
    return replace(common, split=split) if split and "split" not in options else common


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix.lower() == ".parquet" else []
    if not path.is_dir():
        return []
    return [file for file in walk_files(path) if file.suffix.lower() == ".parquet"]
