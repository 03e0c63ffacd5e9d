"""Figures as small inline SVG: a radar of scores, reliability and risk-coverage curves.

Colours are the page's CSS variables, so one drawing reads on a light and a dark screen and on paper.
Series differ by dash and marker as well as by colour. All text is escaped; every figure says in words
what it shows. The same values give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from infimed.core.page import plain

MOST_SERIES: Final = 6
"""Series that can be told apart; a figure with more shows the first ones and says so."""
_DASHES: Final = ("", "7 3", "2 3", "9 3 2 3", "4 4", "12 4")
_WIDTH: Final = 380


@dataclass(frozen=True, slots=True)
class Series:
    """A named line: points in data units, in order; `sizes` are radii in px where points carry weight."""

    name: str
    points: tuple[tuple[float, float], ...]
    sizes: tuple[float, ...] = ()


def _text(value: object, limit: int = 40) -> str:
    return escape(plain(value, limit), quote=True)


def _n(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")


def marker(number: int, x: float, y: float, radius: float = 4.0) -> str:
    """The marker of series `number` at (x, y): circle, square, triangle, diamond, cross, ring."""
    r = radius
    style = f'class="mark-{number}"'
    shape = number % MOST_SERIES
    if shape == 0:
        return f'<circle {style} cx="{_n(x)}" cy="{_n(y)}" r="{_n(r)}"/>'
    if shape == 1:
        return f'<rect {style} x="{_n(x - r)}" y="{_n(y - r)}" width="{_n(2 * r)}" height="{_n(2 * r)}"/>'
    if shape == 5:
        return f'<circle {style} cx="{_n(x)}" cy="{_n(y)}" r="{_n(r)}" style="fill:var(--page);stroke-width:2"/>'
    path = {
        2: f"M{_n(x)} {_n(y - 1.2 * r)}L{_n(x + 1.1 * r)} {_n(y + r)}H{_n(x - 1.1 * r)}Z",
        3: f"M{_n(x)} {_n(y - 1.3 * r)}L{_n(x + 1.3 * r)} {_n(y)}L{_n(x)} {_n(y + 1.3 * r)}L{_n(x - 1.3 * r)} {_n(y)}Z",
        4: f"M{_n(x - r)} {_n(y - r)}L{_n(x + r)} {_n(y + r)}M{_n(x + r)} {_n(y - r)}L{_n(x - r)} {_n(y + r)}",
    }[shape]
    return f'<path {style} d="{path}"/>'


def line(number: int, d: str) -> str:
    """The line of series `number` along an SVG path."""
    dash = _DASHES[number % MOST_SERIES]
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<path class="line-{number}" d="{d}"{dashed}/>'


def legend(names: Sequence[str]) -> str:
    """A list that names the series with their line and marker."""
    items = "".join(
        f'<li><svg width="34" height="14" aria-hidden="true">{line(number, "M1 7H33")}{marker(number, 17, 7)}</svg>'
        f"{_text(name)}</li>"
        for number, name in enumerate(names)
    )
    return f'<ul class="legend">{items}</ul>'


def radar(axes: Sequence[str], series: Sequence[tuple[str, Sequence[float | None]]]) -> str:
    """Scores (0 to 1) of models on at least three tasks, one axis a task.

    A model that has no value on an axis has no point there and its line is broken.

    Raises:
        ValueError: fewer than three axes.
    """
    if len(axes) < 3:
        raise ValueError("a radar needs three axes")
    shown = series[:MOST_SERIES]
    height, x0, y0, radius = 310, _WIDTH / 2, 155.0, 100.0
    angles = [2 * math.pi * at / len(axes) - math.pi / 2 for at in range(len(axes))]

    def place(at: int, value: float) -> tuple[float, float]:
        return x0 + radius * value * math.cos(angles[at]), y0 + radius * value * math.sin(
            angles[at]
        )

    parts = []
    for level in (0.25, 0.5, 0.75, 1.0):
        ring = "L".join(
            f"{_n(x)} {_n(y)}" for x, y in (place(at, level) for at in range(len(axes)))
        )
        parts.append(f'<path class="grid" d="M{ring}Z"/>')
    for at, name in enumerate(axes):
        x, y = place(at, 1)
        parts.append(f'<path class="grid" d="M{_n(x0)} {_n(y0)}L{_n(x)} {_n(y)}"/>')
        parts.append(_axis_name(name, *place(at, 1.12), math.cos(angles[at]), math.sin(angles[at])))
    for level in (0.5, 1.0):
        x, y = place(0, level)
        parts.append(
            f'<text class="tick" x="{_n(x + 5)}" y="{_n(y + 15)}">{100 * level:.0f}</text>'
        )
    for number, (_, values) in enumerate(shown):
        points = [
            None if v is None else place(at, min(1.0, max(0.0, v))) for at, v in enumerate(values)
        ]
        parts.append(line(number, _closed(points)))
        parts += [marker(number, *point) for point in points if point is not None]
    said = "; ".join(
        f"{name}: " + ", ".join(f"{axis} {'none' if v is None else f'{100 * v:.1f}'}" for axis, v in zip(axes, values, strict=True))
        for name, values in shown
    )  # fmt: skip
    return _figure(height, f"Radar of scores in per cent. {said}", "".join(parts))


def _closed(points: Sequence[tuple[float, float] | None]) -> str:
    """A path through the points and back to the first; broken where a point is missing."""
    path, pen = [], False
    for point in [*points, points[0] if None not in points else None]:
        if point is None:
            pen = False
            continue
        path.append(f"{'L' if pen else 'M'}{_n(point[0])} {_n(point[1])}")
        pen = True
    return "".join(path) or "M0 0"


def _axis_name(name: str, x: float, y: float, cos: float, sin: float) -> str:
    anchor = "middle" if abs(cos) < 0.2 else "start" if cos > 0 else "end"
    words = _two_lines(name)
    first = (
        y
        + 4
        - (13 * (len(words) - 1) if sin < -0.5 else 6.5 * (len(words) - 1) if abs(sin) < 0.5 else 0)
    )
    spans = "".join(
        f'<tspan x="{_n(x)}" y="{_n(first + 13 * at)}">{_text(word, 22)}</tspan>'
        for at, word in enumerate(words)
    )
    return f'<text class="axis" text-anchor="{anchor}">{spans}</text>'


def _two_lines(name: str) -> list[str]:
    """A long name in two lines, cut at the underscore or space nearest to its middle."""
    cuts = [at for at, letter in enumerate(name) if letter in "_ " and 0 < at < len(name) - 1]
    if len(name) <= 11 or not cuts:
        return [name]
    cut = min(cuts, key=lambda at: abs(at - len(name) / 2))
    return [name[:cut], name[cut + 1 :]] if name[cut] == " " else [name[: cut + 1], name[cut + 1 :]]


def chart(
    series: Sequence[Series], across: str, up: str, label: str, *, diagonal: bool = False
) -> str:
    """Lines over two axes from 0 to 100 % (data from 0 to 1); `diagonal` marks equality."""
    left, right, top, bottom, height = 44.0, _WIDTH - 14.0, 12.0, 246.0, 290

    def x(value: float) -> float:
        return left + (right - left) * min(1.0, max(0.0, value))

    def y(value: float) -> float:
        return bottom - (bottom - top) * min(1.0, max(0.0, value))

    parts = []
    for at in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(f'<path class="grid" d="M{_n(left)} {_n(y(at))}H{_n(right)}"/>')
        parts.append(
            f'<text class="tick" x="{_n(left - 6)}" y="{_n(y(at) + 4)}" text-anchor="end">{100 * at:.0f}</text>'
        )
        parts.append(
            f'<text class="tick" x="{_n(x(at))}" y="{_n(bottom + 16)}" text-anchor="middle">{100 * at:.0f}</text>'
        )
    if diagonal:
        parts.append(f'<path class="equal" d="M{_n(x(0))} {_n(y(0))}L{_n(x(1))} {_n(y(1))}"/>')
    middle = (top + bottom) / 2
    parts.append(
        f'<text class="axis" x="{_n((left + right) / 2)}" y="{height - 8}" text-anchor="middle">{_text(across, 60)}</text>'
    )
    parts.append(
        f'<text class="axis" x="12" y="{_n(middle)}" text-anchor="middle" transform="rotate(-90 12 {_n(middle)})">{_text(up, 60)}</text>'
    )
    for number, one in enumerate(series[:MOST_SERIES]):
        if not one.points:
            continue
        path = "L".join(f"{_n(x(a))} {_n(y(b))}" for a, b in one.points)
        parts.append(line(number, f"M{path}"))
        sizes = one.sizes or (3.5,) * len(one.points)
        if one.sizes or len(one.points) <= 24:
            parts += [
                marker(number, x(a), y(b), r) for (a, b), r in zip(one.points, sizes, strict=True)
            ]
    return _figure(height, label, "".join(parts))


def _figure(height: int, label: str, inside: str) -> str:
    return (
        f'<svg class="drawing" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="{_text(label, 2000)}">{inside}</svg>'
    )
