"""All that the page is made of, in one file: `infimed study pack` and `unpack`.

Whoever has the file writes the same results table and page, recomputes every interval, and goes on with the cells
that are missing, on another machine too. It holds scores and ids of questions, results of cells and what studies were
when their test split was opened; no texts, images or weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infimed.core.errors import DataError
from infimed.core.files import atomic_open, read_json, write_json
from infimed.studies.work import ANSWERS, MACHINE, RESULT, SCHEMA

FORMAT: Final = 1
ABOUT: Final = b"infimed.studies"
CELL: Final = "cell"
_STRINGS: Final = pa.dictionary(pa.int32(), pa.string())


def pack(out: Path, file: Path) -> int:
    """Write the record of everything that is done in `out`; returns the number of cells.

    Raises:
        DataError: nothing is done there.
    """
    results, tables = {}, []
    for folder in sorted(path.parent for path in (out / "cells").glob(f"*/{RESULT}")):
        results[folder.name] = read_json(folder / RESULT)
        answers = pq.read_table(folder / ANSWERS, schema=SCHEMA)
        name = pa.array([folder.name] * len(answers), pa.string())
        tables.append(answers.add_column(0, CELL, name))
    if not results:
        raise DataError("no study ran here", where=str(out), fix="infimed study run NAME")
    about = {"format": FORMAT, "cells": results, "files": dict(_files(out))}
    table = pa.concat_tables(tables)
    for at, column in enumerate(table.schema):
        if column.type == pa.string():
            table = table.set_column(at, column.name, table.column(at).cast(_STRINGS))
    table = table.replace_schema_metadata({ABOUT: json.dumps(about, sort_keys=True)})
    with atomic_open(file) as handle:
        pq.write_table(table, handle, compression="zstd", compression_level=19)
    return len(results)


def unpack(file: Path, out: Path) -> tuple[int, int]:
    """Put the cells of a record into a folder of studies; returns (cells that are new, cells that were there).

    Raises:
        DataError: it is no such record, or the folder's studies were opened otherwise or run with other data.
    """
    try:
        table = pq.read_table(file)
        about = json.loads((table.schema.metadata or {})[ABOUT])
        known = about["format"] == FORMAT
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise DataError(
            "not a record of studies", where=str(file), fix="infimed study pack writes one"
        ) from error
    if not known:
        raise DataError("a record of another version", where=str(file), seen=about["format"], accepted=str(FORMAT))  # fmt: skip
    for name in about["files"]:
        _check(out, file, name, about["files"][name])
    for name, value in about["files"].items():
        if not (out / name).is_file():
            write_json(out / name, value)
    new = 0
    cells = table.column(CELL).cast(pa.string()).combine_chunks()
    answers = table.drop_columns([CELL]).cast(SCHEMA).replace_schema_metadata(None)
    for key, result in sorted(about["cells"].items()):
        folder = out / "cells" / _plain(key, file)
        if (folder / RESULT).is_file():
            continue
        own = answers.filter(pc.equal(cells, key))
        with atomic_open(folder / ANSWERS) as handle:
            pq.write_table(own, handle, compression="zstd")
        write_json(folder / RESULT, result)  # last: it marks the cell as done
        new += 1
    return new, len(about["cells"]) - new


def _files(out: Path) -> Iterator[tuple[str, Any]]:
    """The folder's own notes: opened studies, data of presets, the machine that plans were made for."""
    for pattern in ("opened/*.json", "data-*.json", MACHINE):
        for path in sorted(out.glob(pattern)):
            yield path.relative_to(out).as_posix(), read_json(path)


def _check(out: Path, file: Path, name: str, value: Any) -> None:
    """A note of the record may be added to the folder, and must not contradict it."""
    inside = name == MACHINE or (
        name.endswith(".json")
        and (name.startswith(("data-", "opened/")))
        and _plain(name.removeprefix("opened/"), file)
    )
    if not inside:
        raise DataError("not a record of studies", where=str(file), seen=name)
    if not (out / name).is_file():
        return
    there = read_json(out / name)
    same = there["study"] == value["study"] if name.startswith("opened/") else there == value
    if not same and name != MACHINE:
        raise DataError(
            "the studies of this folder are not those of the record",
            where=str(out / name),
            seen=str(file),
            fix="give --out another folder",
        )


def _plain(name: str, file: Path) -> str:
    """A name that stays in its folder."""
    if Path(name).name != name or name in ("", ".", ".."):
        raise DataError("not a record of studies", where=str(file), seen=name)
    return name
