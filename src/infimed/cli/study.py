"""`infimed study`: controlled experiments and their page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(
    help="Controlled experiments on the claims of the paper: seeds, intervals, one page.",
    no_args_is_help=True,
)

Preset = Annotated[str, typer.Option("--preset", help="nano: generated data. mini: yours.")]
Budget = Annotated[
    str | None, typer.Option("--budget", help="Start no cell that does not end in it: 90m, 2h.")
]
Data = Annotated[
    Path | None,
    typer.Option("--data", help="Folder of your data, for presets other than nano."),
]
Workers = Annotated[int, typer.Option("--workers", min=1, help="Cells at a time, one core each.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show cells and about how long they take.")]
Out = Annotated[Path, typer.Option("--out", help="Folder of all cells and results.")]


@app.command("list")
def list_() -> None:
    """Print the studies with their questions."""
    from infimed.studies.conducting import show_list

    show_list()


@app.command("run")
def run(
    name: Annotated[str, typer.Argument(help="A study (infimed study list), a YAML file, or all.")],
    preset: Preset = "nano",
    budget: Budget = None,
    data: Data = None,
    workers: Workers = 2,
    dev: Annotated[
        bool,
        typer.Option("--dev", help="Ask the development split: to tune a study before it is run."),
    ] = False,
    dry_run: DryRun = False,
    out: Out = Path("runs/studies"),
) -> None:
    """Run a study: train and ask every arm with every seed. The same command goes on where it stopped.

    Examples:

      infimed study run filter --dry-run

      infimed study run filter --budget 90m

      infimed study run seeing --preset mini --data shared/data/vqa_rad
    """
    _run(name, preset, budget, data, workers, dev, dry_run, out)


@app.command("all")
def all_(
    preset: Preset = "nano",
    budget: Budget = None,
    data: Data = None,
    workers: Workers = 2,
    dry_run: DryRun = False,
    page: Annotated[
        Path | None, typer.Option("--page", help="Where the page goes; default: in the folder.")
    ] = None,
    out: Out = Path("runs/studies"),
) -> None:
    """Run every study, all with one seed before any has two, and write the page.

    Example: infimed study all --preset nano --budget 120m
    """
    _run("all", preset, budget, data, workers, False, dry_run, out)
    if not dry_run:
        report(out=out, page=page)


@app.command("report")
def report(
    out: Out = Path("runs/studies"),
    page: Annotated[
        Path | None, typer.Option("--page", help="Where the page goes; default: in the folder.")
    ] = None,
) -> None:
    """Write the page and the results table of everything that ran.

    Example: infimed study report --page docs/studies.md
    """
    from infimed.core import console
    from infimed.studies.conducting import report as write

    console.out.print(
        f"page: {write(out, page or out / 'studies.md')}", markup=False, soft_wrap=True
    )


@app.command("pack")
def pack(
    file: Annotated[Path, typer.Argument(help="The record to write, .parquet.")],
    out: Out = Path("runs/studies"),
) -> None:
    """Put all scores, costs and openings into one file, from which anyone writes the same page.

    Example: infimed study pack docs/studies/record.parquet
    """
    from infimed.core import console
    from infimed.studies.record import pack as write

    cells = write(out, file)
    console.out.print(f"record: {file}, {cells} cells", markup=False, soft_wrap=True)


@app.command("unpack")
def unpack(
    file: Annotated[Path, typer.Argument(help="A record that infimed study pack wrote.")],
    out: Out = Path("runs/studies"),
) -> None:
    """Put the cells of a record into a folder: write its page, or go on with what is missing.

    Example: infimed study unpack docs/studies/record.parquet && infimed study report
    """
    from infimed.core import console
    from infimed.studies.record import unpack as read

    new, known = read(file, out)
    console.out.print(
        f"{new} cells are new in {out}, {known} were there", markup=False, soft_wrap=True
    )


def _run(
    name: str,
    preset: str,
    budget: str | None,
    data: Path | None,
    workers: int,
    dev: bool,
    dry_run: bool,
    out: Path,
) -> None:
    from infimed.studies import conducting

    studies = conducting.chosen_studies(name)
    split: Literal["dev", "test"] = "dev" if dev else "test"
    if dry_run:
        conducting.show_plan(studies, preset, split, out, workers)
        return
    from infimed.core.allocator import restart_tuned

    restart_tuned()
    outcome = conducting.conduct(
        studies, preset, out, split=split, root=data, budget=budget, workers=workers
    )
    if outcome.failed:
        raise typer.Exit(1)
