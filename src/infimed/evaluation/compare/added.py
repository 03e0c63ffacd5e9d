"""What scoring may add to a task in ``scores.json``: calibration, risk-coverage, seeing, leakage.

Every key is optional, and may hold one value or one for each row of the table (an object keyed by the
row, or a list of objects with ``row``). What has another form is left out, never guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from infimed.evaluation.compare.drawing import Series, chart, legend
from infimed.evaluation.compare.table import Comparison, TaskTable

SHOWN = ("seeing", "leakage", "mcnemar")
"""Keys that are shown as words."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A figure of a task: `svg` and `names` are markup made here."""

    title: str
    caption: str
    svg: str
    names: str


def of_row(value: Any, row: str) -> Any:
    """The part of an added value that is about a row; the whole where it names no rows."""
    if isinstance(value, dict) and row in value:
        return value[row]
    if isinstance(value, list) and value and all(isinstance(v, dict) and "row" in v for v in value):
        return next((v for v in value if v["row"] == row), None)
    return value


def _number(value: Any) -> float | None:
    right = isinstance(value, int | float) and not isinstance(value, bool) and value == value
    return float(value) if right else None


def reliability(value: Any) -> tuple[list[tuple[float, float, float]], float | None]:
    """[(confidence, accuracy, answers)] of the bins that hold answers, and the calibration error."""
    if not isinstance(value, dict) or not isinstance(value.get("bins"), list):
        return [], None
    points = []
    for one in value["bins"]:
        if isinstance(one, dict):
            found = [_number(one.get(name)) for name in ("confidence", "accuracy", "n")]
            if None not in found and found[2]:
                points.append((found[0], found[1], found[2]))
    return points, _number(value.get("ece"))  # type: ignore[return-value]


def risk_coverage(value: Any) -> list[tuple[float, float]]:
    """[(coverage, risk)], from the least coverage to all."""
    points = []
    for one in value if isinstance(value, list) else []:
        if isinstance(one, dict):
            coverage, risk = _number(one.get("coverage")), _number(one.get("risk"))
            if coverage is not None and risk is not None:
                points.append((coverage, risk))
    return sorted(points)


def drawn(found: Comparison, task: TaskTable) -> list[Drawn]:
    """Reliability and risk-coverage of a task for the models that have them; [] without."""
    made = []
    bins = {
        name: reliability(of_row(extras.get("calibration"), row))
        for name, extras, row in zip(found.names, task.extras, task.asked, strict=True)
    }
    bins = {name: value for name, value in bins.items() if value[0]}
    if bins:
        most = max(n for points, _ in bins.values() for *_, n in points)
        series = [
            Series(
                name,
                tuple((confidence, accuracy) for confidence, accuracy, _ in points),
                tuple(2 + 5 * (n / most) ** 0.5 for *_, n in points),
            )
            for name, (points, _) in bins.items()
        ]
        errors = "; ".join(
            f"{name} {100 * ece:.1f} points" for name, (_, ece) in bins.items() if ece is not None
        )
        made.append(
            Drawn(
                f"{task.title}: reliability",
                "On the dashed line stated confidence is the share of right answers. Larger marks hold more "
                "answers." + (f" Expected calibration error: {errors}." if errors else ""),
                chart(series, "confidence, %", "right, %", f"Reliability on {task.title}. {errors}", diagonal=True),
                legend(list(bins)),
            )
        )  # fmt: skip
    curves = {
        name: risk_coverage(of_row(extras.get("risk_coverage"), row))
        for name, extras, row in zip(found.names, task.extras, task.asked, strict=True)
    }
    curves = {name: points for name, points in curves.items() if points}
    if curves:
        ends = "; ".join(f"{name} {100 * points[-1][1]:.1f} % wrong at full coverage" for name, points in curves.items())
        made.append(
            Drawn(
                f"{task.title}: risk and coverage",
                "The share of wrong answers among those kept when the least confident ones are withheld. Lower "
                "is better.",
                chart([Series(name, tuple(points)) for name, points in curves.items()], "answers kept, %", "wrong among them, %", f"Risk and coverage on {task.title}. {ends}"),
                legend(list(curves)),
            )
        )  # fmt: skip
    return made


def in_words(task: TaskTable, names: Sequence[str]) -> list[tuple[str, str, str]]:
    """(model, what, sentence) of the added keys that are words or plain values."""
    made = []
    for name, extras, row in zip(names, task.extras, task.asked, strict=True):
        for key in SHOWN:
            text = _words(of_row(extras.get(key), row))
            if text:
                made.append((name, key, text))
    return made


def _words(value: Any, depth: int = 0) -> str:
    if isinstance(value, dict) and {"mean", "low", "high"} <= value.keys():
        mean, low, high = (_number(value[name]) for name in ("mean", "low", "high"))
        if mean is None:
            return ""
        if low is None or high is None:
            return f"{100 * mean:+.1f} points"
        return f"{100 * mean:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"
    if isinstance(value, dict):
        parts = [(str(k).replace("_", " "), _words(v, depth + 1)) for k, v in value.items()]
        return ", ".join(f"{key} {text}" for key, text in parts if text)
    if isinstance(value, str):
        return value
    number = _number(value)
    if number is not None:
        return f"{number:g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and depth < 2:
        return "; ".join(filter(None, (_words(v, depth + 1) for v in value[:12])))
    return ""
