"""`--dry-run`: the plan of a recipe without doing it.

Records are read and measured, nothing is decoded, written or trained. Where data would have to be
generated, a few patients are made in memory and repeated. What curation would drop is not known yet,
so the plan is an upper bound. Time is floating-point operations over a rate measured on this machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from infimed.core.console import out, table
from infimed.core.recipe import Recipe
from infimed.data.describing import descriptions
from infimed.data.record import Record
from infimed.model.presets import Preset, preset
from infimed.pipeline.checks import check_recipe
from infimed.pipeline.index import index_of
from infimed.pipeline.planning import stage_job
from infimed.pipeline.run import base_model, reader_options
from infimed.training.device import gemm_peak
from infimed.training.stage import StageJob

SAMPLE_PATIENTS = 24
EFFICIENCY = 0.25
"""Share of the fastest matrix product that small-model training reaches on a CPU."""


@dataclass(frozen=True)
class Estimate:
    """What one stage will do. `seconds` is a rough figure, good to about a factor of two."""

    stage: str
    grid: str
    records: int
    rows: int
    steps: int
    tokens: int
    seconds: float


def training_records(recipe: Recipe) -> tuple[list[Record], float]:
    """Training records without their pixels, and by how much to scale their number."""
    phantom = recipe.data.phantom
    if phantom is not None:
        from infimed.data.phantom import generate_patient

        some = min(SAMPLE_PATIENTS, phantom.patients)
        made: Iterator[Record] = (
            record
            for index in range(some)
            for record in generate_patient(phantom.seed, index, size=phantom.size).records
        )
        shares = recipe.data.splits or {}
        share = sum(shares.get(split, 0.0) for split in recipe.data.train_splits)
        return list(made), phantom.patients * share / some
    from infimed.data import readers
    from infimed.data.readers.base import ReadProblem

    assert recipe.data.root is not None
    items = readers.read(recipe.data.root, recipe.data.reader, reader_options(recipe))
    found = [
        i for i in items if not isinstance(i, ReadProblem) and i.split in recipe.data.train_splits
    ]
    if recipe.data.describe:
        found.extend(descriptions(found))
    return found, 1.0


def stage_flops(chosen: Preset, job: StageJob, parameters: tuple[int, int]) -> float:
    """Operations of a stage, linear layers only (attention adds a few percent at these lengths)."""
    vision, language = parameters
    patches = (job.stage.image_size // chosen.patch_size) ** 2
    tokens = job.plan.tokens
    images = job.plan.images
    passes = 3 if job.stage.learning_rate.vision else 1
    return 6.0 * language * tokens + 2.0 * passes * vision * patches * images


def estimate(recipe: Recipe) -> list[Estimate]:
    """The plan of every stage with its estimated time.

    Raises:
        InfiMedError: the recipe points to something that is not there.
    """
    model, processor = base_model(recipe)
    vision = sum(p.numel() for p in model.model.vision_tower.parameters())
    language = sum(p.numel() for p in model.model.language_model.parameters())
    records, scale = training_records(recipe)
    copies = max(1, round(scale))
    scale /= copies
    index = index_of(records, processor, recipe.data).repeated(copies)
    rate = gemm_peak(torch.device("cpu"), recipe.train.precision) * EFFICIENCY
    found = []
    for stage in recipe.stages:
        endless = stage.model_copy(update={"max_rows": None})
        job = stage_job(index, endless, recipe.train.window, recipe.train.seed)
        plan = job.plan
        rows = max(1, round(len(plan.rows) * scale))
        if stage.max_rows is not None:
            rows = min(rows, stage.max_rows)
        share = rows / max(1, len(plan.rows))
        flops = stage_flops(preset(recipe.model.preset), job, (vision, language))
        found.append(
            Estimate(
                stage=stage.name,
                grid=f"{stage.image_size} px / {stage.visual_tokens}",
                records=round(plan.records * share),
                rows=rows,
                steps=max(1, round(job.steps * share)),
                tokens=round(plan.tokens * share),
                seconds=flops * share / rate,
            )
        )
    return found


def show_plan(recipe: Recipe, folder: Path) -> None:
    """Print the plan; touches nothing on disk."""
    for line in check_recipe(recipe):
        out.print(line, markup=False)
    stages = estimate(recipe)
    rows = [
        (
            s.stage,
            s.grid,
            f"{s.records:,}",
            f"{s.rows:,}",
            f"{s.steps:,}",
            f"{s.tokens:,}",
            clock(s.seconds),
        )
        for s in stages
    ]
    total = sum(s.seconds for s in stages)
    rows.append(("all", "", "", "", f"{sum(s.steps for s in stages):,}", "", clock(total)))
    out.print(
        table(
            "plan",
            ["stage", "grid", "records", "rows", "steps", "tokens", "time, about"],
            rows,
            numeric=2,
        )
    )
    out.print(f"would write to {folder}; nothing was written now", markup=False)
    if recipe.evaluation.trained_blind and recipe.evaluation.tasks:
        out.print(
            "then a twin without images is trained on the same stages, and both are evaluated",
            markup=False,
        )


def clock(seconds: float) -> str:
    """Seconds as a person says them."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
