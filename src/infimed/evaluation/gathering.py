"""All evidence of a task, from its rows: see `seeing`, `consistency` and `believing`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from infimed.evaluation.believing import believing
from infimed.evaluation.consistency import rephrasings, rotations
from infimed.evaluation.controlled import ROTATED
from infimed.evaluation.evidence import Evidence
from infimed.evaluation.report import SCORE, Cell, Column, Difference, Row
from infimed.evaluation.sample import Sample
from infimed.evaluation.seeing import ZEROED, few, paired_tests, seeing
from infimed.evaluation.spec import TaskSpec
from infimed.evaluation.stored import RowResult


def gather_evidence(
    spec: TaskSpec,
    samples: Sequence[Sample],
    rows: Sequence[Row],
    results: Mapping[str, RowResult],
    columns: Sequence[tuple[Column, list[int]]],
    cells: Sequence[Cell],
    differences: Sequence[Difference],
    *,
    shown: bool,
    seed: int,
) -> Evidence:
    """All that stands beside the scores of a task; its leakage is added by who read the scan.

    Args:
        shown: whether the first row was asked with the images.
    """
    first = rows[0].name
    looks = any(sample.record.images for sample in samples)
    asked = [name for name in (first, ZEROED, "trained-blind") if name in results]
    calibration, curve = believing(samples, first, results)
    return Evidence(
        seeing=seeing(rows, [c for c, _ in columns], cells, differences, shown=shown)
        if looks
        else (),
        mcnemar=paired_tests(rows, results, columns),
        rotations=rotations(samples, results[ROTATED], seed) if ROTATED in results else None,
        rephrasings=rephrasings(samples, spec, results, asked, seed),
        calibration=calibration,
        risk_coverage=curve,
        few=tuple(
            cell.column
            for cell in cells
            if cell.row == first and cell.metric == SCORE and few(cell.estimate)
        ),
    )
