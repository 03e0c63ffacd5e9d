"""Pictures that do not belong in a medical data set: charts, pages, logos, diagrams, landscapes.

All return uint8 RGB [side, side, 3] and depend on the random stream alone.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

_FONT: Final = cv2.FONT_HERSHEY_SIMPLEX
_WORDS: Final = [
    "report",
    "quarter",
    "table",
    "method",
    "result",
    "value",
    "group",
    "figure",
    "model",
    "total",
    "sample",
    "market",
    "error",
    "system",
    "input",
    "output",
    "count",
    "rate",
    "share",
    "time",
    "the",
    "of",
    "and",
    "in",
    "with",
    "for",
    "from",
    "per",
    "case",
]


def _colour(random: np.random.Generator, low: int = 0, high: int = 200) -> tuple[int, int, int]:
    a, b, c = (int(v) for v in random.integers(low, high, 3))
    return a, b, c


def chart(random: np.random.Generator, side: int, dark: bool = False) -> Pixels:
    """A line, bar, scatter or pie chart, with axes and labels; `dark` draws it white on black."""
    page = np.full((side, side, 3), 255, np.uint8)
    left, bottom = int(side * 0.13), int(side * 0.87)
    kind = int(random.integers(4))
    thin = max(1, side // 256)
    if kind < 3:
        cv2.line(page, (left, int(side * 0.06)), (left, bottom), (0, 0, 0), thin)
        cv2.line(page, (left, bottom), (int(side * 0.96), bottom), (0, 0, 0), thin)
        for tick in range(6):
            y = bottom - int(tick * side * 0.15)
            cv2.putText(page, str(tick * 20), (2, y), _FONT, side / 900, (0, 0, 0), thin)
    if kind == 0:
        for _ in range(int(random.integers(1, 4))):
            steps = np.cumsum(random.normal(0, side * 0.05, 14)) + side * float(
                random.uniform(0.3, 0.6)
            )
            xs = np.linspace(left, side * 0.95, 14)
            points = np.stack([xs, np.clip(steps, side * 0.08, bottom)], 1).astype(np.int32)
            cv2.polylines(page, [points], False, _colour(random), 2 * thin, cv2.LINE_AA)
    elif kind == 1:
        bars, width = int(random.integers(4, 9)), 0
        width = int(side * 0.8 / bars)
        for bar in range(bars):
            top = bottom - int(random.uniform(0.1, 0.75) * side)
            x = left + 4 + bar * width
            cv2.rectangle(page, (x, top), (x + int(width * 0.7), bottom), _colour(random), -1)
    elif kind == 2:
        for _ in range(60):
            at = (
                int(random.uniform(left + 4, side * 0.95)),
                int(random.uniform(side * 0.08, bottom - 4)),
            )
            cv2.circle(page, at, max(2, side // 90), _colour(random), -1, cv2.LINE_AA)
    else:
        cuts = np.sort(random.uniform(0, 360, int(random.integers(3, 7))))
        for first, last in zip(cuts, [*cuts[1:], cuts[0] + 360], strict=True):
            centre, axes = (side // 2, side // 2), (int(side * 0.36), int(side * 0.36))
            cv2.ellipse(
                page, centre, axes, 0, float(first), float(last), _colour(random), -1, cv2.LINE_AA
            )
    cv2.putText(
        page,
        " ".join(random.choice(_WORDS, 2)),
        (side // 4, int(side * 0.05)),
        _FONT,
        side / 700,
        (0, 0, 0),
        thin,
    )
    return np.asarray(255 - page if dark else page, np.uint8)


def text_page(random: np.random.Generator, side: int, dark: bool = False) -> Pixels:
    """A page of print."""
    page = np.full((side, side, 3), int(random.integers(238, 256)), np.uint8)
    scale = side / float(random.integers(600, 1000))
    step = max(8, int(34 * scale))
    for y in range(step, side - 4, step):
        if random.random() < 0.08:
            continue
        words = " ".join(random.choice(_WORDS, 14))
        end = int(random.integers(max(6, len(words) // 2), len(words)))
        cv2.putText(
            page,
            words[:end],
            (int(side * 0.05), y),
            _FONT,
            scale,
            (20, 20, 20),
            max(1, side // 400),
            cv2.LINE_AA,
        )
    return np.asarray(255 - page if dark else page, np.uint8)


def logo(random: np.random.Generator, side: int) -> Pixels:
    """A few flat shapes and a word."""
    page = np.full((side, side, 3), 255, np.uint8)
    page[:] = _colour(random, 180, 256) if random.random() < 0.5 else (255, 255, 255)
    for _ in range(int(random.integers(2, 5))):
        centre = tuple(int(v) for v in random.integers(side // 4, 3 * side // 4, 2))
        reach = int(random.integers(side // 10, side // 4))
        if random.random() < 0.5:
            cv2.circle(page, centre, reach, _colour(random), -1)
        else:
            cv2.rectangle(page, centre, (centre[0] + reach, centre[1] + reach), _colour(random), -1)
    cv2.putText(
        page,
        "ACME " + str(random.choice(_WORDS)),
        (side // 6, int(side * 0.93)),
        _FONT,
        side / 320,
        _colour(random),
        max(2, side // 120),
    )
    return page


def flow_diagram(random: np.random.Generator, side: int) -> Pixels:
    """Boxes with words, joined by arrows."""
    page = np.full((side, side, 3), 255, np.uint8)
    rows = int(random.integers(3, 6))
    thin = max(1, side // 200)
    for row in range(rows):
        columns = int(random.integers(1, 4))
        y = int((row + 0.2) * side / rows)
        high = int(0.5 * side / rows)
        for column in range(columns):
            wide = int(0.75 * side / columns)
            x = int((column + 0.12) * side / columns)
            fill = _colour(random, 190, 256) if random.random() < 0.5 else (255, 255, 255)
            cv2.rectangle(page, (x, y), (x + wide, y + high), fill, -1)
            cv2.rectangle(page, (x, y), (x + wide, y + high), (0, 0, 0), thin)
            cv2.putText(
                page,
                " ".join(random.choice(_WORDS, 2))[:16],
                (x + 4, y + high // 2),
                _FONT,
                side / 900,
                (0, 0, 0),
                thin,
            )
            if row + 1 < rows:
                middle = x + wide // 2
                cv2.arrowedLine(
                    page,
                    (middle, y + high),
                    (middle, int((row + 1.2) * side / rows)),
                    (0, 0, 0),
                    thin,
                )
    return page


def figure(random: np.random.Generator, side: int, severity: int) -> Pixels:
    """A chart, page, logo or diagram; severity 1 may draw them in dark mode."""
    kind = int(random.integers(4))
    dark = severity == 1 and random.random() < 0.5
    if kind == 0:
        return chart(random, side, dark)
    if kind == 1:
        return text_page(random, side, dark)
    return logo(random, side) if kind == 2 else flow_diagram(random, side)


def landscape(random: np.random.Generator, side: int) -> Pixels:
    """A scene under a sky, with textured ground, a few trees or houses, and camera noise."""
    rows = np.linspace(0, 1, side, dtype=np.float32)[:, None, None]
    sky = (
        np.array([90, 150, 225], np.float32) * (1 - rows)
        + np.array([210, 225, 240], np.float32) * rows
    )
    scene = np.repeat(sky, side, axis=1)
    horizon = int(side * float(random.uniform(0.4, 0.65)))
    ground = np.array(_colour(random, 40, 170), np.float32)
    texture = cv2.resize(
        random.normal(0, 25, (side // 4, side // 4)).astype(np.float32), (side, side)
    )
    scene[horizon:] = ground + texture[horizon:, :, None]
    canvas = np.ascontiguousarray(scene)
    for _ in range(int(random.integers(2, 7))):
        x, high = int(random.integers(side)), int(random.integers(side // 10, side // 3))
        if random.random() < 0.5:
            cv2.rectangle(canvas, (x - 3, horizon), (x + 3, horizon - high), (95, 60, 30), -1)
            cv2.circle(
                canvas,
                (x, horizon - high),
                max(5, high // 2),
                _colour(random, 20, 130),
                -1,
                cv2.LINE_AA,
            )
        else:
            cv2.rectangle(
                canvas, (x, horizon), (x + high, horizon - high), _colour(random, 60, 230), -1
            )
    cv2.circle(
        canvas,
        (int(random.integers(side)), int(side * 0.12)),
        side // 14,
        (255, 235, 120),
        -1,
        cv2.LINE_AA,
    )
    noisy = cv2.GaussianBlur(canvas, (0, 0), 0.7) + random.normal(0, 4, canvas.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)
