"""From cells to tables: the scores of every arm, and one Parquet file with a line a study, arm, seed and measure.

A pure function of the cells that are done. What became of every claim is in the file's metadata, and whoever quotes a
study (the model card) reads it there, so that no number is typed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infimed.core.errors import DataError
from infimed.core.files import atomic_open
from infimed.pipeline.card import StudyFinding
from infimed.studies.cells import BLIND, Cell, Planned
from infimed.studies.definition import Arm, Measure, Study
from infimed.studies.statistics import Scores
from infimed.studies.work import ANSWERS, cell_folder, is_done, read_result

TABLE: Final = "results.parquet"
FINDINGS: Final = b"infimed.findings"

SCHEMA: Final = pa.schema(
    [
        ("study", pa.string()), ("preset", pa.string()), ("arm", pa.string()), ("seed", pa.int64()),
        ("split", pa.string()), ("cell", pa.string()), ("task", pa.string()), ("column", pa.string()),
        ("score", pa.float64()), ("questions", pa.int64()), ("groups", pa.int64()),
        ("steps", pa.int64()), ("samples", pa.int64()), ("target_tokens", pa.int64()),
        ("flops", pa.float64()), ("saved_flops", pa.float64()), ("seconds", pa.float64()),
        ("mfu", pa.float64()), ("memory_gib", pa.float64()), ("joules", pa.float64()),
        ("train_records", pa.int64()), ("damaged", pa.int64()), ("dropped", pa.int64()),
        ("dropped_damaged", pa.int64()), ("commit", pa.string()), ("cpu", pa.string()),
    ]
)  # fmt: skip

SPENT: Final = (
    "steps", "samples", "target_tokens", "flops", "saved_flops", "seconds", "mfu", "memory_gib",
)  # fmt: skip


def way_of(arm: Arm) -> str:
    """How an arm's model is asked."""
    return BLIND if arm.blind else arm.way


def arm_scores(out: Path, planned: Sequence[Planned], arm: Arm, measure: Measure) -> Scores | None:
    """Scores of an arm on a measure, over the seeds that are done; None where there is none.

    Raises:
        DataError: seeds were asked other questions.
    """
    rows: list[list[float]] = []
    seeds: list[int] = []
    known: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    for one in planned:
        if one.arm != arm.name or not is_done(out, one.cell):
            continue
        ids, groups, scores = _answers(out, one.cell, way_of(arm), measure)
        if not ids:
            continue
        if known is None:
            known = ids, groups
        elif known[0] != ids:
            raise DataError(
                "seeds of an arm were asked other questions",
                where=f"{one.study}: {arm.name}, seed {one.seed}",
                fix="remove its cell and run the study again",
            )
        rows.append(scores)
        seeds.append(one.seed)
    if known is None:
        return None
    return Scores(np.array(rows, np.float64), tuple(seeds), *known)


def _answers(
    out: Path, cell: Cell, way: str, measure: Measure
) -> tuple[tuple[str, ...], tuple[str, ...], list[float]]:
    """Ids, groups and scores of a measure's questions, by id."""
    lines = pq.read_table(cell_folder(out, cell) / ANSWERS).to_pylist()
    own = sorted(
        (line["id"], line["group"], line["score"])
        for line in lines
        if line["way"] == way and line["task"] == measure.task and measure.column in line["columns"]
    )
    return tuple(i for i, _, _ in own), tuple(g for _, g, _ in own), [s for _, _, s in own]


def result_rows(
    out: Path, studies: Sequence[Study], planned: Sequence[Planned]
) -> list[dict[str, Any]]:
    """The lines of the results table."""
    by_name = {study.name: study for study in studies}
    found = []
    for one in planned:
        if not is_done(out, one.cell):
            continue
        result = read_result(out, one.cell)
        variant = by_name[one.study].presets[one.preset]
        arm = variant.arm(one.arm)
        counts = result["data"]
        for measure in variant.measures:
            ids, groups, scores = _answers(out, one.cell, way_of(arm), measure)
            if not ids:
                continue
            found.append(
                {
                    "study": one.study, "preset": one.preset, "arm": one.arm, "seed": one.seed,
                    "split": one.cell.split, "cell": one.cell.key, "task": measure.task,
                    "column": measure.column, "score": float(np.mean(scores)), "questions": len(ids),
                    "groups": len(set(groups)), **{name: result["spent"][name] for name in SPENT},
                    "joules": result["joules"], "train_records": counts.get("train"),
                    "damaged": counts.get("damaged"), "dropped": counts.get("dropped"),
                    "dropped_damaged": counts.get("dropped_damaged"), "commit": result["commit"],
                    "cpu": result["machine"]["cpu"],
                }
            )  # fmt: skip
    return found


def write_results(
    out: Path, rows: Sequence[dict[str, Any]], findings: Sequence[StudyFinding]
) -> Path:
    """Write the results table, atomically."""
    file = out / TABLE
    told = json.dumps([asdict(one) for one in findings], ensure_ascii=False)
    table = pa.Table.from_pylist(list(rows), schema=SCHEMA)
    with atomic_open(file) as handle:
        pq.write_table(table.replace_schema_metadata({FINDINGS: told}), handle, compression="zstd")
    return file


def read_results(file: Path) -> list[dict[str, Any]]:
    """The lines of a results table.

    Raises:
        DataError: it is not there, or is another table.
    """
    found: list[dict[str, Any]] = _read(file).to_pylist()
    return found


def read_findings(file: Path) -> list[StudyFinding]:
    """What became of every claim, as a results table says.

    Raises:
        DataError: it is not there, or is another table.
    """
    try:
        told = json.loads((_read(file).schema.metadata or {})[FINDINGS])
        return [StudyFinding(**{**one, "commits": tuple(one["commits"])}) for one in told]
    except (KeyError, TypeError, ValueError) as error:
        raise _other_version(file) from error


def _read(file: Path) -> pa.Table:
    if not file.is_file():
        raise DataError("no results of studies here", where=str(file), fix="infimed study run NAME")
    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise _other_version(file) from error
    if not table.schema.equals(SCHEMA):
        raise _other_version(file)
    return table


def _other_version(file: Path) -> DataError:
    return DataError(
        "not a results table of this version", where=str(file), fix="infimed study report"
    )
