"""The lines of samples.jsonl: every question with the answer of every row that covers it.

They are what a browser of samples, a comparison and the gate read; no number here is an estimate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from infimed.evaluation.judging.verdicts import Verdicts
from infimed.evaluation.report import MEDEVALKIT, SCORE, Column
from infimed.evaluation.sample import Sample
from infimed.evaluation.stored import RowResult


def sample_lines(
    task: str,
    samples: Sequence[Sample],
    results: Mapping[str, RowResult],
    columns: Sequence[tuple[Column, list[int]]],
    leaked: Mapping[str, str],
    verdicts: Mapping[str, Verdicts],
) -> Iterator[dict[str, Any]]:
    """One plain dict a question, in the order in which they were asked.

    Args:
        columns: sets of questions; a line names those it is in. leaked: how a question was found in
            training data, by its id. verdicts: a judge's, by row.
    """
    ours = {name: found.assessment.scores() for name, found in results.items()}
    theirs = {name: found.assessment.scores(MEDEVALKIT) for name, found in results.items()}
    whole = range(len(samples))
    covers = {
        name: whole if found.complete else frozenset(found.covered.tolist())
        for name, found in results.items()
    }
    part_of: list[list[str]] = [[] for _ in samples]
    for column, members in columns:
        for index in members:
            part_of[index].append(column.name)
    for index, sample in enumerate(samples):
        yield {
            "task": task,
            "id": sample.id,
            "kind": sample.kind,
            "type": sample.type,
            "group": sample.group,
            "images": [image.sha256 or image.locator for image in sample.record.images],
            "question": sample.question,
            "options": list(sample.options),
            "gold": sample.gold,
            "columns": part_of[index],
            **({"leak": leaked[sample.id]} if sample.id in leaked else {}),
            "answers": {
                name: {
                    **_answer(found, index, ours[name][index], theirs[name][index]),
                    **(verdicts[name].brief(index) if name in verdicts else {}),
                }
                for name, found in results.items()
                if index in covers[name]
            },
        }


def _answer(
    found: RowResult, index: int, ours: float | None, theirs: float | None
) -> dict[str, Any]:
    answer = found.assessment.answers[index]
    line: dict[str, Any] = {
        "text": answer.text,
        "parsed": answer.parsed,
        "rule": answer.rule,
        "status": answer.status,
        "score": ours or 0.0,
        "medevalkit": theirs,
    }
    weight = float(found.assessment.measures[SCORE][index, 1])
    if weight != 1:
        line["weight"] = weight
    if found.confidence is not None and np.isfinite(found.confidence[index]):
        line["confidence"] = float(found.confidence[index])
    return line
