"""Tier B: the grounding gap. Does a checkpoint of ours need the image of a record to find its answer?

For every record the loss of its answer is computed three times: with its images, without any, and with
the images of other patients (same number, same modality where there are such). A record whose answer
is no easier with its own images than without them can be answered blind, or its images are the wrong
ones; one that is easier with another patient's is suspicious. The model must have been trained on
other records: one that has seen a wrong answer finds it easy.

Written beside the ledger: ``grounding.parquet`` (a row a record) and ``grounding.json``. Finished chunks
wait in ``grounding.parts``, so a killed run goes on. Cost: one pass per image and three short ones per
question; questions about one image share it, and so do those for which it is the foreign one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infimed.core.files import atomic_open, read_json, write_json
from infimed.core.seeds import stream
from infimed.curation.engine import RecordSource
from infimed.curation.grounding_pass import Measured, measure_sets
from infimed.curation.grounding_sets import arranged, foreign_keys, image_sets
from infimed.curation.grounding_table import (
    GROUNDING_FILE,
    PARTS,
    SCHEMA,
    SUMMARY_FILE,
    GroundingSummary,
    summarise,
)
from infimed.curation.judge import check_same_data
from infimed.inference.local import LocalModel

SETS_PER_CHUNK: Final = 64
"""Distinct image sets a chunk; what is lost at most when killed."""

OnProgress = Callable[[int], None]


def measure_grounding(
    folder: Path,
    shards: RecordSource,
    local: LocalModel,
    *,
    swaps: int = 1,
    limit: int | None = None,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> GroundingSummary:
    """Measure every record and write ``grounding.parquet`` beside the ledger in `folder`.

    Args:
        swaps: how many foreign image sets each record is tried with; their losses are averaged.
        limit: measure a random part of so many records; the others have no row.
        on_progress: called with the number of further records done.

    Raises:
        DataError: no ledger, one of other shards, or the disk is full.
    """
    check_same_data(folder, shards)
    rows = np.arange(len(shards))
    if limit is not None and limit < len(rows):
        rows = np.sort(stream(seed, "grounding-limit").permutation(rows)[:limit])
    numbers = [int(row) for row in rows]
    key = {
        "data": shards.data_hash,
        "model": local.fingerprint,
        "swaps": swaps,
        "limit": limit,
        "seed": seed,
    }
    report = on_progress or (lambda n: None)
    order = arranged(image_sets([(row, shards.record(row)) for row in numbers]), seed)
    foreign = foreign_keys(order, swaps)
    examples = {each.key: each.rows[0] for each in order}
    parts = _parts(folder, key)
    shown: set[int] = set()
    for chunk, first in enumerate(range(0, len(order), SETS_PER_CHUNK)):
        sets = order[first : first + SETS_PER_CHUNK]
        count = sum(len(each.rows) for each in sets)
        file = parts / f"{chunk:06d}.parquet"
        if not file.is_file():
            measured = measure_sets(local, shards, sets, foreign, examples)
            made = [_row(each, shards.record(each.row).id) for each in measured]
            with atomic_open(file) as handle:
                pq.write_table(pa.Table.from_pylist(made, schema=SCHEMA), handle)
        shown.update(row for each in sets for row in each.rows)
        report(count)
    table = _joined(parts, [row for row in numbers if row not in shown], shards)
    with atomic_open(folder / GROUNDING_FILE) as handle:
        pq.write_table(table, handle, compression="zstd")
    summary = summarise(table)
    write_json(folder / SUMMARY_FILE, {"key": key, **asdict(summary)})
    shutil.rmtree(parts, ignore_errors=True)
    return summary


def _parts(folder: Path, key: Mapping[str, Any]) -> Path:
    """The folder of finished chunks; those of other data, model or settings are removed."""
    parts = folder / PARTS
    stamp = parts / "key.json"
    if parts.exists() and (not stamp.is_file() or read_json(stamp) != json.loads(json.dumps(key))):
        shutil.rmtree(parts)
    parts.mkdir(parents=True, exist_ok=True)
    write_json(stamp, dict(key))
    return parts


def _row(measured: Measured, record_id: str) -> dict[str, Any]:
    own, without, swapped = measured.loss, measured.loss_without, measured.loss_swapped
    return {
        "row": measured.row, "record_id": record_id, "status": measured.status,
        "target_tokens": measured.target_tokens, "loss": own, "loss_without": without,
        "loss_swapped": swapped, "swaps": measured.swaps,
        "gap_without": None if own is None or without is None else without - own,
        "gap_swapped": None if own is None or swapped is None else swapped - own,
    }  # fmt: skip


def _joined(parts: Path, blind: Sequence[int], shards: RecordSource) -> pa.Table:
    rows: list[dict[str, Any]] = [
        {"row": row, "record_id": shards.record(row).id, "status": "no image", "swaps": 0}
        for row in blind
    ]
    for file in sorted(parts.glob("*.parquet")):
        rows.extend(pq.read_table(file).to_pylist())
    rows.sort(key=lambda row: row["row"])
    return pa.Table.from_pylist(rows, schema=SCHEMA)
