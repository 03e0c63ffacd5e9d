"""`--dry-run`: the plan of a recipe without doing it.

Records are read and measured, nothing is decoded, written or trained. Where data would have to be
generated, a few patients are made in memory and repeated. What curation would drop is not known yet,
so the plan is an upper bound. Time is floating-point operations over an assumed share of a
peak, measured here for this machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from infimed.core.console import out, table
from infimed.core.recipe import Recipe, Stage, Train
from infimed.data.describing import descriptions
from infimed.data.record import Record
from infimed.model.attention import Document, PackedLayout
from infimed.model.loading import base_processor
from infimed.model.modeling import InfiMedForConditionalGeneration
from infimed.model.presets import preset
from infimed.model.processing import Processor
from infimed.packing.planner import Limits, Samples, plan_stage
from infimed.pipeline.checks import check_recipe
from infimed.pipeline.run import base_folders, reader_options
from infimed.training.estimate import meta_model
from infimed.training.hardware import Hardware, this_cpu
from infimed.training.loop import StageJob
from infimed.training.meter import Flops
from infimed.training.optimizer import freeze

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


def to_samples(records: Iterable[Record], processor: Processor, stage: Stage) -> Samples:
    """Planning columns of a stage's records that are not in shards yet."""
    mixture = stage.mixture
    chosen = [
        r
        for r in records
        if (not mixture or mixture.get(r.task, 0) > 0)
        and all(r.facts.get(field) in values for field, values in stage.where.items())
    ]
    measured = [processor.measure(r) for r in chosen]
    keys: dict[tuple[str, ...], int] = {}
    shown = [tuple(image.locator for image in r.images) for r in chosen]

    def column(values: Iterable[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.fromiter(values, dtype=np.int64, count=len(chosen))

    return Samples(
        row=np.arange(len(chosen)),
        trunk_tokens=column(m.trunk_tokens for m in measured),
        branch_tokens=column(m.text_tokens - m.trunk_tokens for m in measured),
        target_tokens=column(m.target_tokens for m in measured),
        images=column(m.images for m in measured),
        image_key=column(keys.setdefault(names, len(keys)) if names else -1 for names in shown),
        weight=np.array([mixture.get(r.task, 0.0) if mixture else 1.0 for r in chosen]),
    )


def repeated(samples: Samples, copies: int) -> Samples:
    """The samples of so many times as many patients. A plan of the few would be all rows half full."""
    keys = np.tile(samples.image_key, copies)
    copy = np.repeat(np.arange(copies), len(samples))
    offset = copy * (int(samples.image_key.max(initial=-1)) + 1)
    return Samples(
        row=np.arange(copies * len(samples)),
        trunk_tokens=np.tile(samples.trunk_tokens, copies),
        branch_tokens=np.tile(samples.branch_tokens, copies),
        target_tokens=np.tile(samples.target_tokens, copies),
        images=np.tile(samples.images, copies),
        image_key=np.where(keys >= 0, keys + offset, keys),
        weight=np.tile(samples.weight, copies),
    )


def stage_flops(model: InfiMedForConditionalGeneration, job: StageJob, train: Train) -> float:
    """Operations of a stage, attention counted as if its documents were all of the mean length."""
    freeze(model, job.stage.learning_rate)
    flops, documents = Flops(model), len(job.plan.documents)
    if not documents:
        return 0.0
    mean = PackedLayout((Document(round(job.plan.tokens / documents)),))
    patches = (job.stage.image_size // model.patch_size) ** 2
    targets = round(int(job.plan.documents.target_tokens.sum()) / documents)
    work = documents * flops.of(mean, targets, 0, 0)
    work += flops.of(PackedLayout(()), 0, job.plan.images, patches)
    return work + documents * flops.again(mean) * train.activation_checkpointing


def estimate(recipe: Recipe, machine: Hardware | None = None) -> list[Estimate]:
    """The plan of every stage with its estimated time on a machine, this one by default.

    Raises:
        InfiMedError: the recipe points to something that is not there.
    """
    chosen = preset(recipe.model.preset)
    processor = base_processor(chosen, base_folders(recipe)[1])
    model = meta_model(chosen)
    machine = machine or this_cpu(model.config.text_config.hidden_size)
    records, scale = training_records(recipe)
    copies = max(1, round(scale))
    scale /= copies
    rate = machine.flops * machine.mfu * machine.devices
    found = []
    for stage in recipe.stages:
        limits = Limits(
            stage.row_tokens,
            stage.max_images,
            stage.visual_tokens,
            recipe.train.window,
            stage.share_images,
        )
        samples = repeated(to_samples(records, processor, stage), copies)
        plan = plan_stage(samples, limits, seed=recipe.train.seed, epochs=stage.epochs)
        rows = max(1, round(len(plan.rows) * scale))
        if stage.max_rows is not None:
            rows = min(rows, stage.max_rows)
        share = rows / max(1, len(plan.rows))
        flops = stage_flops(model, StageJob(stage, plan), recipe.train)
        found.append(
            Estimate(
                stage=stage.name,
                grid=f"{stage.image_size} px / {stage.visual_tokens}",
                records=round(plan.records * share),
                rows=rows,
                steps=-(-rows // stage.rows_per_step),
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
