"""Rows of JSON, JSONL, CSV or Parquet files, read through a field map: the reader of benchmarks.

The map comes as the option ``map`` (JSON of `infimed.data.fieldmap.FieldMap`; docs/adding-a-benchmark.md says
what it may hold). A row that the map leaves out is no problem; a row it cannot read is one. Memory:
one row at a time, except for rows that are gathered or joined; a JSON object file is read whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from infimed.core.errors import DataError, UsageError
from infimed.core.seeds import stream
from infimed.data.fieldmap import (
    FieldMap,
    choice_answer,
    kind_of,
    lookup,
    options_of,
    plain,
    render,
    written_answer,
)
from infimed.data.readers.base import (
    Defaults,
    Item,
    Options,
    ReadProblem,
    defaults,
    hashed_group,
    integer_option,
    problem_of,
)
from infimed.data.readers.rowfiles import joined, matching_files, rows_of
from infimed.data.readers.tables import age_band
from infimed.data.record import Fact, ImageRef, Message, Record, Role, Task, question_record

_IMAGE_SUFFIX = re.compile(r"\.(?:jpe?g|png)$", re.IGNORECASE)

NAME = "mapped"
OPTIONS: Mapping[str, str] = {
    "map": "field map as JSON, see docs/adding-a-benchmark.md",
    "images": "keep (default), none, or the one split whose records are shown with their images",
    "sample": "read so many records of the test split, drawn by a fixed seed",
}


def detect(path: Path) -> bool:
    """Never by itself: what a field means cannot be guessed."""
    return False


def read(path: Path, options: Options) -> Iterator[Item]:
    """One record a row, in the order of splits, files and rows."""
    items = _read_all(path, options)
    if "sample" in options:
        most = integer_option(options, "sample", 0, 1, 10**9)
        items = _drawn(list(items), most, defaults(path, options).source)
    return items


def _drawn(items: list[Item], most: int, name: str) -> Iterator[Item]:
    """At most so many records of the test split, in their order; what is left is never decoded.

    The draw is that of ``infimed eval --limit`` on all of them, so that both ask the same questions.
    """
    tested = [
        i for i, item in enumerate(items) if isinstance(item, Record) and item.split == "test"
    ]
    order = stream(0, "limit", name).permutation(len(tested)).tolist()
    left = {tested[at] for at in order[most:]}
    return (item for i, item in enumerate(items) if i not in left)


def _read_all(path: Path, options: Options) -> Iterator[Item]:
    layout = _layout(options)
    common = defaults(path, {**options, "split": "test"})
    shown = options.get("images", "keep")
    found = matching_files(path, layout)
    if not found:
        yield ReadProblem(
            str(path), f"no file matches {sorted(sum(layout.files.values(), ()))}", "", "reader"
        )
        return
    tables = {name: joined(path, join) for name, join in layout.join.items()}
    gathered: dict[tuple[str, str], tuple[dict[str, Any], list[str], str]] = {}
    for one in found:
        relative = one.file.relative_to(path)
        for item in rows_of(one, relative.as_posix(), layout):
            if isinstance(item, ReadProblem):
                yield item
                continue
            where, row, images = item
            row |= {"_file": relative.stem, "_folder": relative.parent.name, "_split": one.split}
            if not _join(row, layout, tables) or not _kept(row, layout):
                continue
            images += _paths(row, layout, path)
            if layout.gather:
                key = (one.split, render(row, layout.gather))
                gathered.setdefault(key, (row, [], where))[1].extend(images)
                continue
            yield _item(row, images, layout, common, where, shown)
    for row, images, where in gathered.values():
        yield _item(row, images, layout, common, where, shown)


def _layout(options: Options) -> FieldMap:
    try:
        return FieldMap.model_validate_json(options.get("map", "{}"))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "map"
        raise UsageError(first["msg"], where=f"map: {key}", fix=OPTIONS["map"]) from error


def _item(
    row: Mapping[str, Any],
    images: list[str],
    layout: FieldMap,
    common: Defaults,
    where: str,
    shown: str,
) -> Item:
    """The record of a row; its first image is its group also where it is not shown."""
    visible = images if shown in ("keep", row["_split"]) else []
    try:
        return _record(row, visible, layout, common, images[0] if images else "")
    except DataError as error:
        return problem_of(error, where)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        return ReadProblem(where, f"not a row of this layout ({type(error).__name__}: {error})", "")


def _record(
    row: Mapping[str, Any], images: list[str], layout: FieldMap, common: Defaults, cluster: str
) -> Record:
    options = options_of(row, layout)
    gold, every = written_answer(row, layout)
    kind = kind_of(row, layout, options, gold)
    if kind == "choice":
        gold, every = choice_answer(row, layout, options), []
    if kind == "closed" and gold.lower() in ("yes", "no"):
        gold = gold.lower()
    if not gold:
        raise DataError("a question without an answer")
    name = render(row, layout.gather) if layout.gather else render(row, layout.id)
    group = (render(row, layout.group) if layout.group else "") or cluster
    facts = _facts(row, layout)
    if every:
        facts["answers"] = list(every)
    if layout.rubric:
        facts["rubric"] = lookup(row, layout.rubric)
    made = question_record(
        id=f"{common.source}-{name or row['_place']}",
        question=_question(row, layout),
        answer=gold,
        images=tuple(ImageRef(image) for image in images),
        task=cast(Task, kind),
        choices=tuple(text for _, text in options) if kind == "choice" else (),
        source=common.source,
        license=common.license,
        split=row["_split"],
        group=hashed_group(group, common.source) if group else "",
        facts=facts,
    )
    return replace(made, messages=_turns(row, layout, gold)) if layout.turns else made


def _question(row: Mapping[str, Any], layout: FieldMap) -> str:
    if layout.turns:
        return ""
    text = render(row, layout.question) if layout.question else layout.ask
    if layout.ask and "{" in layout.ask:
        text = render(row, layout.ask)
    if layout.until:
        text = text.partition(layout.until)[0].rstrip()
    if not text:
        raise DataError("a row without a question")
    return text


def _turns(row: Mapping[str, Any], layout: FieldMap, gold: str) -> tuple[Message, ...]:
    turns = lookup(row, layout.turns)
    if not isinstance(turns, list) or not turns:
        raise DataError("a row without turns", where=layout.turns)
    made = [Message(cast(Role, turn["role"]), (plain(turn["content"]),)) for turn in turns]
    if made[-1].role != "user":
        raise DataError("the last turn is not the user's", where=layout.turns)
    return (*made, Message("assistant", (gold,)))


def _facts(row: Mapping[str, Any], layout: FieldMap) -> dict[str, Fact]:
    """Mapped facts that have a value; ages become ten-year bands."""
    facts: dict[str, Fact] = {}
    for name, field in layout.facts.items():
        value = render(row, field) if "{" in field else lookup(row, field)
        if name == "age_band":
            value = age_band(plain(value))
        if isinstance(value, str):
            value = value.strip()
        if value is not None and value != "" and value == value:
            facts[name] = value
    return facts


def _paths(row: Mapping[str, Any], layout: FieldMap, root: Path) -> list[str]:
    """Image paths that a row states, below the data folder."""
    named: list[str] = []
    for field in layout.images:
        value = row.get(field) if "{" not in field else render(row, field)
        value = lookup(row, field) if value is None else value
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, Mapping):
                item = next((item[key] for key in ("image_path", "path") if item.get(key)), None)
            if isinstance(item, str) and item.strip():
                named.append(item.strip())
    if layout.image_suffix:
        named = [_IMAGE_SUFFIX.sub("", name) + layout.image_suffix for name in named]
    return [_placed(name, layout.image_folders, root) for name in named]


def _placed(name: str, folders: tuple[str, ...], root: Path) -> str:
    places = [f"{folder}/{name}" if folder else name for folder in folders]
    if len(places) == 1:
        return places[0]
    return next((place for place in places if (root / place).is_file()), places[0])


def _kept(row: Mapping[str, Any], layout: FieldMap) -> bool:
    return all(
        plain(lookup(row, field)) in [plain(value) for value in accepted]
        for field, accepted in layout.keep.items()
    )


def _join(row: dict[str, Any], layout: FieldMap, tables: Mapping[str, Mapping[str, Any]]) -> bool:
    """Add what the joined files say; False where one of them lacks the row."""
    for name, join in layout.join.items():
        key = render(row, join.key)
        if key not in tables[name]:
            return False
        row[name] = tables[name][key]
    return True
