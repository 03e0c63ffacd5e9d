"""A pack plan: which records share a document and which documents share a row.

Held as flat arrays (40 bytes a document and 8 a record), so that the plan of millions of records takes no
object for each; rows and documents are made when they are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class DocumentPlan:
    """Records (shard rows) that share one trunk, and the document's token and image counts."""

    records: tuple[int, ...]
    tokens: int
    images: int
    target_tokens: int


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
    """

    records: Integers
    start: Integers
    tokens: Integers
    images: Integers
    target_tokens: Integers

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, number: int) -> DocumentPlan:
        if not 0 <= number < len(self):
            raise IndexError(number)
        return DocumentPlan(
            records=tuple(self.records[self.start[number] : self.start[number + 1]].tolist()),
            tokens=int(self.tokens[number]),
            images=int(self.images[number]),
            target_tokens=int(self.target_tokens[number]),
        )

    def __iter__(self) -> Iterator[DocumentPlan]:
        return (self[number] for number in range(len(self)))

    def take(self, order: Integers) -> Documents:
        """The documents of these numbers, in this order."""
        sizes = np.diff(self.start)[order]
        start = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        inside = np.arange(start[-1]) - np.repeat(start[:-1], sizes)
        return Documents(
            records=self.records[np.repeat(self.start[:-1][order], sizes) + inside],
            start=start,
            tokens=self.tokens[order],
            images=self.images[order],
            target_tokens=self.target_tokens[order],
        )


@dataclass(frozen=True, eq=False)
class Plan:
    """Rows in training order, and the records that fit in none.

    Attributes:
        documents: all documents, row after row.
        start: row r holds the documents ``start[r]`` to ``start[r + 1] - 1``; int64 [rows + 1].
        over_long: shard rows of the records that are longer than a row. row_tokens: capacity of a row.
    """

    documents: Documents
    start: Integers
    over_long: Integers
    row_tokens: int

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
        return Plan(documents, start, self.over_long, self.row_tokens)

    def table(self) -> pa.Table:
        """One line a record: row, document, record. The form in which a plan is stored."""
        documents = np.diff(self.start)
        row = np.repeat(np.arange(len(documents)), documents)
        place = np.arange(len(row)) - self.start[:-1][row]
        records = np.diff(self.documents.start)
        columns = {
            "row": np.repeat(row, records),
            "document": np.repeat(place, records),
            "record": self.documents.records,
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
    """One plan after another; what is over-long is taken from the first."""
    documents = [plan.documents for plan in plans]
    return Plan(
        Documents(
            records=np.concatenate([d.records for d in documents]),
            start=_starts([d.start for d in documents]),
            tokens=np.concatenate([d.tokens for d in documents]),
            images=np.concatenate([d.images for d in documents]),
            target_tokens=np.concatenate([d.target_tokens for d in documents]),
        ),
        _starts([plan.start for plan in plans]),
        plans[0].over_long,
        plans[0].row_tokens,
    )


def _starts(parts: Sequence[Integers]) -> Integers:
    sizes = np.concatenate([np.diff(part) for part in parts])
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
