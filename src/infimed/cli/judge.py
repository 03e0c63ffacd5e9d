"""`infimed judge`: have a judge read the stored answers of an evaluation, then score it again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infimed.cli.judge_model import open_judge_model, say_where
from infimed.core.errors import EXIT_DATA, DataError

if TYPE_CHECKING:
    from infimed.evaluation.judging.asking import JudgedLabel
    from infimed.evaluation.sources import JoinedShards

LAST = ("image-zeroed", "trained-blind", "low-grid")


def judge(
    evaluation: Annotated[
        Path, typer.Argument(help="Folder with answers: RUN/evaluation, or --out of infimed eval.")
    ],
    judge: Annotated[
        str,
        typer.Option(
            "--judge",
            metavar="URL|FOLDER",
            help="OpenAI-compatible, such as http://host:8000/v1; or a run or checkpoint folder.",
        ),
    ],
    judge_model: Annotated[
        str,
        typer.Option(help="Name of the model; needed where the endpoint serves several."),
    ] = "",
    tasks: Annotated[
        str,
        typer.Option(
            "--tasks",
            metavar="A,B",
            help="Default: all in the folder that a judge reads. All are scored.",
        ),
    ] = "",
    labels: Annotated[
        str,
        typer.Option(
            "--labels", metavar="A,B", help="Ways of answering; default: all that were asked."
        ),
    ] = "",
    shards: Annotated[
        Path | None,
        typer.Option("--shards", metavar="DIR", help="Imported data; default: that of the run."),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data", metavar="DIR|TASK=DIR", help="Where benchmarks lie, as for infimed eval."
        ),
    ] = None,
    prompt: Annotated[
        Path | None, typer.Option("--prompt", help="Own words for the judge (YAML), see docs.")
    ] = None,
    max_calls: Annotated[
        int | None, typer.Option("--max-calls", min=0, help="Stop after so many calls.")
    ] = None,
    max_cost: Annotated[
        float | None,
        typer.Option("--max-cost", min=0, help="Stop before more is spent; needs --prices."),
    ] = None,
    prices: Annotated[Path | None, typer.Option(help="Price table (YAML) by model name.")] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="File with the key; default: variable INFIMED_API_KEY.")
    ] = None,
    extra: Annotated[
        str, typer.Option(metavar="JSON", help="More settings of a call, such as response_format.")
    ] = "{}",
    concurrency: Annotated[int, typer.Option(min=1, help="Calls open at once.")] = 8,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds a call may take.")] = 120.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say how many calls and about what cost; ask nothing.")
    ] = False,
) -> None:
    """Have a judge read the stored answers in words: yes, no or undecided; then score again.

    Nothing is asked twice: kill it and run it again. A judge that fails is counted and never ends the
    run. How far it agrees with the rules stands beside its scores.

    Examples:

      infimed judge runs/mini/evaluation --judge http://localhost:8000/v1 --dry-run

      infimed judge scores --judge http://localhost:8000/v1 --data benchmarks --max-calls 2000
    """
    from infimed.core import console
    from infimed.evaluation.folder import FILE, read_evaluation, trained_on
    from infimed.evaluation.judging.asking import judge_answers
    from infimed.evaluation.judging.budget import Budget
    from infimed.evaluation.judging.prompts import load_prompt
    from infimed.evaluation.scoring import score

    asked = load_prompt(prompt)
    names, scored = _tasks(evaluation, tasks)
    records = _records(evaluation, scored, shards, data or [])
    chosen = [label for label in labels.split(",") if label] or None
    with ExitStack() as stack:
        opened = open_judge_model(
            stack,
            judge,
            name=judge_model,
            key_file=key_file,
            prices=prices,
            extra=extra,
            concurrency=concurrency,
            timeout=timeout,
            ask_names=not dry_run,
        )
        say_where(opened, "questions, reference answers and answers")
        done = judge_answers(
            opened.model,
            opened.name,
            records,
            names,
            evaluation,
            labels=chosen,
            prompt=asked,
            budget=Budget(max_calls, max_cost, opened.price),
            dry_run=dry_run,
        )
    show_verdicts(done, dry_run, opened.price.currency if opened.price else "")
    if dry_run:
        return
    every = asked_anywhere(evaluation, scored)
    known = read_evaluation(evaluation) if (evaluation / FILE).is_file() else None
    board = score(
        evaluation,
        records,
        scored,
        every,
        prior_splits=known.prior_splits if known else trained_on(evaluation.parent),
        breakdowns=known.breakdowns if known else (),
        partial=True,
    )
    console.out.print(board.render())
    if done and all(set(one.verdicts) <= {"failed"} for one in done if one.items):
        raise typer.Exit(EXIT_DATA)


def asked_anywhere(evaluation: Path, tasks: Sequence[str]) -> list[str]:
    """All ways of answering in a folder, the model first, its controls last."""
    from infimed.evaluation.judging.asking import asked_labels
    from infimed.evaluation.scoring import FIRST
    from infimed.evaluation.spec import load_task

    found = {
        label
        for task in tasks
        for label in asked_labels(evaluation, load_task(task).name, controls=True)
    }
    first = [label for label in FIRST if label in found]
    last = [label for label in LAST if label in found]
    return [*first, *sorted(found - {*first, *last}), *last]


def _tasks(evaluation: Path, tasks: str) -> tuple[list[str], list[str]]:
    """Tasks to judge (those given, or all), and tasks to score: all that the folder holds.

    Raises:
        DataError: the folder holds no answers, or answers to a task that is not known here.
    """
    from infimed.evaluation.folder import task_of
    from infimed.evaluation.groups import choose
    from infimed.evaluation.spec import load_task, task_names

    there = sorted({path.parent.name for path in evaluation.glob("*/*.run.json")})
    if not there:
        raise DataError(
            "no answers here",
            where=str(evaluation),
            accepted="TASK/LABEL.run.json",
            fix="infimed eval RUN --tasks ... --out FOLDER",
        )
    given = list(choose(tasks).names) if tasks else []
    known = {load_task(name).name for name in given}
    others = [task_of(evaluation, name) for name in there if name not in known]
    for name in others:
        if not name.endswith(".yaml") and name not in task_names():
            raise DataError(
                "the task of these answers does not ship with InfiMed",
                where=str(evaluation / name),
                fix="name its file among the --tasks",
            )
    return given or others, [*given, *others]


def _records(
    evaluation: Path, names: Sequence[str], shards: Path | None, data: list[str]
) -> JoinedShards:
    """The records that were asked, where the folder says they are unless other places are given."""
    from infimed.core.files import read_json
    from infimed.data.shards import open_shards
    from infimed.evaluation.folder import FILE, open_evaluated, read_evaluation
    from infimed.evaluation.places import DataPlaces
    from infimed.evaluation.sources import JoinedShards, gather
    from infimed.evaluation.spec import load_task
    from infimed.model.weights import cache_root

    specs = [load_task(name) for name in names]
    if shards is None and not data and (evaluation / FILE).is_file():
        noted = read_evaluation(evaluation)
        if noted.places and {s.name for s in specs} <= {load_task(t).name for t in noted.tasks}:
            return open_evaluated(noted)[0]
    own = shards if shards is not None else evaluation.parent / "shards"
    mine = open_shards(own) if shards is not None or own.is_dir() else None
    manifests = [read_json(path) for path in sorted(evaluation.glob("*/*.run.json"))]
    limits = {manifest.get("limit") for manifest in manifests}
    views = {manifest.get("view") for manifest in manifests}
    kept = sorted((evaluation.parent / "benchmarks").glob("tasks/*/manifest.json"))
    if not data and kept:  # a run keeps the benchmarks it asked
        sets = [open_shards(path.parent) for path in kept]
        return JoinedShards([*([mine] if mine is not None else []), *sets])
    joined, _ = gather(
        specs,
        DataPlaces.parse(data),
        cache_root(),
        own=mine,
        images=views != {"none"},
        limit=limits.pop() if len(limits) == 1 else None,
    )
    return joined


def show_verdicts(done: Sequence[JudgedLabel], dry_run: bool = False, currency: str = "") -> None:
    """Print what judging came to, or would take."""
    from infimed.core import console

    heads = ["task", "answers of", "asked", "yes", "no", "undecided", "failed"]
    if dry_run:
        heads = ["task", "answers of", "to ask in all", "calls", "prompt tokens", "at most written"]
        rows = [
            (o.task, o.label, o.items, o.calls, f"{o.prompt_tokens:,}", f"{o.new_tokens:,}")
            for o in done
        ]
        console.out.print(console.table("what a judge would be asked", heads, rows, numeric=2))
    else:
        made = [
            (o.task, o.label, o.items, *(o.verdicts.get(name, 0) for name in heads[3:]))
            for o in done
        ]
        console.out.print(console.table("verdicts", heads, made, numeric=2))
    for one in done:
        for text, count in one.failures.items():
            console.out.print(f"  {one.task}, {one.label}: {count} x {text}", markup=False)
        if one.left:
            console.err.print(
                f"{one.task}, {one.label}: {one.left} were not asked, the budget is spent; the same "
                "command with a larger one goes on",
                markup=False,
            )
    cost = f", {sum(o.cost for o in done):.2f} {currency}" if currency else ""
    calls = sum(o.calls for o in done)
    console.out.print(f"{calls} calls{' to make' if dry_run else ''}{cost}", markup=False)
