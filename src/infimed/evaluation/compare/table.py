"""The comparison itself: tasks by models, with controls, differences and what others reported.

A pure function of the folders that were read. Page, CSV and LaTeX are three ways to write it down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from infimed.core.errors import UsageError, nearest_name
from infimed.core.statistics import Estimate
from infimed.evaluation.compare.loading import ModelScores, TaskOf
from infimed.evaluation.compare.pairing import Pair, pair
from infimed.evaluation.compare.published import Reported
from infimed.evaluation.report import MEDEVALKIT, SCORE, Cell

FEW_GROUPS = 30
"""Below so many groups a percentile interval of a whole task is too narrow; the page says so."""
FEW_QUESTIONS, FEWEST_GROUPS = 30, 10
"""A part of a task with fewer questions or groups is marked: no claim can be made on it."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A model's (or control's) value on a set of questions, with the shares that are part of it.

    Attributes:
        estimate: the score. medevalkit: the same counted as MedEvalKit does, None where it has no rule.
        unparsed, errors, truncated: shares of answers that no rule could read; that failed or are missing;
            that were cut at the limit of tokens.
    """

    estimate: Estimate
    medevalkit: Estimate | None
    unparsed: float
    errors: float
    truncated: float


@dataclass(frozen=True, slots=True)
class Line:
    """One set of questions (or one metric on it) with every model's value; None: no value."""

    column: str
    title: str
    group: str
    metric: str
    scores: tuple[Scored | None, ...]

    @property
    def few(self) -> bool:
        """Whether it is too small for a claim."""
        return any(
            s.estimate.n < FEW_QUESTIONS or s.estimate.groups < FEWEST_GROUPS
            for s in self.scores
            if s is not None
        )


@dataclass(frozen=True, slots=True)
class ControlLine:
    """A way of answering without the model (or without the image): per model its value, and the model's
    difference to it on the same questions."""

    name: str
    scores: tuple[Scored | None, ...]
    differences: tuple[Estimate | None, ...]


@dataclass(frozen=True, slots=True)
class TaskTable:
    """One task.

    Attributes:
        overall: per model, None where it was not asked. asked: per model how ("model", "text-only", ...).
        parts: further lines: kinds, subsets, breakdowns, other metrics. controls: see `ControlLine`.
        pairs: of every model but the reference. published: numbers of others on this task.
        limits: per model the size of the seeded sample that was asked, None for the whole set.
        notes: (model, remark). extras: per model the task as scoring wrote it, with added keys.
    """

    name: str
    title: str
    overall: tuple[Scored | None, ...]
    asked: tuple[str, ...]
    parts: tuple[Line, ...]
    controls: tuple[ControlLine, ...]
    pairs: tuple[Pair, ...]
    published: tuple[Reported, ...]
    limits: tuple[int | None, ...]
    notes: tuple[tuple[str, str], ...]
    extras: tuple[dict[str, Any], ...]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Distinct (questions, groups) among the models."""
        seen = [(s.estimate.n, s.estimate.groups) for s in self.overall if s is not None]
        return list(dict.fromkeys(seen))


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that is compared. `reference` is the number of the model differences are against."""

    models: tuple[ModelScores, ...]
    reference: int
    tasks: tuple[TaskTable, ...]

    @property
    def names(self) -> list[str]:
        """Names of the models in order."""
        return [model.name for model in self.models]

    @property
    def others(self) -> list[str]:
        """Names of the models that are not the reference."""
        return [name for at, name in enumerate(self.names) if at != self.reference]


def compare(
    models: Sequence[ModelScores],
    *,
    reference: str | None = None,
    tasks: Sequence[str] = (),
    published: dict[str, tuple[Reported, ...]] | None = None,
) -> Comparison:
    """Put models side by side.

    Args:
        reference: whose scores the differences are against; default: the first. tasks: only these.
        published: task -> numbers of others.

    Raises:
        UsageError: no such model or task, or no model.
    """
    if not models:
        raise UsageError("give at least one evaluation folder", accepted="infimed compare A B ...")
    names = [model.name for model in models]
    if reference is not None and reference not in names:
        raise UsageError(
            "no such model", where="--reference", seen=reference, accepted=names,
            nearest=nearest_name(reference, names),
        )  # fmt: skip
    at = names.index(reference) if reference is not None else 0
    known = list(dict.fromkeys(name for model in models for name in model.tasks))
    for name in tasks:
        if name not in known:
            raise UsageError(
                "no model was asked this task", where="--tasks", seen=name, accepted=known,
                nearest=nearest_name(name, known),
            )  # fmt: skip
    chosen = [name for name in known if not tasks or name in tasks]
    tables = [_task(name, models, at, (published or {}).get(name, ())) for name in chosen]
    return Comparison(tuple(models), at, tuple(tables))


def _task(
    name: str, models: Sequence[ModelScores], reference: int, published: tuple[Reported, ...]
) -> TaskTable:
    own = [model.tasks.get(name) for model in models]
    cells = [_cells(task) for task in own]
    title = next(task.scores.title for task in own if task is not None)
    lines = _lines(own, cells)
    pairs = [
        found
        for at, model in enumerate(models)
        if at != reference
        for found in pair(name, model, models[reference])
    ]
    return TaskTable(
        name=name,
        title=title,
        overall=tuple(_scored(found, task.row if task else None, "overall") for task, found in zip(own, cells, strict=True)),
        asked=tuple(task.row if task else "" for task in own),
        parts=tuple(lines),
        controls=tuple(_controls(own, cells)),
        pairs=tuple(pairs),
        published=published,
        limits=tuple(task.limit if task else None for task in own),
        notes=tuple(
            (model.name, note)
            for model, task in zip(models, own, strict=True)
            if task
            for note in task.scores.notes
        ),
        extras=tuple(task.extras if task else {} for task in own),
    )  # fmt: skip


Key = tuple[str, str, str]


def _cells(task: TaskOf | None) -> dict[Key, Cell]:
    return {(c.row, c.column, c.metric): c for c in task.scores.cells} if task else {}


def _scored(
    cells: dict[Key, Cell], row: str | None, column: str, metric: str = SCORE
) -> Scored | None:
    cell = cells.get((row or "", column, metric))
    if cell is None:
        return None
    theirs = cells.get((row or "", column, MEDEVALKIT)) if metric == SCORE else None
    return Scored(
        cell.estimate,
        theirs.estimate if theirs is not None and theirs.estimate.mean is not None else None,
        cell.unparsed,
        cell.errors,
        cell.truncated,
    )


def _lines(own: Sequence[TaskOf | None], cells: Sequence[dict[Key, Cell]]) -> list[Line]:
    """Columns other than all questions, and metrics other than the score, in the folders' order."""
    slots: dict[tuple[str, str], tuple[str, str]] = {}
    for task in own:
        if task is None:
            continue
        titles = {column.name: column for column in task.scores.columns}
        for cell in task.scores.cells:
            if cell.row != task.row or cell.metric == MEDEVALKIT:
                continue
            if (cell.column, cell.metric) != ("overall", SCORE):
                of = titles[cell.column]
                slots.setdefault((cell.column, cell.metric), (of.title, of.group))
    made = []
    for (column, metric), (title, group) in slots.items():
        scores = tuple(
            _scored(found, task.row if task else None, column, metric)
            for task, found in zip(own, cells, strict=True)
        )
        if metric != SCORE and _repeats(own, cells, column, scores):
            continue
        made.append(Line(column, title, group, metric, scores))
    return made


def _repeats(
    own: Sequence[TaskOf | None],
    cells: Sequence[dict[Key, Cell]],
    column: str,
    scores: Sequence[Scored | None],
) -> bool:
    """Whether a metric says what the score of the same questions says already."""
    main = [
        _scored(found, task.row if task else None, column)
        for task, found in zip(own, cells, strict=True)
    ]
    return [s and s.estimate for s in main] == [s and s.estimate for s in scores]


def _controls(own: Sequence[TaskOf | None], cells: Sequence[dict[Key, Cell]]) -> list[ControlLine]:
    names = dict.fromkeys(row.name for task in own if task for row in task.scores.rows[1:])
    made = []
    for name in names:
        scores = tuple(_scored(found, name, "overall") for found in cells)
        gaps = []
        for task in own:
            found = [
                d.estimate
                for d in (task.scores.differences if task else ())
                if (d.control, d.column, d.metric) == (name, "overall", SCORE)
            ]
            gaps.append(found[0] if found else None)
        made.append(ControlLine(name, scores, tuple(gaps)))
    return made
