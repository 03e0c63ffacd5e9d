"""`--dry-run`: the plan of a recipe without doing it.

Records are read and measured, nothing is decoded, written or trained. Where data would have to be
generated, a few patients are made in memory and repeated. What curation would drop is not known yet,
so the plan is an upper bound. Time is floating-point operations over an assumed share of a
peak, measured here for this machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from infimed.core.console import out, table
from infimed.core.recipe import Recipe, Train
from infimed.core.stage import Tiling
from infimed.data.describing import descriptions
from infimed.data.record import Record
from infimed.model.loading import base_processor
from infimed.model.modeling import InfiMedForConditionalGeneration
from infimed.model.presets import preset
from infimed.pipeline.checks import check_recipe
from infimed.pipeline.index import Index, index_of
from infimed.pipeline.planning import stage_job
from infimed.pipeline.precision import on_hardware
from infimed.pipeline.run import base_folders, reader_options
from infimed.training.estimate import (
    meta_model,
    recomputed,
    stage_counter,
    stage_work,
    typical_row,
)
from infimed.training.features import cacheable
from infimed.training.hardware import Hardware, this_cpu
from infimed.training.optimizer import idle_note
from infimed.training.stage import StageJob

SAMPLE_PATIENTS = 24


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


def stage_seconds(
    model: InfiMedForConditionalGeneration, job: StageJob, train: Train, machine: Hardware
) -> float:
    """Time of a stage; documents are counted as if nothing in them were shared."""
    stage, plan = job.stage, job.plan
    flops = stage_counter(model, stage)
    tokens = plan.documents.tokens
    work = flops.cost(
        tokens=plan.tokens,
        pairs=float((tokens * (tokens + 1) // 2).sum()),
        predicted=plan.target_tokens,
        images=plan.images,
        visual_tokens=plan.images * stage.visual_tokens,
        cached=cacheable(stage, train),
    ).total
    work += recomputed(flops, plan.tokens) * train.activation_checkpointing
    typical = stage_work(model, stage, train, machine, typical_row(stage))
    moved = plan.fill * len(plan.rows) * typical.row_bytes / machine.devices
    moved += job.steps * typical.step_bytes
    return work / (machine.flops * machine.mfu * machine.devices) + moved / machine.bandwidth


def estimate(recipe: Recipe, machine: Hardware | None = None) -> list[Estimate]:
    """The plan of every stage with its estimated time on a machine, this one by default.

    Raises:
        InfiMedError: the recipe points to something that is not there.
    """
    chosen = preset(recipe.model.preset)
    processor = base_processor(chosen, base_folders(recipe)[1])
    model = meta_model(chosen, recipe.model.reducer)
    machine = machine or this_cpu(recipe.train.precision)
    recipe = on_hardware(recipe, machine)
    records, scale = training_records(recipe)
    copies = max(1, round(scale))
    scale /= copies
    indexes: dict[Tiling, Index] = {}
    found = []
    for stage in recipe.stages:
        endless = stage.model_copy(update={"max_rows": None})
        if stage.tiling not in indexes:
            at = processor.with_grid(stage.image_size, stage.visual_tokens, stage.tiles)
            indexes[stage.tiling] = index_of(records, at, recipe.data).repeated(copies)
        job = stage_job(indexes[stage.tiling], endless, recipe.train.window, recipe.train.seed)
        plan = job.plan
        rows = max(1, round(len(plan.rows) * scale))
        if stage.max_rows is not None:
            rows = min(rows, stage.max_rows)
        share = rows / max(1, len(plan.rows))
        found.append(
            Estimate(
                stage=stage.name,
                grid=stage.grid,
                records=round(plan.records * share),
                rows=rows,
                steps=max(1, round(job.steps * share)),
                tokens=round(plan.tokens * share),
                seconds=share * stage_seconds(model, job, recipe.train, machine),
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
    if any(stage.learning_rate.vision > 0 for stage in recipe.stages):
        out.print(idle_note(meta_model(preset(recipe.model.preset))), markup=False)
    out.print(f"would write to {folder}; nothing was written now", markup=False)
    if recipe.evaluation.trained_blind and recipe.evaluation.tasks:
        out.print(
            "then a twin without images is trained on the same stages, and both are evaluated",
            markup=False,
        )


def clock(seconds: float) -> str:
    """Seconds as a person says them."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
