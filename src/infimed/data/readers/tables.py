"""Rows that describe images: which columns mean what, shared by folders with a table and Parquet.

A row names its image and says one thing about it: a caption, a report, or a question with its
answer (and choices). Columns of patients are hashed, ages become ten-year bands, and only columns
on a short list become facts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, cast

from infimed.core.errors import DataError, nearest_name
from infimed.core.files import sha256_bytes
from infimed.data.readers.base import (
    Defaults,
    Options,
    ReadProblem,
    candidates,
    csv_rows,
    first_object,
    hashed_group,
    json_items,
    split_name,
)
from infimed.data.record import TASKS, Fact, ImageRef, Record, Task, question_record

IMAGE_COLUMNS: Final = (
    "image",
    "file_name",
    "filename",
    "image_path",
    "path",
    "file",
    "image_name",
    "img",
)
CAPTION_COLUMNS: Final = ("caption", "text", "description")
REPORT_COLUMNS: Final = ("report", "findings", "impression")
FACT_COLUMNS: Final = (
    "modality",
    "anatomy",
    "side",
    "view",
    "age_band",
    "sex",
    "plane",
    "question_type",
)
PERSON_COLUMNS: Final = ("patient", "patient_id", "subject", "subject_id", "study", "study_id")
TABLE_SUFFIXES: Final = (".csv", ".tsv", ".jsonl", ".json")
ROW_OPTIONS: Final[Mapping[str, str]] = {
    "prompt": "user turn of captions (default: Describe this image.)",
    "report_prompt": "user turn of reports (default: Write the report of this image.)",
    "salt": "text mixed into hashed patient names",
}


def row_record(
    cells: Mapping[str, Any],
    images: tuple[ImageRef, ...],
    fallback_id: str,
    common: Defaults,
    options: Options,
    group: str,
) -> Record:
    """One record from a row whose column names are in lower case.

    Args:
        group: group of the record when the row names neither a group nor a patient.

    Raises:
        DataError: no text, a question without its answer, an unknown task or split.
    """
    facts: dict[str, Fact] = {key: text(cells[key]) for key in FACT_COLUMNS if text(cells.get(key))}
    band = age_band(text(cells.get("age")))
    if band:
        facts["age_band"] = band
    patient = first(cells, PERSON_COLUMNS)
    if patient:
        group = hashed_group(patient, options.get("salt") or sha256_bytes(common.source.encode()))
    group = text(cells.get("group")) or group
    name = text(cells.get("id")) or fallback_id
    task = text(cells.get("task"))
    if task and task not in TASKS:
        raise DataError(
            "unknown task", seen=task, accepted=TASKS, nearest=nearest_name(task, TASKS)
        )
    question, answer, kind = _exchange(cells, cast(Task | None, task or None), options)
    return question_record(
        id=name,
        question=question,
        answer=answer,
        images=images,
        task=kind,
        choices=_choices(cells) if kind == "choice" else (),
        source=text(cells.get("source")) or common.source,
        license=text(cells.get("license")) or common.license,
        split=split_name(cells["split"], "split") if text(cells.get("split")) else common.split,
        group=group,
        facts=facts,
    )


def lower_keys(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with column names trimmed and in lower case."""
    return {str(key).strip().lower(): value for key, value in row.items()}


def find_table(path: Path) -> Path | None:
    """The first file directly in the folder that names images and says something about them."""
    return next((file for file in candidates(path, TABLE_SUFFIXES) if is_table(file)), None)


def is_table(file: Path) -> bool:
    """Whether the first row of a CSV, TSV, JSON or JSONL file names an image and has text."""
    suffix = file.suffix.lower()
    if suffix in (".csv", ".tsv"):
        rows = (item[1] for item in csv_rows(file) if not isinstance(item, ReadProblem))
        row: Mapping[str, Any] = next(rows, {})
    elif suffix in (".jsonl", ".json"):
        row = first_object(file)
    else:
        return False
    columns = set(lower_keys(row))
    return bool(columns & set(IMAGE_COLUMNS)) and has_text(columns)


def has_text(columns: set[str]) -> bool:
    """Whether a row with these columns can become a record."""
    return bool(columns & {*CAPTION_COLUMNS, *REPORT_COLUMNS, "question"})


def table_rows(table: Path) -> Iterator[tuple[str, dict[str, Any]] | ReadProblem]:
    """(where, row) of a CSV, TSV, JSON or JSONL table."""
    if table.suffix.lower() in (".csv", ".tsv"):
        yield from csv_rows(table)
        return
    for item in json_items(table):
        if isinstance(item, ReadProblem) or isinstance(item[1], dict):
            yield item
        else:
            yield ReadProblem(item[0], "the line is not a JSON object", "", "json")


def age_band(years: str) -> str | None:
    """Age in years to a ten-year band ("30-39"); 90 and over share one."""
    try:
        whole = int(float(years))
    except (ValueError, OverflowError):
        return None
    if not 0 <= whole <= 130:
        return None
    return "90+" if whole >= 90 else f"{whole // 10 * 10}-{whole // 10 * 10 + 9}"


def first(cells: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """Text of the first of these columns that has any."""
    return next((text(cells[name]) for name in names if text(cells.get(name))), "")


def text(value: object) -> str:
    """Trimmed text of a cell; '' for what is neither text nor a number."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or value != value:
        return ""
    return str(value).strip()


def _exchange(
    cells: Mapping[str, Any], task: Task | None, options: Options
) -> tuple[str, str, Task]:
    """(question, answer, task) of a row."""
    question, answer = text(cells.get("question")), text(cells.get("answer"))
    if question:
        if not answer:
            raise DataError("a question without an answer", seen=question[:80])
        closed = answer.lower() in ("yes", "no")
        guessed: Task = "choice" if _choices(cells) else "closed" if closed else "open"
        return question, answer, task or guessed
    caption = first(cells, CAPTION_COLUMNS)
    if caption:
        return options.get("prompt", "Describe this image."), caption, task or "caption"
    findings, impression = text(cells.get("findings")), text(cells.get("impression"))
    report = first(cells, REPORT_COLUMNS)
    if findings and impression:
        report = f"Findings: {findings}\nImpression: {impression}"
    if not report:
        accepted = (*CAPTION_COLUMNS, *REPORT_COLUMNS, "question + answer")
        raise DataError("the row has no text", accepted=accepted)
    return options.get("report_prompt", "Write the report of this image."), report, task or "report"


def _choices(cells: Mapping[str, Any]) -> tuple[str, ...]:
    """Options of a choice question: a list, text split at "|", or columns a, b, c, ..."""
    value = cells.get("choices", cells.get("options"))
    if isinstance(value, list):
        return tuple(str(item) for item in value)
    if text(value):
        return tuple(piece.strip() for piece in text(value).split("|") if piece.strip())
    return tuple(text(cells.get(letter)) for letter in "abcdefgh" if text(cells.get(letter)))
