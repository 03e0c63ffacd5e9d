"""A field map: which field of a row is the question, which the options, the answer, the images.

A benchmark is rows in files; a field map says how they are laid out, so that adding a benchmark
needs no code. Everything here is a pure function of one row. A *field* is a name or a dotted path
(``data.Question``, ``3.options``); a text with braces is a template (``Context: {CONTEXTS}``).
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from infimed.core.errors import DataError
from infimed.data.record import SPLITS, TASKS

Row: TypeAlias = Mapping[str, Any]
Scalar: TypeAlias = str | int | float | bool

_FIELD = re.compile(r"\{([^{}:]+)(?::\.(\d+))?\}")
_OWN_LETTER = re.compile(r"^\s*\(?([A-Z])\)?\s*(?:[.:、．：)]\s*|\s)(?=\S)")
_YES_NO = ("yes", "no")


class Part(BaseModel):
    """A section of a YAML file: frozen, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Join(Part):
    """A second file that a row is looked up in; rows that it lacks are left out.

    Attributes:
        file: pattern of a JSON, JSONL or CSV file. key: template of what is looked up, like ``{id}``.
        by: field that holds the key in the file's rows; empty for an object keyed by it.
    """

    file: str
    key: str
    by: str = ""


class FieldMap(Part):
    """How rows become records.

    Attributes:
        files: split -> patterns below the data folder; of several, the first that matches any file
            counts. ``annotation.json#test`` reads the rows at that field of the file.
        columns: names of the columns of a CSV without a header line.
        join: name -> second file; its row is then the field of that name.
        keep: field -> accepted values; other rows are left out.
        gather: template; rows with the same text are one record with the images of all.
        id: field, default: file and row number.
        kind: closed, choice, open, report or caption; "auto": choice where there are options, closed
            where the answer is yes or no, else open; or {field: {value: kind}}.
        question: field or template. ask: a fixed question instead, or a template.
        turns: field with a chat (role and content) instead of a question.
        until: the question ends before this text.
        options: field with a list, an object keyed by letter or packed text, or a list of fields.
        choices: the same options for every row.
        answer: field or template. answer_is: text, letter, index (from 0) or number (from 1).
        rubric: field with criteria and their points instead of an answer; it becomes the fact
            "rubric", and the criteria with positive points, one a line, stand for the gold answer.
        many: what a list of answers means: "join" (all of them) or "first" (alternatives).
        images: field or fields with paths, or with bytes in Parquet. image_folders: where the paths
            start; the first folder that has the image counts. image_suffix: the ending of the files,
            where the field has another or none.
        group: field that intervals cluster on, default: the first image.
        facts: name of a fact -> field.
    """

    files: dict[str, tuple[str, ...]] = Field(min_length=1)
    columns: tuple[str, ...] = ()
    join: dict[str, Join] = {}
    keep: dict[str, tuple[Scalar, ...]] = {}
    gather: str = ""
    id: str = ""
    kind: str | dict[str, dict[str, str]] = "auto"
    question: str = ""
    ask: str = ""
    turns: str = ""
    until: str = ""
    options: str | tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    answer: str = ""
    rubric: str = ""
    answer_is: Literal["text", "letter", "index", "number"] = "text"
    many: Literal["join", "first"] = "join"
    images: tuple[str, ...] = ()
    image_folders: tuple[str, ...] = ("",)
    image_suffix: str = ""
    group: str = ""
    facts: dict[str, str] = {}

    @model_validator(mode="after")
    def makes_sense(self) -> FieldMap:
        if sum(map(bool, (self.question, self.ask, self.turns))) != 1:
            raise ValueError("give one of question, ask and turns")
        if bool(self.answer) == bool(self.rubric):
            raise ValueError("give one of answer and rubric")
        unknown = [split for split in self.files if split not in SPLITS]
        if unknown:
            raise ValueError(f"unknown split {unknown[0]!r} in files; known: {', '.join(SPLITS)}")
        wrong = [kind for kind in self.kinds if kind not in TASKS]
        if wrong:
            raise ValueError(f"unknown kind {wrong[0]!r}; known: auto, {', '.join(TASKS)}")
        if not isinstance(self.kind, str) and len(self.kind) != 1:
            raise ValueError("kind by value names one field")
        if self.options and self.choices:
            raise ValueError("give options or choices, not both")
        return self

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of record that can come out."""
        if not isinstance(self.kind, str):
            return tuple(sorted({k for values in self.kind.values() for k in values.values()}))
        if self.kind != "auto":
            return (self.kind,)
        return ("choice",) if self.options or self.choices else ("closed", "open")


def lookup(row: object, field: str) -> Any:
    """The value of a field, or None. A whole name goes before a dotted path; lists take numbers."""
    if isinstance(row, Mapping) and field in row:
        return row[field]
    value: Any = row
    for step in field.split("."):
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, list | tuple) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def plain(value: object) -> str:
    """Text of a value: trimmed, lists one item a line, '' for nothing and for what has no text."""
    if value is None or isinstance(value, Mapping) or value != value:
        return ""
    if isinstance(value, list | tuple):
        return "\n".join(text for item in value if (text := plain(item)))
    return str(value).strip()


def render(row: Row, text: str) -> str:
    """A field's text, or a template filled in. Lines whose fields are all empty are left out.

    ``{subject_id:.2}`` is the first two characters of a field.
    """
    if "{" not in text:
        return plain(lookup(row, text))
    lines = []
    for line in text.split("\n"):
        found = [(plain(lookup(row, m[1])), m[2]) for m in _FIELD.finditer(line)]
        if found and not any(value for value, _ in found):
            continue
        values = iter(value[: int(cut)] if cut else value for value, cut in found)
        lines.append(_FIELD.sub(lambda _, values=values: next(values), line))  # type: ignore[misc]
    return "\n".join(lines).strip()


def listed(value: object) -> object:
    """A list or object that is stored as text (JSON or a Python literal), else the value itself."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return value


def options_of(row: Row, layout: FieldMap) -> list[tuple[str, str]]:
    """(letter, text) of every option that has text, in order, without letters of its own."""
    if layout.choices:
        return list(zip(_letters(), layout.choices, strict=False))
    if not isinstance(layout.options, str):
        named = [plain(lookup(row, field)) for field in layout.options]
        return _unlettered(list(zip(_letters(), named, strict=False)))
    value = listed(lookup(row, layout.options))
    if isinstance(value, Mapping):
        pairs = [(str(key).strip().upper(), plain(text)) for key, text in sorted(value.items())]
        return [(letter, text) for letter, text in pairs if text]
    if isinstance(value, str):  # one option a line, each with its letter
        value = [line for line in value.splitlines() if line.strip()]
    if not isinstance(value, list | tuple):
        return []
    texts = [plain(_content(item)) for item in value]
    return _unlettered(list(zip(_letters(), texts, strict=False)))


def kind_of(row: Row, layout: FieldMap, options: Sequence[object], answer: str) -> str:
    """The kind of a row's record.

    Raises:
        DataError: a value that `kind` does not name.
    """
    if not isinstance(layout.kind, str):
        ((field, kinds),) = layout.kind.items()
        seen = plain(lookup(row, field))
        if seen not in kinds:
            raise DataError("no kind is stated for this value", seen=seen, accepted=sorted(kinds))
        return kinds[seen]
    if layout.kind != "auto":
        return layout.kind
    return "choice" if options else "closed" if answer.lower() in _YES_NO else "open"


def choice_answer(row: Row, layout: FieldMap, options: Sequence[tuple[str, str]]) -> str:
    """The text of the right option.

    Raises:
        DataError: no answer, several answers, or one that is not among the options.
    """
    value = listed(lookup(row, layout.answer)) if "{" not in layout.answer else None
    if isinstance(value, list | tuple):
        if len(value) != 1:
            raise several_answers(value)
        value = value[0]
    answer = plain(value) if value is not None else render(row, layout.answer)
    if layout.answer_is == "text":
        right = [text for _, text in options if text == answer] or [
            text for _, text in options if text.lower() == answer.lower()
        ]
    elif layout.answer_is == "letter":
        letters = re.findall(r"[A-Z]", answer.upper())
        if len(letters) > 1:
            raise several_answers(answer)
        right = [text for letter, text in options if [letter] == letters]
    else:
        at = _integer(answer) - (layout.answer_is == "number")
        right = [text for letter, text in options if letter == _letters()[at]] if at >= 0 else []
    if not right:
        raise DataError("the answer is not among the options", seen=answer)
    return right[0]


def written_answer(row: Row, layout: FieldMap) -> tuple[str, list[str]]:
    """(the gold text, all alternatives) of a question that is answered in words."""
    if layout.rubric:
        return "\n".join(_wanted(lookup(row, layout.rubric))), []
    if "{" in layout.answer:
        return render(row, layout.answer), []
    value = lookup(row, layout.answer)
    if layout.many == "first" and isinstance(listed(value), list):
        every = [plain(item) for item in listed(value)]  # type: ignore[attr-defined]
        return (every[0], every) if every else ("", [])
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value), []
    return plain(value), []


def _wanted(rubric: object) -> list[str]:
    """Criteria with positive points."""
    items = rubric if isinstance(rubric, list) else []
    return [plain(item["criterion"]) for item in items if float(item["points"]) > 0]


class SeveralAnswers(DataError):
    """A choice with more than one right option: counted and left out, never halved."""

    code = "several-answers"


def several_answers(seen: object) -> SeveralAnswers:
    """The problem of a row whose key names several options."""
    return SeveralAnswers("the key does not name exactly one option", seen=plain(seen)[:80])


def _content(item: object) -> object:
    """The text of an option that is an object with a letter."""
    if not isinstance(item, Mapping):
        return item
    return next((item[key] for key in ("content", "value", "text", "option") if key in item), None)


def _unlettered(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Options without their own letters, where every one of them begins with its own."""
    kept = [(letter, text) for letter, text in pairs if text]
    found = [(letter, _OWN_LETTER.match(text), text) for letter, text in kept]
    if kept and all(match and match[1] == letter for letter, match, _ in found):
        return [(letter, text[match.end() :].strip()) for letter, match, text in found if match]
    return kept


def _integer(text: str) -> int:
    try:
        return int(float(text))
    except ValueError:
        raise DataError("the answer is no number", seen=text) from None


def _letters() -> str:
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
