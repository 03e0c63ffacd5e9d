"""`infimed eval`: ask a checkpoint the questions of tasks, with its controls, and score offline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from infimed.evaluation.groups import Chosen
    from infimed.evaluation.leaks import Training
    from infimed.evaluation.session import Session
    from infimed.evaluation.sources import JoinedShards
    from infimed.evaluation.spec import Breakdown

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
    threads: Annotated[
        int, typer.Option("--threads", min=0, help="CPU threads; 0 leaves it to the machine.")
    ] = 0,
    show: Annotated[
        int,
        typer.Option(
            "--show", min=0, metavar="N", help="Print N questions of each task; asks no model."
        ),
    ] = 0,
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

      infimed eval runs/mini --tasks vqa_rad_disjoint --controls all --by facts.anatomy

      infimed eval --gate runs/old runs/new

      infimed eval --show 3 --tasks mine.yaml --data mine=downloads/mine
    """
    if list_tasks:
        _list_tasks(markdown)
        return
    if list_metrics:
        _list_metrics()
        return
    if gate is not None:
        from infimed.cli.eval_gate import decide

        decide(*gate, gate_config, out)
        return
    from infimed.core.errors import UsageError
    from infimed.evaluation.columns import parse_breakdowns
    from infimed.evaluation.groups import choose
    from infimed.evaluation.session import Session, parse_controls

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
    session = Session(parse_controls(controls), rotations, option_scoring, limit, text_only)
    cuts = parse_breakdowns(by)
    names, records = _gather(chosen, own, data or [], hub, target, not text_only, limit)
    session.scored(names)  # a wrong word is refused before a model is opened
    _evaluate(
        model, names, records, target, session, cuts, against, trained_blind, batch_size, threads
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


def _evaluate(
    model: Path,
    names: list[str],
    data: JoinedShards,
    target: Path,
    session: Session,
    cuts: tuple[Breakdown, ...],
    against: str,
    trained_blind: Path | None,
    batch_size: int,
    threads: int,
) -> None:
    import torch

    from infimed.core import console
    from infimed.evaluation.leaks import trained_on, training_of
    from infimed.evaluation.runner import evaluate, score
    from infimed.inference.local import LocalModel

    if threads:
        torch.set_num_threads(threads)
    training = training_of(against, model)
    local = LocalModel.open(model, batch_size=batch_size)
    console.err.print(session.cost(data, names), markup=False, soft_wrap=True)
    labels = session.ask(local, data, names, target)
    if trained_blind is not None:
        twin = LocalModel.open(trained_blind, batch_size=batch_size)
        evaluate(
            twin, data, names, target, label="trained-blind", no_images=True, limit=session.limit
        )
        labels.append("trained-blind")
    if training is not None:
        _scan(training, data, names, target, session.limit)
    board = score(target, data, names, labels, prior_splits=trained_on(model), breakdowns=cuts)
    console.out.print(board.render())
    console.err.print(f"answers and scores: {target}", markup=False)


def _scan(
    training: Training, data: JoinedShards, names: list[str], target: Path, limit: int | None
) -> None:
    from infimed.core import console
    from infimed.evaluation.leaks import scan

    with console.progress("leakage", None, unit="records read") as advance:
        scan(training, data, names, target, limit=limit, on_progress=advance)
