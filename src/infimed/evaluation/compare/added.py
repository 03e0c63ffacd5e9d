"""What scoring may add to a task in ``scores.json``: calibration, risk-coverage, seeing, leakage.

Every key is optional. What has another form than is known here is left out, never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from infimed.core.statistics import Estimate
from infimed.evaluation.compare import words
from infimed.evaluation.compare.drawing import Series, chart, legend
from infimed.evaluation.compare.table import Comparison, TaskTable


@dataclass(frozen=True, slots=True)
class Drawn:
    """A figure of a task: `svg` and `names` are markup made here."""

    title: str
    caption: str
    svg: str
    names: str


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


def _whose(name: str, row: str, extras: dict[str, Any]) -> str:
    """The model, and which row of it gave the confidence where it is not its first."""
    value = extras.get("calibration")
    own = value.get("row") if isinstance(value, dict) else None
    return f"{name}, {own}" if isinstance(own, str) and own != row else name


def drawn(found: Comparison, task: TaskTable) -> list[Drawn]:
    """Reliability and risk-coverage of a task for the models that have them; [] without."""
    made = []
    bins = {
        _whose(name, row, extras): reliability(extras.get("calibration"))
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
        _whose(name, row, extras): risk_coverage(extras.get("risk_coverage"))
        for name, extras, row in zip(found.names, task.extras, task.asked, strict=True)
    }
    curves = {name: points for name, points in curves.items() if points}
    if curves:
        ends = "; ".join(
            f"{name} {100 * points[-1][1]:.1f} % wrong at full coverage"
            for name, points in curves.items()
        )
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


@dataclass(frozen=True, slots=True)
class Said:
    """A sentence about one model on a task; `first` stands in the open, the others are folded."""

    model: str
    text: str
    first: bool


def in_words(task: TaskTable, names: Sequence[str]) -> list[Said]:
    """What was added about seeing, leakage, rotated options, rephrasings and small sets, in sentences."""
    made = []
    for name, extras in zip(names, task.extras, strict=True):
        for key, (sentence, first) in _SENTENCES.items():
            value = extras.get(key)
            for one in value if isinstance(value, list) else [value]:
                try:
                    text = sentence(one) if one else ""
                except (KeyError, TypeError, ValueError, AttributeError):
                    continue
                if text:
                    made.append(Said(name, text, first))
    return made


def mcnemar_of(extras: dict[str, Any], control: str) -> float | None:
    """The stored mid-p value of the model against a control on all questions."""
    value = extras.get("mcnemar")
    for one in value if isinstance(value, list) else []:
        if isinstance(one, dict) and (one.get("control"), one.get("column")) == (
            control,
            "overall",
        ):
            return _number(one.get("mid_p"))
    return None


def _percent(estimate: dict[str, Any]) -> str:
    return words.mean(Estimate(**estimate)) + f" % ({words.interval(Estimate(**estimate))})"


def _seeing(one: dict[str, Any]) -> str:
    column = str(one["column"])
    return f"{'' if column == 'overall' else column.removeprefix('kind=') + ': '}{one['words']}"


def _leakage(one: dict[str, Any]) -> str:
    found = int(one["image"]) + int(one["question"]) + int(one["both"])
    return (
        f"{found:,} of {one['questions']:,} questions were found in {one['against']}: {one['both']:,} by image "
        f"and question, {one['image']:,} by image, {one['question']:,} by question"
    )


def _rotations(one: dict[str, Any]) -> str:
    return (
        f"options in up to {one['orders']} orders, {one['questions']:,} questions: right in every order "
        f"{_percent(one['all_right'])}, the same option in every order {_percent(one['same'])}"
    )


def _rephrasings(one: dict[str, Any]) -> str:
    return (
        f"{one['sets']:,} sets of questions that mean the same ({one['row']}): the same answer throughout in "
        f"{_percent(one['same'])}"
    )


def _few(one: object) -> str:
    return f"too few questions or groups for a claim: {one}" if isinstance(one, str) else ""


_SENTENCES: dict[str, tuple[Callable[[Any], str], bool]] = {
    "seeing": (_seeing, True),
    "leakage": (_leakage, True),
    "rotations": (_rotations, False),
    "rephrasings": (_rephrasings, False),
    "few": (_few, False),
}
