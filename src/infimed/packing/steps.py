"""Optimizer steps of a plan, and the rows of a step dealt to ranks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from infimed.packing.plan import Plan


def step_starts(
    plan: Plan, *, rows: int = 1, samples: int | None = None, targets: int | None = None
) -> NDArray[np.int64]:
    """First row of every step, and the number of rows at the end; int64 [steps + 1].

    With `samples` or `targets` a step ends with the row with which the count since the beginning reaches
    the next multiple: rows stay whole and the average over many steps is what was asked for. No step
    crosses a change of the mixture.
    """
    total = len(plan.start) - 1
    inside = [0, total] if plan.switch is None else [0, plan.switch, total]
    if samples is not None:
        counts, size = plan.per_row(np.diff(plan.documents.start)), samples
    elif targets is not None:
        counts, size = plan.per_row(plan.documents.target_tokens), targets
    else:
        counts, size = np.ones(total, np.int64), rows
    starts = [
        begin + _starts(counts[begin:end], size) for begin, end in pairwise(inside) if begin < end
    ]
    return np.append(np.concatenate([np.zeros(0), *starts]), total).astype(np.int64)


def _starts(counts: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    done = np.cumsum(counts)
    ends = np.searchsorted(done, np.arange(size, int(done[-1]) + 1, size)) + 1
    return np.unique(np.append(0, ends[ends < len(counts)])).astype(np.int64)


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
