"""One cell done: data, training, questions, and a result that is complete or absent.

The folder `cells/KEY` is an ordinary run folder; `result.json` is written last and marks it done. A killed cell
goes on from its newest checkpoint and its stored answers, so its scores are those of an uninterrupted one. The
weights are removed in the end: what a study keeps is answers, curves and costs.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from infimed.core.files import atomic_open, read_json, write_json
from infimed.core.recipe import Recipe
from infimed.core.run import MetricsLog, RunFolder, environment
from infimed.evaluation.runner import evaluate
from infimed.evaluation.scoring import score
from infimed.inference.local import LocalModel
from infimed.model.loading import base_processor
from infimed.model.presets import preset
from infimed.pipeline.index import read_index
from infimed.pipeline.precision import settled
from infimed.pipeline.run import Prepared, base_folders, train_step
from infimed.pipeline.throughput import spent_seconds
from infimed.studies import energy
from infimed.studies.base import task_of
from infimed.studies.cells import BLIND, Cell
from infimed.studies.data import Bound, bind
from infimed.studies.equal import Indexes, equalised, totals
from infimed.training.device import set_threads
from infimed.training.hardware import Hardware, this_cpu

RESULT: Final = "result.json"
ANSWERS: Final = "answers.parquet"
MACHINE: Final = "machine.json"
LENGTHS: Final = "lengths-*.parquet"

SCHEMA: Final = pa.schema(
    [
        ("way", pa.string()), ("task", pa.string()), ("id", pa.string()), ("group", pa.string()),
        ("columns", pa.list_(pa.string())), ("score", pa.float64()),
    ]
)  # fmt: skip


def cell_folder(out: Path, cell: Cell) -> Path:
    """Where a cell's work lies."""
    return out / "cells" / cell.key


def is_done(out: Path, cell: Cell) -> bool:
    """Whether the cell's result is there."""
    return (cell_folder(out, cell) / RESULT).is_file()


def read_result(out: Path, cell: Cell) -> dict[str, Any]:
    """The result of a cell that is done.

    Raises:
        DataError: it is not.
    """
    found: dict[str, Any] = read_json(cell_folder(out, cell) / RESULT)
    return found


def do_cell(cell: Cell, out: Path, root: Path | None = None, *, keep: bool = False) -> None:
    """Train and ask a cell; nothing is done where its result is there.

    Args:
        out: folder of all studies. root: the user's data, for presets without a clinic. keep: keep the
            weights.

    Raises:
        InfiMedError: something the user can act on.
    """
    if is_done(out, cell):
        return
    run = RunFolder(cell_folder(out, cell))
    with run.locked():
        began = time.monotonic()
        resumed = (run / "recipe.yaml").is_file()
        store = out / "data"
        bound = bind(cell.base, cell.recipe, cell.damage, cell.damage_seed, store, root)
        recipe = _equalised(cell, bound, store, out, root)
        recipe = settled(recipe, run)
        run.adopt(recipe)
        set_threads(recipe.train.threads)
        prepared = _prepared(recipe, run, bound)
        before = energy.read()
        checkpoint = train_step(prepared, blind=cell.blind)
        burnt = None if resumed else energy.joules(before, energy.read())
        trained = time.monotonic()
        scores = _ask(cell, prepared, checkpoint, out)
        write_json(
            run / RESULT,
            {
                "cell": cell.key,
                "preset": cell.base.name,
                "seed": recipe.train.seed,
                "split": cell.split,
                "commit": commit(),
                "machine": environment(),
                "data": bound.counts,
                "data_sha256": bound.shards.data_hash,
                "spent": spent(MetricsLog(_trained(run, cell) / "metrics.jsonl").read()),
                "joules": burnt,
                "resumed": resumed,
                "wall_seconds": round(time.monotonic() - began, 2),
                "asking_seconds": round(time.monotonic() - trained, 2),
                "scores": scores,
            },
        )
        if not keep:
            shutil.rmtree(_trained(run, cell) / "checkpoints", ignore_errors=True)


def spent(lines: list[dict[str, Any]]) -> dict[str, float]:
    """What all steps of a training took: samples, tokens, operations, seconds, MFU, memory (GiB)."""
    seconds = sum(map(spent_seconds, lines))
    flops = sum(line["flops"] for line in lines)
    room = sum(line["peak_flops_per_second"] * spent_seconds(line) for line in lines)
    return {
        "steps": len(lines),
        "samples": sum(line["samples"] for line in lines),
        "tokens": sum(line["tokens"] for line in lines),
        "target_tokens": sum(line["target_tokens"] for line in lines),
        "flops": flops,
        # Operations of the tower that a feature cache saved; 0 without one.
        "saved_flops": sum(line.get("cached_flops", 0.0) for line in lines),
        "seconds": round(seconds, 3),
        "mfu": flops / room if room else 0.0,
        "memory_gib": max((line["memory_gib"] for line in lines), default=0.0),
    }


def _trained(run: RunFolder, cell: Cell) -> Path:
    return run / "blind" if cell.blind else run.path


def _indexes(recipe: Recipe, bound: Bound) -> Indexes:
    """Planning columns, measured once for all cells on these data."""
    processor = base_processor(preset(recipe.model.preset), base_folders(recipe)[1])
    found = {}
    for tiles, side in {stage.tiling for stage in recipe.stages}:
        at = processor.with_grid(side, processor.visual_tokens, tiles) if tiles else processor
        index = read_index(bound.shards, at, bound.run / "plan", recipe.data, kept=None)
        found[tiles, side] = index
    return found


def _equalised(cell: Cell, bound: Bound, store: Path, out: Path, root: Path | None) -> Recipe:
    """The cell's recipe with as much of a unit as its reference arm has."""
    equal = cell.equal
    if equal is None:
        return bound.recipe
    machine = _machine(out) if equal.unit == "seconds" else None
    other = bind(cell.base, equal.recipe, equal.damage, cell.damage_seed, store, root)
    wanted = totals(other.recipe, _indexes(other.recipe, other), machine).of(equal.unit)
    indexes = _indexes(bound.recipe, bound)
    return equalised(bound.recipe, indexes, equal.unit, wanted, machine)


def _machine(out: Path) -> Hardware:
    """This machine as it was first measured: a plan that depends on its speed stays the same."""
    file = out / MACHINE
    if not file.is_file():
        write_json(file, vars(this_cpu("fp32")))
    return Hardware(**read_json(file))


def _prepared(recipe: Recipe, run: RunFolder, bound: Bound) -> Prepared:
    """What training needs; token lengths that are known for these data are not measured again."""
    for known in (bound.run / "plan").glob(LENGTHS):
        (run / "plan").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(known, run / "plan" / known.name)
    processor = base_processor(preset(recipe.model.preset), base_folders(recipe)[1])
    return Prepared(recipe, run, bound.shards, processor, None)


def _ask(cell: Cell, prepared: Prepared, checkpoint: Path, out: Path) -> dict[str, Any]:
    """Ask every task in every way; the answers' scores, and their means by column."""
    folder = prepared.run / "evaluation"
    tasks = [task_of(name, cell.split, out / "tasks") for name in cell.tasks]
    model = LocalModel.open(checkpoint, batch_size=prepared.recipe.evaluation.batch_size)
    for way in cell.ways:
        evaluate(
            model,
            prepared.shards,
            tasks,
            folder,
            label=way,
            blank_images=way == "image-zeroed",
            no_images=way == BLIND,
            limit=cell.base.limit,
            control="image-swapped" if way == "image-swapped" else None,
        )
    score(folder, prepared.shards, tasks, cell.ways)
    lines = read_answers(folder / "samples.jsonl", dict(zip(_names(cell), cell.tasks, strict=True)))
    with atomic_open(prepared.run / ANSWERS) as handle:
        pq.write_table(pa.Table.from_pylist(lines, schema=SCHEMA), handle, compression="zstd")
    return means(lines)


def _names(cell: Cell) -> list[str]:
    """Names of the tasks as they were asked; those of another split have their own."""
    ending = "" if cell.split == "test" else f"_{cell.split}"
    return [f"{name}{ending}" for name in cell.tasks]


def read_answers(samples: Path, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """One line a way and question, from what scoring wrote.

    Args:
        names: name of a task as it was asked -> its name in the study.
    """
    found = []
    with samples.open(encoding="utf-8") as handle:
        for line in map(json.loads, handle):
            for way, answer in line["answers"].items():
                found.append(
                    {
                        "way": way,
                        "task": names[line["task"]],
                        "id": line["id"],
                        "group": line["group"],
                        "columns": line["columns"],
                        "score": float(answer["score"]),
                    }
                )
    return found


def means(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Way -> task -> column -> [mean, questions]."""
    sums: dict[tuple[str, str, str], list[float]] = {}
    for line in lines:
        for column in line["columns"]:
            held = sums.setdefault((line["way"], line["task"], column), [0.0, 0.0])
            held[0] += line["score"]
            held[1] += 1
    found: dict[str, Any] = {}
    for (way, task, column), (total, count) in sorted(sums.items()):
        found.setdefault(way, {}).setdefault(task, {})[column] = [total / count, int(count)]
    return found


def commit() -> str:
    """The commit of this code, with "+" where files differ from it; "unknown" outside of a checkout."""
    here = Path(__file__).parents[3]
    if not (here / ".git").exists():
        return "unknown"

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "src", "pyproject.toml")
    name = git("rev-parse", "--short=10", "HEAD")
    return f"{name}{'+' if changed else ''}" if name else "unknown"
