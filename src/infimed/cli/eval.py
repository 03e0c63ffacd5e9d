"""`infimed eval`: ask a model the questions of tasks, with its controls, and score offline."""

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
    controls: Annotated[
        str,
        typer.Option(
            "--controls",
            metavar="all|none|A,B",
            help="Ask again: zeroed (grey images), swapped (another patient's), shuffle (options "
            "rotated), prior (no question). The cost is shown before asking.",
        ),
    ] = "zeroed",
    rotations: Annotated[
        int | None,
        typer.Option(
            "--rotations", min=2, help="Orders of the options under shuffle; default: all."
        ),
    ] = None,
    option_scoring: Annotated[
        str,
        typer.Option(
            "--option-scoring",
            metavar="text|letter|none",
            help="Also take the likeliest option, by its text or letter; default: as the task says.",
        ),
    ] = "",
    by: Annotated[
        str,
        typer.Option(
            "--by",
            metavar="FIELD,...",
            help="Cut every table: facts.sex,facts.age:18:65,image.view",
        ),
    ] = "",
    against: Annotated[
        str,
        typer.Option(
            "--against",
            metavar="RUN|SHARDS|none",
            help="Look for the questions in this training data; default: that of the run.",
        ),
    ] = "",
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
    gate: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            "--gate", metavar="OLD NEW", help="Promote NEW or not: two evaluations; asks no model."
        ),
    ] = None,
    gate_config: Annotated[
        Path | None, typer.Option("--gate-config", metavar="FILE", help="Other thresholds (YAML).")
    ] = None,
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

      infimed eval runs/mini --tasks vqa_rad_disjoint --controls all --by facts.anatomy

      infimed eval --gate runs/old runs/new

      infimed eval --show 3 --tasks mine.yaml --data mine=downloads/mine
    """
    if list_tasks or list_metrics or list_models:
        from infimed.cli import eval_lists

        if list_tasks:
            eval_lists.list_tasks(markdown)
        elif list_metrics:
            eval_lists.list_metrics()
        else:
            eval_lists.list_models(markdown)
        return
    if gate is not None:
        from infimed.cli.eval_gate import decide

        decide(*gate, gate_config, out)
        return
    from infimed.cli.eval_asking import ask_and_score, check_judged, check_keys
    from infimed.core.errors import UsageError
    from infimed.evaluation.columns import parse_breakdowns
    from infimed.evaluation.groups import choose
    from infimed.evaluation.opening import Options, find
    from infimed.evaluation.session import Session, parse_controls

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
    session = Session(parse_controls(controls), rotations, option_scoring, limit, text_only)
    cuts = parse_breakdowns(by)
    names, records = _gather(chosen, own, data or [], hub, target, not text_only, limit)
    session.scored(names)  # a wrong word is refused before a model is opened
    if judge:
        check_judged(names)
        check_keys(found, judge)
    ask_and_score(
        found,
        options,
        names,
        records,
        target,
        session,
        cuts,
        against,
        trained_blind,
        threads,
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
