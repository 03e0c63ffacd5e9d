"""Training alone, by one process or by the ranks that `torchrun` starts, for `infimed train`."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from infimed.core.console import err
from infimed.core.errors import DataError, InfiMedError
from infimed.core.recipe import Recipe
from infimed.core.run import RunFolder
from infimed.curation.ledger import DECISION_FILE
from infimed.pipeline.checks import check_export
from infimed.pipeline.precision import settled
from infimed.pipeline.run import (
    LEDGER,
    Prepared,
    curate_step,
    import_step,
    prepare,
    train_step,
)
from infimed.training.device import set_threads
from infimed.training.parallel import World, ranks


def train_recipe(recipe: Recipe, folder: Path, *, blind: bool = False) -> Path:
    """Train the stages of a recipe in `folder`; returns the final checkpoint.

    One process imports and curates first where that is not done. Several ranks expect it done: nobody
    wants a node of GPUs to wait for an import.

    Args:
        blind: train the twin that never sees an image.

    Raises:
        InfiMedError: on every rank, something the user can act on.
    """
    check_export(recipe)
    run = RunFolder(folder)
    with ranks() as world, ExitStack() as held:
        world.together(lambda: _lock(run, held, world))
        recipe = _adopted(recipe, run, world)
        set_threads(recipe.train.threads)
        try:
            prepared = _prepared(recipe, run, world)
            if world.main:
                run.status("train-blind" if blind else "train", ranks=world.size)
            final = train_step(prepared, blind=blind, world=world)
        except InfiMedError as error:
            if world.main:
                run.status("stopped", reason=error.what, exit_code=error.exit_code)
            raise
        if world.main:
            run.status("trained", checkpoint=final.name)
    return final


def _lock(run: RunFolder, held: ExitStack, world: World) -> None:
    """The first rank holds the run folder for all."""
    if world.main:
        held.enter_context(run.locked())


def _adopted(recipe: Recipe, run: RunFolder, world: World) -> Recipe:
    """The run's recipe. The first rank decides its precision and the others read it: two that measure
    may find different ones."""

    def first() -> None:
        if world.main and run.adopt(settled(recipe, run, world.device)):
            err.print(f"going on in {run.path}", markup=False)

    world.together(first)
    return world.together(lambda: settled(recipe, run, world.device))


def _prepared(recipe: Recipe, run: RunFolder, world: World) -> Prepared:
    if not world.many:
        curate_step(recipe, run, import_step(recipe, run))
    else:
        needed = [run / "shards" / "manifest.json"]
        needed += [run / LEDGER] if recipe.curation.enabled else []
        needed += [run / LEDGER / DECISION_FILE] if recipe.curation.evaluator else []
        missing = [path for path in needed if not path.exists()]
        if missing:
            raise DataError(
                "several processes train on data that is imported and curated",
                where=str(missing[0]),
                seen="not there",
                fix="run `infimed pack` with the same recipe and overrides first",
            )
    return prepare(recipe, run)


def launch_lines(
    recipe: str, overrides: Sequence[str], runs: Path, *, nodes: int, processes: int, blind: bool
) -> list[str]:
    """The commands that train on `nodes` machines with `processes` each, for people and schedulers."""
    words = [recipe, *overrides, "--runs", str(runs)]
    arguments = shlex.join(words + (["--blind"] if blind else []))
    train = f"-m infimed.cli.main train {arguments}"
    threads = max(1, (os.cpu_count() or 1) // processes)
    lines = [
        "# 1. once: import, curate, plan",
        f"infimed pack {shlex.join(words)}",
    ]
    if nodes == 1:
        lines += [
            "# 2. train on this machine",
            f"OMP_NUM_THREADS={threads} torchrun --standalone --nproc-per-node {processes} {train}",
        ]
    else:
        lines += [
            f"# 2. on each of the {nodes} machines, which share the folder of runs; FIRST is the name of one",
            f"torchrun --nnodes {nodes} --nproc-per-node {processes} --rdzv-backend c10d "
            f"--rdzv-endpoint FIRST:29500 --rdzv-id {shlex.quote(Path(recipe).stem)} {train}",
            "#    the same under Slurm",
            f"srun --nodes {nodes} --ntasks-per-node 1 torchrun --nnodes {nodes} "
            f"--nproc-per-node {processes} --rdzv-backend c10d "
            '--rdzv-endpoint "$(scontrol show hostnames | head -n 1)":29500 '
            f'--rdzv-id "$SLURM_JOB_ID" {train}',
        ]
    return [
        *lines,
        "# Any number of machines or processes goes on where another stopped. A signal saves first:",
        "# give the scheduler a minute between SIGTERM and SIGKILL.",
        "# 3. evaluate and report",
        f"infimed run {shlex.join(words)}",
    ]
