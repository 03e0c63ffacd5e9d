"""A cheap gate for burned-in text: where in an image are lines of print?

Method: a white and a black top-hat keep strokes thinner than `STROKE` pixels on any background;
strokes above a few levels of contrast are joined sideways into boxes. Print differs from texture
in one number: along a line of height h, print begins about two strokes every h pixels, on most of
its rows; vessels, ribs, nuclei and speckle rarely one. The gate proposes; it does not read. It does
not see turned text, text of less than `MIN_CONTRAST`, nor fewer than about four characters (side
markers).

Invariant: a pure function of the pixels. Cost: `benchmarks/privacy.py` prints it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Grey: TypeAlias = NDArray[np.uint8]

STROKE: Final = 9
"""Widest stroke the top-hat keeps, pixels."""
LEVELS: Final = (45, 75, 120)
"""A stroke is what exceeds one of these top-hat values (grey values of 255)."""
CROWDED: Final = 0.1
"""Where more than this share of the image exceeds a level, that level tells nothing."""
MIN_CONTRAST: Final = 64.0
"""Mean top-hat value of a line's strokes."""
JOIN: Final = 11
"""Strokes closer than this are one line, pixels."""
TALLEST: Final = 48
"""Highest line at one scale, pixels; larger print is found in a smaller copy."""
MIN_STROKES: Final = 1.0
"""Strokes begun per line height of width, on average over the rows."""
MIN_TOTAL: Final = 4.2
"""Strokes begun a row along the whole line: about four characters."""
HIGH: Final = 30
"""Lines higher than this, pixels, need `MIN_TOTAL_HIGH` strokes: four shapes in a row are anatomy."""
MIN_TOTAL_HIGH: Final = 6.0
MIN_BUSY_ROWS: Final = 0.45
"""Share of rows that meet three strokes or more."""
MAX_STROKE_SHARE: Final = 0.5
"""Mean width of a stroke as a share of the line height."""
EXTEND: Final = 10.0
"""How far a line may reach beyond what was seen as print, line heights: words of a few characters."""
MARGIN: Final = 0.3
"""Added on every side, as a share of the line height."""
LARGEST_SIDE: Final = 2048
SMALLEST_SIDE: Final = 256


@dataclass(frozen=True, slots=True)
class TextLine:
    """A proposed line of print: a box in pixels, and its strokes per row as a measure of length."""

    left: int
    top: int
    right: int
    bottom: int
    strokes: float

    @property
    def height(self) -> int:
        """Height of the box in pixels."""
        return self.bottom - self.top


def find_text_lines(grey: Grey) -> list[TextLine]:
    """Lines of print in a grey image uint8 [H, W], top to bottom; [] for almost every clean image."""
    found: list[TextLine] = []
    scale, level = 1, grey
    while max(level.shape) > LARGEST_SIDE:
        scale, level = 2 * scale, _half(level)
    while True:
        lines = _lines(level)
        found.extend(_scaled(line, scale) for line in lines)
        if max(level.shape) // 2 < SMALLEST_SIDE:
            break
        level = _without(level, lines)
        scale, level = 2 * scale, _half(level)
    return merged(found, grey.shape[1], grey.shape[0])


def merged(lines: Iterable[TextLine], width: int, height: int) -> list[TextLine]:
    """Pieces of one line become one box, boxes inside others go; clipped to the image.

    Only boxes of like height are joined: a union of a heading with a paragraph would cover tissue.
    """
    made: list[TextLine] = []
    for line in sorted(lines, key=lambda one: (one.top, one.left)):
        while (other := next((m for m in made if _one_line(line, m)), None)) is not None:
            made.remove(other)
            line = TextLine(
                min(line.left, other.left), min(line.top, other.top),
                max(line.right, other.right), max(line.bottom, other.bottom),
                max(line.strokes, other.strokes),
            )  # fmt: skip
        made.append(line)
    outer = [m for m in made if not any(_inside(m, other) for other in made if other is not m)]
    clipped = (
        TextLine(
            max(0, m.left), max(0, m.top), min(width, m.right), min(height, m.bottom), m.strokes
        )
        for m in outer
    )
    return sorted(clipped, key=lambda one: (one.top, one.left))


def _one_line(a: TextLine, b: TextLine) -> bool:
    shared = min(a.bottom, b.bottom) - max(a.top, b.top)
    gap = max(a.left, b.left) - min(a.right, b.right)
    low, high = sorted((a.height, b.height))
    return shared > 0.6 * low and gap < 0.8 * low and high < 1.6 * low


def _inside(a: TextLine, b: TextLine) -> bool:
    """Whether box a adds nothing to box b; of two equal boxes only the later one."""
    within = a.left >= b.left and a.top >= b.top and a.right <= b.right and a.bottom <= b.bottom
    same = (a.left, a.top, a.right, a.bottom) == (b.left, b.top, b.right, b.bottom)
    return within and not same


def _without(grey: Grey, lines: list[TextLine]) -> Grey:
    """A copy in which these lines are painted over, so that a paragraph is not seen as large print."""
    if not lines:
        return grey
    made = grey.copy()
    for line in lines:
        box = made[max(0, line.top) : line.bottom, max(0, line.left) : line.right]
        box[:] = np.uint8(np.median(box)) if box.size else 0
    return made


def _scaled(line: TextLine, scale: int) -> TextLine:
    return TextLine(
        scale * line.left, scale * line.top, scale * line.right, scale * line.bottom, line.strokes
    )


def _half(grey: Grey) -> Grey:
    size = (max(1, grey.shape[1] // 2), max(1, grey.shape[0] // 2))
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)


def _lines(grey: Grey) -> list[TextLine]:
    """Lines of print at one scale."""
    kernel = cv2.getStructuringElement(cv2.MORPH_RECT, (STROKE, STROKE))
    found: list[TextLine] = []
    for operation in (cv2.MORPH_TOPHAT, cv2.MORPH_BLACKHAT):
        hat = np.asarray(cv2.morphologyEx(grey, operation, kernel), np.uint8)
        sample = np.ascontiguousarray(hat[::2, ::2])
        counts = cv2.calcHist([sample], [0], None, [256], [0, 256]).ravel()
        above = 1.0 - np.cumsum(counts) / sample.size
        for level in LEVELS:
            if not 0.0 < above[level] <= CROWDED:
                continue
            mask = np.asarray(cv2.threshold(hat, level, 1, cv2.THRESH_BINARY)[1], np.uint8)
            rows = _rows_with_print(mask)
            if rows is not None:
                found.extend(_printed(mask[rows], hat[rows], rows.start))
    return found


def _rows_with_print(mask: Grey) -> slice | None:
    """The rows that can hold a line: no line has fewer than `MIN_TOTAL` strokes in every row."""
    begun = cv2.reduce(_begins(mask), 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel()
    full = np.flatnonzero(begun >= int(MIN_TOTAL))
    if len(full) == 0 or int(begun.sum()) < 6 * MIN_TOTAL:
        return None
    # The margin shows tall shapes at their height, so that they can be told from characters.
    return slice(max(0, int(full[0]) - TALLEST), int(full[-1]) + TALLEST)


def _begins(mask: Grey) -> Grey:
    """1 where a stroke begins, going right; uint8 [H, W - 1]."""
    return np.asarray(cv2.subtract(mask[:, 1:], mask[:, :-1]), np.uint8)


def _printed(mask: Grey, hat: Grey, offset: int) -> list[TextLine]:
    """Boxes of the mask (1 on strokes) that alternate as print does; `offset` is its first row."""
    mask = _without_tall(mask)
    joined = cv2.morphologyEx(
        mask, cv2.MORPH_CLOSE, np.ones((3, JOIN), np.uint8),
        borderType=cv2.BORDER_CONSTANT, borderValue=0,
    )  # fmt: skip
    boxes = _components(np.asarray(joined, np.uint8))[1]
    flat = (boxes[:, 3] >= 6) & (boxes[:, 3] <= TALLEST) & (boxes[:, 2] >= 1.8 * boxes[:, 3])
    found = []
    for left, top, width, height, _ in boxes[flat].tolist():
        box = (slice(top, top + height), slice(left, left + width))
        if not _is_print(mask[box], hat[box]):
            continue
        strokes = float(np.count_nonzero(_begins(mask[box])) + mask[box][:, 0].sum()) / height
        left, right = _extended(mask, left, top, left + width, top + height)
        margin = max(3, round(MARGIN * height))
        found.append(
            TextLine(
                left - margin,
                offset + top - margin,
                right + margin,
                offset + top + height + margin,
                strokes,
            )
        )
    return found


def _is_print(inside: Grey, hat: Grey) -> bool:
    height, width = inside.shape
    begun = np.count_nonzero(_begins(inside), axis=1) + inside[:, 0]
    total = float(begun.mean())
    if (
        total < (MIN_TOTAL if height <= HIGH else MIN_TOTAL_HIGH)
        or total * height < MIN_STROKES * width
    ):
        return False
    if float((begun >= 3).mean()) < MIN_BUSY_ROWS:
        return False
    if np.count_nonzero(inside) > MAX_STROKE_SHARE * height * float(begun.sum()):
        return False
    return bool(cv2.mean(hat, inside)[0] >= MIN_CONTRAST)


def _without_tall(mask: Grey) -> Grey:
    """The mask without shapes that are too large to be a character or a few touching ones."""
    labels, boxes = _components(mask)
    tall = np.flatnonzero((boxes[:, 3] > TALLEST - 4) | (boxes[:, 2] > 3 * TALLEST)) + 1
    if not len(tall):
        return mask
    keep = np.ones(len(boxes) + 1, np.uint8)
    keep[0] = 0
    keep[tall] = 0
    return np.asarray(np.take(keep, labels), np.uint8)


def _components(mask: Grey) -> tuple[NDArray[np.integer], NDArray[np.int32]]:
    """Labels and (left, top, width, height, area) of every connected shape, background left out.

    16-bit labels are three times as fast; OpenCV refuses when the shapes do not fit in them.
    """
    try:
        made = cv2.connectedComponentsWithStats(mask, connectivity=8, ltype=cv2.CV_16U)
    except cv2.error:
        made = cv2.connectedComponentsWithStats(mask, connectivity=8, ltype=cv2.CV_32S)
    _, labels, boxes, _ = made
    return np.asarray(labels), np.asarray(boxes[1:], np.int32)


def _extended(mask: Grey, left: int, top: int, right: int, bottom: int) -> tuple[int, int]:
    """The line's ends, moved outwards over short words on the same baseline, `EXTEND` heights at most."""
    height = bottom - top
    reach, most = round(1.2 * height), round(EXTEND * height)
    inked = np.asarray(mask[top:bottom].max(axis=0))
    first, last = max(0, left - most), right + most
    while True:
        before = np.flatnonzero(inked[max(first, left - reach) : left])
        after = np.flatnonzero(inked[right : min(last, right + reach)])
        if not len(before) and not len(after):
            return left, right
        if len(before):
            left = max(first, left - reach) + int(before[0])
        if len(after):
            right = right + int(after[-1]) + 1
