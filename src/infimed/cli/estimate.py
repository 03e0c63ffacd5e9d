"""`infimed estimate`: memory and time of a recipe before the run."""

from __future__ import annotations

from typing import Annotated

import typer

from infimed.cli.run import Overrides, RecipeName


def estimate(
    recipe: RecipeName,
    overrides: Overrides = None,
    hardware: Annotated[
        str, typer.Option("--hardware", help="cpu (this machine), or e.g. h100, h100x8, a100x4.")
    ] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Foresee memory of a device and time of every stage; nothing is trained or written.

    Examples:

      infimed estimate nano

      infimed estimate infimed-1.7b data.root=my/data --hardware h100x8

      infimed estimate infimed-1.7b train.optimizer=adafactor train.activation_checkpointing=true
    """
    import json

    from infimed.core.console import out
    from infimed.core.recipe import load_recipe
    from infimed.pipeline.estimating import estimate_notes, estimate_recipe, estimate_table

    found = estimate_recipe(load_recipe(recipe, overrides or []), hardware)
    if as_json:
        out.print_json(json.dumps(found))
        return
    out.print(estimate_table(found))
    for line in estimate_notes(found):
        out.print(line, markup=False, soft_wrap=True)
