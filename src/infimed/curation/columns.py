"""All records at once, as numbers: what the data-set rules compare before they look at any record.

A few dozen bytes a record, whatever the length of its text: keys are 64-bit hashes, so equal keys
*propose* that records belong together and the rules then compare the records themselves. A rule that
finds things among records with equal keys (`exact_key`, ...) is shown those groups alone, some at a
time, so that a million records never become a million objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infimed.curation import ledger
from infimed.curation.ledger_columns import RowRanges

CAPTION_LIKE: Final = frozenset({"caption", "report", "dialogue", "text"})
"""Tasks whose response is a text of its own, not an answer to a question."""

Keys = NDArray[np.uint64]
Flags = NDArray[np.bool_]

_COLUMNS: Final = [
    "record_id", "task", "source", "question_key", "answer_key", "content_key", "stopped", "response_words",
    "images.list.element.sha256", "images.list.element.pixel_hash",
]  # fmt: skip


class SignalStore:
    """Signals of all records by chunk: from the parts of a run, or from a finished ledger."""

    def __init__(self, parts: ledger.Parts, stored: Path | None, chunk_rows: int) -> None:
        self.parts, self.chunk_rows = parts, chunk_rows
        self._stored = RowRanges(stored) if stored else None

    def read(self, chunk: int, columns: list[str] | None = None) -> pa.Table:
        """Signals of one chunk; `columns` may name nested ones (``images.list.element.sha256``)."""
        if self._stored is None:
            return self.parts.read(ledger.SIGNALS, chunk, columns)
        return self._stored.read(chunk * self.chunk_rows, self.chunk_rows, columns)


@dataclass(frozen=True, slots=True)
class SetColumns:
    """One entry a record, in row order (entry = row number).

    Attributes:
        ids: of the record ids. task, source: codes into `tasks`, `sources`. question, answer, content: the text keys.
        pixels: of all its images in order. images: how many. stopped, response_words: as signals.
        image_keys: of every image of every record; record r has those from ``offsets[r]`` to
            ``offsets[r + 1]``.
    """

    tasks: tuple[str, ...]
    sources: tuple[str, ...]
    ids: Keys
    task: NDArray[np.int32]
    source: NDArray[np.int32]
    question: Keys
    answer: Keys
    content: Keys
    pixels: Keys
    images: NDArray[np.int32]
    stopped: Flags
    response_words: NDArray[np.int32]
    image_keys: Keys
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.task)

    def caption_like(self) -> Flags:
        """Which records are captions, reports, dialogues or texts."""
        return np.array([task in CAPTION_LIKE for task in self.tasks], bool)[self.task]


def read_columns(store: SignalStore, chunks: int) -> SetColumns:
    """The columns of all chunks."""
    tasks: dict[str, int] = {}
    sources: dict[str, int] = {}
    parts: list[list[NDArray[np.generic]]] = []
    for chunk in range(chunks):
        table = store.read(chunk, _COLUMNS).combine_chunks()
        images = table["images"].combine_chunks()
        offsets = images.offsets.to_numpy() - images.offsets[0].as_py()
        flat = images.flatten()
        shown = _hashes(flat.field("sha256").to_pylist())
        pixels = np.where(
            np.array(flat.field("pixel_hash").to_pylist(), object).astype(bool),
            _hashes(flat.field("pixel_hash").to_pylist()),
            shown,
        )
        parts.append(
            [
                _hashes(table["record_id"].to_pylist()),
                _codes(table["task"].to_pylist(), tasks),
                _codes(table["source"].to_pylist(), sources),
                *(
                    _hashes(table[name].to_pylist())
                    for name in ("question_key", "answer_key", "content_key")
                ),
                _folded(pixels, offsets),
                np.diff(offsets).astype(np.int32),
                table["stopped"].to_numpy().astype(bool),
                table["response_words"].to_numpy().astype(np.int32),
                shown,
            ]
        )
    whole = [np.concatenate(column) for column in zip(*parts, strict=True)]
    ends = np.concatenate([[0], np.cumsum(whole[7], dtype=np.int64)])
    made: Any = (tuple(tasks), tuple(sources), *whole, ends)
    return SetColumns(*made)


def exact_key(columns: SetColumns) -> Keys:
    """Equal for the same question, answer (or text) and pixels."""
    words = np.where(columns.caption_like(), columns.content, columns.answer)
    return mixed(columns.task, columns.question, words, columns.pixels)


def answered_key(columns: SetColumns) -> Keys:
    """Equal for the same question and answer about as many images; 0 without an image."""
    key = mixed(columns.task, columns.question, columns.answer, columns.images)
    return np.where(columns.images > 0, key, np.uint64(0))


def asked_key(columns: SetColumns) -> Keys:
    """Equal for the same question about the same pixels; 0 for captions and without an image."""
    key = mixed(columns.task, columns.question, columns.pixels)
    return np.where((columns.images > 0) & ~columns.caption_like(), key, np.uint64(0))


def described_key(columns: SetColumns) -> Keys:
    """Equal for captions, reports and texts about the same pixels; 0 for every other task."""
    key = mixed(columns.task, columns.pixels)
    return np.where(columns.caption_like(), key, np.uint64(0))


def pictured_key(columns: SetColumns) -> Keys:
    """Equal for records about the same single image; 0 for records with none or several."""
    return np.where(columns.images == 1, mixed(columns.pixels), np.uint64(0))


def mixed(*columns: NDArray[np.generic]) -> Keys:
    """One key, never 0, out of several columns."""
    key = np.full(len(columns[0]), 0x9E3779B97F4A7C15, np.uint64)
    for column in columns:
        key = (key ^ column.astype(np.uint64)) * np.uint64(0xBF58476D1CE4E5B9)
        key ^= key >> np.uint64(29)
    return np.where(key == 0, np.uint64(1), key)


def groups_of(keys: Keys, rows: NDArray[np.int64], most: int) -> Iterator[NDArray[np.int64]]:
    """Rows whose key another of `rows` shares, in batches that never cut a group.

    Args:
        keys: of all records; 0 belongs to no group. rows: which of them to look at, ascending.
        most: rows a batch should hold; a single larger group is a batch of its own.

    Yields rows, ascending within a batch.
    """
    rows = rows[keys[rows] != 0]
    order = np.argsort(keys[rows], kind="stable")
    rows = rows[order]
    starts = (
        np.flatnonzero(np.r_[True, np.diff(keys[rows]) != 0]) if len(rows) else np.zeros(0, int)
    )
    sizes = np.diff(np.r_[starts, len(rows)])
    shared = np.flatnonzero(sizes >= 2)
    begin = 0
    while begin < len(shared):
        end, held = begin, 0
        while end < len(shared) and (held == 0 or held + sizes[shared[end]] <= most):
            held += int(sizes[shared[end]])
            end += 1
        yield np.sort(
            np.concatenate([rows[starts[g] : starts[g] + sizes[g]] for g in shared[begin:end]])
        )
        begin = end


def side_by_side(columns: SetColumns, alive: Flags, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of living records with several images, at least two of which `rows` show too."""
    several = np.flatnonzero((columns.images > 1) & alive)
    if not len(several):
        return several
    mine = np.concatenate(
        [columns.image_keys[columns.offsets[r] : columns.offsets[r + 1]] for r in rows]
    )
    known = np.isin(columns.image_keys, np.unique(mine))
    running = np.concatenate([[0], np.cumsum(known)])
    shown = running[columns.offsets[several + 1]] - running[columns.offsets[several]]
    return several[shown >= 2]


def _codes(values: list[str], known: dict[str, int]) -> NDArray[np.int32]:
    return np.array([known.setdefault(value, len(known)) for value in values], np.int32)


def _hashes(values: list[str]) -> Keys:
    # Python's own string hash differs from run to run; only equality within this run is used.
    return np.array([hash(value) for value in values], np.int64).astype(np.uint64)


def _folded(keys: Keys, offsets: NDArray[np.int64]) -> Keys:
    """One key a record out of those of its images in order."""
    counts = np.diff(offsets)
    made = counts.astype(np.uint64)
    for position in range(int(counts.max(initial=0))):
        has = counts > position
        made[has] = mixed(made[has], keys[offsets[:-1][has] + position])
    return made
