"""The pack plan: which documents share a row.

A pure function of token counts, image keys, weights, limits, window, epoch and seed; it never opens
an image. Invariants: no row exceeds `row_tokens` or `max_images`, an image span is never cut, and
every selected record is in exactly one row or is counted as over-long.

Method: documents are shuffled, then packed window by window with best-fit decreasing (the fullest
row that still fits, found by bisection over free space): O(n log n).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infimed.core.seeds import stream


@dataclass(frozen=True)
class Samples:
    """Columns of the index that planning needs; all arrays have one entry a record.

    Attributes:
        row: row number of the record in the shards.
        trunk_tokens: text tokens up to the last image; shared by records with the same images.
        branch_tokens: text tokens after it.
        target_tokens: tokens that are predicted.
        images: images of the record.
        image_key: equal for records that show the same images in the same order; -1 without images.
        weight: times the record is seen per epoch; a fraction is drawn by chance.
    """

    row: NDArray[np.int64]
    trunk_tokens: NDArray[np.int64]
    branch_tokens: NDArray[np.int64]
    target_tokens: NDArray[np.int64]
    images: NDArray[np.int64]
    image_key: NDArray[np.int64]
    weight: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.row)


@dataclass(frozen=True)
class Limits:
    """What a row may hold."""

    row_tokens: int
    max_images: int
    visual_tokens: int
    window: int
    share_images: bool = True


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


@dataclass(frozen=True)
class Plan:
    """Rows in training order, and the records that fit in none."""

    rows: tuple[RowPlan, ...]
    over_long: tuple[int, ...]
    row_tokens: int

    @property
    def fill(self) -> float:
        """Share of the rows' capacity that holds tokens."""
        capacity = len(self.rows) * self.row_tokens
        return sum(row.tokens for row in self.rows) / capacity if capacity else 0.0

    def table(self) -> pa.Table:
        """One line a record: row, document, record. The form in which a plan is stored."""
        columns: dict[str, list[int]] = {name: [] for name in ("row", "document", "record")}
        for number, row in enumerate(self.rows):
            for place, document in enumerate(row.documents):
                for record in document.records:
                    columns["row"].append(number)
                    columns["document"].append(place)
                    columns["record"].append(record)
        return pa.table({name: pa.array(values, pa.int64()) for name, values in columns.items()})


def draw(samples: Samples, seed: int, epoch: int) -> NDArray[np.int64]:
    """Positions of the records seen in an epoch, each as often as its weight says, shuffled."""
    random = stream(seed, "mixture", epoch)
    whole = np.floor(samples.weight).astype(np.int64)
    times = whole + (random.random(len(samples)) < samples.weight - whole)
    order = np.repeat(np.arange(len(samples)), times)
    random.shuffle(order)
    return order


def documents_of(
    samples: Samples, order: NDArray[np.int64], limits: Limits
) -> tuple[list[DocumentPlan], list[int]]:
    """Group records that show the same images into documents no longer than a row.

    A record drawn twice lands in two documents, so that no document holds a question twice.
    """
    over_long: list[int] = []
    loose: list[list[int]] = []
    shared: dict[tuple[int, int], list[int]] = {}
    seen: dict[int, int] = {}
    visual = samples.images * limits.visual_tokens
    for at in order.tolist():
        length = int(visual[at] + samples.trunk_tokens[at] + samples.branch_tokens[at])
        if length > limits.row_tokens or samples.images[at] > limits.max_images:
            over_long.append(int(samples.row[at]))
            continue
        key = int(samples.image_key[at])
        if key < 0 or not limits.share_images:
            loose.append([at])
            continue
        turn = seen.get(at, 0)
        seen[at] = turn + 1
        shared.setdefault((key, turn), []).append(at)

    documents: list[DocumentPlan] = []

    def close(members: list[int]) -> None:
        first = members[0]
        documents.append(
            DocumentPlan(
                records=tuple(int(samples.row[m]) for m in members),
                tokens=int(visual[first] + samples.trunk_tokens[first])
                + sum(int(samples.branch_tokens[m]) for m in members),
                images=int(samples.images[first]),
                target_tokens=sum(int(samples.target_tokens[m]) for m in members),
            )
        )

    for members in loose:
        close(members)
    for members in shared.values():
        first = members[0]
        room = limits.row_tokens - int(visual[first] + samples.trunk_tokens[first])
        part: list[int] = []
        used = 0
        for member in members:
            need = int(samples.branch_tokens[member])
            if part and used + need > room:
                close(part)
                part, used = [], 0
            part.append(member)
            used += need
        close(part)
    return documents, over_long


def best_fit(documents: list[DocumentPlan], limits: Limits) -> list[list[DocumentPlan]]:
    """Best-fit decreasing: each document, longest first, into the fullest row that still holds it."""
    rows: list[list[DocumentPlan]] = []
    images: list[int] = []
    free: list[tuple[int, int]] = []
    for document in sorted(documents, key=lambda d: -d.tokens):
        at = bisect_left(free, (document.tokens, -1))
        while at < len(free) and images[free[at][1]] + document.images > limits.max_images:
            at += 1
        if at == len(free):
            rows.append([document])
            images.append(document.images)
            space, number = limits.row_tokens - document.tokens, len(rows) - 1
        else:
            space, number = free.pop(at)
            rows[number].append(document)
            images[number] += document.images
            space -= document.tokens
        insort(free, (space, number))
    return rows


def plan_epoch(samples: Samples, limits: Limits, seed: int, epoch: int) -> Plan:
    """The rows of one epoch, in training order."""
    documents, over_long = documents_of(samples, draw(samples, seed, epoch), limits)
    random = stream(seed, "pack", epoch)
    random.shuffle(documents)
    rows: list[RowPlan] = []
    for _, window in groupby(enumerate(documents), key=lambda pair: pair[0] // limits.window):
        packed = best_fit([document for _, document in window], limits)
        for place in random.permutation(len(packed)):
            members = packed[int(place)]
            rows.append(RowPlan(tuple(members[int(i)] for i in random.permutation(len(members)))))
    return Plan(tuple(rows), tuple(over_long), limits.row_tokens)


def plan_stage(
    samples: Samples, limits: Limits, *, seed: int, epochs: float, max_rows: int | None = None
) -> Plan:
    """The rows of a whole stage; the last epoch is cut to its fraction of rows."""
    rows: list[RowPlan] = []
    over_long: list[int] = []
    for epoch, share in _epochs(epochs):
        plan = plan_epoch(samples, limits, seed, epoch)
        keep = len(plan.rows) if share >= 1 else max(1, round(share * len(plan.rows)))
        rows.extend(plan.rows[:keep])
        over_long.extend(plan.over_long if epoch == 0 else ())
        if max_rows is not None and len(rows) >= max_rows:
            rows = rows[:max_rows]
            break
    return Plan(tuple(rows), tuple(over_long), limits.row_tokens)


def _epochs(epochs: float) -> Iterator[tuple[int, float]]:
    number = 0
    while epochs > 1e-9:
        yield number, min(1.0, epochs)
        epochs -= 1.0
        number += 1
