"""The evidence of a task for a terminal of 80 columns: every way of answering as one line, then words.

Shares are per cent. Nothing here decides anything: verdicts and estimates come from `evidence`.
"""

from __future__ import annotations

from typing import Any

from rich.text import Text

from infimed.core.console import table
from infimed.evaluation.evidence import FEW_GROUPS, FEW_QUESTIONS, Calibration, Evidence, Rotations
from infimed.evaluation.report import TaskScores, percent


def evidence_tables(task: TaskScores) -> list[Any]:
    """The summary of a task: its ways of answering, and what may be said of them."""
    lines = [Text(f"{task.task}: {line}", style="bold") for line in seeing_lines(task.evidence)]
    lines += [Text(f"  {line}") for line in _further(task.evidence)]
    return [ways_table(task), *lines]


def ways_table(task: TaskScores) -> Any:
    """A line per way of answering all questions: score, what the model has more, McNemar's p."""
    tests = {one.control: one for one in task.evidence.mcnemar if one.column == "overall"}
    first = task.rows[0].name
    rows = []
    for row in task.rows:
        cell = task.cell(row.name)
        gap = "" if row.name == first else percent(task.difference(row.name).estimate, signed=True)
        test = tests.get(row.name)
        rows.append(
            [
                row.name,
                cell.estimate.n,
                percent(cell.estimate),
                gap,
                p_value(test.mid_p) if test else "",
                f"{100 * cell.unparsed:.1f}",
                f"{100 * cell.errors:.1f}",
            ]
        )
    heads = ["way of answering", "n", "score", f"{first} - it", "p", "unparsed", "failed"]
    title = f"{task.task}: how much of it is seeing (%, 95 % interval, McNemar mid-p)"
    return table(title, heads, rows)


def p_value(p: float) -> str:
    """A p-value to two digits, never 0."""
    return "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def seeing_lines(evidence: Evidence) -> list[str]:
    """A verdict per main column."""
    return [
        one.words if one.column == "overall" else f"{one.column.removeprefix('kind=')}: {one.words}"
        for one in evidence.seeing
    ]


def _further(evidence: Evidence) -> list[str]:
    """Sentences on options, rephrasings, confidence, leaks and small groups."""
    said = []
    if evidence.rotations:
        said += rotation_lines(evidence.rotations)
    for one in evidence.rephrasings:
        said.append(
            f"rephrasings, {one.row}: same answer in {percent(one.same)} % of {one.sets} sets of "
            f"{one.questions} questions that mean the same, all right in {percent(one.all_right)} %"
        )
    if evidence.calibration:
        said.append(_sure(evidence.calibration))
    if evidence.leakage:
        leaked = evidence.leakage
        said.append(
            f"leakage: {leaked.found} of {leaked.questions} questions found in {leaked.against} "
            f"({leaked.training_records:,} records): {leaked.both} by image and question, "
            f"{leaked.image} by image, {leaked.question} by question"
            + (f"; {leaked.unreadable} unreadable images took no part" if leaked.unreadable else "")
        )
    if evidence.few:
        said.append(
            f"* fewer than {FEW_QUESTIONS} questions or {FEW_GROUPS} groups, no claim: "
            + ", ".join(evidence.few)
        )
    return said


def rotation_lines(turned: Rotations) -> list[str]:
    """What rotated options show: consistency, then where the answers stand."""
    letters = ", ".join(
        f"{one.letter} {100 * one.said:.0f} ({100 * one.gold:.0f})" for one in turned.letters
    )
    return [
        f"options in up to {turned.orders} orders, {turned.questions} questions: mean "
        f"{percent(turned.mean)} %, right in all orders {percent(turned.all_right)} %, same option "
        f"in all orders {percent(turned.same)} %",
        f"letters answered in % (right ones): {letters}; bias {percent(turned.bias)}",
    ]


def _sure(one: Calibration) -> str:
    return (
        f"confidence of {one.row} ({one.source}): calibration error {100 * one.ece:.1f} points in "
        f"{len(one.bins)} bins of equal mass, area under risk-coverage {100 * one.aurc:.1f} %, "
        f"{one.n} questions"
    )
