"""Best-fit decreasing: each document, longest first, into the fullest row that still holds it.

Lengths are small whole numbers, so rows are kept by their free space and equal lengths are placed together:
the k-th of c equal documents goes where the rule would send it one by one, but a thousand of them cost
one step. Free spaces that occur are the set bits of one integer; the smallest that is large enough is
its lowest set bit above the length. Time is that of sorting plus one step for every (length, free space)
that meets. Where a limit on images can bind, documents are placed one by one.
"""

from __future__ import annotations

from bisect import bisect_left, insort

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


def best_fit(tokens: Integers, images: Integers, row_tokens: int, max_images: int) -> Integers:
    """The row of every document; rows are numbered in the order in which they are opened.

    Args:
        tokens: of each document, 1 to `row_tokens`, int64 [n]. images: likewise, at most `max_images`.
        row_tokens, max_images: what a row holds. Of rows equally full the one opened first is taken.
    """
    order = np.argsort(-tokens, kind="stable")
    if _images_can_bind(tokens, images, row_tokens, max_images):
        placed = _one_by_one(tokens[order], images[order], row_tokens, max_images)
    else:
        placed = _by_length(tokens[order], row_tokens)
    row = np.empty(len(tokens), np.int64)
    row[order] = placed
    return row


def _images_can_bind(tokens: Integers, images: Integers, row_tokens: int, max_images: int) -> bool:
    """Whether the documents with the most images a token could bring a row to its limit."""
    shown = images > 0
    if not shown.any():
        return False
    return bool((images[shown] / tokens[shown]).max() * row_tokens > max_images)


def _by_length(tokens: Integers, row_tokens: int) -> Integers:
    """Rows of documents sorted by falling length, images aside."""
    placed = np.empty(len(tokens), np.int64)
    by_space: dict[int, list[int]] = {}
    spaces = 0  # bit s is set where a row has s tokens free
    opened = at = 0
    starts = np.flatnonzero(np.diff(tokens, prepend=-1))
    counts = np.diff(starts, append=len(tokens))
    for length, count in zip(tokens[starts].tolist(), counts.tolist(), strict=True):
        left = count
        while left:
            large = spaces >> length
            if large:
                space = length + (large & -large).bit_length() - 1
                rows = by_space.pop(space)
                spaces ^= 1 << space
                rows.sort()
            else:
                space = row_tokens
                needed = -(-left // (row_tokens // length))
                rows = list(range(opened, opened + needed))
                opened += needed
            # The fullest row takes one after another, as long as it can: then it is fuller still.
            each = space // length
            filled = min(len(rows), left // each)
            rest = min(each, left - filled * each) if filled < len(rows) else 0
            taken = filled + (rest > 0)
            numbers = np.repeat(np.array(rows[:taken], np.int64), each)[: filled * each + rest]
            placed[at : at + len(numbers)] = numbers
            at += len(numbers)
            left -= len(numbers)
            moves = (
                (space - each * length, rows[:filled]),
                (space - rest * length, rows[filled:taken]),
                (space, rows[taken:]),
            )
            for free, moved in moves:
                if free and moved:
                    by_space.setdefault(free, []).extend(moved)
                    spaces |= 1 << free
    return placed


def _one_by_one(tokens: Integers, images: Integers, row_tokens: int, max_images: int) -> Integers:
    """Rows of documents sorted by falling length, with a limit on images."""
    placed: list[int] = []
    shown: list[int] = []
    free: list[tuple[int, int]] = []
    for length, own in zip(tokens.tolist(), images.tolist(), strict=True):
        at = bisect_left(free, (length, -1))
        while at < len(free) and shown[free[at][1]] + own > max_images:
            at += 1
        if at == len(free):
            space, row = row_tokens, len(shown)
            shown.append(0)
        else:
            space, row = free.pop(at)
        shown[row] += own
        placed.append(row)
        insort(free, (space - length, row))
    return np.array(placed, np.int64)
