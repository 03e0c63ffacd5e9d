"""`infimed data`: look at data, import it into shards, make a phantom clinic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infimed.cli.data_forget import forget
from infimed.core.console import err, out, progress, table
from infimed.core.errors import UsageError

if TYPE_CHECKING:
    from infimed.data.inspecting import Inspection
    from infimed.data.manifest import ImportSummary

app = typer.Typer(
    help="Look at data, import it into shards, or make a phantom clinic.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
app.command("forget")(forget)

PathArgument = Annotated[Path, typer.Argument(help="Folder or file with the data.")]
ReaderOption = Annotated[
    str,
    typer.Option(
        "--reader",
        help="Form of the data: auto, records, llava, sharegpt, messages, folder, parquet, voc, "
        "vqa_rad, dicom, nifti or mapped.",
    ),
]
PairOption = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        "-o",
        metavar="KEY=VALUE",
        help="Option of the reader; may be given several times, for example "
        "-o split_file=../split.json -o license=CC-BY-4.0.",
    ),
]
ImageRootOption = Annotated[
    Path | None,
    typer.Option(
        "--image-root", help="Folder that image paths are relative to, where it is not PATH."
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers", min=1, max=64, help="Decoding threads (default: CPU count, at most 8)."
    ),
]


@app.command("inspect")
def inspect(
    path: PathArgument,
    reader: ReaderOption = "auto",
    option: PairOption = None,
    image_root: ImageRootOption = None,
    png: Annotated[
        Path | None, typer.Option("--png", help="Draw what was found to this file.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a page with pictures and all reasons.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Look at the first N items only.")
    ] = None,
    problems: Annotated[int, typer.Option("--problems", min=0, help="Problems to print.")] = 10,
    workers: WorkersOption = None,
    mask_text: Annotated[
        bool, typer.Option("--mask-text", help="Paint over burned-in text in the pictures shown.")
    ] = False,
) -> None:
    """Show what is there: counts, image sizes, text lengths, and every unreadable file with its reason.

    PATH may be raw data in any form of docs/data.md, or imported shards.

    **Example:** `infimed data inspect scans/ --html scans.html`
    """
    from infimed.data.inspect_report import write_html, write_png
    from infimed.data.inspecting import inspect_data, require_records

    with progress("inspect", limit, unit="items") as advance:
        found = inspect_data(
            path,
            reader=reader,
            options=pairs(option),
            image_root=image_root,
            limit=limit,
            workers=workers,
            progress=advance,
            mask_text=mask_text,
        )
    require_records(found)
    _print_inspection(found, problems)
    if png is not None:
        write_png(found, png)
        err.print(f"picture: {png}", markup=False)
    if html is not None:
        write_html(found, html)
        err.print(f"page: {html}", markup=False)


@app.command("import")
def import_(
    path: PathArgument,
    to: Annotated[
        Path, typer.Option("--out", help="Folder for the shards; it must not exist yet.")
    ],
    reader: ReaderOption = "auto",
    option: PairOption = None,
    image_root: ImageRootOption = None,
    workers: WorkersOption = None,
    records_per_shard: Annotated[
        int, typer.Option("--records-per-shard", min=1, help="Records in one shard.")
    ] = 4096,
    restart: Annotated[
        bool, typer.Option("--restart", help="Do not take over an interrupted import.")
    ] = False,
    mask_text: Annotated[
        bool,
        typer.Option("--mask-text", help="Paint over text burned into images (docs/privacy.md)."),
    ] = False,
    redact: Annotated[
        bool,
        typer.Option("--redact", help="Replace names, numbers and dates of persons in texts."),
    ] = False,
    describe: Annotated[
        bool,
        typer.Option(
            "--describe",
            help="Add captions and short questions from what headers and tables state of images.",
        ),
    ] = False,
    problems: Annotated[int, typer.Option("--problems", min=0, help="Problems to print.")] = 10,
) -> None:
    """Write immutable shards: every image once, every record checked, every refusal with its reason.

    An interrupted import goes on where it stopped when the same command is given again. What was
    not imported is in problems.jsonl beside the shards.

    **Examples:**

    `infimed data import captions/ --out shards/`

    `infimed data import vqa_rad/ --out shards/ -o split_file=../vqa_rad_split.json`

    `infimed data import hospital/ --out shards/ --mask-text --redact`
    """
    from infimed.data.importing import import_data
    from infimed.data.privacy.options import Privacy
    from infimed.data.shards import open_shards

    with progress("import", None, unit="items") as advance:
        summary = import_data(
            path,
            to,
            reader=reader,
            options=pairs(option),
            image_root=image_root,
            workers=workers,
            records_per_shard=records_per_shard,
            resume=not restart,
            progress=lambda _, count: advance(1, problems=count),
            privacy=Privacy(mask_text=mask_text, redact=redact),
            describe=describe,
        )
    _print_summary(summary)
    if summary.problems and problems:
        shown = [item for item, _ in zip(open_shards(to).problems(), range(problems), strict=False)]
        rows = [(item["where"], item["what"], item["fix"]) for item in shown]
        _print_problems(rows, summary.problems)


@app.command("phantom")
def phantom(
    to: Annotated[Path, typer.Option("--out", help="Folder for the clinic.")],
    patients: Annotated[int, typer.Option("--patients", min=1, help="Number of patients.")] = 100,
    seed: Annotated[int, typer.Option("--seed", help="Same seed, same clinic.")] = 0,
    size: Annotated[
        int, typer.Option("--size", min=32, max=2048, help="Side of the images in pixels.")
    ] = 192,
    dicom: Annotated[
        bool, typer.Option("--dicom", help="Also write CT, MR and radiographs as DICOM.")
    ] = False,
    splits: Annotated[
        str, typer.Option("--splits", help="Shares of the patients, as name=share,...")
    ] = "train=0.7,dev=0.1,calibration=0.05,test=0.15",
    workers: WorkersOption = None,
) -> None:
    """Make a phantom clinic: generated patients with images, texts and the truth about them.

    **Example:** `infimed data phantom --out clinic/ --patients 200 --seed 1`
    """
    from infimed.data.phantom import write_clinic
    from infimed.data.readers.splitting import parse_shares

    cumulated = parse_shares(splits)
    befores = [0.0, *(share for _, share in cumulated)]
    shares: dict[str, float] = {
        name: share - before for (name, share), before in zip(cumulated, befores, strict=False)
    }
    summary = write_clinic(
        to,
        patients=patients,
        seed=seed,
        size=size,
        splits=shares,
        workers=workers or 1,
        dicom=dicom,
    )
    rows = [
        ("patients", summary.patients),
        ("images", summary.images),
        ("records", summary.records),
    ]
    out.print(table(str(to), ("what", "count"), rows))
    err.print(f"look at it with: infimed data inspect {to}", markup=False)


def pairs(texts: list[str] | None) -> dict[str, str]:
    """``["a=1"]`` as a mapping.

    Raises:
        UsageError: an item without "=".
    """
    made = {}
    for text in texts or []:
        key, mark, value = text.partition("=")
        if not mark or not key:
            raise UsageError("options are given as KEY=VALUE", where="--option", seen=text)
        made[key.strip()] = value
    return made


def _print_inspection(found: Inspection, problems: int) -> None:
    from infimed.data.inspect_report import numbers

    out.print(
        table(
            f"{found.path} (read as {found.reader})", ("what", "value"), numbers(found), numeric=2
        )
    )
    rows = [(problem.where, problem.what, problem.fix) for problem in found.problems[:problems]]
    _print_problems(rows, found.problem_count)


def _print_summary(summary: ImportSummary) -> None:
    counts = [
        ("records", f"{summary.records:,}"),
        ("images", f"{summary.images:,} stored, shown {summary.image_uses:,} times"),
        ("tasks", ", ".join(f"{name} {count:,}" for name, count in summary.tasks.items())),
        ("splits", ", ".join(f"{name} {count:,}" for name, count in summary.splits.items())),
        (
            "shards",
            f"{summary.shards}" + (f" ({summary.kept_shards} kept)" if summary.kept_shards else ""),
        ),
        ("not imported", f"{summary.problems:,}"),
        ("data hash", summary.data_hash[:16]),
    ]
    out.print(table(str(summary.path), ("what", "value"), counts, numeric=2))


def _print_problems(rows: list[tuple[str, str, str]], total: int) -> None:
    from rich.text import Text

    if not rows:
        return
    title = f"problems: {total:,}" + (f", the first {len(rows)}" if total > len(rows) else "")
    made = table(title, ("where", "what", "fix"), [], numeric=3)
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    out.print(made)
