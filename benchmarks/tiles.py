"""What tiles are worth: small findings at a small square, with and without tiles, and at a larger square.

    infimed run nano --runs runs
    python benchmarks/tiles.py runs/nano --out tiles

The demo's last checkpoint (phantoms of 192 x 192 pixels) goes on with the presence questions of its training
patients in three ways that differ in nothing else: as squares of 48 pixels (36 visual tokens an image); as these
and 2 x 2 tiles of 48 pixels (180 tokens), which hold the detail of 96 pixels; as squares of 96 pixels (144
tokens). Same questions, as many of them in a step on average, same rates. Then every arm is asked the closed questions
of all test patients. Intervals are over patients; the training seed is one.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from infimed.core.console import out
from infimed.core.recipe import LearningRate, Recipe, Stage, load_recipe
from infimed.core.run import MetricsLog, RunFolder, environment
from infimed.curation.ledger import kept_rows
from infimed.data.shards import ShardSet, open_shards
from infimed.evaluation.runner import evaluate
from infimed.evaluation.scoring import score
from infimed.inference.local import LocalModel
from infimed.model.loading import find_checkpoint, load_checkpoint
from infimed.pipeline.index import read_index
from infimed.pipeline.planning import stage_job
from infimed.pipeline.run import LEDGER
from infimed.training.device import set_threads
from infimed.training.loop import Trainer

TASK = "phantom_closed"
ARMS = {"48px-4-tiles": (48, 36, 4), "48px": (48, 36, 0), "96px": (96, 144, 0)}


def stage_of(name: str, epochs: float) -> Stage:
    """The stage of an arm: presence questions, at its grid."""
    image_size, visual_tokens, tiles = ARMS[name]
    return Stage(
        name=name,
        image_size=image_size,
        visual_tokens=visual_tokens,
        tiles=tiles,
        row_tokens=2048,
        samples_per_step=48,
        epochs=epochs,
        mixture={"closed": 1},
        where={"question_type": ["presence"]},
        learning_rate=LearningRate(projector=5e-4, language=7e-4),
    )


def train_arm(
    recipe: Recipe, run: RunFolder, shards: ShardSet, folder: Path, name: str, epochs: float
) -> None:
    """Train an arm in its own folder; one that is done is not trained again."""
    stage = stage_of(name, epochs)
    model, processor = load_checkpoint(find_checkpoint(run.path))
    at = processor.with_grid(stage.image_size, stage.visual_tokens, stage.tiles)
    kept = kept_rows(run / LEDGER) if recipe.curation.enabled else None
    index = read_index(shards, at, folder / "plan", recipe.data, kept=kept)
    job = stage_job(index, stage, recipe.train.window, recipe.train.seed)
    Trainer(
        model=model, processor=processor, shards=shards, jobs=[job], train=recipe.train,
        folder=folder / name,
    ).run()  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run folder of infimed run nano")
    parser.add_argument("--out", type=Path, required=True, help="folder of the arms")
    parser.add_argument("--epochs", type=float, default=0.6)
    arguments = parser.parse_args()
    run = RunFolder(arguments.run)
    recipe = load_recipe(str(run / "recipe.yaml"))
    shards = open_shards(run / "shards")
    set_threads(1)
    began = time.perf_counter()
    for name in ARMS:
        train_arm(recipe, run, shards, arguments.out, name, arguments.epochs)
        model = LocalModel.open(arguments.out / name)
        evaluate(model, shards, [TASK], arguments.out / "evaluation", label=name)
    board = score(
        arguments.out / "evaluation", shards, [TASK], list(ARMS),
        prior_splits=tuple(recipe.data.train_splits),
    )  # fmt: skip
    out.print(board.render())
    for name in ARMS:
        lines = MetricsLog(arguments.out / name / "metrics.jsonl").read()
        total = {key: sum(line[key] for line in lines) for key in ("samples", "tokens", "seconds")}
        print(
            f"{name}: {len(lines)} steps, {total['samples']:,} questions, {total['tokens']:,} tokens, "
            f"{total['seconds']:.0f} s of training"
        )
    print(f"{time.perf_counter() - began:.0f} s in all on {environment()['cpu']}, one thread")


if __name__ == "__main__":
    main()
