"""The columns of a table: sets of questions by kind, by the task's subsets, and by what records state.

A breakdown makes a column per value of a fact, or per interval of a number. Pure functions of the
samples; a column without a question does not exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import isfinite, nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infimed.core.errors import UsageError
from infimed.evaluation.report import Column
from infimed.evaluation.sample import Sample
from infimed.evaluation.spec import FIELDS, Breakdown, TaskSpec, field_values, matches


def parse_breakdowns(text: str) -> tuple[Breakdown, ...]:
    """Breakdowns from ``facts.sex,facts.age:18:65``: a field, and the edges of its intervals.

    Raises:
        UsageError: a field that no record has, or edges that are no rising numbers.
    """
    found = []
    for part in (piece.strip() for piece in text.split(",")):
        if not part:
            continue
        field, *edges = part.split(":")
        try:
            numbers = tuple(float(edge) for edge in edges)
        except ValueError:
            numbers = (nan,)
        if not all(map(isfinite, numbers)) or any(b <= a for a, b in pairwise(numbers)):
            raise UsageError(
                "the edges of intervals are rising numbers",
                where="--by",
                seen=part,
                accepted="facts.age:18:65 makes <18, 18-65 and >=65",
            )
        if field not in FIELDS and not field.startswith(("facts.", "image.")):
            raise UsageError(
                "records have no such field",
                where="--by",
                seen=field,
                accepted=[*FIELDS, "facts.NAME", "image.NAME"],
                fix="infimed data inspect shows what records state",
            )
        found.append(Breakdown(field=field, edges=numbers))
    return tuple(found)


def columns_of(
    samples: Sequence[Sample], spec: TaskSpec, further: Sequence[Breakdown] = ()
) -> list[tuple[Column, list[int]]]:
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
    for breakdown in (*spec.breakdowns, *added(spec, further)):
        found.extend(_breakdown_columns(samples, breakdown))
    return [(column, members) for column, members in found if members]


def added(spec: TaskSpec, further: Sequence[Breakdown]) -> list[Breakdown]:
    """Those of `further` that the task does not make itself, by names that no other has."""
    taken = {part.name for part in spec.breakdowns}
    own = {(part.field, part.edges) for part in spec.breakdowns}
    found = []
    for part in further:
        if (part.field, part.edges) in own:
            continue
        named = part.model_copy(update={"title": part.field}) if part.name in taken else part
        if named.name in taken:
            named = part.model_copy(
                update={"title": f"{part.field} {':'.join(f'{edge:g}' for edge in part.edges)}"}
            )
        taken.add(named.name)
        own.add((part.field, part.edges))
        found.append(named)
    return found


def not_stated(samples: Sequence[Sample], further: Sequence[Breakdown]) -> list[str]:
    """A note per breakdown that was asked for and that not every record can be put into."""
    notes = []
    for part in further:
        members = [own for _, own in _breakdown_columns(samples, part)]
        stated = len({index for own in members for index in own})
        if stated < len(samples):
            notes.append(f"{part.field} is stated for {stated:,} of {len(samples):,} questions")
    return notes


def renumbered(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Group numbers of a part of the samples, again by first appearance."""
    _, where, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(where))[inverse]


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
