"""A large image as several views: all of it, and a grid of tiles.

The first view is the whole image squashed to the square, as without tiling. Then the image is resized to
(rows * side, columns * side) pixels and cut into squares, row by row. How many rows and columns is a pure
function of the image's size, so that a plan knows the views of an image that nobody has opened.

The idea is that of LLaVA-NeXT and LLaVA-OneVision (AnyRes: a small copy and tiles); as in InternVL the
image fills the grid without padding, which keeps the one geometry of the house. Cost: an image of n tiles
takes 1 + n times the visual tokens and as many passes of the tower.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from infimed.data.rendering import resized, squash

Size: TypeAlias = tuple[int, int]
"""Width and height in pixels; (0, 0) where it is not known."""
Grid: TypeAlias = tuple[int, int]
"""Rows and columns of tiles."""

NO_TILES: Final[Grid] = (0, 0)
GAIN: Final = Fraction(3, 2)
"""Tiles must show an image at least so many times as large as the square does."""
ENOUGH: Final = Fraction(9, 10)
"""Share of the best scale with which fewer tiles are preferred."""


@lru_cache(maxsize=8192)
def tile_grid(size: Size, side: int, tiles: int) -> Grid:
    """Rows and columns of the tiles of an image; `NO_TILES` where the square shows it about as well.

    A grid's scale is how much it shrinks the image in the direction that it shrinks more; 1 where it shrinks
    nothing. Chosen is the grid of the fewest tiles that comes within `ENOUGH` of the best scale; there is
    one only, since every such grid holds the rows and the columns that the scale takes.

    Args:
        size: of the image, at least 1 x 1. side: of the square, pixels. tiles: most tiles.
    """
    width, height = size

    def scale(grid: Grid) -> Fraction:
        rows, columns = grid
        return min(Fraction(1), Fraction(columns * side, width), Fraction(rows * side, height))

    grids = [
        (rows, columns) for rows in range(1, tiles + 1) for columns in range(1, tiles // rows + 1)
    ]
    best = max(map(scale, grids), default=Fraction(0))
    if best < GAIN * scale((1, 1)):
        return NO_TILES
    return min((g for g in grids if scale(g) >= ENOUGH * best), key=lambda g: g[0] * g[1])


def view_count(grid: Grid) -> int:
    """Views of an image: all of it, and its tiles."""
    return 1 + grid[0] * grid[1]


def cut(image: NDArray[np.uint8], side: int, grid: Grid) -> NDArray[np.uint8]:
    """The views of an image [H, W, 3]; uint8 [1 + tiles, side, side, 3]."""
    whole = squash(image, side)[None]
    if grid == NO_TILES:
        return whole
    rows, columns = grid
    return np.concatenate([whole, apart(resized(image, rows * side, columns * side), grid)])


def apart(sheet: NDArray[np.uint8], grid: Grid) -> NDArray[np.uint8]:
    """A sheet [rows * side, columns * side, 3] as tiles [rows * columns, side, side, 3]."""
    rows, columns = grid
    side = sheet.shape[0] // rows
    tiles = sheet.reshape(rows, side, columns, side, 3).swapaxes(1, 2)
    return np.ascontiguousarray(tiles.reshape(-1, side, side, 3))


def together(tiles: NDArray[np.uint8], grid: Grid) -> NDArray[np.uint8]:
    """Inverse of `apart`."""
    rows, columns = grid
    side = tiles.shape[1]
    sheet = tiles.reshape(rows, columns, side, side, 3).swapaxes(1, 2)
    return np.ascontiguousarray(sheet.reshape(rows * side, columns * side, 3))
