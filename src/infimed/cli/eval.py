"""`infimed eval`: ask a model the questions of tasks, with its controls, and score offline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from infimed.evaluation.groups import Chosen
    from infimed.evaluation.opening import Found, Options
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


def _list_models(markdown: bool) -> None:
    from infimed.core.console import out, table
    from infimed.evaluation import baseline

    if markdown:
        out.out(baseline.markdown(), end="", highlight=False)
        return
    rows = [
        [name, "{}\n{}".format(title, "; ".join(rest))] for name, title, *rest in baseline.rows()
    ]
    heads = f"baselines: {'; '.join(baseline.HEADS[2:])}"
    shown = table(heads, ["name", "what"], rows, numeric=2)
    shown.columns[0].no_wrap = True
    out.print(shown)


@app.callback()
def evaluate_command(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="A run or checkpoint folder, a Hugging Face folder, a baseline (--models), or the URL of "
            "an OpenAI-compatible endpoint.",
        ),
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
        bool,
        typer.Option("--hub", help="Fetch from the Hub what is not under --data and --weights."),
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
    weights: Annotated[
        Path | None,
        typer.Option("--weights", metavar="DIR", help="Where the weights of a baseline are."),
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(
            "--dtype",
            metavar="TYPE",
            help="float32 (default on a CPU), bfloat16 or float16, for models that are not ours.",
        ),
    ] = "",
    served_model: Annotated[
        str,
        typer.Option(
            "--model", metavar="NAME", help="Name of the model, where an endpoint serves several."
        ),
    ] = "",
    concurrency: Annotated[
        int, typer.Option("--concurrency", min=1, help="Calls to an endpoint open at once.")
    ] = 8,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Seconds a call to an endpoint may take.")
    ] = 120.0,
    give_up_after: Annotated[
        int,
        typer.Option(
            "--give-up-after",
            min=1,
            help="Questions in a row without an answer that end the asking.",
        ),
    ] = 16,
    extra: Annotated[
        str, typer.Option("--extra", metavar="JSON", help="More settings of a call to an endpoint.")
    ] = "{}",
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
    list_models: Annotated[
        bool, typer.Option("--models", help="List the named baselines and stop.")
    ] = False,
    list_tasks: Annotated[bool, typer.Option("--list", help="List the tasks and stop.")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="With --list or --models: the page in docs.")
    ] = False,
    list_metrics: Annotated[
        bool,
        typer.Option("--metrics", help="List the metrics with domain and direction, and stop."),
    ] = False,
) -> None:
    """Ask a model the questions of tasks, with its controls, and score the answers.

    Kill it anywhere and run the same command again: nothing is asked twice. docs/models.md says which
    models can be asked, and how.

    Examples:

      infimed eval --list

      infimed eval runs/nano --tasks phantom_closed,phantom_choice

      infimed eval runs/mini --shards shards/vqa --tasks vqa_rad_disjoint --out scores

      infimed eval runs/mini --tasks medevalkit --data benchmarks --limit 500

      infimed eval runs/mini --tasks slake_en --data slake_en=downloads/SLAKE --text-only

      infimed eval medgemma-4b --weights DIR --tasks vqa --data benchmarks

      infimed eval http://127.0.0.1:8000/v1 --tasks text --data benchmarks

      infimed eval --show 3 --tasks mine.yaml --data mine=downloads/mine
    """
    if list_tasks:
        _list_tasks(markdown)
        return
    if list_metrics:
        _list_metrics()
        return
    if list_models:
        _list_models(markdown)
        return
    from infimed.core.errors import UsageError
    from infimed.evaluation.groups import choose
    from infimed.evaluation.opening import Options, find

    options = Options(
        name=served_model,
        weights=weights,
        hub=hub,
        dtype=dtype,
        batch_size=batch_size,
        concurrency=concurrency,
        timeout=timeout,
        give_up_after=give_up_after,
        extra=extra,
    )
    chosen = choose(tasks)
    if show and chosen.names:
        own = shards if shards is not None else Path(model or "") / "shards"
        names, records = _gather(chosen, own, data or [], hub, out, not text_only, limit)
        _show(names, records, show)
        return
    if model is None or not chosen.names:
        raise UsageError(
            "give a run or checkpoint folder and at least one task"
            if model is None
            else "give at least one task",
            accepted="infimed eval MODEL --tasks a,b --data DIR",
            fix="infimed eval --list",
        )
    found = find(model, options)
    target = out if out is not None else found.answers
    own = shards if shards is not None else found.home / "shards"
    names, records = _gather(chosen, own, data or [], hub, target, not text_only, limit)
    if judge:
        _check_judged(names)
    _evaluate(
        found,
        options,
        names,
        records,
        target,
        limit,
        zeroed,
        trained_blind,
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


def _trained_on(home: Path) -> tuple[str, ...]:
    """The splits a run was trained on; the controls learn from the same."""
    from infimed.core.recipe import load_recipe

    recipe = home / "recipe.yaml"
    return tuple(load_recipe(str(recipe)).data.train_splits) if recipe.exists() else ("train",)


def _evaluate(
    found: Found,
    options: Options,
    names: list[str],
    data: JoinedShards,
    target: Path,
    limit: int | None,
    zeroed: bool,
    trained_blind: Path | None,
    threads: int,
    text_only: bool,
    judge: tuple[str, str] = ("", ""),
) -> None:
    from dataclasses import replace

    from infimed.core import console
    from infimed.core.errors import DataError
    from infimed.evaluation.opening import is_remote, opened, unanswered
    from infimed.evaluation.runner import evaluate, score

    if found.kind not in ("endpoint", "stub"):
        from infimed.training.device import best_device, set_threads

        set_threads(threads)
        options = replace(options, device=str(best_device()))
    if is_remote(found):
        console.err.print(
            f"questions and images go to {found.text}: make sure they may", markup=False
        )
    labels = ["text-only" if text_only else "model"]
    with opened(found, options) as model:
        evaluate(model, data, names, target, label=labels[0], no_images=text_only, limit=limit)
        if zeroed and not text_only:
            evaluate(
                model, data, names, target, label="image-zeroed", blank_images=True, limit=limit
            )
            labels.append("image-zeroed")
    if trained_blind is not None:
        from infimed.inference.local import LocalModel

        twin = LocalModel.open(trained_blind, batch_size=options.batch_size)
        evaluate(twin, data, names, target, label="trained-blind", no_images=True, limit=limit)
        labels.append("trained-blind")
    if judge[0]:
        _judge(*judge, names, data, target, labels)
    board = score(target, data, names, labels, prior_splits=_trained_on(found.home))
    console.out.print(board.render())
    console.err.print(f"answers and scores: {target}", markup=False)
    failed = unanswered(board)
    for name, count in failed.items():
        console.err.print(
            f"{name}: {count} questions have no answer and count as wrong; the .responses.jsonl says why",
            markup=False,
            soft_wrap=True,
        )
    if failed and found.kind == "endpoint":
        raise DataError(
            f"{sum(failed.values())} questions have no answer yet",
            where=found.text,
            fix="run the same command again when the endpoint is well: only these are asked",
        )


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
