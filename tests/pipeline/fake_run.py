"""A run folder with everything in it but trained weights: real shards, ledger and scores.

A small phantom clinic with a few broken and a few hostile records is imported and curated by the
product itself; scripted models of known skill answer; only the training log is written by hand.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infimed.core.files import write_json, write_text
from infimed.core.recipe import Recipe, load_recipe
from infimed.core.run import RunFolder
from infimed.core.seeds import stream
from infimed.curation.engine import curate
from infimed.data.importing import import_data
from infimed.data.phantom import generate_patient
from infimed.data.phantom.clinic import split_patients
from infimed.data.record import ImageRef, Record, question_record
from infimed.data.shards import ShardSet, open_shards
from infimed.evaluation.runner import evaluate
from infimed.evaluation.scoring import score
from infimed.inference.requests import Request
from infimed.inference.stubs import Scripted

PAYLOAD = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> Is it left?"
SKILL = {"model": 0.86, "image-zeroed": 0.52, "trained-blind": 0.53, "low-grid": 0.71}
TASKS = ["phantom_closed", "phantom_choice", "phantom_report"]


def fake_recipe(*overrides: str) -> Recipe:
    return load_recipe(
        "nano",
        [
            "name=demo",
            f"evaluation.tasks=[{', '.join(TASKS)}]",
            "data.phantom.patients=60",
            *overrides,
        ],
    )


def hostile_records(some: Record) -> list[Record]:
    """Records with markup, a missing image, an empty answer, an exact duplicate, odd characters."""
    common = {"source": "phantom", "license": "Apache-2.0", "images": some.images}
    facts = {"question_type": "presence", "modality": "chest radiograph"}
    return [
        question_record(
            id="payload", question=PAYLOAD, answer="yes", task="closed", split="test", group="hostile", facts=facts, **common
        ),
        question_record(
            id="odd", question="Is\u202e it\x07 there?\x1b[31m", answer="no", task="closed", split="test", group="odd",
            facts=facts, **common,
        ),
        question_record(
            id="lost", question="Where?", answer="left", task="open", **{**common, "images": (ImageRef("images/none.png"),)}
        ),
        question_record(id="empty", question="Is there an effusion?", answer=" ?", task="open", group="e", **common),
        question_record(
            id="cut", question="Describe the image.", answer="The image shows a the the the the the the and", task="caption",
            group="c", **common,
        ),
        replace(some, id=some.id + "-again"),
    ]  # fmt: skip


def write_source(folder: Path, patients: int, size: int) -> None:
    splits = split_patients(patients, 5, {"train": 0.6, "test": 0.4})
    records: list[Record] = []
    for index, split in enumerate(splits):
        case = generate_patient(5, index, size=size, split=split)
        for image in case.images:
            file = folder / image.locator
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(
                str(file), image.pixels if image.pixels.ndim == 2 else image.pixels[..., ::-1]
            )
        records.extend(case.records)
    records.extend(
        hostile_records(next(r for r in records if r.split == "train" and r.task == "closed"))
    )
    write_text(folder / "records.jsonl", "".join(r.to_json() + "\n" for r in records))


def write_metrics(path: Path, recipe: Recipe, steps: int, blind: bool = False) -> None:
    """A log with the fields of the training loop and plausible numbers."""
    lines, number = [], 0
    noise = np.random.default_rng(3)
    for at, stage in enumerate(recipe.stages):
        for step in range(steps):
            number += 1
            tokens = int(
                stage.row_tokens * (0.97 - 0.01 * at) * (1 + 0.01 * noise.standard_normal())
            )
            fill = min(1.0, tokens / stage.row_tokens)
            speed = (42_000 if stage.visual_tokens < 100 else 30_000) * (1.4 if blind else 1)
            seconds = tokens / speed * (1 + 0.08 * abs(noise.standard_normal()))
            share = (
                min(1.0, (step + 1) / (0.05 * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))
            )
            lines.append(
                {
                    "step": number,
                    "stage": stage.name,
                    "tokens": tokens,
                    "target_tokens": tokens // 6,
                    "samples": 22 if stage.visual_tokens < 100 else 10,
                    "documents": 9,
                    "images": 9,
                    "fill": round(fill, 4),
                    "loss": (1.1 if blind else 0.5)
                    + 4 * math.exp(-number / 60)
                    + 0.06 * noise.standard_normal(),
                    "gradient_norm": 0.4 + 2 * math.exp(-step / 20) * abs(noise.standard_normal()),
                    "learning_rate": {
                        k: share * v for k, v in stage.learning_rate.model_dump().items() if v
                    },
                    "flops": tokens * 2.4e7,
                    "seconds": round(seconds, 4),
                    "wait_seconds": 0.0012,
                    "tokens_per_second": round(tokens / seconds, 1),
                    "padded_tokens_per_second": round(stage.row_tokens / seconds, 1),
                    "samples_per_second": 100.0,
                    "memory_gib": 1.2 + 0.1 * at,
                }
            )
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))


def scripted(label: str, shards: ShardSet, skill: float) -> Scripted:
    """Right with probability `skill`, fixed by label and id; one closed answer in forty is unreadable.

    Every label but the blind one's asks the same model, as in a real run.
    """
    records = {record.id: record for record in shards}
    reports = [record.response for record in records.values() if record.task == "report"]

    def answer(request: Request) -> str:
        record = records[request.id.partition("#")[0]]
        draw = stream(7, label, request.id)
        right = draw.random() < skill
        if record.task == "choice":
            at = request.choices.index(str(record.answer))
            return f"{'ABCDEFGH'[at if right else (at + 1) % len(request.choices)]}"
        if record.task == "report":
            return record.response if right else reports[int(draw.integers(len(reports)))]
        if record.id == "payload":
            return PAYLOAD
        if draw.random() < 0.025:
            return "It may be so; correlate clinically."
        yes = (record.answer == "yes") == right
        return "yes" if yes else "no"

    model = "scripted-blind" if label == "trained-blind" else "scripted-model"
    return Scripted(model, answer, batch_size=512)


def make_run(
    folder: Path,
    *,
    patients: int = 60,
    size: int = 96,
    steps: int = 40,
    recipe: Recipe | None = None,
) -> Path:
    """Everything that a finished run leaves behind, except tensors."""
    recipe = recipe or fake_recipe()
    run = RunFolder(folder)
    source = folder.with_name(folder.name + "-source")
    source.mkdir(parents=True)
    folder.mkdir(parents=True)
    write_source(source, patients, size)
    import_data(source, folder / "shards", reader="records", workers=1)
    shards = open_shards(folder / "shards")
    run.adopt(recipe)
    run.check_data({"shards": shards.data_hash})
    if recipe.curation.enabled:
        curate(shards, folder / "ledger.parquet")
    write_metrics(folder / "metrics.jsonl", recipe, steps)
    for stage in recipe.stages:
        (folder / "plan").mkdir(exist_ok=True)
        pq.write_table(
            pa.table({"row": np.arange(steps)}), folder / "plan" / f"{stage.name}.parquet"
        )
    write_metrics(folder / "blind" / "metrics.jsonl", recipe, steps, blind=True)
    write_json(
        folder / "checkpoints" / f"step-{steps * len(recipe.stages)}" / "manifest.json",
        {"files": {}, "fingerprint": "0123456789abcdef"},
    )
    if recipe.evaluation.tasks:
        for label, skill in SKILL.items():
            evaluate(
                scripted(label, shards, skill),
                shards,
                recipe.evaluation.tasks,
                folder / "evaluation",
                label=label,
            )
        score(folder / "evaluation", shards, recipe.evaluation.tasks, list(SKILL))
    shards.close()
    run.status("report")
    return folder


if __name__ == "__main__":
    import sys

    make_run(Path(sys.argv[1]), patients=int(sys.argv[2]), size=192, steps=300)
