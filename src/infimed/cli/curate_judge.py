"""``infimed curate judge``: ask a judge about the records the rules leave uncertain."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infimed.cli.judge_model import open_judge_model, say_where
from infimed.core.errors import EXIT_DATA, UsageError

if TYPE_CHECKING:
    from infimed.curation.judge import JudgeSummary


def judge(
    ledger: Annotated[Path, typer.Argument(help="Folder given to `infimed curate run --out`.")],
    shards: Annotated[Path, typer.Option("--shards", help="The shards that were curated.")],
    endpoint: Annotated[
        str | None,
        typer.Option(metavar="URL", help="OpenAI-compatible, such as http://host:8000/v1."),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="A run or checkpoint folder of our own, instead.")
    ] = None,
    judge_model: Annotated[
        str | None,
        typer.Option(help="Name of the model; needed where the endpoint serves several."),
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="File with the key; default: variable INFIMED_API_KEY.")
    ] = None,
    band: Annotated[
        str, typer.Option(metavar="LOW,HIGH", help="Ask where P(ok) by the rules lies between.")
    ] = "0.05,0.95",
    limit: Annotated[int | None, typer.Option(min=1, help="Ask about a random part only.")] = None,
    rubric: Annotated[Path | None, typer.Option(help="Rubric of the judge (YAML).")] = None,
    prices: Annotated[Path | None, typer.Option(help="Price table (YAML) by model name.")] = None,
    image_tokens: Annotated[
        int, typer.Option(min=0, help="Tokens per image, for the estimate.")
    ] = 1000,
    extra: Annotated[
        str, typer.Option(metavar="JSON", help="More settings of a call, such as response_format.")
    ] = "{}",
    concurrency: Annotated[int, typer.Option(min=1, help="Calls open at once.")] = 8,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds a call may take.")] = 120.0,
    seed: Annotated[int, typer.Option(help="Order of criteria, and the part --limit takes.")] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say how many calls and about what cost; ask nothing.")
    ] = False,
) -> None:
    """Ask a judge about the uncertain records of a LEDGER: five dimensions, 0, 1, 2 or U (unknown).

    Answers are kept as they arrive: kill it and run it again, and nothing is asked twice. A judge
    that fails is counted, per record, and never ends the run.

    Examples:

      infimed curate judge curated --shards shards --endpoint http://localhost:8000/v1 --dry-run

      infimed curate judge curated --shards shards --endpoint http://localhost:8000/v1 --band 0.1,0.9
    """
    from infimed.core import console
    from infimed.curation.judge import Band, plan, run_judge
    from infimed.curation.judge_estimate import estimate
    from infimed.curation.judge_rubric import JudgeRubric
    from infimed.data.shards import open_shards

    if (endpoint is None) == (model is None):
        raise UsageError(
            "give either --endpoint or --model", accepted="--endpoint URL, or --model RUN"
        )
    chosen_band = Band.parse(band)
    asked = JudgeRubric.load(rubric)
    planned = plan(
        ledger, data := open_shards(shards), asked, band=chosen_band, limit=limit, seed=seed
    )
    with ExitStack() as stack:
        judging = open_judge_model(
            stack,
            endpoint if endpoint is not None else str(model),
            name=judge_model or "",
            key_file=key_file,
            prices=prices,
            extra=extra,
            concurrency=concurrency,
            timeout=timeout,
            ask_names=not dry_run,
        )
        price = judging.price
        say_where(judging, f"text and images of {len(planned.rows)} records")
        if dry_run:
            found = estimate(
                ledger, planned, judging.model.fingerprint, image_tokens=image_tokens, price=price
            )
            for line in found.lines(len(data)):
                console.out.print(line, markup=False)
            return
        summary = run_judge(ledger, data, judging.model, planned, asked, price=price)
    _print(summary)
    failed = summary.statuses["error"] + summary.statuses["timeout"]
    if summary.selected and failed == summary.selected:
        raise typer.Exit(EXIT_DATA)


def _print(summary: JudgeSummary) -> None:
    from infimed.core import console

    rows = [(name, *counts.values()) for name, counts in summary.levels.items()]
    levels = next(iter(summary.levels.values()), {})
    console.out.print(console.table("Levels per dimension", ["dimension", *levels], rows))
    counted = ", ".join(f"{count} {name}" for name, count in summary.statuses.items() if count)
    console.out.print(f"{summary.selected} records judged: {counted or 'none'}", markup=False)
    for text, count in summary.failures.items():
        console.out.print(f"  {count} x {text}", markup=False)
    cost = f", {summary.price:.2f} {summary.currency}" if summary.currency else ""
    console.out.print(
        f"{summary.attempts} calls, {summary.prompt_tokens} prompt and {summary.completion_tokens} "
        f"written tokens, {summary.seconds:.0f} s of calls{cost}",
        markup=False,
    )
    if summary.statuses["error"] or summary.statuses["timeout"]:
        console.err.print("run the same command again to ask about the failed ones", markup=False)
