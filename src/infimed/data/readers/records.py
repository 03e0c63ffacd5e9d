"""The canonical form: ``records.jsonl``, one `Record.to_json` a line, images below the same folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from infimed.core.errors import DataError
from infimed.data.readers.base import (
    Item,
    Options,
    ReadProblem,
    candidates,
    defaults,
    first_object,
    json_lines,
    problem_of,
)
from infimed.data.record import Record

NAME = "records"
OPTIONS: Mapping[str, str] = {}


def detect(path: Path) -> bool:
    """A records.jsonl, or a JSONL file whose first object has id, messages and task."""
    return _file(path) is not None


def read(path: Path, options: Options) -> Iterator[Item]:
    """Records as they are written; the common options do not override what a record states."""
    file = _file(path)
    if file is None:
        yield ReadProblem(str(path), "no records.jsonl in this folder", "", "reader")
        return
    common = defaults(path, options)
    for item in json_lines(file):
        if isinstance(item, ReadProblem):
            yield item
            continue
        where, value = item
        try:
            if not isinstance(value, dict):
                raise DataError("the line is not a JSON object")
            record = Record.from_dict(value)
            if not value.get("split"):
                record = replace(record, split=common.split)
            yield record
        except DataError as error:
            yield problem_of(error, where)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            yield ReadProblem(
                where, f"not a record ({type(error).__name__})", "see docs/data.md for the keys"
            )


def _file(path: Path) -> Path | None:
    if path.is_dir() and (path / "records.jsonl").is_file():
        return path / "records.jsonl"
    for file in candidates(path, (".jsonl",)):
        value = first_object(file)
        if {"id", "messages", "task"} <= set(value):
            return file
    return None
