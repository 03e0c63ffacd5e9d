"""``infimed curate grounding``: does a checkpoint need a record's images to find its answer?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def grounding(
    ledger: Annotated[Path, typer.Argument(help="Folder given to `infimed curate run --out`.")],
    shards: Annotated[Path, typer.Option("--shards", help="The shards that were curated.")],
    model: Annotated[Path, typer.Option(help="A run or checkpoint folder of our own.")],
    swaps: Annotated[
        int, typer.Option(min=1, help="Other patients' images each record is tried with.")
    ] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Measure a random part only.")] = None,
    seed: Annotated[int, typer.Option(help="Which images are swapped, and the part.")] = 0,
    threads: Annotated[
        int, typer.Option(min=0, help="CPU threads; 0 leaves it to the machine.")
    ] = 0,
) -> None:
    """Measure the loss of every answer with its images, without, and with another patient's.

    Kill it and run it again: it goes on where it stopped. Use a model trained on other records.

    Example: infimed curate grounding curated --shards shards --model runs/mini
    """
    import torch

    from infimed.core import console
    from infimed.curation.grounding import measure_grounding
    from infimed.data.shards import open_shards
    from infimed.inference.local import LocalModel

    if threads:
        torch.set_num_threads(threads)
    opened = open_shards(shards)
    local = LocalModel.open(model)
    with console.progress("grounding", limit or len(opened), unit="records") as advance:
        found = measure_grounding(
            ledger, opened, local, swaps=swaps, limit=limit, seed=seed, on_progress=advance
        )
    rows = [(name, count) for name, count in found.statuses.items()]
    console.out.print(console.table(f"{found.records} records", ["status", "records"], rows))
    for text, value in (
        ("loss without images minus with them, nats per token", found.mean_gap_without),
        ("loss with foreign images minus own", found.mean_gap_swapped),
        ("share of records easier with their own images (0.5 = the model does not look)", found.own_wins),
    ):  # fmt: skip
        console.out.print(f"{text}: {'-' if value is None else format(value, '.3f')}", markup=False)
