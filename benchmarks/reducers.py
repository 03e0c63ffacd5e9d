"""The token reducers against one another: the same steps in the same order, then the same questions.

    infimed run nano                                             # once: the clinic, imported and curated
    python benchmarks/reducers.py runs/nano --out reducers --dry-run
    python benchmarks/reducers.py runs/nano --out reducers --docs docs/reducers.md

Every arm trains `nano` at 96 px, where the tower gives 12 x 12 features: first to 16 tokens an image, then
to 36. Arms of a seed share plan, order and projector's start. With `--alone` the two that attend also train
without the average beneath them. Kill it anywhere; the same command goes on. Speeds are samples
per second of processor time on one thread, the tower included, so that what else runs counts little.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from infimed.core.console import err
from infimed.core.files import read_json, write_json
from infimed.core.recipe import Recipe, load_recipe
from infimed.core.run import RunFolder, environment
from infimed.core.statistics import compare_rows
from infimed.curation.ledger import kept_rows
from infimed.data.shards import open_shards
from infimed.evaluation.runner import evaluate
from infimed.evaluation.scoring import score
from infimed.inference.local import LocalModel
from infimed.model.attention import PACKED
from infimed.model.configuration import REDUCERS
from infimed.model.loading import base_processor
from infimed.model.modeling import count_parameters
from infimed.model.presets import PRESETS, preset
from infimed.model.reducers import LearnedReducer
from infimed.pipeline.dryrun import estimate
from infimed.pipeline.planning import stage_job
from infimed.pipeline.run import LEDGER, Prepared, base_folders, base_model, train_step
from infimed.training.device import autocast, set_threads
from infimed.training.estimate import meta_model
from infimed.training.flops import Flops
from infimed.training.optimizer import freeze, make_optimizer
from infimed.training.rows import PixelCache, RowBuilder
from infimed.training.step import RowLoss, row_weights
from reducers_table import render, write_block

TASKS = ("phantom_closed", "phantom_choice")
ALONE = "-alone"
LOW, HIGH = 16, 36
ROWS, ROUNDS = 2, 12
CHEST = {"modality": ["chest radiograph"], "question_type": ["presence", "laterality"]}
ALL = {"closed": 0.7, "open": 0.15, "choice": 0.4}
COLUMNS = {
    "yes/no": ("phantom_closed", {}),
    "presence": ("phantom_closed", {"type": "presence"}),
    "laterality": ("phantom_closed", {"type": "laterality"}),
    "choice": ("phantom_choice", {}),
}
"""What the table shows: a task, and what its questions have in common."""


def stages(epochs: float) -> list[dict[str, Any]]:
    """The schedule of every arm, `epochs` times as long as usual."""
    common = {
        "image_size": 96,
        "row_tokens": 2048,
        "schedule": "warmup-stable-decay",
        "learning_rate": {"projector": 1e-3, "language": 1e-3},
    }
    return [
        {**common, "name": "pretrain-start", "visual_tokens": LOW, "epochs": 8 * epochs,
         "decay": 0.1, "mixture": {"closed": 1}, "where": CHEST},
        {**common, "name": "pretrain-low", "visual_tokens": LOW, "epochs": 1.5 * epochs,
         "mixture": ALL},
        {**common, "name": "pretrain-high", "visual_tokens": HIGH, "epochs": 0.5 * epochs,
         "decay": 0.5, "mixture": ALL},
    ]  # fmt: skip


def arm_recipe(run: RunFolder, arm: str, seed: int, epochs: float) -> Recipe:
    """The run's recipe with the arm's reducer, this seed and the schedule above."""
    values = load_recipe(str(run / "recipe.yaml")).model_dump(mode="json")
    values["model"]["reducer"] = arm.removesuffix(ALONE)
    values["stages"] = stages(epochs)
    values["train"] |= {"seed": seed, "threads": 1, "feature_cache": True, "trackers": []}
    return Recipe.model_validate(values)


@contextmanager
def without_average() -> Iterator[None]:
    """Let the last layer add to what the layers found, as a resampler does that starts from nothing."""

    def forward(self: LearnedReducer, features: torch.Tensor, side: int) -> torch.Tensor:
        found = self.found(features, side)
        return found + self.out(found)

    usual, LearnedReducer.forward = LearnedReducer.forward, forward
    try:
        yield
    finally:
        LearnedReducer.forward = usual


def prepared_arm(run: RunFolder, recipe: Recipe, folder: Path) -> Prepared:
    """The run's shards and verdicts, with a folder of the arm's own to write to."""
    return Prepared(
        recipe,
        RunFolder(folder),
        open_shards(run / "shards"),
        base_processor(preset(recipe.model.preset), base_folders(recipe)[1]),
        kept_rows(run / LEDGER),
    )


def train_and_ask(run: RunFolder, out: Path, arm: str, seed: int, epochs: float, limit: int) -> str:
    """Train an arm and ask it; what is there already is not done again. Returns its label."""
    label = f"{arm}-seed{seed}"
    folder = out / label
    folder.mkdir(parents=True, exist_ok=True)
    arms = prepared_arm(run, arm_recipe(run, arm, seed, epochs), folder)
    with without_average() if arm.endswith(ALONE) else nullcontext():
        checkpoint = train_step(arms, blind=False)
        model = LocalModel.open(checkpoint)
        evaluate(model, arms.shards, TASKS, out / "evaluation", label=label, limit=limit)
    return label


def speeds(run: RunFolder, out: Path, epochs: float) -> dict[str, float]:
    """Samples per second of processor time in whole steps of the last stage, best of some rounds."""
    measured = out / "speeds.json"
    if measured.exists():
        known: dict[str, float] = read_json(measured)
        return known
    steps = {}
    for arm in REDUCERS:
        recipe = arm_recipe(run, arm, 1, epochs)
        arms = prepared_arm(run, recipe, out / f"{arm}-seed1")
        stage = recipe.stages[-1]
        model, processor = base_model(recipe)
        model.train().set_attention(PACKED)
        model.set_grid(stage.visual_tokens, stage.image_size)
        freeze(model, stage.learning_rate)
        optimizer = make_optimizer(model, stage, recipe.train)
        job = stage_job(arms.index(False), stage, recipe.train.window, 1)
        grid = processor.with_grid(stage.image_size, stage.visual_tokens)
        builder = RowBuilder(arms.shards, grid, PixelCache(arms.shards), seed=1)
        rows = [builder.build(job.plan.rows[n], n) for n in range(ROWS)]
        steps[arm] = (RowLoss(model), optimizer, rows)
    best = dict.fromkeys(REDUCERS, float("inf"))
    for _ in range(ROUNDS):
        for arm, (whole, optimizer, rows) in steps.items():
            began = time.process_time()
            for row in rows:
                weights = row_weights(row, "token")
                with autocast(torch.device("cpu"), "bf16"):
                    loss, _, _ = whole(row, weights.weights, weights.total * ROWS, 1)
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            best[arm] = min(best[arm], time.process_time() - began)
    samples = sum(len(row.record_ids) for row in steps["average"][2])
    found = {arm: samples / seconds for arm, seconds in best.items()}
    write_json(measured, found)
    return found


def sizes(name: str, image_size: int, visual_tokens: int) -> dict[str, dict[str, float]]:
    """Weights, and operations of one image forward by part, of every reducer in a preset."""
    found = {}
    for arm in REDUCERS:
        model = meta_model(PRESETS[name], arm).requires_grad_(False)
        model.set_grid(visual_tokens, image_size)
        flops = Flops(model, image_size)
        projector = flops.projector.operations(visual_tokens, False, False)
        found[arm] = {
            "parameters": count_parameters(model.model.multi_modal_reducer),
            "tower": flops.image(),
            "reducer": flops.reducing(visual_tokens),
            "projector": projector,
        }
    return found


def accuracies(out: Path, arms: list[str], seeds: list[int]) -> dict[str, Any]:
    """Per column and arm: the mean over seeds with its interval, minus average, and every seed's mean."""
    lines = [json.loads(line) for line in (out / "evaluation" / "samples.jsonl").open()]
    found: dict[str, Any] = {}
    for column, (task, wanted) in COLUMNS.items():
        chosen = [
            line for line in lines
            if line["task"] == task and all(line[k] == v for k, v in wanted.items())
        ]  # fmt: skip
        table = {
            arm: np.array([
                [line["answers"][f"{arm}-seed{seed}"]["score"] for line in chosen] for seed in seeds
            ])
            for arm in arms
        }  # fmt: skip
        made = compare_rows(
            [(scores.mean(0), None) for scores in table.values()],
            [line["group"] for line in chosen],
        )
        found[column] = {
            "questions": len(chosen),
            "arms": {
                arm: {
                    "mean": [own.mean, own.low, own.high],
                    # compare_rows gives the first minus the others.
                    "minus_average": [0.0 - limit for limit in (gap.mean, gap.high, gap.low)],
                    "seeds": table[arm].mean(1).tolist(),
                }
                for arm, own, gap in zip(arms, made.rows, made.differences, strict=True)
            },
        }
    return found


def dry_run(run: RunFolder, arms: list[str], seeds: list[int], epochs: float) -> None:
    """Print what would be trained, and about how long it takes."""
    seconds = 0.0
    for arm in arms:
        found = estimate(arm_recipe(run, arm, 1, epochs))
        seconds += sum(stage.seconds for stage in found)
        told = ", ".join(f"{s.stage} {s.steps} steps at {s.grid}" for s in found)
        print(f"{arm:20s}{told}: about {sum(s.seconds for s in found):.0f} s a seed")
    print(f"{len(arms)} arms, {len(seeds)} seeds: about {len(seeds) * seconds / 60:.0f} min of one "
          "free core, and half as long again to ask them")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run folder of infimed run nano")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="1,2", help="comma-separated")
    parser.add_argument("--epochs", type=float, default=1.0, help="times the usual schedule")
    parser.add_argument("--limit", type=int, default=1000, help="questions a task")
    parser.add_argument("--alone", action="store_true", help="also without the average beneath")
    parser.add_argument("--arm", help="train and ask this one alone, to share arms among processes")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--docs", type=Path, help="page whose block of tables is written anew")
    arguments = parser.parse_args()
    run, out = RunFolder(arguments.run), arguments.out
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    arms = list(REDUCERS)
    if arguments.alone:
        arms += [name + ALONE for name in ("resampler", "query")]
    set_threads(1)
    if arguments.dry_run:
        dry_run(run, arms, seeds, arguments.epochs)
        return
    labels = []
    for seed in seeds:
        for arm in [arguments.arm] if arguments.arm else arms:
            err.print(f"{arm}, seed {seed}")
            labels.append(train_and_ask(run, out, arm, seed, arguments.epochs, arguments.limit))
    if arguments.arm:
        return
    score(out / "evaluation", open_shards(run / "shards"), TASKS, labels)
    found = {
        "machine": environment(),
        "tokens": HIGH,
        "seeds": seeds,
        "epochs": arguments.epochs,
        "nano": sizes("nano", 96, HIGH),
        "infimed-1.7b": sizes("infimed-1.7b", 384, 144),
        "samples_per_second": speeds(run, out, arguments.epochs),
        "accuracy": accuracies(out, arms, seeds),
    }
    write_json(out / "reducers.json", found)
    tables = render(found)
    print(tables)
    if arguments.docs:
        write_block(arguments.docs, tables)


if __name__ == "__main__":
    main()
