"""A folder of images with a table beside them: captions, reports, or questions and answers.

The table is a CSV, TSV, JSON or JSONL file in the folder (``captions.csv``, ``metadata.jsonl``, ...)
with a column that names the image and columns for text (see `tables`). Images that no row names
are listed, and a folder without any table lists every image: one without text cannot train a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from infimed.core.errors import DataError
from infimed.core.files import inside
from infimed.data.readers.base import (
    Defaults,
    Item,
    Options,
    ReadProblem,
    defaults,
    problem_of,
    walk_files,
)
from infimed.data.readers.tables import (
    IMAGE_COLUMNS,
    ROW_OPTIONS,
    find_table,
    first,
    is_table,
    lower_keys,
    row_record,
    table_rows,
)
from infimed.data.record import ImageRef, Message, Record

NAME = "folder"
OPTIONS: Mapping[str, str] = {
    "table": "file name of the table (default: the first one with an image column)",
    **ROW_OPTIONS,
}
IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".webp", ".tif", ".tiff", ".bmp", ".gif"),
    *(".dcm", ".nii", ".gz"),
)


def detect(path: Path) -> bool:
    """A folder that holds an image or a table of images, or such a table itself."""
    if path.is_file():
        return is_table(path)
    return path.is_dir() and (
        find_table(path) is not None
        or any(file.suffix.lower() in IMAGE_SUFFIXES for file in walk_files(path))
    )


def read(path: Path, options: Options) -> Iterator[Item]:
    """Records of the table in its order, then the files that no row named."""
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
                record = _record(row, f"{table.stem}-{position}", common, options, finder)
            except DataError as error:
                yield problem_of(error, where)
                continue
            named.update(image.locator for image in record.images)
            yield record
    if path.is_dir():
        yield from unnamed_files(path, named | ({table.name} if table else set()), common)


def unnamed_files(path: Path, named: set[str], common: Defaults) -> Iterator[Item]:
    """Files below `path` that no record named: images as records without text, others as problems."""
    for file in walk_files(path):
        relative = file.relative_to(path).as_posix()
        if relative in named:
            continue
        if file.suffix.lower() in IMAGE_SUFFIXES:
            yield image_only(relative, common)
        else:
            yield ReadProblem(
                relative, "not an image", "nothing to do if it is documentation", "not-data"
            )


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
    """Finds an image a table names: as written, or by its name where it is unique in the folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._by_name: dict[str, list[str]] | None = None

    def locate(self, name: str) -> str:
        """Path relative to the root. A name that is nowhere comes back as written.

        Raises:
            DataError: the name leaves the folder, or several files bear it.
        """
        if inside(self._root, name).is_file() or "/" in name:
            return name
        if self._by_name is None:
            self._by_name = {}
            for file in walk_files(self._root):
                relative = file.relative_to(self._root).as_posix()
                self._by_name.setdefault(file.name, []).append(relative)
        found = self._by_name.get(name, [])
        if len(found) > 1:
            fix = "give the path below the folder"
            raise DataError("several files have this name", seen=name, fix=fix)
        return found[0] if found else name


def _record(
    row: Mapping[str, Any],
    fallback_id: str,
    common: Defaults,
    options: Options,
    finder: ImageFinder,
) -> Record:
    cells = lower_keys(row)
    name = first(cells, IMAGE_COLUMNS)
    if not name:
        raise DataError("the row names no image", accepted=IMAGE_COLUMNS)
    try:
        locator = finder.locate(name)
    except OSError as error:
        raise DataError("not a usable file name", seen=name[:80]) from error
    return row_record(cells, (ImageRef(locator),), fallback_id, common, options, group=locator)


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
        fix = "correct --option table=..."
        return ReadProblem(options["table"], "the table is missing", fix, "missing")
    return table
