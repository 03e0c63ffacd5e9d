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
    indexes: Annotated[
        list[Path] | None,
        typer.Option("--index", help="Folder of `infimed index`; may be given several times."),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it; without this only show what would be done.")
    ] = False,
) -> None:
    """Remove one patient: records, images, findings, verdicts, plan entries, answers, indexed images.

    Shows what holds the group and which checkpoints were trained on it; changes files only with
    --yes. Interrupted, the same command completes it. Sources, backups and checkpoints are yours to
    deal with; docs/privacy.md says what remains.

    **Example:** `infimed data forget --group 4f1c --shards shards/ --runs runs/demo --yes`
    """
    from infimed.core.console import err, out, table
    from infimed.pipeline.forgetting import forget as carry_out
    from infimed.pipeline.forgetting import survey

    found = survey(group, shards or [], runs or [], indexes or [])
    for target in found.targets:
        rows = [
            ("records", len(target.found.rows)),
            ("images that only they show", len(target.found.images)),
            ("ledgers, plans and evaluation files looked through", len(target.ledgers) + len(target.plans) + len(target.answers)),
            ("indexes of training images", len(target.indexes)),
            ("pages deleted, to be made again", len(target.reports)),
            ("checkpoints that were trained on them", len(target.checkpoints)),
        ]  # fmt: skip
        out.print(table(str(target.shards), ("what", "count"), rows))
        for folder in target.checkpoints:
            out.print(f"saw them: {folder}", markup=False, soft_wrap=True)
        for page in target.reports:
            out.print(f"deleted: {page}", markup=False, soft_wrap=True)
    for folder in found.already:
        out.print(f"{folder}: removed before", markup=False)
    if not found.targets:
        return
    if not yes:
        err.print("nothing was changed; give --yes to do it")
        return
    carry_out(found)
    err.print("done; checkpoints listed above keep what they learned")
