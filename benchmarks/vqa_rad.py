"""`infimed run mini` against the naive script: question-answer pairs a second, and accuracy on the same test.

    infimed run mini data.root=VQA_RAD --runs runs
    python benchmarks/vqa_rad.py train runs/mini --out naive      # hours; goes on where it was stopped
    python benchmarks/vqa_rad.py compare runs/mini --out naive

The naive script (benchmarks/naive.py) starts from the same base weights and the same projector, learns the
same kept questions at the full grid, padded, one image a question, in batches of similar length. Its rates
are those of the run's last stage times a warm-up and a cosine. Pairs a second are counted over all of its steps,
and over all stages of the run; give both the same cores (`taskset`), and nothing else beside them.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from infimed.core.console import out, progress
from infimed.core.recipe import LearningRate, load_recipe
from infimed.core.run import MetricsLog, RunFolder, environment
from infimed.core.seeds import stream
from infimed.evaluation.runner import evaluate
from infimed.evaluation.scoring import score
from infimed.inference.local import LocalModel
from infimed.model.loading import save_checkpoint
from infimed.pipeline.asking import FOLDER
from infimed.pipeline.report_results import MODEL
from infimed.pipeline.run import Prepared, align_projector, base_model, prepare
from infimed.training.optimizer import (
    factor,
    freeze,
    make_optimizer,
    optimizer_tensors,
    set_rates,
)
from infimed.training.rows import PixelCache
from naive import naive_step, stock

STATE, LABEL = "state.safetensors", "naive"


def questions(prepared: Prepared) -> list[int]:
    """Shard rows of the kept questions that a person asked; what `data.describe` made is left out."""
    index = prepared.index(blind=False)
    asked = [number for number in np.flatnonzero(index.train).tolist()
             if not json.loads(index.facts[number]).get("described")]  # fmt: skip
    return asked


def train(run: RunFolder, folder: Path, epochs: int, per_step: int, batch: int) -> None:
    """Train the naive arm; saves after every quarter of an epoch and goes on from there."""
    recipe = load_recipe(str(run / "recipe.yaml"))
    prepared = prepare(recipe, run)
    last = recipe.stages[-1]
    stage = last.model_copy(
        update={
            "warmup": 0.05,
            "schedule": "cosine",
            "learning_rate": LearningRate(projector=1e-3, language=1e-4),
        }
    )
    own, base = base_model(recipe)
    processor = base.with_grid(stage.image_size, stage.visual_tokens)
    own.set_grid(stage.visual_tokens, stage.image_size)
    align_projector(prepared, own, base, prepared.index(blind=False), recipe.stages[0])
    model = stock(own)
    model.train()
    freeze(model, stage.learning_rate)
    optimizer = make_optimizer(model, stage, recipe.train)
    chosen = questions(prepared)
    order = [
        row for epoch in range(epochs)
        for row in stream(recipe.train.seed, "naive", epoch).permutation(chosen).tolist()
    ]  # fmt: skip
    steps = -(-len(order) // per_step)
    folder.mkdir(parents=True, exist_ok=True)
    done, log = 0, MetricsLog(folder / "metrics.jsonl")
    if (folder / STATE).exists():
        kept = load_file(folder / STATE)
        done = int(kept.pop("done"))
        for name, parameter in model.named_parameters():
            parameter.data.copy_(kept.pop(name))
            for key in [key for key in kept if key.startswith(f"{name}|")]:
                optimizer.state[parameter][key.partition("|")[2]] = kept.pop(key)
    log.rewind(done)
    cache = PixelCache(prepared.shards)
    with progress("naive", steps, done, "steps") as advance:
        for number in range(done, steps):
            began = time.perf_counter()
            records = [
                prepared.shards.record(row)
                for row in order[number * per_step : (number + 1) * per_step]
            ]
            samples = [processor.encode(processor.conversation(r, answer=True)) for r in records]
            squares = [cache.square(r.images[0], stage.image_size) for r in records]
            set_rates(optimizer, factor(number, steps, stage))
            loss = naive_step(
                model, optimizer, samples, processor.pixels(squares), batch=batch, pad=processor.end_id
            )  # fmt: skip
            seconds = time.perf_counter() - began
            log.append(
                {"step": number + 1, "loss": loss, "samples": len(records), "seconds": seconds}
            )
            advance(1, loss=f"{loss:.3f}", samples_s=f"{len(records) / seconds:.2f}")
            if (number + 1) % max(1, steps // (4 * epochs)) == 0:
                kept = {name: p.detach() for name, p in model.named_parameters()}
                kept |= optimizer_tensors(model, optimizer)
                save_file({**kept, "done": torch.tensor(number + 1)}, folder / "partial")
                (folder / "partial").replace(folder / STATE)
    own.load_state_dict(model.state_dict())
    save_checkpoint(folder / "checkpoints" / f"step-{steps}", own, processor, about={"step": steps})


def speed(file: Path) -> dict[str, float]:
    """Pairs and seconds of all optimizer steps of a metrics file."""
    lines = MetricsLog(file).read()
    pairs = sum(line["samples"] for line in lines)
    seconds = sum(line["seconds"] + line.get("wait_seconds", 0.0) for line in lines)
    return {"pairs": pairs, "seconds": seconds, "pairs_per_second": pairs / seconds}


def compare(run: RunFolder, folder: Path) -> dict[str, Any]:
    """Ask both models the run's test; what is answered already is not asked again."""
    recipe = load_recipe(str(run / "recipe.yaml"))
    shards = prepare(recipe, run).shards
    settings = recipe.evaluation
    for label, trained in ((MODEL, run.path), (LABEL, folder)):
        model = LocalModel.open(trained, batch_size=settings.batch_size)
        evaluate(model, shards, settings.tasks, folder / FOLDER, label=label)
    board = score(
        folder / FOLDER, shards, settings.tasks, [MODEL, LABEL],
        prior_splits=tuple(recipe.data.train_splits),
    )  # fmt: skip
    out.print(board.render())
    ours, theirs = speed(run / "metrics.jsonl"), speed(folder / "metrics.jsonl")
    ratio = ours["pairs_per_second"] / theirs["pairs_per_second"]
    print(
        f"pairs a second: {ours['pairs_per_second']:.2f} and {theirs['pairs_per_second']:.2f}: {ratio:.2f} x"
    )
    return {"machine": environment(), "ours": ours, "naive": theirs, "ratio": ratio, "scores": board.to_dict()}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=["train", "compare"])
    parser.add_argument("run", type=Path, help="run folder of infimed run mini, trained")
    parser.add_argument("--out", type=Path, required=True, help="folder of the naive arm")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--samples", type=int, default=8, help="questions per optimizer step")
    parser.add_argument("--batch", type=int, default=4, help="sequences that are padded together")
    parser.add_argument("--json", type=Path, help="also write everything there")
    arguments = parser.parse_args()
    run = RunFolder(arguments.run)
    if arguments.what == "train":
        train(run, arguments.out, arguments.epochs, arguments.samples, arguments.batch)
        return
    found = compare(run, arguments.out)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
