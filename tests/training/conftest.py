"""Shards of a few small images with questions, and a trainer over them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from infimed.core.recipe import LearningRate, Stage, Train
from infimed.data.importing import import_data
from infimed.data.record import ImageRef, Message, Record, question_record
from infimed.data.shards import ShardSet, open_shards
from infimed.packing.planner import Limits, plan_stage
from infimed.pipeline.planning import read_index, stage_samples
from infimed.training.loop import StageJob, Trainer


def write_records(folder: Path, images: int = 6) -> None:
    """Two closed questions, a choice and a caption an image, and some text without images."""
    random = np.random.default_rng(0)
    records = []
    for number in range(images):
        name = f"{number}.png"
        cv2.imwrite(str(folder / name), random.integers(0, 255, (40, 40, 3)).astype(np.uint8))
        shown = (ImageRef(name),)
        common = {"images": shown, "source": "toy", "group": f"p{number}"}
        answer = "yes" if number % 2 else "no"
        records += [
            question_record(
                id=f"a{number}", question="Is it left?", answer=answer, task="closed", **common
            ),
            question_record(
                id=f"b{number}", question="Any effusion?", answer="no", task="closed", **common
            ),
            question_record(
                id=f"c{number}",
                question="Which?",
                answer="left",
                task="choice",
                choices=("left", "right"),
                **common,
            ),
            question_record(
                id=f"d{number}",
                question="Describe.",
                answer="Nothing seen.",
                task="caption",
                **common,
            ),
        ]
        records.append(
            Record(
                id=f"t{number}",
                images=(),
                messages=(
                    Message("user", ("What is an effusion?",)),
                    Message("assistant", ("Fluid.",)),
                ),
                task="text",
                source="toy",
                group=f"p{number}",
            )
        )
    (folder / "records.jsonl").write_text("".join(r.to_json() + "\n" for r in records))


@pytest.fixture
def shards(tmp_path: Path) -> ShardSet:
    source = tmp_path / "source"
    source.mkdir()
    write_records(source)
    import_data(source, tmp_path / "shards", reader="records", workers=1)
    return open_shards(tmp_path / "shards")


def low_and_high() -> list[Stage]:
    """Two stages: 4 tokens at 16 px, then 16 tokens at 32 px, both augmented."""
    rate = LearningRate(vision=1e-3, projector=1e-3, language=1e-3)
    common = {"row_tokens": 200, "learning_rate": rate, "augment": 0.5, "rows_per_step": 2}
    return [
        Stage(name="pretrain-low", image_size=16, visual_tokens=4, epochs=2, **common),
        Stage(name="pretrain-high", image_size=32, visual_tokens=16, epochs=2, **common),
    ]


@pytest.fixture
def make_trainer(shards: ShardSet, make_model, processor, tmp_path: Path) -> Callable[..., Trainer]:  # type: ignore[no-untyped-def]
    def make(
        folder: str, *, train: Train | None = None, blind: bool = False, stages=None
    ) -> Trainer:
        index = read_index(shards, processor, tmp_path / "plan", kept=None, blind=blind)
        jobs = [
            StageJob(
                stage,
                plan_stage(
                    stage_samples(index, stage),
                    Limits(stage.row_tokens, stage.max_images, stage.visual_tokens, 64),
                    seed=1,
                    epochs=stage.epochs,
                ),
            )
            for stage in (stages or low_and_high())
        ]
        return Trainer(
            model=make_model(),
            processor=processor,
            shards=shards,
            jobs=jobs,
            train=train or Train(precision="fp32", checkpoint_seconds=1e9),
            folder=tmp_path / folder,
            blind=blind,
        )

    return make
