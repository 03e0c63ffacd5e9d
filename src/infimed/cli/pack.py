"""`infimed pack`: the plan of a recipe's rows, as far as training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from infimed.cli.run import Overrides, RecipeName, RunsFolder


def pack(
    recipe: RecipeName,
    overrides: Overrides = None,
    stats: Annotated[
        bool,
        typer.Option(
            "--stats", help="Draw fill, documents and images per row, and tokens by source."
        ),
    ] = False,
    runs: RunsFolder = Path("runs"),
) -> None:
    """Import, curate and plan the rows of every stage, and stop before training.

    Only lengths, verdicts and the recipe's limits decide which documents share a row; no image is
    opened for it. `infimed run` with the same recipe goes on from here.

    Examples:

      infimed pack nano --stats

      infimed pack mini data.root=my/vqa train.window=20000 --stats
    """
    from infimed.core.console import out
    from infimed.core.recipe import load_recipe
    from infimed.pipeline.packing import pack_recipe

    chosen = load_recipe(recipe, overrides or [])
    for part in pack_recipe(chosen, runs / chosen.name, stats=stats):
        if isinstance(part, str):
            out.print(part, markup=False, soft_wrap=True)
        else:
            out.print(part)
