"""An image as the model sees it, of which parts can be hidden.

Places are boxes in fractions of the *whole* image as shown, whatever the processor made of it: squashed
to a square it is one view, a large one has tiles beside it, and a box hides the same part in all of them.
A map over such boxes is therefore aligned with the image without undoing anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from infimed.data.rendering import resized
from infimed.inference.requests import BLANK_LEVEL, Pixels
from infimed.model.tiling import NO_TILES, Grid, apart, together
from infimed.serving.evidence.requests import Fill

BLUR: Final = 1 / 8
"""Standard deviation of what hides by blurring, in sides of the image."""


class Box(NamedTuple):
    """A part of an image in fractions of its width and height; y downwards."""

    x0: float
    y0: float
    x1: float
    y1: float


ALL: Final = Box(0, 0, 1, 1)


@dataclass(frozen=True)
class Hideable:
    """The views of an image, and of the same image with nothing to see.

    Attributes:
        whole, sheet: uint8 [S, S, 3]: all of it, and [rows * S, columns * S, 3] its tiles; no sheet without tiles.
        blank_whole, blank_sheet: the same with everything hidden. grid: rows and columns of tiles.
    """

    whole: Pixels
    blank_whole: Pixels
    sheet: Pixels | None
    blank_sheet: Pixels | None
    grid: Grid

    @staticmethod
    def of(views: Pixels, grid: Grid, fill: Fill) -> Hideable:
        """The image with these views, uint8 [1 + tiles, S, S, 3]."""
        whole = np.ascontiguousarray(views[0])
        sheet = None if grid == NO_TILES else together(views[1:], grid)
        mean = np.rint(whole.reshape(-1, 3).mean(axis=0)).astype(np.uint8)
        blank_sheet = None if sheet is None else _blank(sheet, fill, mean)
        return Hideable(whole, _blank(whole, fill, mean), sheet, blank_sheet, grid)

    @property
    def count(self) -> int:
        """Views of the image."""
        return 1 + self.grid[0] * self.grid[1]

    @property
    def views(self) -> Pixels:
        """All of it, uint8 [1 + tiles, S, S, 3]."""
        return _joined(self.whole, self.sheet, self.grid)

    @property
    def blank(self) -> Pixels:
        """Nothing of it; as `views`."""
        return _joined(self.blank_whole, self.blank_sheet, self.grid)

    def without(self, box: Box) -> Pixels:
        """The views with one part hidden."""
        whole = _hidden(self.whole, self.blank_whole, box)
        if self.sheet is None or self.blank_sheet is None:
            return whole[None]
        return _joined(whole, _hidden(self.sheet, self.blank_sheet, box), self.grid)

    def shown(self, size: tuple[int, int], most: int) -> Pixels:
        """The image in its own proportions, at the resolution that the model saw.

        Args:
            size: width and height before squashing. most: longer side of the result, pixels.
        """
        scale = most / max(size)
        width, height = (max(1, round(side * scale)) for side in size)
        return resized(self.whole if self.sheet is None else self.sheet, height, width)


def cell_of(grid: int, row: int, column: int) -> Box:
    """One cell of a grid over the image."""
    return Box(column / grid, row / grid, (column + 1) / grid, (row + 1) / grid)


def cells(grid: int) -> list[Box]:
    """All of them, row by row."""
    return [cell_of(grid, row, column) for row in range(grid) for column in range(grid)]


def per_cell(values: NDArray[np.float64], grid: int) -> NDArray[np.float64]:
    """Sums [grid, grid] of values [H, W] over the cells that the centres of their pixels lie in."""
    rows, columns = ((2 * np.arange(side) + 1) * grid // (2 * side) for side in values.shape)
    made = np.zeros((grid, grid))
    np.add.at(made, (rows[:, None], columns[None, :]), values)
    return made


def _joined(whole: Pixels, sheet: Pixels | None, grid: Grid) -> Pixels:
    return whole[None] if sheet is None else np.concatenate([whole[None], apart(sheet, grid)])


def _blank(image: Pixels, fill: Fill, mean: Pixels) -> Pixels:
    if fill == "blur":
        sigma_y, sigma_x = BLUR * image.shape[0], BLUR * image.shape[1]
        return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma_x, sigmaY=sigma_y), np.uint8)
    blank = np.empty_like(image)
    blank[:] = BLANK_LEVEL if fill == "grey" else mean
    return blank


def _hidden(image: Pixels, blank: Pixels, box: Box) -> Pixels:
    height, width = image.shape[:2]
    rows = slice(max(0, round(box.y0 * height)), max(0, round(box.y1 * height)))
    columns = slice(max(0, round(box.x0 * width)), max(0, round(box.x1 * width)))
    made = image.copy()
    made[rows, columns] = blank[rows, columns]
    return made
