"""Offline scoring: stored answers -> extraction -> metrics -> intervals. No model is called.

A pure function of the response files, the shards and the task files; running it again writes the
same bytes. Failed, missing and unparsed answers count as wrong and their rates stand beside the
score. Every set of questions has two scores: ours and MedEvalKit's (`medevalkit`). A row that covers
only some questions is compared with the model on those.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infimed.core.errors import UsageError
from infimed.core.files import atomic_open, write_json, write_text
from infimed.core.statistics import Combine, Estimate, Measured, compare_sums, group_index
from infimed.evaluation.asked import TaskRecords, collect, manifest_path
from infimed.evaluation.assess import combine_of
from infimed.evaluation.columns import columns_of, not_stated, renumbered
from infimed.evaluation.controlled import CONTROLS, SCORED, SWAPPED, variants, why_none
from infimed.evaluation.controls import control_answers
from infimed.evaluation.folder import note_evaluation
from infimed.evaluation.gathering import gather_evidence
from infimed.evaluation.judging.reporting import judge_summary, metrics_shown, needing_judge
from infimed.evaluation.judging.verdicts import JudgeFolder, Verdicts, open_judge
from infimed.evaluation.leaks import read_leaks
from infimed.evaluation.report import (
    MEDEVALKIT,
    SCORE,
    Cell,
    Column,
    Difference,
    Row,
    Scoreboard,
    TaskScores,
)
from infimed.evaluation.reports import report_cells
from infimed.evaluation.sample import Sample, Shards, make_samples
from infimed.evaluation.sample_lines import sample_lines
from infimed.evaluation.seeing import ZEROED
from infimed.evaluation.spec import Breakdown, TaskSpec, load_task
from infimed.evaluation.stored import (
    AskedOtherwise,
    RowResult,
    answers_of,
    asked_samples,
    check_model,
    control_row,
    plain_row,
    read_manifest,
)
from infimed.inference.requests import Response

FIRST = ("model", "text-only")
"""Labels of the model itself, whichever of them a task was asked."""


def score(
    out: Path,
    shards: Shards,
    tasks: Sequence[str],
    labels: Sequence[str],
    *,
    seed: int = 0,
    prior_splits: Sequence[str] = ("train",),
    breakdowns: Sequence[Breakdown] = (),
    partial: bool = False,
) -> Scoreboard:
    """Score stored answers; writes scores.json, scores.csv, samples.jsonl and evaluation.json to `out`.

    Args:
        labels: ways of asking in the order of the table; the first is the model, and the paired
            differences are between it and every other row.
        prior_splits: whose answers the majority and question-only controls may learn from; give
            the splits that the model was trained on.
        breakdowns: further cuts of every table, beside those the tasks name.
        partial: leave a label out of a task that was not asked it, or asked it otherwise than the first
            (another model, limit or view), with a note, instead of refusing.

    Raises:
        DataError: a label was not asked a task, was asked other questions than the first one, or
            the task or the shards changed in between.
    """
    specs = [load_task(name) for name in tasks]
    records = collect(shards, specs, prior_splits)
    scored = []
    lines: list[Iterator[dict[str, Any]]] = []
    for spec in specs:
        task, rows = _score_task(out, spec, records[spec.name], labels, partial, seed, breakdowns)
        scored.append(task)
        lines.append(rows)
    board = Scoreboard(tuple(scored))
    note_evaluation(out, shards, tasks, labels, prior_splits, breakdowns)
    write_json(out / "scores.json", board.to_dict())
    write_text(out / "scores.csv", board.to_csv())
    with atomic_open(out / "samples.jsonl", "w") as handle:
        for line in chain.from_iterable(lines):
            handle.write(json.dumps(line, ensure_ascii=False) + "\n")
    return board


@dataclass
class _Table:
    """The rows of a task as they are read: the first is the model."""

    judge: JudgeFolder | None
    notes: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    results: dict[str, RowResult] = field(default_factory=dict)
    verdicts: dict[str, Verdicts] = field(default_factory=dict)
    view: str = "images"
    limited: bool = False
    fingerprint: str = ""


def _score_task(
    out: Path,
    spec: TaskSpec,
    records: TaskRecords,
    labels: Sequence[str],
    partial: bool,
    seed: int,
    breakdowns: Sequence[Breakdown],
) -> tuple[TaskScores, Iterator[dict[str, Any]]]:
    table = _Table(open_judge(out, spec.name) if spec.judged else None)
    _read_rows(table, out, spec, records, labels, partial)
    samples, rows, results, notes = table.samples, table.rows, table.results, table.notes
    prior = make_samples(records.prior, spec)
    for name in spec.controls:
        answers = control_answers(name, prior, samples)
        if answers is None:
            notes.append(f"no '{name}' row: there is no training record to learn from")
            continue
        said = [Response(s.id, text) for s, text in zip(samples, answers, strict=True)]
        results[name] = plain_row(samples, spec, said)
        rows.append(Row(name, "control"))
    columns = columns_of(samples, spec, breakdowns)
    notes += not_stated(samples, breakdowns)
    leaked = read_leaks(out, spec.name, samples)
    notes += leaked.notes
    columns += leaked.columns
    cells, differences = _tables(samples, spec, columns, rows, results, seed)
    assessed = {name: found.assessment for name, found in results.items()}
    whole = {name: found for name, found in assessed.items() if results[name].complete}
    for metric in spec.report_metrics:
        if table.limited:
            notes.append(f"{metric} is of whole reports, so not of a sample of questions")
            continue
        more, gaps = report_cells(metric, samples, whole, cells, seed)
        cells.extend(more)
        differences.extend(gaps)
    needs_judge, missing = needing_judge(spec, samples, assessed)
    notes += missing
    evidence = gather_evidence(
        spec,
        samples,
        rows,
        results,
        columns,
        cells,
        differences,
        shown=table.view == "images",
        seed=seed,
    )
    task = TaskScores(
        task=spec.name,
        title=spec.title,
        rows=tuple(rows),
        columns=tuple(column for column, _ in columns),
        cells=tuple(cells),
        differences=tuple(differences),
        notes=tuple(notes),
        needs_judge=needs_judge,
        judge=judge_summary(samples, spec, table.judge, table.verdicts, assessed, seed),
        evidence=replace(evidence, leakage=leaked.leakage),
    )
    lines = sample_lines(spec.name, samples, results, columns, leaked.kinds, table.verdicts)
    return task, lines


def _read_rows(
    table: _Table,
    out: Path,
    spec: TaskSpec,
    records: TaskRecords,
    labels: Sequence[str],
    partial: bool,
) -> None:
    """Read the stored answers of every label into rows over the first one's questions."""
    there = {label for label in labels if manifest_path(out, spec.name, label).exists()}
    left_out = []
    for label in labels:
        skipped = _skipped(out, spec, label, table)
        if skipped is not None:
            table.notes += skipped
            continue
        if partial and there and label not in there:
            left_out += [label] if label not in FIRST else []
            continue
        try:
            _read_row(table, out, spec, records, label)
        except AskedOtherwise as error:
            if not partial:
                raise
            table.notes.append(f"left out: {error.what}")
    if left_out:
        table.notes.append(f"not asked in this way: {', '.join(left_out)}")


def _read_row(table: _Table, out: Path, spec: TaskSpec, records: TaskRecords, label: str) -> None:
    """Read the stored answers of one label.

    Raises:
        AskedOtherwise: they cannot stand beside those of the first row.
    """
    manifest = read_manifest(out, spec, label)
    if manifest.get("control"):
        if not table.rows:
            raise UsageError("the first row is the model asked plainly", seen=label)
        model = table.results[table.rows[0].name]
        result = control_row(
            out, spec, label, manifest, table.samples, model, table.fingerprint, table.view
        )
        missing = len(table.samples) - len(result.covered)
        if missing and manifest["control"] == SWAPPED:
            table.notes.append(
                f"{label}: {missing} questions have no image, or none to swap it with"
            )
    else:
        where = str(manifest_path(out, spec.name, label))
        asked = asked_samples(records, spec, manifest, where)
        if not table.rows:
            table.samples, table.view = asked, manifest["view"]
            table.fingerprint = manifest["model"]
        elif [sample.id for sample in asked] != [sample.id for sample in table.samples]:
            raise AskedOtherwise(
                f"'{label}' was asked other questions than '{table.rows[0].name}'",
                where=where,
                fix="ask both with the same limit and shards",
            )
        elif label in (ZEROED, *FIRST):
            check_model(label, manifest, table.fingerprint, where)
        said = answers_of(out, spec, label, manifest)
        if table.judge is not None and label in table.judge.labels:
            table.verdicts[label] = table.judge.verdicts(table.samples, spec, said)
        result = plain_row(table.samples, spec, said, table.verdicts.get(label))
        table.limited |= manifest["limit"] is not None
    table.results[label] = result
    table.rows.append(Row(label, "model"))
    if manifest["images_dropped"]:
        table.notes.append(
            f"{label}: {manifest['images_dropped']} images past the task's limit were not shown"
        )


def _skipped(out: Path, spec: TaskSpec, label: str, table: _Table) -> list[str] | None:
    """The note on a label without answers where it has nothing to ask here; None where it must have."""
    if not table.rows or manifest_path(out, spec.name, label).exists():
        return None
    if label == ZEROED and not any(sample.record.images for sample in table.samples):
        return [f"no '{ZEROED}' row: the questions show no image"]
    if label in CONTROLS and not variants(label, table.samples):
        return [f"no '{label}' row: {why_none(label, table.samples)}"]
    return [] if label == SCORED else None  # a task may leave it out


def _tables(
    samples: Sequence[Sample],
    spec: TaskSpec,
    columns: Sequence[tuple[Column, list[int]]],
    rows: Sequence[Row],
    results: dict[str, RowResult],
    seed: int,
) -> tuple[list[Cell], list[Difference]]:
    groups = group_index([sample.group for sample in samples])[0]
    kinds = list(dict.fromkeys(sample.kind for sample in samples))
    # Metrics of one kind mean nothing over a mixture of kinds; only the score does.
    detailed = "kind" if len(kinds) > 1 else "all"
    assessed = {name: found.assessment for name, found in results.items()}
    measured_of = {kind: metrics_shown(spec, kind, assessed) for kind in kinds}
    extra = list(dict.fromkeys(metric for kind in kinds for metric in measured_of[kind]))
    combine = {metric: combine_of(metric, spec, kinds) for metric in (SCORE, MEDEVALKIT, *extra)}
    cells, differences = [], []
    first = rows[0].name
    whole = [row.name for row in rows if results[row.name].complete]
    partial = [row.name for row in rows if not results[row.name].complete]
    for column, members in columns:
        here = {samples[i].kind for i in members}
        metrics = [SCORE, MEDEVALKIT]
        if column.group == detailed:
            metrics += [m for m in extra if any(m in measured_of[kind] for kind in here)]
        used = {metric: combine[metric] for metric in metrics}
        found = _compared(whole, np.array(members), used, results, groups, seed)
        for name in partial:
            covered = np.intersect1d(members, results[name].covered)
            pair = _compared([first, name], covered, used, results, groups, seed)
            found |= {(name, metric): pair[name, metric] for metric in metrics}
        rates = {row.name: _rates(results[row.name], members) for row in rows}
        for metric in metrics:
            for row in rows:
                estimate, gap = found[row.name, metric]
                cells.append(Cell(row.name, column.name, metric, estimate, *rates[row.name]))
                if row.name != first:
                    differences.append(Difference(first, row.name, column.name, metric, gap))
    return cells, differences


def _compared(
    names: Sequence[str],
    chosen: NDArray[np.int64],
    metrics: Mapping[str, Combine],
    results: dict[str, RowResult],
    groups: NDArray[np.int64],
    seed: int,
) -> dict[tuple[str, str], tuple[Estimate, Estimate]]:
    """(row, metric) -> its value on the chosen questions, and the first row's minus it."""
    measured = [
        Measured([results[name].assessment.rows(metric)[chosen] for name in names], combine)
        for metric, combine in metrics.items()
    ]
    found = compare_sums(measured, renumbered(groups[chosen]), seed=seed)
    return {
        (name, metric): (estimate, gap)
        for metric, one in zip(metrics, found, strict=True)
        for name, estimate, gap in zip(names, one.rows, one.differences, strict=True)
    }


def _rates(result: RowResult, members: Sequence[int]) -> tuple[float, float, float]:
    """Shares of unparsed, failed (or missing) and truncated answers."""
    chosen = np.array(members) if result.complete else np.intersect1d(members, result.covered)
    count = max(1, len(chosen))
    unparsed, failed, truncated = (result.rates[chosen].sum(axis=0) / count).tolist()
    return unparsed, failed, truncated
