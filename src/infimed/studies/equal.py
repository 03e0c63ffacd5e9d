"""Holding arms equal: as many samples, target tokens or operations as the reference arm has.

All stages of an arm are made longer or shorter by one factor until its plan holds as much. Plans are pure
functions of the recipe, so the factor is, too; what was trained in the end is measured and told. Operations are
counted as the tower's every pass, whether or not its features are kept: that is what training costs others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from infimed.core.errors import DataError
from infimed.core.recipe import Recipe
from infimed.core.stage import Tiling
from infimed.model.presets import preset
from infimed.pipeline.dryrun import stage_seconds
from infimed.pipeline.index import Index
from infimed.pipeline.planning import plan_jobs
from infimed.studies.definition import Unit
from infimed.training.estimate import meta_model, stage_counter
from infimed.training.hardware import Hardware
from infimed.training.stage import StageJob

ROUNDS: Final = 8
TOLERANCE: Final = 0.02
"""Largest difference that is called equal; a stage ends with a whole row."""

Indexes = Mapping[Tiling, Index]


@dataclass(frozen=True)
class Totals:
    """What a plan holds."""

    samples: float
    target_tokens: float
    flops: float
    steps: int
    seconds: float = 0.0

    def of(self, unit: Unit) -> float:
        """The amount of one unit."""
        return float(getattr(self, unit))


def totals(
    recipe: Recipe, indexes: Indexes, machine: Hardware | None = None, *, blind: bool = False
) -> Totals:
    """What the recipe's plan holds on these data.

    Args:
        machine: for the seconds; none are foreseen without it.
    """
    jobs = plan_jobs(indexes, recipe)
    model = meta_model(preset(recipe.model.preset), recipe.model.reducer)
    flops = seconds = 0.0
    for job in jobs:
        tokens = job.plan.documents.tokens
        counter = stage_counter(model, job.stage)
        flops += counter.cost(
            tokens=job.plan.tokens,
            pairs=float((tokens * (tokens + 1) // 2).sum()),
            predicted=job.plan.target_tokens,
            images=job.plan.images,
            visual_tokens=job.plan.images * job.stage.visual_tokens,
        ).total
        if machine is not None:
            seconds += stage_seconds(model, job, recipe.train, machine)
    return Totals(_samples(jobs), _targets(jobs), flops, sum(job.steps for job in jobs), seconds)


def _samples(jobs: list[StageJob]) -> float:
    return float(sum(job.plan.records for job in jobs))


def _targets(jobs: list[StageJob]) -> float:
    return float(sum(job.plan.target_tokens for job in jobs))


def equalised(
    recipe: Recipe, indexes: Indexes, unit: Unit, wanted: float, machine: Hardware | None = None
) -> Recipe:
    """The recipe with all its stages made longer or shorter until its plan holds `wanted` of a unit.

    Raises:
        DataError: it cannot be made so, within two per cent.
    """
    if unit == "nothing":
        return recipe
    factor, made = 1.0, recipe
    short, long = 0.0, math.inf
    for _ in range(ROUNDS):
        found = totals(made, indexes, machine).of(unit)
        if abs(found / wanted - 1) <= TOLERANCE / 4:
            return made
        short, long = (factor, long) if found < wanted else (short, factor)
        factor *= wanted / max(found, 1.0)
        made = _longer(recipe, factor)
    found = totals(made, indexes, machine).of(unit)
    # Where a row is a large part of the plan the steps above swing around what is wanted.
    for _ in range(2 * ROUNDS if math.isfinite(long) else 0):
        if abs(found / wanted - 1) <= TOLERANCE:
            break
        factor = (short + long) / 2
        made = _longer(recipe, factor)
        found = totals(made, indexes, machine).of(unit)
        short, long = (factor, long) if found < wanted else (short, factor)
    if abs(found / wanted - 1) > TOLERANCE:
        raise DataError(
            f"an arm cannot be given as many {unit.replace('_', ' ')} as the reference arm",
            seen=f"{found:,.0f}",
            accepted=f"{wanted:,.0f}, within {100 * TOLERANCE:.0f} %",
            fix="give its stages smaller rows, or hold something else equal",
        )
    return made


def _longer(recipe: Recipe, factor: float) -> Recipe:
    stages = [
        stage.model_copy(update={"epochs": max(1e-3, round(stage.epochs * factor, 4))})
        for stage in recipe.stages
    ]
    return recipe.model_copy(update={"stages": stages})
