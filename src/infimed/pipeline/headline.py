"""The scoreboard in brief, for a terminal of 80 columns; all of it is in the report."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table

from infimed.core.console import table
from infimed.evaluation.report import SCORE, Scoreboard, TaskScores

GROUPS = ("all", "kind", "subset", "type")
"""Groups of questions that are shown; sizes, anatomies and the rest are in the report."""


def _percent(mean: float | None, form: str = ".1f") -> str:
    return "" if mean is None else f"{100 * mean:{form}}"


def _heading(name: str) -> str:
    """A way of answering, a word a line: seven of them fit beside one another."""
    return name.replace("-", " ").replace(" ", "\n")


def _table(task: TaskScores) -> Table:
    """Questions in rows, ways of answering in columns."""
    rows = []
    for column in task.columns:
        if column.group in GROUPS:
            cells = [task.cell(row.name, column.name).estimate for row in task.rows]
            unread = "judge?" if SCORE in task.needs_judge else ""
            scores = [_percent(cell.mean) or unread for cell in cells]
            rows.append((column.title.removeprefix("type: "), f"{cells[0].n:,}", *scores))
    heads = [_heading(row.name) for row in task.rows]
    return table(f"{task.title} (score in %)", ["questions", "n", *heads], rows)


def headline(board: Scoreboard) -> Group:
    """Every task's score by kind, subset and type of question, and the model minus each control."""
    parts: list[RenderableType] = []
    for task in board.tasks:
        parts.append(_table(task))
        first = task.rows[0].name
        if SCORE in task.needs_judge and task.cell(first).estimate.mean is None:
            parts.append("  this score needs a judge: infimed judge RUN/evaluation")
        for control in task.rows[1:]:
            found = task.difference(control.name).estimate
            if found.mean is None:
                continue
            low, mean, high = (_percent(v, "+.1f") for v in (found.low, found.mean, found.high))
            parts.append(f"  {first} minus {control.name}: {mean} points [{low}, {high}]")
    return Group(*parts)
