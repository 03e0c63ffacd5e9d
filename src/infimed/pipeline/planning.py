"""From shards, verdicts and lengths to the stages' pack plans.

The plan reads the index joined with the verdicts; it never opens an image or a message.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infimed.core.errors import DataError, RecipeError, nearest_name
from infimed.core.files import atomic_open
from infimed.core.recipe import Recipe, Stage
from infimed.core.seeds import derive_seed
from infimed.data.measure import token_lengths
from infimed.data.shards import ShardSet
from infimed.model.processing import Processor
from infimed.packing.plan import Plan
from infimed.packing.planner import Limits, Samples, plan_stage
from infimed.training.loop import StageJob
from infimed.training.rows import without_images

NOT_DESCRIBED = (
    "set data.describe=true and state modality or anatomy of your images (a column of the table, or "
    "DICOM headers), or copy the recipe and leave this stage out"
)
INDEX = ["task", "split", "license", "image_sha256", "facts"]


@dataclass(frozen=True)
class Index:
    """Planning columns of all records, lengths joined; one entry a record, in shard order."""

    task: NDArray[np.str_]
    train: NDArray[np.bool_]
    image_key: NDArray[np.int64]
    text_tokens: NDArray[np.int64]
    target_tokens: NDArray[np.int64]
    trunk_tokens: NDArray[np.int64]
    images: NDArray[np.int64]
    facts: tuple[str, ...]
    """Facts of every record as JSON."""


def _image_keys(shown: pa.ChunkedArray) -> NDArray[np.int64]:
    """A number per distinct tuple of images; -1 for records without images."""
    names = np.array([" ".join(images or ()) for images in shown.to_pylist()])
    distinct, number = np.unique(names, return_inverse=True)
    return (
        np.where(names == "", -1, number).astype(np.int64)
        if len(distinct)
        else number.astype(np.int64)
    )


def read_index(
    shards: ShardSet,
    processor: Processor,
    cache: Path,
    *,
    kept: NDArray[np.int64] | None,
    splits: Sequence[str] = ("train",),
    licenses: Sequence[str] = (),
    blind: bool = False,
) -> Index:
    """Index ⋈ verdicts ⋈ lengths.

    Args:
        kept: shard rows that curation keeps; None keeps all.
        splits: the splits that are trained on.
        licenses: if given, only records under one of these are trained on.
        blind: lengths and keys as the trained-blind twin sees the records.
    """
    columns = shards.index(INDEX)
    measure = (lambda r: processor.measure(without_images(r))) if blind else processor.measure
    key = f"{processor.template_hash}{'-blind' if blind else ''}"
    lengths = token_lengths(shards, measure, key, cache)
    train = np.isin(np.array(columns["split"].to_pylist()), list(splits))
    if kept is not None:
        allowed = np.zeros(len(shards), dtype=bool)
        allowed[kept] = True
        train &= allowed
    if licenses:
        train &= np.isin(np.array(columns["license"].to_pylist()), list(licenses))

    def column(name: str) -> NDArray[np.int64]:
        return np.asarray(lengths[name].to_numpy(), dtype=np.int64)

    keys = np.full(len(shards), -1) if blind else _image_keys(columns["image_sha256"])
    return Index(
        task=np.array(columns["task"].to_pylist()),
        train=train,
        image_key=keys,
        text_tokens=column("text_tokens"),
        target_tokens=column("target_tokens"),
        trunk_tokens=column("trunk_tokens"),
        images=column("images"),
        facts=tuple(columns["facts"].to_pylist()),
    )


def matching_facts(index: Index, stage: Stage) -> NDArray[np.bool_]:
    """Which records a stage's `where` keeps.

    Raises:
        RecipeError: a value occurs in no training record.
    """
    if not stage.where:
        return np.ones(len(index.task), dtype=bool)
    facts = [
        json.loads(text) if keep else {}
        for text, keep in zip(index.facts, index.train, strict=True)
    ]
    kept = np.ones(len(facts), dtype=bool)
    for field, values in stage.where.items():
        found = [fact.get(field) for fact in facts]
        present = sorted({str(value) for value in found if value is not None})
        for value in values:
            if str(value) not in present:
                raise RecipeError(
                    "no training record has this value",
                    where=f"stages.{stage.name}.where.{field}",
                    seen=value,
                    accepted=present[:20] or "a field of the records' facts",
                    nearest=nearest_name(str(value), present),
                    fix=NOT_DESCRIBED if field == "described" else None,
                )
        kept &= np.array([value in values for value in found])
    return kept


def stage_samples(index: Index, stage: Stage) -> Samples:
    """The training records of a stage's mixture.

    Raises:
        RecipeError: the mixture names a task that no training record has.
        DataError: nothing is left to train on.
    """
    present = sorted(set(index.task[index.train].tolist()))
    if not present:
        raise DataError(
            "no training record is left",
            fix="check data.splits and data.licenses, and read the curation summary",
        )
    if stage.mixture and not any(task in present for task in stage.mixture):
        first = next(iter(stage.mixture))
        raise RecipeError(
            "no training record has any task of this mixture",
            where=f"stages.{stage.name}.mixture",
            seen=", ".join(stage.mixture),
            accepted=present,
            nearest=nearest_name(first, present),
        )
    weight = np.array(
        [stage.mixture.get(t, 0.0) if stage.mixture else 1.0 for t in index.task.tolist()]
    )
    chosen = np.flatnonzero(index.train & (weight > 0) & matching_facts(index, stage))
    return Samples(
        row=chosen,
        trunk_tokens=index.trunk_tokens[chosen],
        branch_tokens=(index.text_tokens - index.trunk_tokens)[chosen],
        target_tokens=index.target_tokens[chosen],
        images=index.images[chosen],
        image_key=index.image_key[chosen],
        weight=weight[chosen],
    )


def plan_jobs(index: Index, recipe: Recipe) -> list[StageJob]:
    """A plan for every stage.

    Raises:
        DataError: a stage has no row.
    """
    jobs = []
    for stage in recipe.stages:
        limits = Limits(
            row_tokens=stage.row_tokens,
            max_images=stage.max_images,
            visual_tokens=stage.visual_tokens,
            window=recipe.train.window,
            share_images=stage.share_images,
        )
        plan = plan_stage(
            stage_samples(index, stage),
            limits,
            seed=derive_seed(recipe.train.seed, "stage", stage.name),
            epochs=stage.epochs,
            max_rows=stage.max_rows,
        )
        if not plan.rows:
            raise DataError(
                f"every record of stage {stage.name!r} is longer than a row",
                where=f"stages.{stage.name}.row_tokens",
                seen=stage.row_tokens,
                fix="raise row_tokens",
            )
        jobs.append(StageJob(stage, plan))
    return jobs


def write_plans(jobs: Sequence[StageJob], folder: Path) -> None:
    """One Parquet a stage: row, document, record."""
    for job in jobs:
        with atomic_open(folder / f"{job.stage.name}.parquet") as handle:
            pq.write_table(job.plan.table(), handle, compression="zstd")


@dataclass(frozen=True)
class PlanSummary:
    """Counts of one stage, for people."""

    stage: str
    image_size: int
    visual_tokens: int
    records: int
    documents: int
    rows: int
    steps: int
    tokens: int
    target_tokens: int
    images: int
    fill: float
    over_long: int


def summarise(job: StageJob) -> PlanSummary:
    """Counts of a planned stage."""
    plan: Plan = job.plan
    return PlanSummary(
        stage=job.stage.name,
        image_size=job.stage.image_size,
        visual_tokens=job.stage.visual_tokens,
        records=plan.records,
        documents=len(plan.documents),
        rows=len(plan.rows),
        steps=job.steps,
        tokens=plan.tokens,
        target_tokens=plan.target_tokens,
        images=plan.images,
        fill=plan.fill,
        over_long=len(plan.over_long),
    )
