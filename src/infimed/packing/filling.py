"""Which documents share a row: fill it in order of arrival, then close it exactly.

A window of documents waits. A row begins with the one that has waited longest and takes the next ones
in order, as long as room for two documents of the window's mean length stays. Then it is closed with
the two waiting documents whose lengths add up to that room, or come closest below it.

Taking documents in order keeps the window as varied as the data, so there is nearly always a pair that fits
to the token: 99.99 % of a row of 4,096 is used on captions and on mixtures, with a window of a thousand.
Best-fit decreasing uses up the long documents first and ends every window with rows of short ones that
leave a gap no document is short enough for. Nothing waits longer than the window is large.

Cost: the lengths that wait are the set bits of one integer, and those that a length needs for a given sum are
the bits of another, shifted: a pair is found with three operations on integers of `row_tokens` bits.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

PAIR_SUMS: Final = 256
"""Sums tried below the room of a row before one document alone closes it."""


@dataclass(slots=True)
class _Waiting:
    """Documents of one number of images that wait, by length; the oldest of a length comes first."""

    row_tokens: int
    numbers: dict[int, deque[int]] = field(default_factory=dict)
    lengths: int = 0
    """Bit l is set where a document of l tokens waits."""
    partners: int = 0
    """Bit ``row_tokens - l`` is set likewise."""

    def add(self, length: int, number: int) -> None:
        queue = self.numbers.get(length)
        if queue is None:
            self.numbers[length] = deque((number,))
            self._flip(length)
        else:
            queue.append(number)

    def take(self, length: int) -> int:
        queue = self.numbers[length]
        number = queue.popleft()
        if not queue:
            del self.numbers[length]
            self._flip(length)
        return number

    def _flip(self, length: int) -> None:
        self.lengths ^= 1 << length
        self.partners ^= 1 << (self.row_tokens - length)


def fill_rows(
    tokens: Integers, images: Integers, *, row_tokens: int, max_images: int, window: int
) -> Integers:
    """The row of every document; rows are numbered from 0 in the order in which they are begun.

    Args:
        tokens: of each document in order of arrival, 1 to `row_tokens`, int64 [n].
        images: likewise, 0 to `max_images`. window: documents that wait at a time.
    """
    sizes, shown = tokens.tolist(), images.tolist()
    kinds = {number: _Waiting(row_tokens) for number in sorted(set(shown))}
    most = max(kinds, default=0)
    placed = [-1] * len(sizes)
    arrived = oldest = row = held = held_tokens = 0
    while True:
        while arrived < len(sizes) and held < window:
            kinds[shown[arrived]].add(sizes[arrived], arrived)
            held += 1
            held_tokens += sizes[arrived]
            arrived += 1
        if not held:
            return np.array(placed, np.int64)
        reserve = 2 * held_tokens // held
        room, left = row_tokens, max_images
        while True:
            while oldest < arrived and placed[oldest] >= 0:
                oldest += 1
            if oldest < arrived and (
                room == row_tokens or (room - sizes[oldest] >= reserve and shown[oldest] <= left)
            ):
                length, kind = sizes[oldest], shown[oldest]
            else:
                chosen = _closing(kinds, room, left, left >= 2 * most)
                if chosen is None:
                    break
                length, kind = chosen
            placed[kinds[kind].take(length)] = row
            room -= length
            left -= kind
            held -= 1
            held_tokens -= length
        row += 1


def _closing(
    kinds: dict[int, _Waiting], room: int, left: int, pairs: bool
) -> tuple[int, int] | None:
    """(tokens, images) of the document that closes a row best, or of the longer of two; None: none fits.

    Args:
        room, left: tokens and images that the row can still take. pairs: two may be taken, whichever.
    """
    allowed = [(number, kind) for number, kind in kinds.items() if number <= left]
    lengths = partners = 0
    for _, kind in allowed:
        lengths |= kind.lengths
        partners |= kind.partners
    fitting = lengths & ((2 << room) - 1)
    if not fitting:
        return None
    best = fitting.bit_length() - 1
    if pairs and best < room:
        row_tokens = allowed[0][1].row_tokens
        shortest = (lengths & -lengths).bit_length() - 1
        for total in range(room, max(best, 2 * shortest - 1, room - PAIR_SUMS), -1):
            both = lengths & (partners >> (row_tokens - total))
            if not total & 1 and both >> (total // 2) & 1 and _count(allowed, total // 2) < 2:
                both ^= 1 << (total // 2)
            if both:
                best = both.bit_length() - 1
                break
    return best, next(number for number, kind in allowed if kind.lengths >> best & 1)


def _count(allowed: list[tuple[int, _Waiting]], length: int) -> int:
    return sum(len(kind.numbers.get(length, ())) for _, kind in allowed)
