"""Scores of whole reports: all questions of a report count together, and reports are resampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from infimed.core.errors import DataError
from infimed.core.statistics import Measured, compare_sums
from infimed.evaluation.assess import Assessment
from infimed.evaluation.metrics.structured import Floats, Question, chosen, macro_f1, places
from infimed.evaluation.report import SCORE, Cell, Difference
from infimed.evaluation.sample import Sample

FACTS = ("path", "asked", "history", "options", "labels")
"""Facts of a record that a structured report is put together from."""


def question_of(sample: Sample, parsed: str | None) -> Question:
    """A sample with the answer that was read, as a question of its report.

    Raises:
        DataError: the record lacks one of `FACTS`.
    """
    facts: Mapping[str, Any] = sample.record.facts
    try:
        options = tuple(map(str, facts["options"]))
        return Question(
            report=sample.group,
            path=str(facts["path"]),
            text=str(facts["asked"]),
            above=tuple(str(turn[0]) for turn in facts["history"]),
            options=options,
            gold=frozenset(map(str, facts["labels"])),
            said=chosen(parsed, options, single=sample.kind == "closed"),
        )
    except (KeyError, TypeError, IndexError) as error:
        raise DataError(
            "not a question of a structured report",
            where=sample.id,
            seen=type(error).__name__,
            accepted=f"facts {', '.join(FACTS)}",
        ) from error


def report_cells(
    name: str,
    samples: Sequence[Sample],
    results: Mapping[str, Assessment],
    cells: Sequence[Cell],
    seed: int,
) -> tuple[list[Cell], list[Difference]]:
    """Cells and differences of a metric of whole reports, over all questions; n counts reports.

    Args:
        cells: of the same rows; the rates of unreadable answers stand there.

    Raises:
        DataError: a record is not part of a structured report.
    """
    tables: list[Floats] = []
    for found in results.values():
        questions = [
            question_of(sample, answer.parsed)
            for sample, answer in zip(samples, found.answers, strict=True)
        ]
        tables.append(places(questions)[1])
    index = np.arange(len(tables[0]))
    compared = compare_sums([Measured(tables, macro_f1)], index, seed=seed)[0]
    scores = {cell.row: cell for cell in cells if (cell.column, cell.metric) == ("overall", SCORE)}
    rows = list(results)
    made = [
        replace(scores[row], metric=name, estimate=estimate)
        for row, estimate in zip(rows, compared.rows, strict=True)
    ]
    gaps = [
        Difference(rows[0], row, "overall", name, gap)
        for row, gap in zip(rows[1:], compared.differences[1:], strict=True)
    ]
    return made, gaps
