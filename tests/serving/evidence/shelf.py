"""Shards and checkpoints for the tests of the index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infimed.core.files import write_json
from infimed.data.importing import import_data
from infimed.data.record import ImageRef, Record, question_record
from infimed.data.shards import open_shards
from infimed.inference.local import LocalModel
from infimed.model.loading import save_checkpoint
from tests.data.samples import encoded, noise, write_lines
from tests.serving.world import tiny_local

FREE = "CC-BY-4.0"


def record(patient: int, item: int, image: int, **more: Any) -> Record:
    """A question of a patient about an image."""
    common = {"source": "clinic", "license": FREE, "split": "train", "group": f"patient-{patient}", **more}  # fmt: skip
    return question_record(
        id=f"r{patient}-{item}",
        question=f"Is finding {item} of the lung present?",
        answer="yes",
        images=(ImageRef(f"{image}.png"),),
        task="closed",
        **common,
    )


def shards_of(folder: Path, records: list[Record], images: int) -> Path:
    """Shards of these records; image n is a random one of seed n."""
    source = folder / "in"
    source.mkdir(parents=True)
    for number in range(images):
        (source / f"{number}.png").write_bytes(encoded(noise(40, 48, seed=number)))
    write_lines(source / "records.jsonl", [each.to_json() for each in records])
    import_data(source, folder / "shards", records_per_shard=5)
    return folder / "shards"


def clinic(folder: Path, patients: int = 4) -> Path:
    """Each patient has an image of their own, two records about it, and one about an image of all."""
    records = [
        each
        for patient in range(patients)
        for each in (
            record(patient, 0, patient),
            record(patient, 1, patient),
            record(patient, 2, patients),
        )
    ]
    return shards_of(folder, records, patients + 1)


def save(folder: Path, local: LocalModel | None = None) -> Path:
    """A run of one checkpoint."""
    chosen = local or tiny_local()
    target = folder / "checkpoints" / "step-1"
    save_checkpoint(target, chosen.model, chosen.processor, about={"step": 1})
    return folder


def plan(run: Path, numbers: list[int]) -> None:
    """Say that the run was trained on these records of its own shards."""
    shards = open_shards(run / "shards")
    write_json(run / "data.json", {"shards": shards.data_hash})
    (run / "recipe.yaml").write_text("stages: [{name: first}]\n")
    (run / "plan").mkdir()
    table = pa.table({"row": np.arange(len(numbers)), "record": numbers})
    pq.write_table(table, run / "plan" / "first.parquet")
    shards.close()
