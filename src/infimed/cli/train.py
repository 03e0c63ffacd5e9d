"""`infimed train`: the stages of a recipe, on one process or many."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from infimed.cli.run import Overrides, RecipeName, RunsFolder


def train(
    recipe: RecipeName,
    overrides: Overrides = None,
    blind: Annotated[
        bool, typer.Option("--blind", help="Train the twin that never sees an image.")
    ] = False,
    print_launch: Annotated[
        bool, typer.Option("--print-launch", help="Show the torchrun commands; train nothing.")
    ] = False,
    nodes: Annotated[int, typer.Option(min=1, help="Machines, for --print-launch.")] = 1,
    processes: Annotated[
        int, typer.Option(min=1, help="Processes (GPUs) a machine, for --print-launch.")
    ] = 8,
    runs: RunsFolder = Path("runs"),
) -> None:
    """Train the stages of a recipe, without evaluation and report.

    Alone it imports and curates first where that is not done. Under torchrun the model is sharded over
    the processes (FSDP2) and `infimed pack` must have been run. A run may go on with any other number
    of processes: the same samples in the same order, the same losses. `infimed run` with the
    same recipe then evaluates.

    Examples:

      infimed train nano

      torchrun --standalone --nproc-per-node 2 -m infimed.cli.main train nano

      infimed train infimed-1.7b data.root=my/data --print-launch --nodes 2
    """
    from infimed.core.console import out
    from infimed.core.recipe import load_recipe

    chosen = load_recipe(recipe, overrides or [])
    if print_launch:
        from infimed.pipeline.training import launch_lines

        for line in launch_lines(
            recipe, overrides or [], runs, nodes=nodes, processes=processes, blind=blind
        ):
            out.print(line, markup=False, soft_wrap=True, highlight=False)
        return
    from infimed.core.allocator import restart_tuned

    restart_tuned()
    from infimed.pipeline.training import train_recipe

    final = train_recipe(chosen, runs / chosen.name, blind=blind)
    out.print(f"checkpoint: {final}", markup=False, soft_wrap=True)
