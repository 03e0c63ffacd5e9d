"""From the index to the stages' pack plans."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infimed.core.errors import DataError, RecipeError, nearest_name
from infimed.core.files import atomic_open
from infimed.core.recipe import Recipe, Stage
from infimed.core.seeds import derive_seed
from infimed.core.stage import Tiling
from infimed.packing.overlong import fit
from infimed.packing.plan import Plan
from infimed.packing.planner import Limits, Samples, plan_stage, token_weights, with_decay
from infimed.pipeline.index import Index
from infimed.training.stage import StageJob

NOT_DESCRIBED = (
    "set data.describe=true and state modality or anatomy of your images (a column of the table, or "
    "DICOM headers), or copy the recipe and leave this stage out"
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


def _kinds(index: Index, stage: Stage) -> NDArray[np.str_]:
    """What the stage's mixture calls every record."""
    return index.source if stage.mixture_of == "source" else index.task


def stage_samples(index: Index, stage: Stage) -> Samples:
    """The training records of a stage's mixture.

    Raises:
        RecipeError: the mixture names tasks or sources that no training record has.
        DataError: nothing is left to train on.
    """
    kinds = _kinds(index, stage)
    present = sorted(set(kinds[index.train].tolist()))
    if not present:
        raise DataError(
            "no training record is left",
            fix="check data.train_splits, data.licenses and data.consents, and read the curation summary",
        )
    missing = [kind for kind in stage.mixture if kind not in present]
    # A recipe may name tasks that only some data have; a data set is named because it is there.
    if missing and (stage.mixture_of == "source" or len(missing) == len(stage.mixture)):
        first = missing[0]
        raise RecipeError(
            f"no training record has this {stage.mixture_of} of the mixture",
            where=f"stages.{stage.name}.mixture",
            seen=", ".join(missing),
            accepted=present,
            nearest=nearest_name(first, present),
        )
    weight = np.array([stage.mixture.get(k, 0.0) if stage.mixture else 1.0 for k in kinds.tolist()])
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


def mixture_plan(index: Index, stage: Stage, window: int, seed: int, rows: int | None) -> Plan:
    """The rows of a stage with its mixture.

    Args:
        rows: stop after so many, and not before: the mixture is gone through as often as it takes. None
            stops as the stage says.
    """
    limits = Limits(
        row_tokens=stage.row_tokens,
        max_images=stage.max_images,
        visual_tokens=stage.visual_tokens,
        window=window,
        share_images=stage.share_images,
        by_length=stage.row_order == "length",
    )
    samples = stage_samples(index, stage)
    exchanges = index.exchanges.take(samples.row) if stage.over_long == "split" else None
    samples = fit(samples, limits, stage.over_long, exchanges)
    if stage.mixture_unit == "tokens":
        names = sorted(stage.mixture)
        number = {name: place for place, name in enumerate(names)}
        kind = np.array([number[k] for k in _kinds(index, stage)[samples.row].tolist()], np.int64)
        shares = np.array([stage.mixture[name] for name in names])
        samples = replace(samples, weight=token_weights(samples, limits, kind, shares, seed))
    return plan_stage(
        samples,
        limits,
        seed=seed,
        epochs=stage.epochs if rows is None else math.inf,
        max_rows=stage.max_rows if rows is None else rows,
    )


def stage_job(index: Index, stage: Stage, window: int, seed: int) -> StageJob:
    """A stage with its plan; the rows of the decay phase come from its own mixture if it has one.

    Raises:
        DataError: the stage has no row.
    """
    plan = mixture_plan(index, stage, window, seed, None)
    if stage.decay_mixture and len(plan.rows) > 1:
        begins = max(1, len(plan.rows) - max(1, round(stage.decay * len(plan.rows))))
        other = stage.model_copy(update={"mixture": stage.decay_mixture})
        decay = mixture_plan(
            index, other, window, derive_seed(seed, "decay"), len(plan.rows) - begins
        )
        if not decay.rows:
            raise DataError(
                f"no record of the decay mixture of stage {stage.name!r} fits into a row",
                where=f"stages.{stage.name}.decay_mixture",
                seen=stage.decay_mixture,
            )
        plan = with_decay(plan.first(begins), decay)
    if not plan.rows:
        long = len(plan.over_long)
        raise DataError(
            f"no record of stage {stage.name!r} fits into a row"
            if long
            else f"no record of stage {stage.name!r} has an answer to learn",
            where=f"stages.{stage.name}.row_tokens" if long else f"stages.{stage.name}",
            seen=stage.row_tokens if long else None,
            fix="raise row_tokens, or set over_long to split or shrink" if long else None,
        )
    return StageJob(stage, plan)


def plan_jobs(indexes: Mapping[Tiling, Index], recipe: Recipe) -> list[StageJob]:
    """A plan for every stage.

    Args:
        indexes: for every way in which stages tile images.

    Raises:
        DataError: a stage has no row.
    """
    return [
        stage_job(
            indexes[stage.tiling],
            stage,
            recipe.train.window,
            derive_seed(recipe.train.seed, "stage", stage.name),
        )
        for stage in recipe.stages
    ]


def write_plans(jobs: Sequence[StageJob], folder: Path) -> None:
    """One Parquet a stage; see `Plan.table`."""
    for job in jobs:
        with atomic_open(folder / f"{job.stage.name}.parquet") as handle:
            pq.write_table(job.plan.table(), handle, compression="zstd")


@dataclass(frozen=True)
class PlanSummary:
    """Counts of one stage, for people."""

    stage: str
    grid: str
    records: int
    documents: int
    rows: int
    steps: int
    tokens: int
    target_tokens: int
    images: int
    fill: float
    over_long: int
    split: int
    shrunk: int
    without_targets: int


def summarise(job: StageJob) -> PlanSummary:
    """Counts of a planned stage."""
    plan: Plan = job.plan
    return PlanSummary(
        stage=job.stage.name,
        grid=job.stage.grid,
        records=plan.records,
        documents=len(plan.documents),
        rows=len(plan.rows),
        steps=job.steps,
        tokens=plan.tokens,
        target_tokens=plan.target_tokens,
        images=plan.images,
        fill=plan.fill,
        over_long=len(plan.over_long),
        split=len(plan.split),
        shrunk=len(plan.shrunk),
        without_targets=len(plan.without_targets),
    )
