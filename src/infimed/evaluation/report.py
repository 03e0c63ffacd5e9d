"""The scoreboard: what scoring found, as typed rows, JSON, CSV and terminal tables.

Every number carries its count of questions and groups, its interval and its unparsed rate. Values
are shares in 0..1 in the data and per cent in the rendered tables.
"""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from infimed.core.errors import UsageError
from infimed.core.statistics import Estimate
from infimed.evaluation.evidence import NOTHING, Evidence, extra_estimates
from infimed.evaluation.judging.agreement import OUTCOMES, JudgeSummary
from infimed.evaluation.metrics.registry import METRICS

if TYPE_CHECKING:
    from rich.console import Group

SCORE = "score"
"""Name of the metric that counts: the first one of each sample's kind, scored correctly."""
MEDEVALKIT = "medevalkit"
"""Name of the same score as MedEvalKit counts it, its mistakes included."""


@dataclass(frozen=True, slots=True)
class Row:
    """A way of answering: a model that was asked, or a control that needs none."""

    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class Column:
    """A set of questions: name (stable), title (shown), group (all, kind, subset or breakdown)."""

    name: str
    title: str
    group: str


@dataclass(frozen=True, slots=True)
class Cell:
    """One row's score on one column, with the shares of unparsed, failed and truncated answers."""

    row: str
    column: str
    metric: str
    estimate: Estimate
    unparsed: float
    errors: float
    truncated: float


@dataclass(frozen=True, slots=True)
class Difference:
    """`row` minus `control` on the same questions, with a paired interval."""

    row: str
    control: str
    column: str
    metric: str
    estimate: Estimate


@dataclass(frozen=True, slots=True)
class TaskScores:
    """All of one task.

    Attributes:
        needs_judge: metrics that are read from a judge's verdicts, `SCORE` among them where it is.
        judge: what a judge came to, where one has read the answers.
    """

    task: str
    title: str
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    cells: tuple[Cell, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]
    needs_judge: tuple[str, ...] = ()
    judge: JudgeSummary | None = None
    evidence: Evidence = NOTHING

    def cell(self, row: str, column: str = "overall", metric: str = SCORE) -> Cell:
        """One cell.

        Raises:
            UsageError: there is none of that name.
        """
        for cell in self.cells:
            if (cell.row, cell.column, cell.metric) == (row, column, metric):
                return cell
        raise UsageError(
            "no such score",
            where=self.task,
            seen=f"{row} / {column} / {metric}",
            accepted=[f"{c.row} / {c.column} / {c.metric}" for c in self.cells],
        )

    def difference(self, control: str, column: str = "overall", metric: str = SCORE) -> Difference:
        """The first row minus `control`.

        Raises:
            UsageError: there is none of that name.
        """
        for found in self.differences:
            if (found.control, found.column, found.metric) == (control, column, metric):
                return found
        raise UsageError(
            "no such difference",
            where=self.task,
            seen=f"{control} / {column} / {metric}",
            accepted=[f"{d.control} / {d.column} / {d.metric}" for d in self.differences],
        )


def percent(estimate: Estimate, *, signed: bool = False) -> str:
    """``61.3 [55, 67]`` in per cent; a dash without samples."""
    if estimate.mean is None:
        return "-"
    mean = f"{100 * estimate.mean:+.1f}" if signed else f"{100 * estimate.mean:.1f}"
    if estimate.low is None or estimate.high is None:
        return mean
    form = "+.0f" if signed else ".0f"
    low, high = format(100 * estimate.low, form), format(100 * estimate.high, form)
    if signed and (low in ("-0", "+0") or high in ("-0", "+0")):  # never round across zero
        low, high = f"{100 * estimate.low:+.1f}", f"{100 * estimate.high:+.1f}"
    return f"{mean} [{low}, {high}]"


@dataclass(frozen=True, slots=True)
class Scoreboard:
    """Scores of several tasks."""

    tasks: tuple[TaskScores, ...]

    def task(self, name: str) -> TaskScores:
        """One task's scores.

        Raises:
            UsageError: it was not scored.
        """
        for task in self.tasks:
            if task.task == name:
                return task
        raise UsageError(
            "the task was not scored", seen=name, accepted=[t.task for t in self.tasks]
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready form."""
        tasks = [asdict(task) for task in self.tasks]
        # The blocks of evidence stand beside the cells, each under its own key.
        return {"level": 0.95, "tasks": [task | task.pop("evidence") for task in tasks]}

    @staticmethod
    def from_dict(value: dict[str, Any]) -> Scoreboard:
        """Inverse of `to_dict`."""

        def estimate(item: dict[str, Any]) -> dict[str, Any]:
            return {**item, "estimate": Estimate(**item["estimate"])}

        return Scoreboard(
            tuple(
                TaskScores(
                    task=task["task"],
                    title=task["title"],
                    rows=tuple(Row(**row) for row in task["rows"]),
                    columns=tuple(Column(**column) for column in task["columns"]),
                    cells=tuple(Cell(**estimate(cell)) for cell in task["cells"]),
                    differences=tuple(Difference(**estimate(item)) for item in task["differences"]),
                    notes=tuple(task["notes"]),
                    needs_judge=tuple(task.get("needs_judge", ())),
                    judge=JudgeSummary.from_dict(task["judge"]) if task.get("judge") else None,
                    evidence=Evidence.from_dict(task),
                )
                for task in value["tasks"]
            )
        )

    def to_csv(self) -> str:
        """One line per cell and difference (`control` is empty for cells), then consistency."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(
            ["task", "row", "control", "column", "metric", "mean", "low", "high", "n", "groups",
             "unparsed", "errors", "truncated"]
        )  # fmt: skip
        for task in self.tasks:
            for cell in task.cells:
                e = cell.estimate
                writer.writerow(
                    [task.task, cell.row, "", cell.column, cell.metric, *_numbers(e), cell.unparsed, cell.errors,
                     cell.truncated]
                )  # fmt: skip
            for found in task.differences:
                head = [task.task, found.row, found.control, found.column, found.metric]
                writer.writerow([*head, *_numbers(found.estimate), "", "", ""])
            for row, metric, estimate in extra_estimates(task.evidence):
                head = [task.task, row, "", "overall", metric]
                writer.writerow([*head, *_numbers(estimate), "", "", ""])
        return text.getvalue()

    def render(self) -> Group:
        """Terminal tables: per task the scores, then the differences between model and the rest."""
        from rich.console import Group as Stack
        from rich.text import Text

        from infimed.evaluation.evidence_tables import evidence_tables

        parts: list[Any] = []
        for task in self.tasks:
            parts.extend(evidence_tables(task))
            parts.extend(_score_tables(task))
            parts.extend(_judge_table(task))
            parts.extend(_tag_table(task))
            parts.extend(Text(f"  note: {note}") for note in task.notes)
        return Stack(*parts)


def told(task: TaskScores, cell: Cell) -> str:
    """A cell in per cent; where only a judge could give its value, that."""
    if cell.estimate.mean is None and cell.metric in task.needs_judge:
        return "needs a judge"
    return percent(cell.estimate)


def _numbers(estimate: Estimate) -> list[Any]:
    values = (estimate.mean, estimate.low, estimate.high)
    return ["" if value is None else round(value, 6) for value in values] + [
        estimate.n,
        estimate.groups,
    ]


def _score_tables(task: TaskScores) -> list[Any]:
    """The two tables of a task, a line per column so that they fit a terminal.

    Columns too small for a claim are marked with a star.
    """
    from infimed.core.console import table
    from infimed.evaluation.controlled import PRIOR, ROTATED, SCORED

    cells = {(c.row, c.column, c.metric): c for c in task.cells}
    found = {(d.control, d.column, d.metric): d for d in task.differences}
    narrow = (PRIOR, ROTATED, SCORED)  # in the table of the ways only, to leave room here
    names = [row.name for row in task.rows if row.name not in narrow]
    slots = list(dict.fromkeys((c.column, c.metric) for c in task.cells if c.metric != MEDEVALKIT))
    titles = {
        column.name: f"{column.title} *" if column.name in task.evidence.few else column.title
        for column in task.columns
    }
    metrics_seen = {metric for _, metric in slots} - {SCORE}
    theirs = [MEDEVALKIT] if _has_medevalkit(task) else []
    lines, gaps = [], []
    for column, metric in slots:
        if metric != SCORE and (len(metrics_seen) == 1 or _repeats(task, column, metric)):
            continue
        title = titles[column] if metric == SCORE else f"  {titles[column]} {metric}"
        row_cells = [cells[name, column, metric] for name in names]
        shown = [_with_n(task, cell, row_cells[0].estimate.n) for cell in row_cells]
        if theirs:
            other = cells.get((names[0], column, MEDEVALKIT)) if metric == SCORE else None
            shown.insert(1, percent(other.estimate) if other else "")
        lines.append([title, row_cells[0].estimate.n, *shown])
        gaps.append(
            [
                title,
                *(percent(found[name, column, metric].estimate, signed=True) for name in names[1:]),
            ]
        )
    overall = [cells[name, "overall", SCORE] for name in names]
    blank = [""] * len(theirs)
    rates = [("unparsed %", [cell.unparsed for cell in overall])]
    if any(cell.errors for cell in overall):
        rates.append(("failed %", [cell.errors for cell in overall]))
    for title, values in rates:
        first, *rest = (f"{100 * value:.1f}" for value in values)
        lines.append([title, "", first, *blank, *rest])
    groups = overall[0].estimate.groups
    title = f"{task.task}: {task.title} (%, 95 % interval over {groups} groups)"
    out: list[Any] = [table(title, ["", "n", names[0], *theirs, *names[1:]], lines)]
    if len(names) > 1:
        heads = [f"- {name}" for name in names[1:]]
        out.append(table(f"{task.task}: {names[0]} minus ... (points, paired)", ["", *heads], gaps))
    return out


def _judge_table(task: TaskScores) -> list[Any]:
    """How far the judge agrees with the rules, two lines per row and unit."""
    from infimed.core.console import table

    if task.judge is None:
        return []
    lines: list[list[Any]] = []
    for row in task.judge.rows:
        for one in row.agreement:
            kappa = "-" if one.kappa.mean is None else f"{one.kappa.mean:.2f}"
            if one.kappa.low is not None and one.kappa.high is not None:
                kappa += f" [{one.kappa.low:.2f}, {one.kappa.high:.2f}]"
            named = f"{row.row}, {one.unit}"
            lines.append([named, "right", *(one.right[n] for n in OUTCOMES), one.kappa.n, kappa])
            lines.append(["", "wrong", *(one.wrong[n] for n in OUTCOMES), "", ""])
    if not lines:
        return []
    rules = dict.fromkeys(one.rule for row in task.judge.rows for one in row.agreement)
    title = (
        f"{task.task}: judge {task.judge.judge}, prompt {task.judge.prompt}, against the rule "
        f"{'; '.join(rules)}"
    )
    return [table(title, ["", "rule", *OUTCOMES, "n", "kappa"], lines, numeric=2)]


def _tag_table(task: TaskScores) -> list[Any]:
    """Rubric scores by tag of the criteria, a line per tag."""
    from infimed.core.console import table

    rows = task.judge.rows if task.judge is not None else ()
    tags = list(dict.fromkeys(tag for row in rows for tag in row.tags))
    if not tags:
        return []
    nothing = Estimate(None, None, None, 0, 0)
    lines = [
        [tag, rows[0].tags.get(tag, nothing).n]
        + [percent(row.tags.get(tag, nothing)) for row in rows]
        for tag in tags
    ]
    title = f"{task.task}: by tag of the criteria (%, 95 % interval)"
    return [table(title, ["", "n", *(row.row for row in rows)], lines)]


def _with_n(task: TaskScores, cell: Cell, whole: int) -> str:
    """The value, and of how many questions where they are not all of the line."""
    text = told(task, cell)
    partial = cell.estimate.mean is not None and cell.estimate.n != whole
    return f"{text} n={cell.estimate.n}" if partial else text


def _has_medevalkit(task: TaskScores) -> bool:
    """Whether MedEvalKit has a rule for any of the task's questions."""
    return any(c.metric == MEDEVALKIT and c.estimate.mean is not None for c in task.cells)


def _repeats(task: TaskScores, column: str, metric: str) -> bool:
    """Whether a metric's cell says what the score's cell of the same column says already."""
    if metric in METRICS and METRICS[metric].direction == "lower":
        return False  # an equal number says something else
    values = {(c.row, c.metric): c.estimate for c in task.cells if c.column == column}
    return all(values[row.name, metric] == values[row.name, SCORE] for row in task.rows)
