"""Distributions of the measured signals against their limits, and the records nearest to a limit.

One pass over the signals table, column-wise: memory is a histogram for every measure and modality
and a short list of nearest records, whatever the number of records. An image counts once for every
record that shows it, because a limit drops records.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infimed.curation import ledger
from infimed.curation.ledger_columns import Decisions, Integers, batches, column_names
from infimed.curation.measures import IMAGE_PREFIX, MEASURES, Floats, Measure, threshold
from infimed.curation.rubric import Rubric

BINS: Final = 240
NEAREST: Final = 60
"""Records kept as candidates on each side of a limit; the gallery shows a few of them."""


@dataclass(frozen=True)
class Near:
    """A record close to a limit.

    Attributes:
        row: in the shards. value, limit: what was measured and the limit for its modality and task.
        distance: between them on the measure's axis, 0..1. keep: the verdict.
        image: number of the image in the record, -1 for text.
    """

    row: int
    value: float
    limit: float
    distance: float
    keep: bool
    image: int


@dataclass
class Strip:
    """One modality's values of one measure.

    Attributes:
        counts: int64 [BINS] over the measure's axis. n: values. beyond: of them on the objected side.
        limits: limits in force for records seen (several when they differ by task).
    """

    counts: Integers = field(default_factory=lambda: np.zeros(BINS, np.int64))
    n: int = 0
    beyond: int = 0
    limits: set[float] = field(default_factory=set)


@dataclass
class Distribution:
    """Values of one measure by modality, and the records nearest to its limit."""

    measure: Measure
    severity: str
    strips: dict[str, Strip] = field(default_factory=lambda: defaultdict(Strip))
    kept: list[Near] = field(default_factory=list)
    dropped: list[Near] = field(default_factory=list)


def read_distributions(
    out: Path,
    rubric: Rubric,
    decisions: Decisions,
    measures: Sequence[Measure] = MEASURES,
) -> list[Distribution]:
    """Distributions of every measure whose rule is in the rubric and whose signals are stored.

    Raises:
        DataError: the signals are missing or damaged.
    """
    stored = column_names(out, ledger.SIGNALS)
    made: list[tuple[Distribution, Any]] = []
    for measure in measures:
        found = threshold(measure, rubric)
        paths = [IMAGE_PREFIX + c if measure.of == "image" else c for c in measure.columns]
        if found is not None and stored.issuperset(paths):
            made.append((Distribution(measure, found[0].severity), found[1]))
    image = sorted({c for d, _ in made if d.measure.of == "image" for c in d.measure.columns})
    text = sorted({c for d, _ in made if d.measure.of == "text" for c in d.measure.columns})
    columns = ["row", "modality", "modalities", "task", *text]
    if image:
        columns += [IMAGE_PREFIX + name for name in dict.fromkeys([*image, "width"])]
    for batch in batches(out, ledger.SIGNALS, columns):
        _add(batch, made, decisions, bool(image), text)
    for distribution, _ in made:
        for side in (distribution.kept, distribution.dropped):
            side.sort(key=lambda near: (near.distance, near.row))
    return [distribution for distribution, _ in made]


def _add(
    batch: pa.RecordBatch,
    made: Sequence[tuple[Distribution, Any]],
    decisions: Decisions,
    images: bool,
    text: Sequence[str],
) -> None:
    rows = batch["row"].to_numpy()
    modality, modality_names = _codes(batch["modality"])
    claimed, claimed_names = _codes(_claimed(batch))
    task, task_names = _codes(batch["task"])
    values = {name: _floats(batch[name]) for name in text}
    shown: dict[str, Floats] = {}
    record = number = np.zeros(0, np.int64)
    if images:
        column = batch["images"]
        record = pc.list_parent_indices(column).to_numpy()
        flat = column.flatten()
        shown = {
            flat.type.field(i).name: _floats(flat.field(i)) for i in range(flat.type.num_fields)
        }
        starts = np.searchsorted(record, np.arange(len(rows)))
        number = np.arange(len(record)) - starts[record] if len(record) else number
    everyone = np.arange(len(rows))
    for distribution, limit in made:
        measure = distribution.measure
        of_image = measure.of == "image"
        at = record if of_image else everyone
        if not len(at):
            continue
        value = np.asarray(measure.value(shown if of_image else values), np.float64)
        if of_image:
            value = np.where(shown["width"] > 0, value, np.nan)  # 0: the image could not be read
        grids = [
            np.array([[limit.at(m, t) for t in task_names] for m in names], np.float64)
            for names in (modality_names, claimed_names)
        ]
        laxer = np.minimum if measure.side == "below" else np.maximum
        limits = laxer(grids[0][modality[at], task[at]], grids[1][claimed[at], task[at]])
        beyond = measure.beyond(value, limits)
        there = np.isfinite(value)
        bins = np.minimum((measure.position(value[there]) * BINS).astype(np.int64), BINS - 1)
        _count(
            distribution, modality[at][there], modality_names, bins, beyond[there], limits[there]
        )
        if measure.graded and distribution.severity == "drop":
            _nearest(
                distribution,
                rows[at],
                value,
                limits,
                beyond,
                number if of_image else None,
                decisions,
            )


def _count(
    distribution: Distribution,
    modality: Integers,
    names: Sequence[str],
    bins: Integers,
    beyond: NDArray[np.bool_],
    limits: Floats,
) -> None:
    table = np.bincount(modality * BINS + bins, minlength=len(names) * BINS).reshape(-1, BINS)
    over = np.bincount(modality, beyond, len(names)).astype(np.int64)
    for code in np.flatnonzero(table.sum(axis=1)).tolist():
        strip = distribution.strips[names[code]]
        strip.counts += table[code]
        strip.n += int(table[code].sum())
        strip.beyond += int(over[code])
        strip.limits.update(np.unique(limits[modality == code]).tolist())


def _nearest(
    distribution: Distribution,
    rows: Integers,
    values: Floats,
    limits: Floats,
    beyond: NDArray[np.bool_],
    number: Integers | None,
    decisions: Decisions,
) -> None:
    measure = distribution.measure
    with np.errstate(invalid="ignore"):
        gap = np.abs(measure.position(values) - measure.position(limits))
    alone = decisions.dropped_by(measure.rule)
    sides = (
        (distribution.kept, decisions.keep[rows] & ~beyond, True),
        (distribution.dropped, alone[rows] & beyond, False),
    )
    for held, belongs, keep in sides:
        ours = np.flatnonzero(belongs & np.isfinite(values))
        ours = ours[np.argsort(gap[ours], kind="stable")[:NEAREST]]
        held.extend(
            Near(int(rows[i]), float(values[i]), float(limits[i]), float(gap[i]), keep,
                 int(number[i]) if number is not None else -1)
            for i in ours
        )  # fmt: skip
        held.sort(key=lambda near: (near.distance, near.row, near.image))
        del held[NEAREST:]


def _claimed(batch: pa.RecordBatch) -> pa.Array:
    """The last of `signals.limits_modalities` of every row, column-wise."""
    claims, stated = batch["modalities"], pc.fill_null(batch["modality"], "")
    one = pc.and_(pc.equal(stated, ""), pc.equal(pc.list_value_length(claims), 1))
    one = pc.fill_null(one, False)
    # The only element of such lists: flattened, then put back at their rows.
    return pc.replace_with_mask(stated, one, claims.filter(one).flatten())


def _floats(column: pa.Array) -> Floats:
    return np.asarray(pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False), np.float64)


def _codes(column: pa.Array) -> tuple[Integers, list[str]]:
    """A text column as (code per row, names)."""
    encoded = pc.dictionary_encode(pc.fill_null(column, ""))
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()
