"""Labels for the evaluator: from injected damage, and from people.

Injected: a clean record is ok in every dimension; a damaged one is not ok in the dimensions of its
operator and ok in the others, so that the evaluator learns which dimension to name. Operators that are
held out never give a label.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from infimed.core.errors import DataError, nearest_name
from infimed.curation.corruption import HELD_OUT, OPERATORS
from infimed.curation.corruption.running import Judged, Outcome
from infimed.curation.findings import DIMENSIONS

Labels = dict[str, list[bool | None]]
_TRUE = frozenset({"1", "true", "yes", "ok", "2"})
_FALSE = frozenset({"0", "false", "no", "bad"})


def rows_and_labels(outcome: Outcome) -> tuple[list[Mapping[str, tuple[float, ...]]], Labels]:
    """(features of every record, dimension -> label) of a benchmark run, held-out operators left out."""
    dimensions = {operator.number: operator.dimensions for operator in OPERATORS}
    rows: list[Mapping[str, tuple[float, ...]]] = [judged.features for judged in outcome.clean]
    ok: Labels = {name: [True] * len(rows) for name in DIMENSIONS}
    for case in outcome.cases:
        if case.operator in HELD_OUT:
            continue
        rows.append(case.judged.features)
        for name in DIMENSIONS:
            ok[name].append(name not in dimensions[case.operator])
    return rows, ok


def read_labels(path: Path) -> list[tuple[str, str, bool]]:
    """(record id, dimension, ok) from JSON lines or CSV with the columns record_id, dimension, ok.

    ``ok`` is true/false, yes/no, 1/0, ok/bad, or 2 of the scale 0/1/2; "u", "1/2" and empty mean that
    the rater could not tell, and are left out.

    Raises:
        DataError: missing file, missing column, unknown dimension or value; names the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("the labels cannot be read", where=str(path)) from error
    made: list[tuple[str, str, bool]] = []
    for number, row in _table(text, path):
        where = f"{path}:{number}"
        try:
            record_id, dimension, said = row["record_id"], row["dimension"], row["ok"]
        except KeyError as error:
            raise DataError(
                "a label lacks a column",
                where=where,
                seen=sorted(map(str, row)),
                accepted="record_id, dimension, ok",
            ) from error
        if dimension not in DIMENSIONS:
            raise DataError(
                "unknown dimension",
                where=where,
                seen=dimension,
                accepted=DIMENSIONS,
                nearest=nearest_name(str(dimension), DIMENSIONS),
            )
        value = str(said).strip().casefold()
        if value in ("", "u", "none", "null", "1/2"):
            continue
        if value not in _TRUE | _FALSE:
            raise DataError("ok is yes or no", where=where, seen=said, accepted="yes, no, u")
        made.append((str(record_id), str(dimension), value in _TRUE))
    return made


def _table(text: str, path: Path) -> Iterable[tuple[int, Mapping[str, Any]]]:
    lines = text.splitlines()
    if path.suffix.lower() in (".csv", ".tsv"):
        delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        reader = csv.DictReader(lines, delimiter=delimiter)
        for row in reader:
            yield reader.line_num, {str(k): v for k, v in row.items() if v is not None}
        return
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError("not JSON", where=f"{path}:{number}") from error
        if not isinstance(value, dict):
            raise DataError("a label is an object", where=f"{path}:{number}")
        yield number, value


def human_labels(
    labels: Sequence[tuple[str, str, bool]], ids: Sequence[str], judged: Sequence[Judged]
) -> tuple[list[Mapping[str, tuple[float, ...]]], Labels]:
    """(features, labels) of the labelled records; of several raters the majority counts, ties are unknown.

    Raises:
        DataError: none of the ids is among the records.
    """
    votes: dict[tuple[str, str], int] = {}
    for record_id, dimension, ok in labels:
        votes[record_id, dimension] = votes.get((record_id, dimension), 0) + (1 if ok else -1)
    place = {record_id: index for index, record_id in enumerate(ids)}
    known = sorted({record_id for record_id, _ in votes if record_id in place})
    if not known:
        raise DataError(
            "none of the labelled records is in the data",
            seen=[record_id for record_id, _, _ in labels[:3]],
            fix="label records of the same shards",
        )
    rows: list[Mapping[str, tuple[float, ...]]] = [judged[place[i]].features for i in known]
    ok_labels: Labels = {
        name: [None if not (v := votes.get((i, name), 0)) else v > 0 for i in known]
        for name in DIMENSIONS
    }
    return rows, ok_labels
