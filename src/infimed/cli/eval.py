"""`infimed eval`: ask a checkpoint the questions of tasks, with its controls, and score offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Evaluate a model on tasks, with intervals and controls.",
    invoke_without_command=True,
    context_settings={"allow_interspersed_args": True, "help_option_names": ["-h", "--help"]},
)


def _list_tasks() -> None:
    from infimed.core.console import out, table
    from infimed.evaluation.spec import load_task, task_names

    rows = []
    for name in task_names():
        spec = load_task(name)
        kinds = ", ".join(str(kind) for kind in spec.where.get("task", ["any"]))
        rows.append([name, kinds, spec.source.license, spec.title])
    shown = table("tasks", ["name", "kinds", "licence", "what"], rows, numeric=4)
    shown.columns[0].no_wrap = True  # a name cut short cannot be typed
    out.print(shown)


def _list_metrics() -> None:
    from infimed.core.console import out, table
    from infimed.evaluation.metrics.registry import METRICS

    rows = [
        [
            name,
            metric.title,
            f"{metric.direction}, {metric.best:g}",
            metric.domain,
            metric.extra or "-",
        ]
        for name, metric in METRICS.items()
    ]
    shown = table("metrics", ["name", "what", "better, best", "domain", "needs"], rows, numeric=5)
    shown.columns[0].no_wrap = True
    out.print(shown)


@app.callback()
def evaluate_command(
    model: Annotated[
        Path | None,
        typer.Argument(metavar="[RUN_OR_CHECKPOINT]", help="A run folder, or a checkpoint folder."),
    ] = None,
    shards: Annotated[
        Path | None,
        typer.Option("--shards", metavar="DIR", help="Imported data; default: that of the run."),
    ] = None,
    tasks: Annotated[
        str, typer.Option("--tasks", metavar="A,B", help="Names of tasks; see --list.")
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Where answers and scores go; default: RUN/evaluation-eval.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="Ask a seeded sample of so many questions a task."),
    ] = None,
    zeroed: Annotated[
        bool, typer.Option("--zeroed/--no-zeroed", help="Ask again with blank images.")
    ] = True,
    trained_blind: Annotated[
        Path | None,
        typer.Option(
            "--trained-blind",
            metavar="CHECKPOINT",
            help="The twin trained without images, asked without images.",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Questions at once.")] = 32,
    threads: Annotated[
        int, typer.Option("--threads", min=0, help="CPU threads; 0 leaves it to the machine.")
    ] = 0,
    list_tasks: Annotated[bool, typer.Option("--list", help="List the tasks and stop.")] = False,
    list_metrics: Annotated[
        bool,
        typer.Option("--metrics", help="List the metrics with domain and direction, and stop."),
    ] = False,
) -> None:
    """Ask a model the questions of tasks, with its controls, and score the answers.

    Kill it anywhere and run the same command again: nothing is asked twice.

    Examples:

      infimed eval --list

      infimed eval runs/nano --tasks phantom_closed,phantom_choice

      infimed eval runs/mini --shards shards/vqa --tasks vqa_rad_disjoint --out scores
    """
    if list_tasks or list_metrics:
        (_list_tasks if list_tasks else _list_metrics)()
        return
    from infimed.core.errors import UsageError

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if model is None or not names:
        raise UsageError(
            "give a run or checkpoint folder and at least one task"
            if model is None
            else "give at least one task",
            accepted="infimed eval RUN_OR_CHECKPOINT --shards DIR --tasks a,b",
            fix="infimed eval --list",
        )
    _evaluate(model, shards, names, out, limit, zeroed, trained_blind, batch_size, threads)


def _trained_on(model: Path) -> tuple[str, ...]:
    """The splits a run was trained on; the controls learn from the same."""
    from infimed.core.recipe import load_recipe

    recipe = model / "recipe.yaml"
    return tuple(load_recipe(str(recipe)).data.train_splits) if recipe.exists() else ("train",)


def _evaluate(
    model: Path,
    shards: Path | None,
    names: list[str],
    out: Path | None,
    limit: int | None,
    zeroed: bool,
    trained_blind: Path | None,
    batch_size: int,
    threads: int,
) -> None:
    from infimed.core import console
    from infimed.core.errors import DataError
    from infimed.evaluation.spec import load_task

    for name in names:
        load_task(name)  # a typo must not cost the time to load a model
    folder = shards if shards is not None else model / "shards"
    if not folder.is_dir():
        raise DataError(
            "no imported data here",
            where=str(folder),
            fix="give --shards DIR (made by: infimed data import)",
        )
    import torch

    from infimed.data.shards import open_shards
    from infimed.evaluation.runner import evaluate, score
    from infimed.inference.local import LocalModel

    if threads:
        torch.set_num_threads(threads)
    data = open_shards(folder)
    target = out if out is not None else model / "evaluation-eval"
    local = LocalModel.open(model, batch_size=batch_size)
    labels = ["model"]
    evaluate(local, data, names, target, label="model", limit=limit)
    if zeroed:
        evaluate(local, data, names, target, label="image-zeroed", blank_images=True, limit=limit)
        labels.append("image-zeroed")
    if trained_blind is not None:
        twin = LocalModel.open(trained_blind, batch_size=batch_size)
        evaluate(twin, data, names, target, label="trained-blind", no_images=True, limit=limit)
        labels.append("trained-blind")
    board = score(target, data, names, labels, prior_splits=_trained_on(model))
    console.out.print(board.render())
    console.err.print(f"answers and scores: {target}", markup=False)
