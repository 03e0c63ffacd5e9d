"""`infimed eval`: ask a checkpoint the questions of tasks, with its controls, and score offline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from infimed.evaluation.groups import Chosen
    from infimed.evaluation.sources import JoinedShards

app = typer.Typer(
    help="Evaluate a model on tasks, with intervals and controls.",
    invoke_without_command=True,
    context_settings={"allow_interspersed_args": True, "help_option_names": ["-h", "--help"]},
)


def _list_tasks(markdown: bool) -> None:
    from infimed.core.console import out, table
    from infimed.evaluation.catalogue import facts, lines
    from infimed.evaluation.catalogue import markdown as page
    from infimed.evaluation.groups import groups

    if markdown:
        out.out(page(), end="", highlight=False)
        return
    rows = [[line.name, f"{line.title}\n{facts(line)}"] for line in lines()]
    shown = table(
        "tasks: kinds; modality; size; licence; access; languages", ["name", "what"], rows, 2
    )
    shown.columns[0].no_wrap = True  # a name cut short cannot be typed
    out.print(shown)
    members = [[name, ", ".join(names)] for name, names in groups().items()]
    out.print(table("groups", ["name", "tasks"], members, numeric=2))


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
        str,
        typer.Option(
            "--tasks", metavar="A,B", help="Tasks, groups or own task files (.yaml); see --list."
        ),
    ] = "",
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="DIR|TASK=DIR",
            help="Where benchmarks lie: a folder with one folder each, or the folder of one task.",
        ),
    ] = None,
    hub: Annotated[
        bool, typer.Option("--hub", help="Fetch what is not under --data from the Hub.")
    ] = False,
    text_only: Annotated[
        bool,
        typer.Option("--text-only", help="Ask without images, also where they are absent."),
    ] = False,
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
    judge: Annotated[
        str,
        typer.Option(
            "--judge",
            metavar="URL|FOLDER",
            help="Have a judge read answers in words; more settings: infimed judge.",
        ),
    ] = "",
    judge_model: Annotated[
        str, typer.Option(help="Name of the judge, where an endpoint serves several.")
    ] = "",
    show: Annotated[
        int,
        typer.Option(
            "--show", min=0, metavar="N", help="Print N questions of each task; asks no model."
        ),
    ] = 0,
    list_tasks: Annotated[bool, typer.Option("--list", help="List the tasks and stop.")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="With --list: the page docs/tasks.md.")
    ] = False,
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

      infimed eval runs/mini --tasks medevalkit --data benchmarks --limit 500

      infimed eval runs/mini --tasks slake_en --data slake_en=downloads/SLAKE --text-only

      infimed eval --show 3 --tasks mine.yaml --data mine=downloads/mine
    """
    if list_tasks:
        _list_tasks(markdown)
        return
    if list_metrics:
        _list_metrics()
        return
    from infimed.core.errors import UsageError
    from infimed.evaluation.groups import choose

    chosen = choose(tasks)
    if show and chosen.names:
        own = shards if shards is not None else (model or Path()) / "shards"
        names, records = _gather(chosen, own, data or [], hub, out, not text_only, limit)
        _show(names, records, show)
        return
    if model is None or not chosen.names:
        raise UsageError(
            "give a run or checkpoint folder and at least one task"
            if model is None
            else "give at least one task",
            accepted="infimed eval RUN_OR_CHECKPOINT --tasks a,b --data DIR",
            fix="infimed eval --list",
        )
    target = out if out is not None else model / "evaluation-eval"
    own = shards if shards is not None else model / "shards"
    names, records = _gather(chosen, own, data or [], hub, target, not text_only, limit)
    if judge:
        _check_judged(names)
    _evaluate(
        model,
        names,
        records,
        target,
        limit,
        zeroed,
        trained_blind,
        batch_size,
        threads,
        text_only,
        (judge, judge_model),
    )


def _show(names: list[str], records: JoinedShards, count: int) -> None:
    from infimed.core import console
    from infimed.evaluation.preview import preview
    from infimed.evaluation.spec import load_task

    for name in names:
        console.out.print(preview(load_task(name), records, count), markup=False, soft_wrap=True)


def _gather(
    chosen: Chosen,
    own: Path,
    data: list[str],
    hub: bool,
    target: Path | None,
    images: bool,
    limit: int | None,
) -> tuple[list[str], JoinedShards]:
    """Names of the tasks that can be asked, and the records and images they are about."""
    from infimed.core import console
    from infimed.data.shards import open_shards
    from infimed.evaluation.places import DataPlaces
    from infimed.evaluation.sources import available, gather
    from infimed.evaluation.spec import load_task
    from infimed.model.weights import cache_root

    cache = cache_root()
    found = available(chosen, DataPlaces.parse(data), cache, own=own.is_dir(), hub=hub)
    for line in found.left_out:
        console.err.print(line, markup=False)
    specs = [load_task(name) for name in found.names]
    mine = open_shards(own) if any(not spec.layouts for spec in specs) else None
    joined, built = gather(specs, found.places, cache, target, own=mine, images=images, limit=limit)
    for one in built:
        console.err.print(one.describe(), markup=False)
    return list(found.names), joined


def _trained_on(model: Path) -> tuple[str, ...]:
    """The splits a run was trained on; the controls learn from the same."""
    from infimed.core.recipe import load_recipe

    recipe = model / "recipe.yaml"
    return tuple(load_recipe(str(recipe)).data.train_splits) if recipe.exists() else ("train",)


def _evaluate(
    model: Path,
    names: list[str],
    data: JoinedShards,
    target: Path,
    limit: int | None,
    zeroed: bool,
    trained_blind: Path | None,
    batch_size: int,
    threads: int,
    text_only: bool,
    judge: tuple[str, str] = ("", ""),
) -> None:
    import torch

    from infimed.core import console
    from infimed.evaluation.runner import evaluate, score
    from infimed.inference.local import LocalModel

    if threads:
        torch.set_num_threads(threads)
    local = LocalModel.open(model, batch_size=batch_size)
    labels = ["text-only" if text_only else "model"]
    evaluate(local, data, names, target, label=labels[0], no_images=text_only, limit=limit)
    if zeroed and not text_only:
        evaluate(local, data, names, target, label="image-zeroed", blank_images=True, limit=limit)
        labels.append("image-zeroed")
    if trained_blind is not None:
        twin = LocalModel.open(trained_blind, batch_size=batch_size)
        evaluate(twin, data, names, target, label="trained-blind", no_images=True, limit=limit)
        labels.append("trained-blind")
    if judge[0]:
        _judge(*judge, names, data, target, labels)
    board = score(target, data, names, labels, prior_splits=_trained_on(model))
    console.out.print(board.render())
    console.err.print(f"answers and scores: {target}", markup=False)


def _check_judged(names: list[str]) -> None:
    """Refuse a judge where none of the tasks has answers for it, before anything is asked."""
    from infimed.core.errors import UsageError
    from infimed.evaluation.spec import load_task

    if not any(load_task(name).judged for name in names):
        raise UsageError(
            "a judge reads answers in words; none of these tasks asks for them",
            where="--judge",
            seen=", ".join(names),
        )


def _judge(
    where: str, name: str, tasks: list[str], data: JoinedShards, target: Path, labels: list[str]
) -> None:
    """Have a judge read what was answered."""
    from contextlib import ExitStack

    from infimed.cli.judge import show_verdicts
    from infimed.cli.judge_model import open_judge_model, say_where
    from infimed.evaluation.judging.asking import judge_answers
    from infimed.evaluation.judging.prompts import load_prompt

    with ExitStack() as stack:
        opened = open_judge_model(stack, where, name=name)
        say_where(opened, "questions, reference answers and answers")
        done = judge_answers(
            opened.model, opened.name, data, tasks, target, labels=labels, prompt=load_prompt()
        )
    show_verdicts(done)
