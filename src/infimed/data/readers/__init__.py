"""One reader a format. Every reader yields Records or a ReadProblem, never raises on one bad item.

A reader is a module with ``NAME``, ``OPTIONS`` (option name to help), ``detect(path)`` and
``read(path, options)``. The tuple below is the whole registry; its order is the order of detection,
from the most particular form to the most general.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from infimed.core.errors import DataError, UsageError, nearest_name
from infimed.data.readers import (
    dicom,
    folder,
    llava,
    mapped,
    messages,
    nifti,
    parquet,
    records,
    sharegpt,
    voc,
    vqa_rad,
)
from infimed.data.readers.base import Item, Options, ReadProblem, checked_options
from infimed.data.readers.splitting import assign_splits

__all__ = [
    "READERS",
    "Item",
    "Options",
    "ReadProblem",
    "Reader",
    "detect_reader",
    "read",
    "reader_named",
]


class Reader(Protocol):
    """What a reader module offers."""

    NAME: str
    OPTIONS: Mapping[str, str]

    def detect(self, path: Path) -> bool:
        """Whether `path` is in this form; reads a few kilobytes at most."""
        ...

    def read(self, path: Path, options: Options) -> Iterator[Item]:
        """Records and problems in a stable order."""
        ...


READERS: tuple[Reader, ...] = (
    records,
    vqa_rad,
    voc,
    parquet,
    llava,
    sharegpt,
    messages,
    nifti,
    dicom,
    folder,
    mapped,
)


def reader_named(name: str) -> Reader:
    """The reader called `name`.

    Raises:
        UsageError: there is none.
    """
    names = [reader.NAME for reader in READERS]
    for reader in READERS:
        if name == reader.NAME:
            return reader
    raise UsageError(
        "unknown reader",
        where="--reader",
        seen=name,
        accepted=["auto", *names],
        nearest=nearest_name(name, names),
    )


def detect_reader(path: Path) -> Reader:
    """The first reader that knows the form of `path`.

    Raises:
        DataError: the path does not exist, or no reader knows it.
    """
    if not path.exists():
        raise DataError("no such file or folder", where=str(path), fix="check the path")
    for reader in READERS:
        if reader.detect(path):
            return reader
    raise DataError(
        "no reader knows this form",
        where=str(path),
        accepted=[reader.NAME for reader in READERS],
        fix="name one with --reader, or bring the data into a form of docs/data.md",
    )


def read(path: Path, reader: str = "auto", options: Options | None = None) -> Iterator[Item]:
    """Records and problems of a file or folder, by the named reader or the one that detects it.

    Raises:
        DataError: no such path, or no reader knows it.
        UsageError: unknown reader or option.
    """
    chosen = detect_reader(path) if reader == "auto" else reader_named(reader)
    if not path.exists():
        raise DataError("no such file or folder", where=str(path), fix="check the path")
    checked_options(options or {}, chosen.OPTIONS)
    items = chosen.read(path, options or {})
    shares = (options or {}).get("splits")
    return items if shares is None else assign_splits(items, shares)
