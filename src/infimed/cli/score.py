"""`infimed score`: score stored answers again; no model is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def score(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="DIR...", help="Evaluation folders, or run folders with one."),
    ],
    shards: Annotated[
        list[Path] | None,
        typer.Option("--shards", metavar="DIR", help="Imported data, where it was moved."),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="DIR|TASK=DIR",
            help="Where benchmarks lie, to build them again where the cache was emptied.",
        ),
    ] = None,
) -> None:
    """Score stored answers again, offline: same answers, today's extractors, metrics and columns.

    The folder says what was asked and where the records are; scores.json, scores.csv and samples.jsonl
    are written anew. No model is loaded and nothing is fetched.

    Examples:

      infimed score runs/mini

      infimed score scores/a scores/b --data benchmarks
    """
    from infimed.core import console
    from infimed.evaluation.folder import find_evaluation, open_evaluated, read_evaluation
    from infimed.evaluation.places import DataPlaces
    from infimed.evaluation.scoring import score as score_folder

    cache = None
    if data:
        from infimed.model.weights import cache_root

        cache = cache_root()
    for path in folders:
        found = read_evaluation(find_evaluation(path))
        records, notes = open_evaluated(
            found,
            shards=shards or (),
            data=DataPlaces.parse(data) if data else None,
            cache=cache,
        )
        for note in notes:
            console.err.print(note, markup=False)
        board = score_folder(
            found.folder,
            records,
            found.tasks,
            found.labels,
            prior_splits=found.prior_splits,
            breakdowns=found.breakdowns,
            partial=True,
        )
        console.out.print(board.render())
        console.err.print(f"scores: {found.folder}", markup=False)
