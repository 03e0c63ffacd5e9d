"""`infimed index`: an index of the images that a model was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def index(
    run: Annotated[Path, typer.Argument(help="A run folder, or a checkpoint folder.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the index.")],
    shards: Annotated[
        list[Path] | None,
        typer.Option("--shards", help="Folder of shards, repeatable; the run's own by default."),
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option("--split", help="Splits to index, repeatable; train by default.")
    ] = None,
    license: Annotated[
        list[str] | None,
        typer.Option("--license", help="Licence that allows showing, repeatable; every stated one by default."),
    ] = None,
    consent: Annotated[
        list[str] | None,
        typer.Option("--consent", help="Value of the fact `consent` that allows showing, repeatable; none by default."),
    ] = None,
    thumbnails: Annotated[
        bool, typer.Option("--thumbnails", help="Store small copies of the images too. They are patient data.")
    ] = False,
    dtype: Annotated[str, typer.Option("--dtype", metavar="fp32|bf16|fp16", help="As the server will have it.")] = "fp32",
    device: Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:N.")] = "cpu",
) -> None:  # fmt: skip
    """Index the images of training records, so that a server can show which of them an image resembles.

    Of a run's own shards only records in its plans are indexed: those it was trained on. Killed, the same command goes on.

    Examples:

      infimed index runs/nano --out runs/nano/index

      infimed serve runs/nano --index runs/nano/index
    """
    from infimed.core.console import err, table
    from infimed.core.console import out as console
    from infimed.pipeline.indexing import make_index
    from infimed.serving.evidence.indexing import Filter

    chosen = Filter(tuple(split or ("train",)), tuple(license or ()), tuple(consent or ()))
    made = make_index(
        run, shards or [], out, chosen, thumbnails=thumbnails, dtype=dtype, device=device
    )
    rows = [("images", made.images), ("records that show them", made.records)]
    rows += [(f"left out: {reason}", count) for reason, count in made.left_out.items()]
    console.print(table(str(out), ("what", "count"), rows))
    if made.reused:
        err.print("it was there already")
    elif made.resumed:
        err.print(f"went on after {made.resumed:,} images of an earlier run")
