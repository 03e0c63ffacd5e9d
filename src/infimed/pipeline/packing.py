"""The pipeline up to the pack plan, for `infimed pack`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from infimed.core.recipe import Recipe
from infimed.core.run import RunFolder
from infimed.pipeline.packstats import stage_stats, stats_tables, write_stats
from infimed.pipeline.planning import plan_jobs, write_plans
from infimed.pipeline.run import curate_step, import_step, plan_table, prepare


def pack_recipe(recipe: Recipe, folder: Path, *, stats: bool) -> Iterator[Any]:
    """Import, curate and plan in `folder`; yields tables and lines for the terminal.

    Raises:
        InfiMedError: the data or the recipe cannot be used, or another process works in `folder`.
    """
    run = RunFolder(folder)
    with run.locked():
        run.adopt(recipe)
        curate_step(recipe, run, import_step(recipe, run))
        prepared = prepare(recipe, run)
        jobs = plan_jobs(prepared.indexes(blind=False), recipe)
        write_plans(jobs, run / "plan")
        yield plan_table(jobs)
        if stats:
            source = np.array(prepared.shards.index(["source"])["source"].to_pylist())
            found = [stage_stats(job, source) for job in jobs]
            yield from stats_tables(found)
            yield f"look at it: {write_stats(jobs, found, run / 'plan')}"
        yield f"plans: {run / 'plan'}; train with: infimed run"
