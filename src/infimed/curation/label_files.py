"""Label files: read what reviewers send back, name every malformed row.

Accepted are the JSON and CSV that the review page saves, the CSV template filled in with a spreadsheet,
and JSON lines. A row counts only when its record is in the ledger and every level is 0, 1, 2 or U.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from infimed.core.errors import DataError
from infimed.core.escaping import plain_text
from infimed.curation.findings import QUALITY
from infimed.curation.labels import LEVELS

MOST_BYTES: Final = 64 * 2**20
MOST_RATER: Final = 64
FORMAT: Final = "infimed-labels-1"


@dataclass(frozen=True)
class Malformed:
    """A row that cannot be used: file and line (or entry), and why."""

    where: str
    what: str


@dataclass
class ReadLabels:
    """What label files hold.

    Attributes:
        rows: labels as stored, a row a given level. unlabelled: records without any level.
        malformed: rows that cannot be used.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    unlabelled: int = 0
    malformed: list[Malformed] = field(default_factory=list)


def read_label_files(files: list[Path], rows: Mapping[str, int]) -> ReadLabels:
    """Labels of all files.

    Args:
        rows: record id -> row number of the records that may be labelled.

    Raises:
        DataError: a file is missing, too large, not text, or of no known form.
    """
    read = ReadLabels()
    given: dict[tuple[str, str, str], tuple[str, str]] = {}
    for file in files:
        for where, entry in _entries(file, read):
            labels = _checked(where, entry, rows, read)
            if labels is None:
                continue
            if not labels:
                read.unlabelled += 1
            for label in labels:
                key = (label["record_id"], label["rater"], label["dimension"])
                level = str(label["level"])
                if key in given and given[key][0] != level:
                    read.malformed.append(
                        Malformed(
                            where,
                            f"another {key[2]} level than in {given[key][1]} by the same rater",
                        )
                    )
                    continue
                if key not in given:
                    given[key] = (level, where)
                    read.rows.append(label)
    return read


def _entries(file: Path, read: ReadLabels) -> Iterator[tuple[str, Mapping[str, Any]]]:
    text = _text(file)
    name = file.name
    if file.suffix.lower() == ".csv" or (
        file.suffix.lower() not in (".json", ".jsonl") and not text.lstrip().startswith("{")
    ):
        yield from _csv_entries(name, text, read)
    elif file.suffix.lower() == ".jsonl":
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                where = f"{name}:{number}"
                value = _json(line)
                if isinstance(value, dict):
                    yield where, value
                else:
                    read.malformed.append(Malformed(where, "is not a JSON object"))
    else:
        value = _json(text)
        if not isinstance(value, dict) or not isinstance(value.get("labels"), list):
            raise DataError(
                "is not a file of labels",
                where=str(file),
                accepted='JSON with "rater" and "labels", JSON lines (.jsonl), or CSV',
            )
        for number, entry in enumerate(value["labels"], start=1):
            where = f"{name}, label {number}"
            if isinstance(entry, dict):
                yield where, {"rater": value.get("rater"), **entry}
            else:
                read.malformed.append(Malformed(where, "is not a JSON object"))


def _csv_entries(name: str, text: str, read: ReadLabels) -> Iterator[tuple[str, Mapping[str, Any]]]:
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        head = [cell.strip().lower() for cell in next(reader, [])]
        missing = [column for column in ("record_id", "rater") if column not in head]
        if missing or not set(head) & set(QUALITY):
            raise DataError(
                "the CSV has no column " + (f"'{missing[0]}'" if missing else "of any dimension"),
                where=name,
                seen=", ".join(head)[:120],
                accepted=["record_id", "rater", *QUALITY, "comment"],
            )
        for cells in reader:
            where = f"{name}:{reader.line_num}"
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) > len(head):
                read.malformed.append(
                    Malformed(where, f"has {len(cells)} cells, the header has {len(head)}")
                )
                continue
            entry = dict(zip(head, cells, strict=False))
            entry["record_id"] = plain_text(entry.get("record_id", ""))
            entry["comment"] = plain_text(entry.get("comment", ""))
            yield where, entry
    except csv.Error as error:
        read.malformed.append(Malformed(f"{name}:{reader.line_num}", f"is not CSV ({error})"))


def _text(file: Path) -> str:
    try:
        if file.stat().st_size > MOST_BYTES:
            raise DataError("is too large for a file of labels", where=str(file))
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError("is not UTF-8 text", where=str(file), fix="save it as UTF-8") from error
    except OSError as error:
        raise DataError("cannot be read", where=str(file), seen=error.strerror) from error


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _checked(
    where: str, entry: Mapping[str, Any], rows: Mapping[str, int], read: ReadLabels
) -> list[dict[str, Any]] | None:
    """The labels of one row, or None where it is malformed."""

    def refuse(what: str) -> None:
        read.malformed.append(Malformed(where, what))

    record_id = entry.get("record_id")
    if not isinstance(record_id, str) or record_id not in rows:
        refuse(f"no such record in this ledger: {str(record_id)[:80]!r}")
        return None
    levels: dict[str, str] = {}
    for name in QUALITY:
        value = entry.get(name)
        text = "" if value is None else str(value).strip().upper()
        text = text.removesuffix(".0")  # spreadsheets like to make numbers of levels
        if isinstance(value, bool) or (text and text not in LEVELS):
            refuse(f"{name} is {str(value)[:40]!r}; accepted: {', '.join(LEVELS)} or nothing")
            return None
        if text:
            levels[name] = text
    if not levels:
        return []
    rater = entry.get("rater")
    rater = rater.strip() if isinstance(rater, str) else ""
    if not rater or len(rater) > MOST_RATER or not rater.isprintable():
        refuse(f"no rater is named (1 to {MOST_RATER} printable characters)")
        return None
    comment = entry.get("comment")
    return [
        {
            "row": rows[record_id],
            "record_id": record_id,
            "rater": rater,
            "dimension": name,
            "level": None if level == "U" else int(level),
            "comment": comment.strip()[:2000] if isinstance(comment, str) else "",
        }
        for name, level in levels.items()
    ]
