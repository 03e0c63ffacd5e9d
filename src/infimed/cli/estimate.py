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
    inference: Annotated[
        bool, typer.Option("--inference", help="What answering needs, instead of training.")
    ] = False,
    requests: Annotated[
        int, typer.Option("--batch", min=1, help="Requests at once, with --inference.")
    ] = 1,
    images: Annotated[int, typer.Option("--images", min=0, help="Images of a request.")] = 1,
    new_tokens: Annotated[int, typer.Option("--new-tokens", min=1, help="Of an answer.")] = 256,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Foresee memory of a device and time of every stage; nothing is trained or written.

    Examples:

      infimed estimate nano

      infimed estimate infimed-1.7b data.root=my/data --hardware h100x8

      infimed estimate infimed-1.7b train.optimizer=adafactor train.activation_checkpointing=true

      infimed estimate infimed-4b --inference --batch 32 --hardware h100
    """
    import json

    from infimed.core.console import out
    from infimed.core.recipe import load_recipe
    from infimed.pipeline.answering import answer_notes, answer_table, estimate_answers
    from infimed.pipeline.estimating import estimate_notes, estimate_recipe, estimate_table

    made = load_recipe(recipe, overrides or [])
    if inference:
        found = estimate_answers(made, hardware, requests, images, new_tokens)
    else:
        found = estimate_recipe(made, hardware)
    if as_json:
        out.print_json(json.dumps(found))
        return
    if inference:
        out.print(answer_table(found))
        for line in answer_notes(found):
            out.print(line, markup=False, soft_wrap=True)
        return
    out.print(estimate_table(found))
    for line in estimate_notes(found):
        out.print(line, markup=False, soft_wrap=True)
