"""A pack plan: which records share a document and which documents share a row.

Held as flat arrays (48 bytes a document and 24 a record), so that the plan of millions of records takes no
object for each; rows and documents are made when they are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Integers = NDArray[np.int64]


WHOLE: Final = (0, 0)
"""Turns of a record that is trained on from its first to its last."""


@dataclass(frozen=True)
class DocumentPlan:
    """Records (shard rows) that share one trunk, and the document's token and image counts.

    Attributes:
        turns: of each record, the first turn and the one after the last; `WHOLE` for all of them.
            Empty where every record is whole.
        visual_tokens: tokens of each image where they are fewer than the stage's, else 0.
    """

    records: tuple[int, ...]
    tokens: int
    images: int
    target_tokens: int
    turns: tuple[tuple[int, int], ...] = ()
    visual_tokens: int = 0


@dataclass(frozen=True)
class RowPlan:
    """The documents of one row."""

    documents: tuple[DocumentPlan, ...]

    @property
    def tokens(self) -> int:
        """Tokens in the row, visual ones included."""
        return sum(document.tokens for document in self.documents)

    @property
    def records(self) -> int:
        """Records in the row."""
        return sum(len(document.records) for document in self.documents)

    @property
    def images(self) -> int:
        """Images in the row."""
        return sum(document.images for document in self.documents)

    @property
    def target_tokens(self) -> int:
        """Tokens the row predicts."""
        return sum(document.target_tokens for document in self.documents)


@dataclass(frozen=True, eq=False)
class Documents:
    """Documents in some order.

    Attributes:
        records: shard rows of all documents, one after another.
        start: document d holds ``records[start[d]:start[d + 1]]``; int64 [n + 1].
        tokens, images, target_tokens: of each document, int64 [n].
        turns: of each record, int64 [records, 2]; `WHOLE` for all of it.
        visual_tokens: of each image of a document where they are fewer than the stage's, else 0; int64 [n].
    """

    records: Integers
    start: Integers
    tokens: Integers
    images: Integers
    target_tokens: Integers
    turns: Integers
    visual_tokens: Integers

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, number: int) -> DocumentPlan:
        if not 0 <= number < len(self):
            raise IndexError(number)
        inside = slice(int(self.start[number]), int(self.start[number + 1]))
        turns = self.turns[inside]
        return DocumentPlan(
            records=tuple(self.records[inside].tolist()),
            tokens=int(self.tokens[number]),
            images=int(self.images[number]),
            target_tokens=int(self.target_tokens[number]),
            turns=tuple((first, last) for first, last in turns.tolist()) if turns.any() else (),
            visual_tokens=int(self.visual_tokens[number]),
        )

    def __iter__(self) -> Iterator[DocumentPlan]:
        return (self[number] for number in range(len(self)))

    def take(self, order: Integers) -> Documents:
        """The documents of these numbers, in this order."""
        sizes = np.diff(self.start)[order]
        start = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        inside = np.arange(start[-1]) - np.repeat(start[:-1], sizes)
        members = np.repeat(self.start[:-1][order], sizes) + inside
        return Documents(
            records=self.records[members],
            start=start,
            tokens=self.tokens[order],
            images=self.images[order],
            target_tokens=self.target_tokens[order],
            turns=self.turns[members],
            visual_tokens=self.visual_tokens[order],
        )


@dataclass(frozen=True, eq=False)
class Plan:
    """Rows in training order, and the records that fit in none.

    Attributes:
        documents: all documents, row after row.
        start: row r holds the documents ``start[r]`` to ``start[r + 1] - 1``; int64 [rows + 1].
        over_long: shard rows of the records that are longer than a row, whole or in a part that could
            not be made shorter. row_tokens: capacity of a row.
        without_targets: shard rows of the records that teach nothing, and are left out.
        switch: the row from which on another mixture is drawn; None where there is only one.
    """

    documents: Documents
    start: Integers
    over_long: Integers
    row_tokens: int
    without_targets: Integers = field(default_factory=lambda: np.zeros(0, np.int64))
    switch: int | None = None

    @property
    def rows(self) -> Sequence[RowPlan]:
        """The rows, made when asked for."""
        return _Rows(self)

    @property
    def tokens(self) -> int:
        """Tokens of all rows, visual ones included."""
        return int(self.documents.tokens.sum())

    @property
    def images(self) -> int:
        """Images of all rows; one that stands in two documents counts twice."""
        return int(self.documents.images.sum())

    @property
    def target_tokens(self) -> int:
        """Tokens that all rows predict."""
        return int(self.documents.target_tokens.sum())

    @property
    def records(self) -> int:
        """Records in all rows."""
        return len(self.documents.records)

    @property
    def fill(self) -> float:
        """Share of the rows' capacity that holds tokens."""
        capacity = (len(self.start) - 1) * self.row_tokens
        return self.tokens / capacity if capacity else 0.0

    def per_row(self, values: Integers) -> Integers:
        """A number of each document, summed by row; int64 [rows]."""
        running = np.concatenate([[0], np.cumsum(values)])
        return np.asarray(running[self.start[1:]] - running[self.start[:-1]], np.int64)

    def first(self, rows: int) -> Plan:
        """The first rows of it."""
        start = self.start[: rows + 1]
        documents = self.documents.take(np.arange(start[-1]))
        return replace(self, documents=documents, start=start)

    @property
    def split(self) -> Integers:
        """Shard rows of the records that are trained on in parts, each once."""
        return np.unique(self.documents.records[self.documents.turns.any(1)])

    @property
    def shrunk(self) -> Integers:
        """Shard rows of the records whose images have fewer visual tokens, each once."""
        fewer = np.repeat(self.documents.visual_tokens > 0, np.diff(self.documents.start))
        return np.unique(self.documents.records[fewer])

    def table(self) -> pa.Table:
        """One line a record: row, document, record, turns, visual tokens. The form in which a plan is stored."""
        documents = np.diff(self.start)
        row = np.repeat(np.arange(len(documents)), documents)
        place = np.arange(len(row)) - self.start[:-1][row]
        records = np.diff(self.documents.start)
        columns = {
            "row": np.repeat(row, records),
            "document": np.repeat(place, records),
            "record": self.documents.records,
            "first_turn": self.documents.turns[:, 0],
            "last_turn": self.documents.turns[:, 1],
            "visual_tokens": np.repeat(self.documents.visual_tokens, records),
        }
        return pa.table({name: pa.array(values, pa.int64()) for name, values in columns.items()})


class _Rows(Sequence[RowPlan]):
    """The rows of a plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def __len__(self) -> int:
        return len(self._plan.start) - 1

    @overload
    def __getitem__(self, number: int) -> RowPlan: ...
    @overload
    def __getitem__(self, number: slice) -> list[RowPlan]: ...
    def __getitem__(self, number: int | slice) -> RowPlan | list[RowPlan]:
        if isinstance(number, slice):
            return [self[place] for place in range(*number.indices(len(self)))]
        at = range(len(self))[number]
        begin, end = self._plan.start[at : at + 2].tolist()
        return RowPlan(tuple(self._plan.documents[place] for place in range(begin, end)))


def joined(plans: Sequence[Plan]) -> Plan:
    """One plan after another; what is left out is taken from the first."""
    documents = [plan.documents for plan in plans]
    return Plan(
        Documents(
            records=np.concatenate([d.records for d in documents]),
            start=_starts([d.start for d in documents]),
            tokens=np.concatenate([d.tokens for d in documents]),
            images=np.concatenate([d.images for d in documents]),
            target_tokens=np.concatenate([d.target_tokens for d in documents]),
            turns=np.concatenate([d.turns for d in documents]),
            visual_tokens=np.concatenate([d.visual_tokens for d in documents]),
        ),
        _starts([plan.start for plan in plans]),
        plans[0].over_long,
        plans[0].row_tokens,
        plans[0].without_targets,
    )


def _starts(parts: Sequence[Integers]) -> Integers:
    sizes = np.concatenate([np.diff(part) for part in parts])
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
