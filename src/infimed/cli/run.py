"""`infimed run`, `infimed validate`, `infimed env`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="Changes to the recipe, e.g. train.seed=3 stages.sft-broad.epochs=2",
        metavar="[KEY=VALUE]...",
    ),
]
RunsFolder = Annotated[Path, typer.Option("--runs", help="Folder that holds run folders.")]
RecipeName = Annotated[
    str, typer.Argument(help="A recipe that ships (nano, mini, ...) or a path to a YAML file.")
]


def run(
    recipe: RecipeName,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Show the plan: records, rows, steps, tokens, estimated time."
        ),
    ] = False,
    runs: RunsFolder = Path("runs"),
) -> None:
    """Do everything a recipe says: import, curate, train, evaluate, report.

    Running the same command again goes on where it stopped.

    Examples:

      infimed run nano

      infimed run mini data.root=my/vqa train.seed=3 name=mine

      infimed run nano --dry-run
    """
    from infimed.core.console import out
    from infimed.core.recipe import load_recipe

    chosen = load_recipe(recipe, overrides or [])
    if dry_run:
        from infimed.pipeline.dryrun import show_plan

        show_plan(chosen, runs / chosen.name)
        return
    from infimed.core.allocator import restart_tuned

    restart_tuned()
    from infimed.pipeline.run import run_recipe

    report = run_recipe(chosen, runs / chosen.name)
    out.print(f"report: {report}", markup=False)


def validate(recipe: RecipeName, overrides: Overrides = None) -> None:
    """Check a recipe and everything it points to, without doing any work.

    Example: infimed validate my-recipe.yaml data.root=my/data
    """
    from infimed.core.console import out
    from infimed.core.recipe import load_recipe
    from infimed.pipeline.checks import check_recipe

    chosen = load_recipe(recipe, overrides or [])
    for line in check_recipe(chosen):
        out.print(line, markup=False)
    out.print(f"recipe '{chosen.name}' is valid: {len(chosen.stages)} stages", markup=False)


def env() -> None:
    """Print versions and machine for a bug report: no host name, user, path or secret."""
    import json

    from infimed.core.console import out
    from infimed.core.run import environment

    out.print_json(json.dumps(environment()))
