"""One figure a study: every arm as a point with its interval, on one axis.

A hand-written SVG of a few kilobytes. Its colours follow the reader's light or dark setting, and in print it is
black on white; it has its own background, so that it can be read on a page that does otherwise. Nothing is told by
colour alone. The same numbers give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

LABELS, AXIS, NUMBERS, ROW, TOP, BOTTOM = 270, 400, 140, 26, 46, 44
"""Widths and heights in pixels: of the labels, of the axis, of the numbers, of a row, above and below the rows."""

STYLE = """
  :root { --ink: #1b1f24; --soft: #5b6570; --line: #d5dae0; --paper: #ffffff; --mark: #0b5cad; }
  @media (prefers-color-scheme: dark) {
    :root { --ink: #e8ecf0; --soft: #a3adb8; --line: #3a424c; --paper: #14181d; --mark: #79b8ff; }
  }
  @media print {
    :root { --ink: #000; --soft: #444; --line: #bbb; --paper: #fff; --mark: #000; }
  }
  text { font: 13px system-ui, sans-serif; fill: var(--ink); }
  .soft { fill: var(--soft); font-size: 12px; }
  .head { font-weight: 600; }
  .grid { stroke: var(--line); stroke-width: 1; }
  .zero { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 4 3; }
  .bar { stroke: var(--mark); stroke-width: 2.5; }
  .dot { fill: var(--mark); stroke: var(--paper); stroke-width: 1.5; }
  .open { fill: var(--paper); stroke: var(--mark); stroke-width: 2.5; }
"""


@dataclass(frozen=True)
class Point:
    """A row: its label, mean and interval, in the unit of the axis; `reference` is drawn as an open circle."""

    label: str
    mean: float
    low: float | None
    high: float | None
    reference: bool = False


def intervals(
    title: str,
    unit: str,
    points: Sequence[Point],
    *,
    chance: float | None = None,
    signed: bool = False,
) -> str:
    """The figure as SVG text.

    Args:
        title: in its head, and what a screen reader says. unit: of the axis. chance: where a dashed line is drawn.
        signed: numbers are differences and show their sign.
    """
    values = [v for p in points for v in (p.mean, p.low, p.high) if v is not None]
    if chance is not None:
        values.append(chance)
    ticks = nice_ticks(min(values), max(values))
    left, right = ticks[0], ticks[-1]
    height = TOP + ROW * len(points) + BOTTOM
    width = LABELS + AXIS + NUMBERS

    def x(value: float) -> float:
        return LABELS + AXIS * (value - left) / (right - left)

    form = "+.1f" if signed else ".1f"
    spoken = f"{title}. " + "; ".join(f"{p.label}: {p.mean:{form}}" for p in points)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label="{_attribute(spoken)}">',
        f"<style>{STYLE}</style>",
        f'<rect width="{width}" height="{height}" fill="var(--paper)"/>',
        f'<text class="head" x="12" y="24">{escape(title)}</text>',
    ]
    foot = TOP + ROW * len(points)
    for tick in ticks:
        at = f"{x(tick):.1f}"
        parts.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{TOP - 6}" y2="{foot}"/>')
        parts.append(
            f'<text class="soft" x="{at}" y="{foot + 16}" text-anchor="middle">{tick:g}</text>'
        )
    if chance is not None:
        at = f"{x(chance):.1f}"
        parts.append(f'<line class="zero" x1="{at}" x2="{at}" y1="{TOP - 6}" y2="{foot}"/>')
    middle = LABELS + AXIS / 2
    parts.append(
        f'<text class="soft" x="{middle:.0f}" y="{foot + 34}" text-anchor="middle">{escape(unit)}</text>'
    )
    for row, point in enumerate(points):
        y = TOP + ROW * row + ROW / 2
        parts.append(f'<text x="12" y="{y + 4.5:.1f}">{escape(point.label)}</text>')
        told = f"{point.mean:{form}}"
        if point.low is not None and point.high is not None:
            parts.append(
                f'<line class="bar" x1="{x(point.low):.1f}" x2="{x(point.high):.1f}" y1="{y}" y2="{y}"/>'
            )
            told += f" [{point.low:{form}}, {point.high:{form}}]"
        kind = "open" if point.reference else "dot"
        parts.append(f'<circle class="{kind}" cx="{x(point.mean):.1f}" cy="{y}" r="5"/>')
        parts.append(f'<text class="soft" x="{LABELS + AXIS + 8}" y="{y + 4.5:.1f}">{told}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def nice_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Round numbers that hold `low` and `high` between the first and the last, at most `most` steps."""
    if high <= low:
        low, high = low - 1, high + 1
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * at, 10) for at in range(first, max(last, first + 1) + 1)]


def _attribute(text: str) -> str:
    return escape(text, {'"': "&quot;"})
