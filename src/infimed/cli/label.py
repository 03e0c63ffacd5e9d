"""``infimed label``: let people judge a sample, and compare them with each other and the rules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infimed.core.errors import DataError

if TYPE_CHECKING:
    from rich.table import Table

    from infimed.core.statistics import Estimate
    from infimed.curation.label_agreement import LabelReport

MOST_PROBLEMS = 20

app = typer.Typer(
    name="label",
    no_args_is_help=True,
    help="""Let people judge a sample of a curated data set.

      infimed label export curated --n 200 --out labels

      (open labels/review.html in a browser, judge, save, send the file back)

      infimed label import labels-*.json --ledger curated
    """,
)


@app.command("export")
def export(
    ledger: Annotated[Path, typer.Argument(help="Folder given to `infimed curate run --out`.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the reviewers' files.")],
    n: Annotated[int, typer.Option("--n", min=1, help="Records.")] = 200,
    shards: Annotated[
        Path | None,
        typer.Option(help="The shards; default: where they were when the ledger was written."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
) -> None:
    """Draw records to judge: dropped, close to a limit, noted and kept ones, blinded to the verdict.

    Give every reviewer the same review.html. It works offline; nothing leaves it but the file they save.

    Example: infimed label export curated --n 200 --out labels
    """
    from infimed.core import console
    from infimed.curation.engine import read_summary
    from infimed.curation.label_export import export_labels
    from infimed.curation.origin import open_curated

    opened = open_curated(ledger, shards, read_summary(ledger))
    try:
        made = export_labels(ledger, opened, out, n, seed)
    finally:
        opened.close()
    pools = ", ".join(f"{name} {count}" for name, count in made.pools.items())
    for line in (
        f"{made.records} records ({pools}), {made.images} images",
        f"reviewers open {out / 'review.html'} (or fill in {out / 'items.csv'}) and send back what they save",
        f"then: infimed label import FILE... --ledger {ledger}",
    ):
        console.out.print(line, markup=False, soft_wrap=True)


@app.command("import")
def import_(
    files: Annotated[
        list[Path], typer.Argument(help="Files saved by reviewers (JSON, JSONL, CSV).")
    ],
    ledger: Annotated[Path, typer.Option(help="Folder given to `infimed curate run --out`.")],
    skip_malformed: Annotated[
        bool, typer.Option("--skip-malformed", help="Name malformed rows and use the others.")
    ] = False,
) -> None:
    """Check labels, keep them beside the ledger and print how far everyone agrees.

    A malformed row stops the import, and every such row is named. A rater who sends labels again
    replaces the older ones.

    Example: infimed label import labels-anna.json labels-ben.csv --ledger curated
    """
    from infimed.core import console
    from infimed.curation import ledger as tables
    from infimed.curation.label_files import read_label_files
    from infimed.curation.labels import store_labels

    verdicts = tables.read_ledger(ledger, tables.VERDICTS, ["row", "record_id"])
    rows = dict(zip(verdicts["record_id"].to_pylist(), verdicts["row"].to_pylist(), strict=True))
    read = read_label_files(files, rows)
    for problem in read.malformed[:MOST_PROBLEMS]:
        console.err.print(f"{problem.where}: {problem.what}", markup=False, soft_wrap=True)
    if len(read.malformed) > MOST_PROBLEMS:
        console.err.print(f"and {len(read.malformed) - MOST_PROBLEMS} more malformed rows")
    if read.malformed and not skip_malformed:
        raise DataError(
            f"{len(read.malformed)} malformed rows; nothing was imported",
            where=read.malformed[0].where,
            seen=read.malformed[0].what,
            fix="mend them, or give --skip-malformed to use the other rows",
        )
    new, replaced = store_labels(ledger, read.rows)
    unlabelled = f", {read.unlabelled} records without a label" if read.unlabelled else ""
    console.out.print(
        f"{len(read.rows)} labels read ({new} new, {replaced} changed{unlabelled})", markup=False
    )
    _print_report(ledger)


@app.command("agreement")
def agreement(
    ledger: Annotated[Path, typer.Argument(help="Folder given to `infimed curate run --out`.")],
) -> None:
    """Print again how far people, rules and judge agree, from the labels beside LEDGER.

    Example: infimed label agreement curated
    """
    _print_report(ledger)


def _print_report(ledger: Path) -> None:
    from infimed.core import console
    from infimed.core.files import write_json
    from infimed.curation.label_agreement import AGREEMENT_FILE, label_report

    report = label_report(ledger)
    if not report.labels:
        raise DataError(
            "no labels beside this ledger",
            where=str(ledger),
            fix="run: infimed label export, then infimed label import",
        )
    write_json(ledger / AGREEMENT_FILE, report.to_dict())
    for part in report_lines(report):
        if isinstance(part, str):
            console.out.print(part, markup=False, soft_wrap=True)
        else:
            console.out.print(part)


def report_lines(report: LabelReport) -> Iterator[str | Table]:
    """A label report as tables and sentences."""
    from infimed.core.console import table

    yield f"{report.labels} labels by {len(report.raters)} raters on {report.records} records"
    if len(report.raters) > 1:
        rows = [
            (d.dimension, f"{p.first} / {p.second}", p.kappa.n, estimate(p.kappa), percent(p.equal))
            for d in report.dimensions
            for p in d.pairs
        ]
        columns = ["dimension", "raters", "records", "kappa", "same level"]
        yield table("Between people: quadratically weighted kappa", columns, rows, numeric=2)
    alphas = [
        (d.dimension, d.records, percent(d.unknown), estimate(d.alpha)) for d in report.dimensions
    ]
    yield table(
        "Over all raters: Krippendorff's ordinal alpha",
        ["dimension", "labelled", "cannot tell (U)", "alpha"], alphas,
    )  # fmt: skip
    machines = [
        (d.dimension, m.name, number(m.kappa), number(d.ceiling), percent(m.unknown))
        for d in report.dimensions
        for m in d.machines
    ]
    yield table(
        "Against people: mean kappa over raters, beside the mean between people",
        ["dimension", "who", "with people", "people", "U"], machines, numeric=2,
    )  # fmt: skip
    for what, found, means in (
        ("dropped", report.dropped, "the rules' precision"),
        ("kept", report.kept, "what slipped through"),
    ):
        if found.records:
            yield (
                f"of {found.records} labelled records that were {what}, people call {found.defective} "
                f"defective ({found.defective / found.records:.0%}, 95 % interval {found.low:.0%} to "
                f"{found.high:.0%}): {means}"
            )
    yield "A sample enriched with dropped and borderline records describes that sample, not the data set."
    if len(report.raters) < 2:
        yield "With one rater there is no agreement between people to compare with."


def estimate(value: Estimate) -> str:
    """``0.71 (0.55 to 0.83)``, or a dash where it is not defined."""
    if value.mean is None:
        return "–"
    if value.low is None:
        return f"{value.mean:.2f}"
    return f"{value.mean:.2f} ({value.low:.2f} to {value.high:.2f})"


def number(value: float | None) -> str:
    """Two decimals, or a dash."""
    return "–" if value is None else f"{value:.2f}"


def percent(value: float | None) -> str:
    """A whole per cent, or a dash."""
    return "–" if value is None else f"{value:.0%}"
