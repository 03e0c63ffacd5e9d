"""Shards of a few small images with questions, and a trainer over them; also run as one of several ranks.

``python tests/training/toy.py SHARDS FOLDER JSON`` trains as the rank that the environment names.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from infimed.core.recipe import Data, LearningRate, Stage, Train
from infimed.data.record import ImageRef, Message, Record, question_record
from infimed.data.shards import ShardSet, open_shards
from infimed.pipeline.index import read_index
from infimed.pipeline.planning import stage_job
from infimed.training.loop import Trainer
from infimed.training.parallel import World, ranks


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


def low_and_high(**changes: Any) -> list[Stage]:
    """Two stages: 4 tokens at 16 px, then 16 tokens at 32 px, both augmented."""
    rate = LearningRate(vision=1e-3, projector=1e-3, language=1e-3)
    common = {"row_tokens": 200, "learning_rate": rate, "augment": 0.5, "rows_per_step": 2}
    common |= changes
    return [
        Stage(name="pretrain-low", image_size=16, visual_tokens=4, epochs=2, **common),
        Stage(name="pretrain-high", image_size=32, visual_tokens=16, epochs=2, **common),
    ]


def toy_trainer(
    shards: ShardSet,
    model: Any,
    processor: Any,
    plan: Path,
    folder: Path,
    *,
    train: Train | None = None,
    blind: bool = False,
    stages: Sequence[Stage] | None = None,
    world: World | None = None,
) -> Trainer:
    """A trainer over these shards, in fp32 and without checkpoints between stages by default."""
    jobs = []
    for stage in stages or low_and_high():
        at = processor.with_grid(stage.image_size, stage.visual_tokens, stage.tiles)
        index = read_index(shards, at, plan, Data(root=plan), kept=None, blind=blind)
        jobs.append(stage_job(index, stage, 64, 1))
    return Trainer(
        model=model,
        processor=processor,
        shards=shards,
        jobs=jobs,
        train=train or Train(precision="fp32", checkpoint_seconds=1e9),
        folder=folder,
        blind=blind,
        world=world or World(),
    )


def main(shards: Path, folder: Path, settings: dict[str, Any]) -> None:
    """Train as one rank; dies without a word in the middle of step ``kill_at``."""
    with ranks() as world:
        train_rank(shards, folder, settings, world)


def train_rank(shards: Path, folder: Path, settings: dict[str, Any], world: World) -> None:
    from tests.conftest import tiny_model, tiny_processor

    stages = low_and_high(**settings.get("stage", {}))
    train = Train(**{"precision": "fp32", "checkpoint_seconds": 1e9, **settings.get("train", {})})
    trainer = toy_trainer(
        open_shards(shards), tiny_model(reducer=settings.get("reducer", "average")), tiny_processor(), folder / f"index-{world.rank}",
        folder, train=train, stages=stages, world=world,
    )  # fmt: skip
    if "kill_at" in settings:
        real = trainer._step

        def dying(*arguments: Any) -> Any:
            if trainer.position.step + 1 == settings["kill_at"]:
                os._exit(9)
            return real(*arguments)

        trainer._step = dying  # type: ignore[method-assign]
    trainer.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
