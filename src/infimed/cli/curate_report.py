"""``infimed curate report``: the page a data lead reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    ledger: Annotated[Path, typer.Argument(help="Folder given to `infimed curate run --out`.")],
    shards: Annotated[
        Path | None,
        typer.Option(help="The shards; default: where they were when the ledger was written."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="HTML file; default: LEDGER/report.html.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the examples.")] = 0,
) -> None:
    """Write one HTML page: what was dropped and why, with examples, limits, strata and cost.

    The page is one file that loads nothing from outside and runs no script.

    Example: infimed curate report curated --shards shards --out report.html
    """
    from infimed.core import console
    from infimed.curation.engine import read_summary
    from infimed.curation.origin import open_curated
    from infimed.curation.report import write_curation_report

    opened = open_curated(ledger, shards, read_summary(ledger))
    try:
        path = write_curation_report(ledger, opened, out or ledger / "report.html", seed)
    finally:
        opened.close()
    console.out.print(f"open in a browser: {path}", markup=False, soft_wrap=True)
