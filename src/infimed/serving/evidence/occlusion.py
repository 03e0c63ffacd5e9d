"""Which part of an image an answer rests on: hide one part after another and see how much less likely it becomes.

Zeiler & Fergus, *Visualizing and Understanding Convolutional Networks* (2014), section 4.2, with the
log-probability of the whole answer in the place of a class score. A fine grid is looked at from coarse to fine:
only cells whose drop is worth it are divided.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from infimed.serving.evidence.hiding import Box, cell_of, cells

COARSEST: Final = 8
"""Cells of a side up to which all are looked at."""
WORTH: Final = 0.25
"""A cell is divided when its drop is at least this share of the largest one."""
DIVIDED: Final = 0.25
"""Most of a grid that is divided, the largest drops first."""
REACH: Final = 0.25
"""How much further than its cell a hidden part reaches on each side, in cells, so that what lies on a border
is hidden as a whole by one of them."""

Drops: TypeAlias = NDArray[np.float64]
Score: TypeAlias = Callable[[Sequence[Box]], Awaitable[list[float]]]
"""By box, how much less likely the answer is without it, nats."""


def levels(grid: int) -> list[int]:
    """Cells of a side, from coarse to fine; each twice the one before, the last is `grid`."""
    made = [grid]
    while made[0] > COARSEST and made[0] % 2 == 0:
        made.insert(0, made[0] // 2)
    return made


def hidden(cell: Box) -> Box:
    """What is hidden to look at a cell; parts outside the image have no effect."""
    wide, high = REACH * (cell.x1 - cell.x0), REACH * (cell.y1 - cell.y0)
    return Box(cell.x0 - wide, cell.y0 - high, cell.x1 + wide, cell.y1 + high)


async def occlusion(score: Score, grid: int) -> Drops:
    """Drops [grid, grid] in nats; negative where hiding makes the answer likelier.

    Within a cell that was divided, the parts share its drop in proportion to their own drops, the largest taking
    all of it: smaller parts hide less, and would else look less important than cells that were not divided.
    """
    first, *finer = levels(grid)
    found = await score([hidden(cell) for cell in cells(first)])
    drops = np.array(found, np.float64).reshape(first, first)
    for side in finer:
        parents = worth_dividing(drops)
        parts = children(parents, side)
        found = await score([hidden(cell_of(side, row, column)) for row, column in parts])
        drops = divided(drops, parents, found)
    return drops


def worth_dividing(drops: Drops) -> list[tuple[int, int]]:
    """Rows and columns of the cells to divide, row by row."""
    most = float(drops.max())
    order = np.argsort(-drops, axis=None, kind="stable")[: int(DIVIDED * drops.size)]
    chosen = [int(at) for at in order if most > 0 and drops.flat[at] >= WORTH * most]
    return [divmod(at, drops.shape[1]) for at in sorted(chosen)]


def children(parents: Sequence[tuple[int, int]], side: int) -> list[tuple[int, int]]:
    """Rows and columns, in a grid of `side`, of the four parts of each cell."""
    assert side % 2 == 0
    return [(2 * row + down, 2 * column + right) for row, column in parents for down in (0, 1) for right in (0, 1)]  # fmt: skip


def divided(drops: Drops, parents: Sequence[tuple[int, int]], found: Sequence[float]) -> Drops:
    """Drops of a grid twice as fine; `found` holds those of the parents' parts, in the order of `children`."""
    made = np.kron(drops, np.ones((2, 2))).astype(np.float64)
    for number, (row, column) in enumerate(parents):
        parts = np.maximum(np.array(found[4 * number : 4 * number + 4]).reshape(2, 2), 0)
        if parts.max() > 0:
            block = drops[row, column] * parts / parts.max()
            made[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = block
    return made
