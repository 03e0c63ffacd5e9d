"""Reliability and risk-coverage curves of a calibration: ``calibration.png``, and ``calibration.html`` in the style
of the run's report. Both are redrawn from the same values to the same picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from infimed.core.files import atomic_open, write_text
from infimed.core.page import template
from infimed.core.reliability import Point, Reliability, reliability, risk_coverage
from infimed.evaluation.compare.drawing import Series, chart, legend
from infimed.pipeline.calibrating import HeldOut
from infimed.serving.applications.calibration import Calibration
from infimed.serving.applications.signals import Kind

PICTURE: Final = "calibration.png"
PAGE: Final = "calibration.html"
NAMES: Final = {
    "yes_no": "answers with yes or no",
    "choice": "choices",
    "open": "other answers in words",
}
_COLOURS: Final = ("#2b5c8a", "#b35806", "#4d7d3f")
_DASHES: Final = ("-", "--", ":")


@dataclass(frozen=True)
class Curves:
    """One kind of answer, as it is drawn. aurc: area under `points`; random: of random abstention."""

    name: str
    n: int
    bins: Reliability
    points: tuple[Point, ...]
    aurc: float
    random: float


def curves_of(held_out: Mapping[Kind, HeldOut]) -> list[Curves]:
    """The curves of every kind."""
    made = []
    for kind, own in held_out.items():
        found = risk_coverage(own.confidence, own.right)
        wrong = 1 - sum(own.right) / len(own.right)
        bins = reliability(own.confidence, own.right)
        name = NAMES.get(kind, kind)
        made.append(Curves(name, len(own.right), bins, found.points, found.aurc, wrong))
    return made


def write_picture(curves: list[Curves], path: Path) -> None:
    """Both plots side by side."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot([0, 1], [0, 1], color="0.6", lw=0.8)
        for number, one in enumerate(curves):
            style: dict[str, Any] = {
                "color": _COLOURS[number % 3],
                "linestyle": _DASHES[number % 3],
                "label": f"{one.name} (n = {one.n})",
            }
            bins = one.bins.bins
            left.plot([b.confidence for b in bins], [b.accuracy for b in bins], marker="o", ms=3.5, **style)  # fmt: skip
            right.step([p.coverage for p in one.points], [p.risk for p in one.points], where="pre", **style)  # fmt: skip
            right.axhline(one.random, color=style["color"], lw=0.7, alpha=0.6)
        left.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="share right", title="Reliability")  # fmt: skip
        right.set(xlim=(0, 1), ylim=(0, None), xlabel="share answered", ylabel="wrong among them", title="Risk and coverage (thin: random abstention)")  # fmt: skip
        for axes in (left, right):
            axes.grid(alpha=0.3, lw=0.6)
            axes.legend(frameon=False, fontsize=8)
        with atomic_open(path) as handle:
            figure.savefig(handle, format="png", dpi=120, metadata={"Software": None})


def write_page(calibration: Calibration, curves: list[Curves], path: Path) -> None:
    """The page: curves, and the table of what was fitted."""
    by_bin = [
        Series(
            one.name,
            tuple((b.confidence, b.accuracy) for b in one.bins.bins),
            tuple(2.5 + 4 * b.n / max(c.n for c in one.bins.bins) for b in one.bins.bins),
        )
        for one in curves
    ]
    by_coverage = [Series(c.name, tuple((p.coverage, p.risk) for p in c.points)) for c in curves]
    errors = "; ".join(f"{one.name}: calibration error {one.bins.ece:.3f}" for one in curves)
    areas = "; ".join(f"{one.name}: {one.aurc:.3f}, at random {one.random:.3f}" for one in curves)
    text = template("infimed.pipeline", "calibration.html.j2").render(
        calibration=calibration,
        names=NAMES,
        legend=legend([one.name for one in curves]),
        reliability=chart(by_bin, "confidence, %", "right, %", f"Reliability. {errors}", diagonal=True),
        risk=chart(by_coverage, "answered, %", "wrong among them, %", f"Risk and coverage. {areas}"),
        errors=errors,
        areas=areas,
        drawing_style=template("infimed.evaluation.compare", "compare.css.j2").render(),
    )  # fmt: skip
    write_text(path, text)
