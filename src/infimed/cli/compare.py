"""`infimed compare`: several models on one page, with CSV and LaTeX."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]DIR...",
            help="Evaluation folders, or run folders with one; the first is the reference.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Where the three files go.")
    ] = Path("comparison"),
    tasks: Annotated[
        str,
        typer.Option("--tasks", metavar="A,B", help="Only these; default: all that were asked."),
    ] = "",
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference", metavar="NAME", help="Whose scores the differences are against."
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option("--samples", min=1, help="Most questions with their answers on the page.")
    ] = 600,
    no_samples: Annotated[
        bool, typer.Option("--no-samples", help="Scores only: no question and no answer.")
    ] = False,
    thumbnails: Annotated[
        int, typer.Option("--thumbnails", min=1, help="Most pictures, each once; about 10 KB each.")
    ] = 200,
    no_images: Annotated[bool, typer.Option("--no-images", help="No pictures.")] = False,
    shards: Annotated[
        list[Path] | None,
        typer.Option("--shards", metavar="DIR", help="Imported data, where it was moved."),
    ] = None,
    published: Annotated[
        Path | None,
        typer.Option(
            "--published", metavar="FILE", help="More numbers of others (docs/compare.md)."
        ),
    ] = None,
) -> None:
    """Put evaluated models side by side: compare.html (opens from disk), compare.csv, compare.tex.

    The page holds questions, answers and small pictures of the data: share it only as these may be
    shared, or leave them out.

    Examples:

      infimed compare runs/mini runs/mini-2

      infimed compare ours=runs/mini/evaluation qwen=scores/qwen --out comparison --no-images
    """
    from infimed.core import console
    from infimed.evaluation.compare.browsing import Gallery, browser, images_of
    from infimed.evaluation.compare.loading import read_models
    from infimed.evaluation.compare.page import write_comparison
    from infimed.evaluation.compare.published import reported
    from infimed.evaluation.compare.table import compare as put_side_by_side
    from infimed.evaluation.compare.words import headline

    read = read_models(models)
    chosen = [name.strip() for name in tasks.split(",") if name.strip()]
    known = list(dict.fromkeys(name for model in read for name in model.tasks))
    found = put_side_by_side(
        read, reference=reference, tasks=chosen, published=reported(known, published)
    )
    shown = None
    if not no_samples:
        gallery = None if no_images else Gallery(images_of(read, shards or ()), thumbnails)
        titles = [(task.name, task.title) for task in found.tasks]
        shown = browser(read, titles, samples=samples, gallery=gallery)
    page, *others = write_comparison(found, out, shown)
    for sentence in headline(found):
        console.out.print(sentence, markup=False, soft_wrap=True)
    size = page.stat().st_size / 2**20
    answers = (
        f", {shown.shown} of {shown.total} questions, {shown.pictures} pictures" if shown else ""
    )
    console.out.print(
        f"open in a browser: {page} ({size:.1f} MiB{answers})", markup=False, soft_wrap=True
    )
    console.out.print(f"also: {', '.join(map(str, others))}", markup=False, soft_wrap=True)
