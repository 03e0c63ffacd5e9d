"""``infimed curate leakage``: what a data set shares with a benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from infimed.curation.leakage import Leakage

AgainstOption = Annotated[
    Path,
    typer.Option(
        "--against", help="Benchmark: shards, or a folder in any form `infimed data import` reads."
    ),
]


def leakage(
    shards: Annotated[Path, typer.Argument(help="Folder written by `infimed data import`.")],
    against: AgainstOption,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for table and page.")],
    drop: Annotated[
        bool,
        typer.Option(
            "--drop", help="Also curate SHARDS into this folder and drop every leaking record."
        ),
    ] = False,
    pictures: Annotated[
        bool,
        typer.Option("--pictures", help="Show the matching images in the page; patient images."),
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Threads.")] = 2,
) -> None:
    """Find every record of SHARDS whose image or question a benchmark has too.

    Images match by their pixels, or as re-encoded, resized, rewindowed, mirrored, inverted or
    cropped copies; questions in other words too, and with the options in any order. With --drop the
    ledger in the same folder names the benchmark record of every dropped one.

    Example: infimed curate leakage shards --against vqa_rad_test --out leaks --drop
    """
    from infimed.core import console
    from infimed.curation import curate, default_rubric
    from infimed.curation.leakage import PAGE, TABLE, with_leaks
    from infimed.data.shards import open_shards

    found = compare(shards, against, out, workers, pictures)
    console.out.print(f"pairs: {out / TABLE}, page: {out / PAGE}", markup=False, soft_wrap=True)
    if drop:
        opened = open_shards(shards)
        with console.progress("curating", len(opened), unit="records") as advance:
            summary = curate(
                opened, out, rubric=with_leaks(default_rubric(), found), workers=workers,
                on_progress=advance,
            )  # fmt: skip
        console.out.print(
            f"kept {summary.kept} of {summary.records} records, "
            f"{found.counts['data records']} dropped for leaking"
        )


def compare(
    shards: Path, against: Path, out: Path, workers: int, pictures: bool = False
) -> Leakage:
    """Compare, write the table and print it."""
    from infimed.core import console
    from infimed.curation.leakage import compare_sets, open_against
    from infimed.data.shards import open_shards

    opened = open_shards(shards)
    other = open_against(against, out, workers)
    with console.progress("reading", len(opened) + len(other), unit="records") as advance:
        found = compare_sets(
            opened, other, out, workers=workers, on_progress=advance, pictures=pictures
        )
    rows = [(name, str(count)) for name, count in found.counts.items()]
    if found.unreadable:
        rows.append(("unreadable images, left out", str(found.unreadable)))
    console.out.print(console.table(f"Leakage against {found.against}", ["what", "count"], rows))
    shown = [
        (
            leak.record_id,
            leak.other_id,
            leak.kind,
            "; ".join(filter(None, (leak.image, leak.question))),
        )
        for leak in found.leaks[:10]
    ]
    if shown:
        columns = ["record", "benchmark record", "kind", "how"]
        console.out.print(console.table("First pairs", columns, shown))
    return found
