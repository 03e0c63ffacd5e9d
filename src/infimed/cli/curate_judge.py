"""``infimed curate judge``: ask a judge about the records the rules leave uncertain."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infimed.core.errors import EXIT_DATA, UsageError

if TYPE_CHECKING:
    from infimed.curation.judge import JudgeSummary
    from infimed.inference.endpoint_settings import Endpoint
    from infimed.inference.prices import Price
    from infimed.inference.requests import Model


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
        if endpoint is not None:
            from infimed.inference.endpoint import EndpointModel
            from infimed.inference.endpoint_settings import Endpoint, parse_extra, read_key

            settings = Endpoint(
                endpoint,
                judge_model or "",
                read_key(key_file),
                concurrency=concurrency,
                timeout_seconds=timeout,
                extra=parse_extra(extra),
            )
            remote = stack.enter_context(EndpointModel(_named(settings, dry_run)))
            price = _price(prices, remote.endpoint.model)
            _say_where(remote.endpoint.base_url, len(planned.rows))
            judging: Model = remote
        else:
            from infimed.inference.local import LocalModel

            assert model is not None
            price = _price(prices, model.name)
            judging = LocalModel.open(model)
        if dry_run:
            found = estimate(
                ledger, planned, judging.fingerprint, image_tokens=image_tokens, price=price
            )
            for line in found.lines(len(data)):
                console.out.print(line, markup=False)
            return
        summary = run_judge(ledger, data, judging, planned, asked, price=price)
    _print(summary)
    failed = summary.statuses["error"] + summary.statuses["timeout"]
    if summary.selected and failed == summary.selected:
        raise typer.Exit(EXIT_DATA)


def _named(settings: Endpoint, dry_run: bool) -> Endpoint:
    """With the name of the only model that is served, where none was given."""
    from infimed.inference.endpoint_settings import served_models

    if settings.model:
        return settings
    if dry_run:
        raise UsageError("a dry run asks nothing, not even for names", fix="add --judge-model")
    names = served_models(settings)
    if len(names) != 1:
        raise UsageError(
            "the endpoint serves several models", accepted=names, fix="choose with --judge-model"
        )
    return replace(settings, model=names[0])


def _price(path: Path | None, name: str) -> Price | None:
    from infimed.inference.prices import price_of, read_prices

    return price_of(read_prices(path), name, str(path)) if path else None


def _say_where(url: str, records: int) -> None:
    from infimed.core import console
    from infimed.inference.endpoint_settings import is_loopback

    if not is_loopback(url):
        console.err.print(
            f"text and images of {records} records go to {url}: make sure they may", markup=False
        )


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
