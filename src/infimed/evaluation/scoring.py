"""Offline scoring: stored answers -> extraction -> metrics -> intervals. No model is called.

A pure function of the response files, the shards and the task files; running it again writes the
same bytes. Failed, missing and unparsed answers count as wrong and their rates stand beside the
score. Every set of questions has two scores: ours and MedEvalKit's (`medevalkit`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infimed.core.errors import DataError
from infimed.core.files import atomic_open, read_json, write_json, write_text
from infimed.core.statistics import Measured, compare_sums, group_index
from infimed.evaluation.asked import TaskRecords, collect, manifest_path, responses_path
from infimed.evaluation.assess import Assessment, assess, combine_of
from infimed.evaluation.controls import control_answers
from infimed.evaluation.folder import note_evaluation
from infimed.evaluation.judging.reporting import judge_summary, metrics_shown, needing_judge
from infimed.evaluation.judging.verdicts import Verdicts, open_judge
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
from infimed.evaluation.spec import Breakdown, TaskSpec, field_values, load_task, matches
from infimed.inference.requests import Response
from infimed.inference.responses import read_responses

FIRST = ("model", "text-only")
"""Labels of the model itself, whichever of them a task was asked."""


def columns_of(samples: Sequence[Sample], spec: TaskSpec) -> list[tuple[Column, list[int]]]:
    """The table's columns with the samples in each: all, kinds, subsets, breakdowns. None is empty."""
    found: list[tuple[Column, list[int]]] = [
        (Column("overall", "overall", "all"), list(range(len(samples))))
    ]
    kinds = list(dict.fromkeys(sample.kind for sample in samples))
    if len(kinds) > 1:
        for kind in sorted(kinds):
            members = [i for i, sample in enumerate(samples) if sample.kind == kind]
            found.append((Column(f"kind={kind}", kind, "kind"), members))
    for name, where in spec.subsets.items():
        members = [i for i, sample in enumerate(samples) if matches(sample.record, where)]
        found.append((Column(f"subset={name}", name.replace("_", " "), "subset"), members))
    for breakdown in spec.breakdowns:
        found.extend(_breakdown_columns(samples, breakdown))
    return [(column, members) for column, members in found if members]


def _bucket(value: Any, edges: Sequence[float]) -> str | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if value < edges[0]:
        return f"<{edges[0]:g}"
    for low, high in pairwise(edges):
        if value < high:
            return f"{low:g}-{high:g}"
    return f">={edges[-1]:g}"


def _breakdown_columns(
    samples: Sequence[Sample], part: Breakdown
) -> list[tuple[Column, list[int]]]:
    members: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        for value in dict.fromkeys(field_values(sample.record, part.field)):
            named = _bucket(value, part.edges) if part.edges else str(value)
            if named is not None:
                members.setdefault(named, []).append(index)
    order = sorted(members)
    if part.edges:
        edges = [f"<{part.edges[0]:g}"]
        edges += [f"{a:g}-{b:g}" for a, b in pairwise(part.edges)]
        order = [name for name in [*edges, f">={part.edges[-1]:g}"] if name in members]
    return [(Column(f"{part.name}={v}", f"{part.name}: {v}", part.name), members[v]) for v in order]


def stored_answers(
    out: Path, spec: TaskSpec, label: str
) -> tuple[dict[str, Any], dict[str, Response]]:
    """What a label was asked, and the responses to it by request key.

    Raises:
        DataError: it was not asked, or the task has changed since.
    """
    path = manifest_path(out, spec.name, label)
    if not path.exists():
        raise DataError(
            f"'{label}' was not asked this task",
            where=str(path.parent),
            accepted=sorted(
                p.name.removesuffix(".run.json") for p in path.parent.glob("*.run.json")
            ),
            fix="ask it first: infimed eval RUN --tasks " + spec.name,
        )
    manifest: dict[str, Any] = read_json(path)
    if manifest.get("asked_sha256") != spec.asked_sha256:
        raise DataError(
            "the task has changed since these questions were asked",
            where=str(path),
            fix="ask again; what is unchanged comes from the stored answers",
        )
    return manifest, read_responses(responses_path(out, spec.name, label))[0]


def asked_samples(
    records: TaskRecords, spec: TaskSpec, manifest: dict[str, Any], where: str
) -> list[Sample]:
    """The samples a manifest names, rebuilt from the shards.

    Raises:
        DataError: the shards lack one of them, or would show its options otherwise.
    """
    by_id = {sample.id: sample for sample in make_samples(records.asked, spec)}
    samples = []
    for item in manifest["requests"]:
        sample = by_id.get(item["id"])
        if sample is None or list(sample.order) != item["order"]:
            raise DataError(
                "these shards do not hold the question that was asked",
                where=where,
                seen=item["id"],
                fix="score with the shards that were used for asking",
            )
        samples.append(sample)
    return samples


def score(
    out: Path,
    shards: Shards,
    tasks: Sequence[str],
    labels: Sequence[str],
    *,
    seed: int = 0,
    prior_splits: Sequence[str] = ("train",),
    partial: bool = False,
) -> Scoreboard:
    """Score stored answers; writes scores.json, scores.csv, samples.jsonl and evaluation.json to `out`.

    Args:
        labels: ways of asking in the order of the table; the first is the model, and the paired
            differences are between it and every other row.
        prior_splits: whose answers the majority and question-only controls may learn from; give
            the splits that the model was trained on.
        partial: leave a label out of a task that was not asked it, with a note, instead of refusing.

    Raises:
        DataError: a label was not asked a task, was asked other questions than the first one, or
            the task or the shards changed in between.
    """
    specs = [load_task(name) for name in tasks]
    records = collect(shards, specs, prior_splits)
    scored = []
    lines: list[Iterator[dict[str, Any]]] = []
    for spec in specs:
        asked, left_out = _asked_labels(out, spec, labels, partial)
        task, rows = _score_task(out, spec, records[spec.name], asked, left_out, seed)
        scored.append(task)
        lines.append(rows)
    board = Scoreboard(tuple(scored))
    note_evaluation(out, shards, tasks, labels, prior_splits)
    write_json(out / "scores.json", board.to_dict())
    write_text(out / "scores.csv", board.to_csv())
    with atomic_open(out / "samples.jsonl", "w") as handle:
        for line in chain.from_iterable(lines):
            handle.write(json.dumps(line, ensure_ascii=False) + "\n")
    return board


def _asked_labels(
    out: Path, spec: TaskSpec, labels: Sequence[str], partial: bool
) -> tuple[list[str], list[str]]:
    """Labels that a task is scored for, and notes on those left out."""
    missing = [label for label in labels if not manifest_path(out, spec.name, label).exists()]
    if not partial or len(missing) == len(labels):
        return list(labels), []
    controls = [label for label in missing if label not in FIRST]
    told = [f"not asked in this way: {', '.join(controls)}"] if controls else []
    return [label for label in labels if label not in missing], told


def _score_task(
    out: Path,
    spec: TaskSpec,
    records: TaskRecords,
    labels: Sequence[str],
    told: Sequence[str],
    seed: int,
) -> tuple[TaskScores, Iterator[dict[str, Any]]]:
    samples: list[Sample] = []
    rows: list[Row] = []
    results: dict[str, Assessment] = {}
    notes = list(told)
    judge = open_judge(out, spec.name) if spec.judged else None
    verdicts: dict[str, Verdicts] = {}
    limited = False
    for label in labels:
        if label == "image-zeroed" and not any(record.images for record in records.asked):
            notes.append("no 'image-zeroed' row: the questions show no image")
            continue
        manifest, responses = stored_answers(out, spec, label)
        where = str(manifest_path(out, spec.name, label))
        asked = asked_samples(records, spec, manifest, where)
        if not rows:
            samples = asked
        elif [sample.id for sample in asked] != [sample.id for sample in samples]:
            raise DataError(
                f"'{label}' was asked other questions than '{labels[0]}'",
                where=where,
                fix="ask both with the same limit and shards",
            )
        given = [responses.get(item["key"]) for item in manifest["requests"]]
        if judge is not None and label in judge.labels:
            verdicts[label] = judge.verdicts(samples, spec, given)
        results[label] = assess(samples, spec, given, verdicts.get(label))
        rows.append(Row(label, "model"))
        limited |= manifest["limit"] is not None
        if manifest["images_dropped"]:
            notes.append(
                f"{label}: {manifest['images_dropped']} images past the task's limit were not shown"
            )
    prior = make_samples(records.prior, spec)
    for name in spec.controls:
        answers = control_answers(name, prior, samples)
        if answers is None:
            notes.append(f"no '{name}' row: there is no training record to learn from")
            continue
        said = [Response(s.id, text) for s, text in zip(samples, answers, strict=True)]
        results[name] = assess(samples, spec, said)
        rows.append(Row(name, "control"))
    columns = columns_of(samples, spec)
    cells, differences = _tables(samples, spec, columns, rows, results, seed)
    for metric in spec.report_metrics:
        if limited:
            notes.append(f"{metric} is of whole reports, so not of a sample of questions")
            continue
        whole, gaps = report_cells(metric, samples, results, cells, seed)
        cells.extend(whole)
        differences.extend(gaps)
    needs_judge, missing = needing_judge(spec, samples, results)
    notes.extend(missing)
    task = TaskScores(
        task=spec.name,
        title=spec.title,
        rows=tuple(rows),
        columns=tuple(column for column, _ in columns),
        cells=tuple(cells),
        differences=tuple(differences),
        notes=tuple(notes),
        needs_judge=needs_judge,
        judge=judge_summary(samples, spec, judge, verdicts, results, seed),
    )
    return task, _lines(spec, samples, results, verdicts)


def _tables(
    samples: Sequence[Sample],
    spec: TaskSpec,
    columns: Sequence[tuple[Column, list[int]]],
    rows: Sequence[Row],
    results: dict[str, Assessment],
    seed: int,
) -> tuple[list[Cell], list[Difference]]:
    groups = group_index([sample.group for sample in samples])[0]
    kinds = list(dict.fromkeys(sample.kind for sample in samples))
    # Metrics of one kind mean nothing over a mixture of kinds; only the score does.
    detailed = "kind" if len(kinds) > 1 else "all"
    measured_of = {kind: metrics_shown(spec, kind, results) for kind in kinds}
    extra = list(dict.fromkeys(metric for kind in kinds for metric in measured_of[kind]))
    cells, differences = [], []
    first = rows[0].name
    for column, members in columns:
        chosen = np.array(members)
        own = _renumbered(groups[chosen])
        rates = {row.name: _rates(results[row.name], members) for row in rows}
        here = {samples[i].kind for i in members}
        metrics = [SCORE, MEDEVALKIT]
        if column.group == detailed:
            metrics += [m for m in extra if any(m in measured_of[kind] for kind in here)]
        measured = [
            Measured(
                [results[row.name].rows(m)[chosen] for row in rows], combine_of(m, spec, kinds)
            )
            for m in metrics
        ]
        for metric, found in zip(metrics, compare_sums(measured, own, seed=seed), strict=True):
            for row, estimate, gap in zip(rows, found.rows, found.differences, strict=True):
                cells.append(Cell(row.name, column.name, metric, estimate, *rates[row.name]))
                if row.name != first:
                    differences.append(Difference(first, row.name, column.name, metric, gap))
    return cells, differences


def _renumbered(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Group numbers of a part of the samples, again by first appearance."""
    _, where, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(where))[inverse]


def _rates(assessment: Assessment, members: Sequence[int]) -> tuple[float, float, float]:
    """Shares of unparsed, failed (or missing) and truncated answers."""
    chosen = [assessment.answers[i] for i in members]
    count = max(1, len(chosen))
    failed = sum(a.status in ("error", "missing") for a in chosen)
    unparsed = sum(a.parsed is None for a in chosen) - failed
    return unparsed / count, failed / count, sum(a.status == "truncated" for a in chosen) / count


def _lines(
    spec: TaskSpec,
    samples: Sequence[Sample],
    results: dict[str, Assessment],
    verdicts: dict[str, Verdicts],
) -> Iterator[dict[str, Any]]:
    """Every sample with every row's answer, for browsing and pairing; `weight` where it is not 1."""
    ours = {name: found.scores() for name, found in results.items()}
    theirs = {name: found.scores(MEDEVALKIT) for name, found in results.items()}
    weights = {name: found.measures[SCORE][:, 1].tolist() for name, found in results.items()}
    for index, sample in enumerate(samples):
        yield {
            "task": spec.name,
            "id": sample.id,
            "kind": sample.kind,
            "type": sample.type,
            "group": sample.group,
            "images": [image.sha256 or image.locator for image in sample.record.images],
            "question": sample.question,
            "options": list(sample.options),
            "gold": sample.gold,
            "answers": {
                name: {
                    "text": found.answers[index].text,
                    "parsed": found.answers[index].parsed,
                    "rule": found.answers[index].rule,
                    "status": found.answers[index].status,
                    "score": ours[name][index] or 0.0,
                    "medevalkit": theirs[name][index],
                    **({"weight": weights[name][index]} if weights[name][index] != 1 else {}),
                    **(verdicts[name].brief(index) if name in verdicts else {}),
                }
                for name, found in results.items()
            },
        }
