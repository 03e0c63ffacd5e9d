"""What every reader shares: the problem it yields, its options, and lines and arrays read in a stream.

Invariant: one bad item is one `ReadProblem`; reading goes on with the next. Cost: memory of one
item, whatever the size of the file.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from infimed.core.errors import DataError, UsageError, nearest_name
from infimed.data.record import SPLITS, ImageRef, Message, Record, Split

Options: TypeAlias = Mapping[str, str]

COMMON_OPTIONS: Mapping[str, str] = {
    "source": "name of the data set (default: name of the folder)",
    "license": "SPDX id of the licence, for records that state none",
    "split": "train, dev, calibration or test, for records that state none",
    "splits": "shares by group instead of a split: train=0.8,test=0.2",
}

SPLIT_NAMES: Mapping[str, Split] = {
    "train": "train",
    "dev": "dev",
    "calibration": "calibration",
    "test": "test",
    "training": "train",
    "val": "dev",
    "valid": "dev",
    "validate": "dev",
    "validation": "dev",
    "development": "dev",
    "testing": "test",
}

MAX_LINE = 64 * 2**20
"""Longest accepted JSON line or array element, in characters (a data: URL may be long)."""


@dataclass(frozen=True, slots=True)
class ReadProblem:
    """One file or record that was not read: where it is (file, line, id), what is wrong, how to mend it."""

    where: str
    what: str
    fix: str = ""
    code: str = "record"


Item: TypeAlias = Record | ReadProblem


@dataclass(frozen=True, slots=True)
class Defaults:
    """Values for records that state none themselves."""

    source: str
    license: str
    split: Split


def checked_options(options: Options, accepted: Mapping[str, str]) -> None:
    """Refuse an option the reader does not have.

    Raises:
        UsageError: names the option, the accepted ones and the nearest.
    """
    known = {**COMMON_OPTIONS, **accepted}
    for name in options:
        if name not in known:
            raise UsageError(
                "unknown reader option",
                where=name,
                accepted=sorted(known),
                nearest=nearest_name(name, known),
            )


def defaults(path: Path, options: Options, license: str = "unknown") -> Defaults:
    """The common options, with the folder's name as source."""
    name = path.resolve().name if path.is_dir() else path.resolve().parent.name
    return Defaults(
        source=options.get("source", name),
        license=options.get("license", license),
        split=split_name(options.get("split", "train"), "split"),
    )


def split_name(text: object, where: str) -> Split:
    """Normalise a split's name ("validation" is dev).

    Raises:
        DataError: no known split.
    """
    name = SPLIT_NAMES.get(str(text).strip().lower())
    if name is None:
        raise DataError(
            "unknown split",
            where=where,
            seen=str(text),
            accepted=SPLITS,
            nearest=nearest_name(str(text), SPLIT_NAMES),
        )
    return name


def integer_option(options: Options, name: str, default: int, low: int, high: int) -> int:
    """An integer option within low..high.

    Raises:
        UsageError: it is no integer or out of range.
    """
    text = options.get(name, str(default))
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise UsageError("not an accepted value", where=name, seen=text, accepted=f"{low}..{high}")
    return value


def problem_of(error: DataError, where: str) -> ReadProblem:
    """The problem an error describes, found at `where`."""
    seen = "" if error.seen is None else f" (seen: {str(error.seen)[:120]})"
    place = f"{where}: {error.where}" if error.where and error.where not in where else where
    what = f"{error.what}{seen}"
    if error.accepted:
        what += f"; accepted: {error.accepted}"
    return ReadProblem(place, what, error.fix or "", getattr(error, "code", "record"))


def json_lines(path: Path) -> Iterator[tuple[str, Any] | ReadProblem]:
    """(where, value) of every line of a JSONL file; a byte-order mark and blank lines are skipped."""
    with path.open("rb") as handle:
        number = 0
        while True:
            raw = handle.readline(MAX_LINE)
            if not raw:
                return
            number += 1
            where = f"{path.name}:{number}"
            if len(raw) >= MAX_LINE and not raw.endswith(b"\n"):
                yield ReadProblem(
                    where, f"the line is longer than {MAX_LINE} bytes", "split the record"
                )
                while raw and not raw.endswith(b"\n"):
                    raw = handle.readline(MAX_LINE)
                continue
            if number == 1:
                raw = raw.removeprefix(codecs.BOM_UTF8)
            if not raw.strip():
                continue
            try:
                yield where, json.loads(raw.decode("utf-8"))
            except UnicodeDecodeError:
                yield ReadProblem(
                    where, "the line is not UTF-8 text", "save the file as UTF-8", "encoding"
                )
            except (json.JSONDecodeError, RecursionError) as error:
                column = (
                    f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
                )
                yield ReadProblem(
                    where,
                    f"the line is not valid JSON{column}",
                    "correct or remove the line",
                    "json",
                )


def json_array(path: Path, chunk: int = 1 << 20) -> Iterator[tuple[str, Any] | ReadProblem]:
    """(where, element) of a JSON file that holds one array of objects, read in a stream.

    An element that is broken ends the file: what follows it cannot be told apart.
    """
    decoder, count = json.JSONDecoder(), 0
    buffer, at = "", 0
    with path.open(encoding="utf-8-sig", errors="strict") as handle:

        def more() -> bool:
            nonlocal buffer, at
            piece = handle.read(chunk)
            buffer, at = buffer[at:] + piece, 0
            return bool(piece)

        def skip(characters: str) -> str:
            nonlocal at
            while True:
                while at < len(buffer) and buffer[at] in characters:
                    at += 1
                if at < len(buffer):
                    return buffer[at]
                if not more():
                    return ""

        where = path.name
        try:
            if skip(" \t\r\n") != "[":
                yield ReadProblem(
                    where, "expected a JSON array of records", "wrap the records in [ ... ]", "json"
                )
                return
            at += 1
            while True:
                head = skip(" \t\r\n,")
                if head == "]":
                    return
                where = f"{path.name}[{count}]"
                if head == "":
                    yield ReadProblem(
                        where, "the file ends inside the array", "copy the file again", "json"
                    )
                    return
                while True:
                    try:
                        value, at = decoder.raw_decode(buffer, at)
                        break
                    except json.JSONDecodeError as error:
                        # Broken well before the end of what was read: no further text can mend it.
                        if (
                            len(buffer) - error.pos > chunk
                            or len(buffer) - at > MAX_LINE
                            or not more()
                        ):
                            yield ReadProblem(
                                where,
                                "this element is not valid JSON; it and all after it are unread",
                                "correct the element, or store the records as JSON lines",
                                "json",
                            )
                            return
                yield where, value
                count += 1
        except UnicodeDecodeError:
            yield ReadProblem(
                where, "the file is not UTF-8 text", "save the file as UTF-8", "encoding"
            )
        except RecursionError:
            yield ReadProblem(
                where, "the element is nested too deeply", "flatten the record", "json"
            )


def json_items(path: Path) -> Iterator[tuple[str, Any] | ReadProblem]:
    """Elements of a JSON array file, or lines of a JSONL file, by what the file begins with."""
    return json_array(path) if first_character(path) == "[" else json_lines(path)


def first_character(path: Path) -> str:
    """First non-blank character of a text file, '' when there is none or it is not text."""
    try:
        with path.open("rb") as handle:
            head = handle.read(4096).removeprefix(codecs.BOM_UTF8)
    except OSError:
        return ""
    return head.decode("utf-8", errors="ignore").lstrip()[:1]


def first_object(path: Path) -> Mapping[str, Any]:
    """The first object of a JSON or JSONL file, {} when it cannot be read; for `detect`."""
    try:
        for item in json_items(path):
            if not isinstance(item, ReadProblem) and isinstance(item[1], dict):
                return item[1]
    except OSError:
        pass
    return {}


def csv_rows(path: Path) -> Iterator[tuple[str, dict[str, str]] | ReadProblem]:
    """(where, row) of a CSV or TSV file with a header line; a byte-order mark is skipped."""
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            head = handle.readline()
            if path.suffix.lower() == ".csv" and head.count(";") > head.count(","):
                delimiter = ";"
            handle.seek(0)
            reader = csv.DictReader(handle, delimiter=delimiter, strict=False)
            while True:
                try:
                    row = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    yield ReadProblem(
                        f"{path.name}:{reader.line_num}", f"not a CSV row ({error})", "", "csv"
                    )
                    continue
                where = f"{path.name}:{reader.line_num}"
                if None in row or None in row.values():
                    yield ReadProblem(
                        where,
                        "the row has another number of cells than the header",
                        "quote cells that hold the separator",
                        "csv",
                    )
                    continue
                yield where, {str(key).strip(): value for key, value in row.items()}
    except UnicodeDecodeError:
        yield ReadProblem(
            path.name, "the file is not UTF-8 text", "save the file as UTF-8", "encoding"
        )


def candidates(path: Path, suffixes: Iterable[str]) -> list[Path]:
    """`path` itself if it is a file with one of the suffixes, else such files directly in the folder."""
    wanted = tuple(suffixes)
    if path.is_file():
        return [path] if path.suffix.lower() in wanted else []
    if not path.is_dir():
        return []
    return sorted(
        file
        for file in path.iterdir()
        if file.suffix.lower() in wanted and not file.name.startswith(".") and file.is_file()
    )


def walk_files(path: Path) -> Iterator[Path]:
    """Every regular file below `path` in sorted order; hidden names and symbolic links are skipped."""
    if path.is_file():
        yield path
        return
    for entry in sorted(path.iterdir(), key=lambda file: file.name):
        if entry.name.startswith(".") or entry.is_symlink():
            continue
        if entry.is_dir():
            yield from walk_files(entry)
        elif entry.is_file():
            yield entry


def hashed_group(value: str, salt: str) -> str:
    """A patient or study name as a salted hash: groups stay together, names do not pass."""
    return hashlib.sha256(f"{salt}\x1f{value}".encode()).hexdigest()[:16]


def split_placeholders(
    text: str, placeholder: str, next_image: int
) -> tuple[tuple[str | int, ...], int]:
    """Text with placeholders as content parts; returns the parts and the next image index.

    The line break that LLaVA puts between a placeholder and the text goes with the placeholder.
    """
    parts: list[str | int] = []
    pieces = text.split(placeholder)
    for position, piece in enumerate(pieces):
        if position > 0:
            parts.append(next_image)
            next_image += 1
            piece = piece.lstrip("\n")
        if position < len(pieces) - 1:
            piece = piece.rstrip("\n")
        if piece:
            parts.append(piece)
    return tuple(parts), next_image


def turns_with_images(
    turns: list[tuple[str, str]], images: int, placeholder: str
) -> tuple[Message, ...]:
    """Messages from (role, text) turns; without any placeholder the images lead the first user turn.

    Raises:
        DataError: the number of placeholders is neither zero nor the number of images.
    """
    messages: list[Message] = []
    shown = 0
    for role, text in turns:
        parts, shown = split_placeholders(text, placeholder, shown)
        messages.append(Message(role, parts or ("",)))  # type: ignore[arg-type]
    if shown == 0 and images:
        first = next((i for i, turn in enumerate(messages) if turn.role == "user"), None)
        if first is None:
            raise DataError("no user turn to show the image in")
        turn = messages[first]
        messages[first] = Message(turn.role, (*range(images), *turn.content))
    elif shown != images:
        raise DataError(
            f"the text shows {shown} images ({placeholder}) but the record names {images}",
            fix="name as many images as the text has placeholders",
        )
    return tuple(messages)


def chat_task(messages: tuple[Message, ...], images: int) -> str:
    """Task of a conversation that states none: text, open (one exchange) or dialogue."""
    if images == 0:
        return "text"
    return "open" if sum(turn.role == "user" for turn in messages) == 1 else "dialogue"


def image_refs(names: Iterable[str]) -> tuple[ImageRef, ...]:
    """References to images by locator."""
    return tuple(ImageRef(name) for name in names)
