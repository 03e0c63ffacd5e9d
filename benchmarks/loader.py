"""The loader: rows a second against what training consumes, and memory over many records.

    python benchmarks/loader.py feed             # recipe nano, two workers, one training thread
    python benchmarks/loader.py memory           # 200,000 records, resident memory every 50 rows
    python benchmarks/loader.py feed memory --json loader.json

feed    A phantom clinic is written, imported and planned as recipe `nano` says. For every stage the same
        rows are built by the loader alone and trained on alone, in turns; figures are medians. "decoded"
        decodes every image each time it is shown, "kept" has them in the pixel cache already.
memory  Records with small images are written and imported, and the loader runs twice over their whole plan.
        In the first pass the bounded caches of records and pixels fill; the slope is a least-squares line
        through the samples of the second.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from infimed.core.allocator import TUNABLES, VARIABLE
from infimed.core.recipe import Recipe, load_recipe
from infimed.core.run import RunFolder, environment
from infimed.data.importing import import_data
from infimed.data.record import ImageRef, question_record
from infimed.data.shards import open_shards
from infimed.model.attention import PACKED
from infimed.pipeline.planning import plan_jobs
from infimed.pipeline.run import base_model, import_step, prepare
from infimed.training.device import autocast
from infimed.training.loader import rows_from
from infimed.training.meter import resident_gib
from infimed.training.optimizer import freeze, make_optimizer, set_rates
from infimed.training.rows import PixelCache, Row, RowBuilder
from infimed.training.step import RowLoss, row_weights

CPU = torch.device("cpu")
STAGES = ("pretrain-low", "pretrain-high", "sft-broad")
QUESTIONS = 10
"""Questions about an image in the memory benchmark."""


def consumption(recipe: Recipe, model: Any, stage: Any) -> Callable[[Row], None]:
    """One optimizer step on a row, as the trainer does it."""
    model.train()
    model.set_attention(PACKED)
    model.set_grid(stage.visual_tokens, stage.image_size)
    freeze(model, stage.learning_rate)
    optimizer = make_optimizer(model, stage, recipe.train)
    whole = RowLoss(model, question_weight=stage.question_weight)

    def step(row: Row) -> None:
        weights = row_weights(row, stage.weighting)
        with autocast(CPU, recipe.train.precision):
            loss, _, _ = whole(row, weights.weights, weights.total, 1.0)
        loss.backward()
        learning = [p for group in optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(learning, recipe.train.clip)
        set_rates(optimizer, 1e-3)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def feed(
    folder: Path, *, patients: int, rows: int, repeats: int, workers: int
) -> list[dict[str, Any]]:
    """Rows a second of loader and training, a stage of recipe `nano` after the other."""
    recipe = load_recipe("nano", [f"data.phantom.patients={patients}", "curation.enabled=false"])
    run = RunFolder(folder)
    run.adopt(recipe)
    import_step(recipe, run)
    prepared = prepare(recipe, run)
    torch.set_num_threads(recipe.train.threads)
    model, processor = base_model(recipe)
    results = []
    for job in plan_jobs(prepared.indexes(blind=False), recipe):
        if job.stage.name not in STAGES:
            continue
        numbers = list(range(min(rows, len(job.plan.rows))))
        at = processor.with_grid(job.stage.image_size, job.stage.visual_tokens)

        def built(cache: PixelCache, at: Any = at, job: Any = job, numbers: Any = numbers) -> float:
            builder = RowBuilder(prepared.shards, at, cache, seed=1, augment=job.stage.augment)
            began = time.perf_counter()
            made = sum(1 for _ in rows_from(builder, job.plan.rows, numbers, 2 * workers, workers))
            return made / (time.perf_counter() - began)

        kept = PixelCache(prepared.shards)
        step = consumption(recipe, model, job.stage)
        builder = RowBuilder(prepared.shards, at, kept, seed=1)
        trained_on = [builder.build(job.plan.rows[number], number) for number in numbers]
        step(trained_on[0])
        rates: dict[str, list[float]] = {"training": [], "decoded": [], "kept": []}
        for _ in range(repeats):
            rates["decoded"].append(built(PixelCache(prepared.shards, budget_bytes=0)))
            rates["kept"].append(built(kept))
            began = time.perf_counter()
            for row in trained_on[:: max(1, len(trained_on) // 12)]:
                step(row)
            rates["training"].append(
                len(trained_on[:: max(1, len(trained_on) // 12)]) / (time.perf_counter() - began)
            )
        results.append(
            {
                "stage": job.stage.name,
                "rows": len(numbers),
                "images_per_row": sum(row.images for row in trained_on) / len(trained_on),
                "records_per_row": sum(len(row.record_ids) for row in trained_on) / len(trained_on),
                **{name: statistics.median(values) for name, values in rates.items()},
            }
        )
    return results


def write_source(folder: Path, records: int) -> Path:
    """Records with `QUESTIONS` questions an image of 64 pixels."""
    folder.mkdir()
    random = np.random.default_rng(0)
    with (folder / "records.jsonl").open("w") as lines:
        for number in range(records // QUESTIONS):
            name = f"{number}.png"
            cv2.imwrite(str(folder / name), random.integers(0, 255, (64, 64), dtype=np.uint8))
            for question in range(QUESTIONS):
                record = question_record(
                    id=f"{number}-{question}",
                    question=f"Is finding {question} of patient {number} on the left side?",
                    answer="yes" if (number + question) % 3 else "no, it is on the right",
                    images=(ImageRef(name),),
                    task="closed",
                    source="synthetic",
                    group=str(number),
                )
                lines.write(record.to_json() + "\n")
    return folder


def sampled(rows: Iterator[Row], every: int) -> list[tuple[int, float]]:
    """(records so far, resident MB) every so many rows."""
    samples, records = [], 0
    for number, row in enumerate(rows, start=1):
        records += len(row.record_ids)
        if number % every == 0:
            samples.append((records, resident_gib() * 1024))
    return samples


def memory(folder: Path, *, records: int, workers: int, budget_mb: int) -> dict[str, Any]:
    """Resident memory of the loader over a plan of so many records."""
    source = write_source(folder / "source", records)
    began = time.perf_counter()
    import_data(source, folder / "shards", reader="records", workers=workers)
    print(f"imported {records:,} records in {time.perf_counter() - began:.0f} s", flush=True)
    recipe = load_recipe("nano", ["curation.enabled=false", "data.splits={train: 1.0}"])
    prepared = prepare_from(recipe, folder)
    stage = next(stage for stage in recipe.stages if stage.name == "pretrain-low")
    whole = stage.model_copy(update={"mixture": {}, "epochs": 2.0})
    jobs = plan_jobs(prepared.indexes(blind=False), recipe.model_copy(update={"stages": [whole]}))
    plan = jobs[0].plan
    at = prepared.processor.with_grid(stage.image_size, stage.visual_tokens)
    cache = PixelCache(prepared.shards, budget_bytes=budget_mb * 2**20)
    builder = RowBuilder(prepared.shards, at, cache, seed=1)
    gc.collect()
    before = resident_gib() * 1024
    began = time.perf_counter()
    numbers = range(len(plan.rows))
    samples = sampled(rows_from(builder, plan.rows, numbers, 2 * workers, workers), 50)
    seconds = time.perf_counter() - began
    shown, resident = (np.array(column, float) for column in zip(*samples, strict=True))
    late = shown > shown[-1] / 2
    slope = np.polyfit(shown[late], resident[late], 1)[0] * 100_000
    return {
        "records": plan.records,
        "rows": len(numbers),
        "rows_per_second": len(numbers) / seconds,
        "records_per_second": plan.records / seconds,
        "pixel_cache_mb": cache.used / 2**20,
        "resident_mb_before": before,
        "resident_mb_by_records": {str(int(n)): round(mb, 1) for n, mb in samples},
        "mb_per_100k_records": slope,
        "resident_mb_end": resident[-1],
    }


def prepare_from(recipe: Recipe, folder: Path) -> Any:
    """What training needs, of shards that were imported into `folder`."""
    assert len(open_shards(folder / "shards"))
    return prepare(recipe, RunFolder(folder))


def show_feed(results: list[dict[str, Any]]) -> None:
    print(f"\n{'rows a second':16s}{'training':>10s}{'decoded':>10s}{'kept':>10s}{'ratio':>14s}")
    for one in results:
        ratio = f"{one['decoded'] / one['training']:.1f} / {one['kept'] / one['training']:.1f}"
        rates = "".join(f"{one[name]:10.1f}" for name in ("training", "decoded", "kept"))
        print(f"{one['stage']:16s}{rates}{ratio:>14s}")


def show_memory(made: dict[str, Any]) -> None:
    points = list(made["resident_mb_by_records"].items())
    some = points[:: max(1, len(points) // 10)]
    print("\nrecords: resident MB   " + "  ".join(f"{int(n):,}: {mb:.0f}" for n, mb in some))
    print(
        f"{made['records']:,} records in {made['rows']:,} rows, {made['rows_per_second']:.0f} rows/s; "
        f"second pass: {made['mb_per_100k_records']:+.1f} MB per 100,000 records; "
        f"{made['resident_mb_end']:.0f} MB at the end"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("parts", nargs="+", choices=("feed", "memory"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--patients", type=int, default=150, help="feed: patients in the clinic")
    parser.add_argument("--rows", type=int, default=60, help="feed: rows of each stage")
    parser.add_argument("--repeats", type=int, default=3, help="feed: turns")
    parser.add_argument("--records", type=int, default=200_000, help="memory: records")
    parser.add_argument("--cache-mb", type=int, default=32, help="memory: budget of decoded pixels")
    parser.add_argument("--json", type=Path, help="also write everything there")
    arguments = parser.parse_args()
    if os.environ.get(VARIABLE) != TUNABLES:
        os.environ[VARIABLE] = TUNABLES
        os.execv(os.sys.executable, [os.sys.executable, *os.sys.argv])  # type: ignore[attr-defined]
    print(
        f"{environment()['cpu']}, {os.cpu_count()} cores, {arguments.workers} workers", flush=True
    )
    results: dict[str, Any] = {"machine": environment(), "workers": arguments.workers}
    with tempfile.TemporaryDirectory() as name:
        if "feed" in arguments.parts:
            results["feed"] = feed(
                Path(name) / "feed",
                patients=arguments.patients,
                rows=arguments.rows,
                repeats=arguments.repeats,
                workers=arguments.workers,
            )
            show_feed(results["feed"])
        if "memory" in arguments.parts:
            (Path(name) / "memory").mkdir()
            results["memory"] = memory(
                Path(name) / "memory",
                records=arguments.records,
                workers=arguments.workers,
                budget_mb=arguments.cache_mb,
            )
            show_memory(results["memory"])
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
