"""`infimed data forget`: take one patient out of shards, ledgers and plans."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def forget(
    group: Annotated[
        str, typer.Option("--group", help="The records' group, as the shards state it.")
    ],
    shards: Annotated[
        list[Path] | None,
        typer.Option("--shards", help="Folder of shards; may be given several times."),
    ] = None,
    runs: Annotated[
        list[Path] | None,
        typer.Option("--runs", help="Run folder or curation folder; may be given several times."),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it; without this only show what would be done.")
    ] = False,
) -> None:
    """Remove one patient: records, images, findings, verdicts, plan entries, answers.

    Shows what holds the group and which checkpoints were trained on it; changes files only with
    --yes. Interrupted, the same command completes it. Sources, backups and checkpoints are yours to
    deal with; docs/privacy.md says what remains.

    **Example:** `infimed data forget --group 4f1c --shards shards/ --runs runs/demo --yes`
    """
    from infimed.core.console import err, out, table
    from infimed.pipeline.forgetting import forget as carry_out
    from infimed.pipeline.forgetting import survey

    found = survey(group, shards or [], runs or [])
    for target in found.targets:
        rows = [
            ("records", str(len(target.found.rows))),
            ("images only they show", str(len(target.found.images))),
            ("ledgers", _names(target.ledgers)),
            ("plans", _names(target.plans)),
            ("evaluation files looked through", str(len(target.answers))),
            ("pages deleted, to be made again", _names(target.reports)),
            ("checkpoints trained on them", _names(target.checkpoints)),
        ]
        out.print(table(str(target.shards), ("what", "value"), rows, numeric=2))
    for folder in found.already:
        out.print(f"{folder}: removed before", markup=False)
    if not found.targets:
        return
    if not yes:
        err.print("nothing was changed; give --yes to do it")
        return
    carry_out(found)
    err.print("done; checkpoints listed above keep what they learned")


def _names(paths: tuple[Path, ...]) -> str:
    return "\n".join(map(str, paths)) or "none"
