"""A folder of images with a table beside them: captions, reports, or questions and answers.

The table is a CSV, TSV or JSONL file in the folder (``captions.csv``, ``metadata.jsonl``, ...) with
a column that names the image and columns for text. Images that no row names are listed, and a
folder without any table lists every image: an image without text cannot train a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from infimed.core.errors import DataError
from infimed.core.files import inside, sha256_bytes
from infimed.data.readers.base import (
    Defaults,
    Item,
    Options,
    ReadProblem,
    candidates,
    csv_rows,
    defaults,
    first_object,
    hashed_group,
    json_items,
    problem_of,
    split_name,
    walk_files,
)
from infimed.data.record import TASKS, Fact, ImageRef, Message, Record, question_record

NAME = "folder"
OPTIONS: Mapping[str, str] = {
    "table": "file name of the table (default: the first CSV, TSV or JSONL with an image column)",
    "prompt": "user turn of captions (default: Describe this image.)",
    "report_prompt": "user turn of reports (default: Write the report of this image.)",
    "salt": "text mixed into hashed patient names",
}
IMAGE_COLUMNS = (
    "image",
    "file_name",
    "filename",
    "image_path",
    "path",
    "file",
    "image_name",
    "img",
)
CAPTION_COLUMNS = ("caption", "text", "description")
REPORT_COLUMNS = ("report", "findings", "impression")
FACT_COLUMNS = (
    "modality",
    "anatomy",
    "side",
    "view",
    "age",
    "age_band",
    "sex",
    "plane",
    "question_type",
)
PERSON_COLUMNS = ("patient", "patient_id", "subject", "subject_id", "study", "study_id")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".webp", ".tif", ".tiff", ".bmp", ".gif")
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".json")


def detect(path: Path) -> bool:
    """A folder that holds an image or a table of images, or such a table itself."""
    if path.is_file():
        return _is_table(path)
    return path.is_dir() and (
        find_table(path) is not None
        or any(file.suffix.lower() in IMAGE_SUFFIXES for file in walk_files(path))
    )


def read(path: Path, options: Options) -> Iterator[Item]:
    """Records of the table in its order, then the images that no row named."""
    root = path if path.is_dir() else path.parent
    common = defaults(path, options)
    table = _chosen_table(path, options)
    if isinstance(table, ReadProblem):
        yield table
        return
    named: set[str] = set()
    if table is not None:
        finder = ImageFinder(root)
        for position, item in enumerate(table_rows(table)):
            if isinstance(item, ReadProblem):
                yield item
                continue
            where, row = item
            try:
                record = _record(row, position, common, options, finder, table.stem)
            except DataError as error:
                yield problem_of(error, where)
                continue
            named.update(image.locator for image in record.images)
            yield record
    if path.is_file():
        return
    for file in walk_files(path):
        relative = file.relative_to(path).as_posix()
        if relative in named or file == table:
            continue
        if file.suffix.lower() in IMAGE_SUFFIXES:
            yield image_only(relative, common)
        elif (
            file.suffix.lower() not in (".txt", ".md", ".json", ".csv", ".tsv", ".jsonl")
            and file.stem != "LICENSE"
        ):
            yield ReadProblem(relative, "not an image this reader knows", "", "format")


def image_only(locator: str, common: Defaults) -> Record:
    """A record that shows an image and says nothing: seen by `inspect`, listed by `import`."""
    return Record(
        id=locator,
        images=(ImageRef(locator),),
        messages=(Message("user", (0,)),),
        task="caption",
        source=common.source,
        license=common.license,
        split=common.split,
        group=locator,
    )


class ImageFinder:
    """Finds an image a table names: as written, below a folder of images, or by its unique name."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._by_name: dict[str, list[str]] | None = None

    def locate(self, name: str) -> str:
        """Path relative to the root. A name that is nowhere comes back as written.

        Raises:
            DataError: the name leaves the folder, or several files bear it.
        """
        if inside(self._root, name).is_file():
            return name
        if "/" in name:
            return name
        if self._by_name is None:
            self._by_name = {}
            for file in walk_files(self._root):
                self._by_name.setdefault(file.name, []).append(
                    file.relative_to(self._root).as_posix()
                )
        found = self._by_name.get(name, [])
        if len(found) > 1:
            raise DataError(
                "several files have this name", seen=name, fix="give the path below the folder"
            )
        return found[0] if found else name


def find_table(path: Path) -> Path | None:
    """The first file in the folder that has an image column."""
    return next((file for file in candidates(path, TABLE_SUFFIXES) if _is_table(file)), None)


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


def _record(
    row: Mapping[str, Any],
    position: int,
    common: Defaults,
    options: Options,
    finder: ImageFinder,
    stem: str,
) -> Record:
    cells = {str(key).strip().lower(): value for key, value in row.items()}
    name = _first(cells, IMAGE_COLUMNS)
    if not name:
        raise DataError("the row names no image", accepted=IMAGE_COLUMNS)
    locator = finder.locate(name)
    patient = _first(cells, PERSON_COLUMNS)
    group = _text(cells.get("group")) or (
        hashed_group(patient, _salt(options, common)) if patient else locator
    )
    facts: dict[str, Fact] = {
        key: _text(cells[key]) for key in FACT_COLUMNS if _text(cells.get(key))
    }
    if "age" in facts:
        facts.pop("age")
        years = _text(cells["age"])
        if years.isdecimal():
            facts["age_band"] = (
                "90+"
                if int(years) >= 90
                else f"{int(years) // 10 * 10}-{int(years) // 10 * 10 + 9}"
            )
    shared: dict[str, Any] = {
        "id": _text(cells.get("id")) or f"{stem}-{position}",
        "images": (ImageRef(locator),),
        "source": _text(cells.get("source")) or common.source,
        "license": _text(cells.get("license")) or common.license,
        "split": split_name(cells["split"], "split") if _text(cells.get("split")) else common.split,
        "group": group,
        "facts": facts,
    }
    question, answer = _text(cells.get("question")), _text(cells.get("answer"))
    task = _text(cells.get("task"))
    if task and task not in TASKS:
        raise DataError("unknown task", seen=task, accepted=TASKS)
    if question:
        if not answer:
            raise DataError("a question without an answer", seen=question[:80])
        choices = _choices(cells)
        kind = task or (
            "choice" if choices else "closed" if answer.lower() in ("yes", "no") else "open"
        )
        return question_record(
            question=question, answer=answer, task=kind, choices=choices, **shared
        )  # type: ignore[arg-type]
    caption, report = _first(cells, CAPTION_COLUMNS), _first(cells, REPORT_COLUMNS)
    if caption:
        prompt = options.get("prompt", "Describe this image.")
        return question_record(question=prompt, answer=caption, task=task or "caption", **shared)  # type: ignore[arg-type]
    if report:
        findings, impression = _text(cells.get("findings")), _text(cells.get("impression"))
        both = (
            f"Findings: {findings}\nImpression: {impression}" if findings and impression else report
        )
        prompt = options.get("report_prompt", "Write the report of this image.")
        return question_record(question=prompt, answer=both, task="report", **shared)
    raise DataError(
        "the row has no text", accepted=(*CAPTION_COLUMNS, *REPORT_COLUMNS, "question + answer")
    )


def _choices(cells: Mapping[str, Any]) -> tuple[str, ...]:
    """Options of a choice question: a list, text split at "|", or columns a, b, c, ..."""
    value = cells.get("choices", cells.get("options"))
    if isinstance(value, list):
        return tuple(str(item) for item in value)
    if _text(value):
        return tuple(piece.strip() for piece in _text(value).split("|") if piece.strip())
    return tuple(_text(cells.get(letter)) for letter in "abcdefgh" if _text(cells.get(letter)))


def _salt(options: Options, common: Defaults) -> str:
    return options.get("salt") or sha256_bytes(common.source.encode())


def _first(cells: Mapping[str, Any], names: tuple[str, ...]) -> str:
    return next((_text(cells[name]) for name in names if _text(cells.get(name))), "")


def _text(value: object) -> str:
    return (
        str(value).strip()
        if isinstance(value, (str, int, float)) and not isinstance(value, bool)
        else ""
    )


def _is_table(file: Path) -> bool:
    suffix = file.suffix.lower()
    if suffix in (".csv", ".tsv"):
        row = next((item[1] for item in csv_rows(file) if not isinstance(item, ReadProblem)), {})
    elif suffix in (".jsonl", ".json"):
        row = dict(first_object(file))
    else:
        return False
    columns = {str(key).strip().lower() for key in row}
    texts = {*CAPTION_COLUMNS, *REPORT_COLUMNS, "question"}
    return any(name in columns for name in IMAGE_COLUMNS) and bool(columns & texts)


def _chosen_table(path: Path, options: Options) -> Path | ReadProblem | None:
    if path.is_file():
        return path
    if "table" not in options:
        return find_table(path)
    try:
        table = inside(path, options["table"])
    except DataError as error:
        return problem_of(error, "table")
    if not table.is_file():
        return ReadProblem(
            options["table"], "the table is missing", "correct --option table=...", "missing"
        )
    return table
