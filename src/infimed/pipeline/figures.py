"""Training curves as inline SVG whose colours are the page's CSS variables.

One drawing therefore reads on paper, on a light and on a dark screen; series differ by dash as well
as by colour. Text stays text. The same steps give the same bytes. Cost: about 0.1 s a panel.
"""

from __future__ import annotations

import io
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infimed.core.page import plain
from infimed.pipeline.report_data import Step

POINTS = 240
"""Most points a line is drawn with; more steps are averaged in bins."""

# Matplotlib wants colours; these stand for CSS variables and are replaced in the SVG.
_INK, _MUTED, _GRID, _BAND = "#010203", "#010204", "#010205", "#010206"
_SERIES = ("#010301", "#010302", "#010303")
_VARIABLES = {
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _GRID: "var(--line)",
    _BAND: "var(--band)",
    _SERIES[0]: "var(--series-1)",
    _SERIES[1]: "var(--series-2)",
    _SERIES[2]: "var(--series-3)",
}
_DASHES: tuple[Any, ...] = ("solid", (0, (5, 2)), (0, (1.2, 1.4)))
_STYLE = {
    "svg.fonttype": "none",
    "font.size": 8.5,
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.6,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "text.color": _INK,
    "text.parse_math": False,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
}

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Band:
    """A stage's steps, first to last."""

    name: str
    first: int
    last: int


@dataclass(frozen=True)
class Figure:
    """A panel: `svg` is markup made here; names of sources are the only text from data, made plain and
    escaped. `alt` says what it shows."""

    title: str
    caption: str
    alt: str
    svg: str


def bands_of(steps: Sequence[Step]) -> list[Band]:
    """Stages in the order in which they ran."""
    bands: list[Band] = []
    for step in steps:
        if bands and bands[-1].name == step.stage:
            bands[-1] = Band(step.stage, bands[-1].first, step.step)
        else:
            bands.append(Band(step.stage, step.step, step.step))
    return bands


def binned(x: Floats, y: Floats, points: int = POINTS) -> tuple[Floats, Floats]:
    """Means over at most `points` runs of neighbouring finite values; [k], [k]."""
    finite = np.isfinite(y)
    x, y = x[finite], y[finite]
    if len(x) <= points:
        return x, y
    edges = np.linspace(0, len(x), points + 1).astype(np.int64)
    starts, sizes = edges[:-1], np.diff(edges)
    return np.add.reduceat(x, starts) / sizes, np.add.reduceat(y, starts) / sizes


def smoothed(y: Floats) -> Floats:
    """A centred running mean over about a fortieth of the line, narrower at its ends; [k] -> [k]."""
    half = max(1, len(y) // 80)
    total = np.concatenate([[0.0], np.cumsum(y)])
    index = np.arange(len(y))
    reach = np.minimum(half, np.minimum(index, len(y) - 1 - index))
    return np.asarray(
        (total[index + reach + 1] - total[index - reach]) / (2 * reach + 1), np.float64
    )


def to_inline(svg: str, prefix: str, label: str) -> str:
    """Matplotlib's SVG as an element of a page: own ids, page colours, no size of its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = svg.replace("url(#", f"url(#{prefix}-").replace('href="#', f'href="#{prefix}-')
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px system-ui, sans-serif", svg)
    for sentinel, variable in _VARIABLES.items():
        svg = svg.replace(sentinel, variable)
    head, rest = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box.group(0)} role="img" aria-label="{label}">{rest}'


def tick(value: float, _: object = None) -> str:
    """``40k``, ``0.5``, ``1e-4``."""
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    if 0 < abs(value) < 0.001:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.12g}"


def _panel(
    name: str,
    label: str,
    bands: Sequence[Band],
    draw: Callable[[Any], None],
    unit: str,
    log: bool = False,
) -> str:
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        canvas = Canvas(figsize=(4.7, 2.3), layout="constrained")
        canvas.patch.set_alpha(0)
        axes = canvas.add_subplot()
        axes.patch.set_alpha(0)
        for number, band in enumerate(bands, start=1):
            left, right = band.first - 0.5, band.last + 0.5
            if number % 2:
                axes.axvspan(left, right, color=_BAND, linewidth=0, zorder=0)
            axes.text(
                (left + right) / 2, 1.01, str(number), transform=axes.get_xaxis_transform(),
                ha="center", va="bottom", color=_MUTED,
            )  # fmt: skip
        draw(axes)
        axes.set_xlim(bands[0].first - 0.5, bands[-1].last + 0.5)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel(unit)
        axes.grid(axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if log:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(tick))
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, loc="best", handlelength=2.6, labelspacing=0.2)
        buffer = io.StringIO()
        empty = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        canvas.savefig(buffer, format="svg", metadata=empty)
    return to_inline(buffer.getvalue(), name, label)


def _column(steps: Sequence[Step], pick: Callable[[Step], float]) -> tuple[Floats, Floats]:
    x = np.array([step.step for step in steps], np.float64)
    return binned(x, np.array([pick(step) for step in steps], np.float64))


def source_curves(steps: Sequence[Step], bands: Sequence[Band]) -> list[Figure]:
    """Loss by record source, of the sources that most steps show; [] where there is only one."""
    seen = Counter(name for step in steps for name in step.source_loss)
    if len(seen) < 2:
        return []
    names = [name for name, _ in sorted(seen.items(), key=lambda item: (-item[1], item[0]))]
    shown = names[: len(_SERIES)]

    def draw(axes: Any) -> None:
        for number, name in enumerate(shown):
            x, y = _column(steps, lambda step, name=name: step.source_loss.get(name, math.nan))  # type: ignore[misc]
            axes.plot(
                x, smoothed(y) if len(y) else y, color=_SERIES[number], linestyle=_DASHES[number],
                linewidth=1.6, label=plain(name, 24).lstrip("_"),
            )  # fmt: skip

    title = f"Training loss of {len(shown)} of {len(seen)} sources over {len(steps):,} steps"
    return [
        Figure(
            "Loss by source",
            f"Mean cross-entropy per target token, running mean; {len(shown)} of {len(seen)} sources, "
            "those that most steps show.",
            title,
            _panel("sources", title, bands, draw, "nats per token"),
        )
    ]


def curves(steps: Sequence[Step]) -> list[Figure]:
    """Loss (by source too), gradient norm, learning rates, tokens per second over the steps; [] without."""
    if not steps:
        return []
    bands = bands_of(steps)

    def noisy(pick: Callable[[Step], float]) -> Callable[[Any], None]:
        def draw(axes: Any) -> None:
            x, y = _column(steps, pick)
            axes.plot(x, y, color=_SERIES[0], linewidth=0.7, alpha=0.45)
            if len(y):
                axes.plot(x, smoothed(y), color=_SERIES[0], linewidth=1.6)

        return draw

    def rates(axes: Any) -> None:
        for number, module in enumerate(("vision", "projector", "language")):
            x, y = _column(steps, lambda step, module=module: step.learning_rate.get(module, 0.0))  # type: ignore[misc]
            axes.plot(
                x, y, color=_SERIES[number], linestyle=_DASHES[number], linewidth=1.6, label=module
            )

    def speed(axes: Any) -> None:
        for number, (label, pick) in enumerate(
            (
                ("real", lambda step: step.tokens_per_second),
                ("with padding", lambda step: step.padded_tokens_per_second),
            )
        ):
            x, y = _column(steps, pick)
            axes.plot(
                x, smoothed(y) if len(y) else y, color=_SERIES[number], linestyle=_DASHES[number],
                linewidth=1.6, label=label,
            )  # fmt: skip

    losses = [step.loss for step in steps if math.isfinite(step.loss)]
    fall = f"from {losses[0]:.2f} to {losses[-1]:.2f}" if losses else ""
    many = f"{len(steps):,} steps"
    return [
        Figure(
            "Loss",
            f"Mean cross-entropy per target token {fall}; pale: measured, strong: running mean.",
            f"Training loss over {many}, {fall}",
            _panel(
                "loss",
                f"Training loss over {many}, {fall}",
                bands,
                noisy(lambda s: s.loss),
                "nats per token",
            ),
        ),
        *source_curves(steps, bands),
        Figure(
            "Gradient norm",
            "Before clipping, logarithmic scale.",
            f"Gradient norm over {many}",
            _panel(
                "norm",
                f"Gradient norm over {many}",
                bands,
                noisy(lambda s: max(s.gradient_norm, 1e-9)),
                "norm",
                True,
            ),
        ),
        Figure(
            "Learning rate per module",
            "Zero means the module is frozen in that stage.",
            "Learning rate of vision tower, projector and language model over the steps",
            _panel("rates", "Learning rates over the steps", bands, rates, "learning rate"),
        ),
        Figure(
            "Tokens per second",
            "Real tokens, and the rows' whole capacity; the space between is padding. Waiting for data is not counted here.",
            "Tokens per second over the steps, real and with padding",
            _panel("speed", "Tokens per second over the steps", bands, speed, "tokens / s"),
        ),
    ]
