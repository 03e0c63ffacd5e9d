"""Optimizer steps of a plan, and the rows of a step dealt to ranks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from infimed.packing.plan import Plan


def step_starts(plan: Plan, *, rows: int | None = None) -> NDArray[np.int64]:
    """First row of every step, and the number of rows at the end; int64 [steps + 1]."""
    total = len(plan.start) - 1
    return np.append(np.arange(0, total, rows or 1), total).astype(np.int64)


def deal(
    images: NDArray[np.int64], tokens: NDArray[np.int64], ranks: int
) -> tuple[tuple[int, ...], ...]:
    """Rows of one step by rank: row counts differ by at most one, images balance."""
    order = np.lexsort((-tokens, -images)).tolist()
    dealt: list[list[int]] = [[] for _ in range(ranks)]
    for start in range(0, len(order), ranks):
        chunk = order[start : start + ranks]
        ranking = sorted(range(ranks), key=lambda r: (int(images[dealt[r]].sum()), r))
        for rank, row in zip(ranking, chunk, strict=False):
            dealt[rank].append(row)
    return tuple(tuple(sorted(rows)) for rows in dealt)
