"""``infimed curate explain``: why one record was kept or dropped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def explain_record(
    folder: Annotated[Path, typer.Argument(help="Folder given to `infimed curate run --out`.")],
    record_id: Annotated[str, typer.Argument(help="Id of the record.")],
    all_signals: Annotated[
        bool, typer.Option("--signals", help="Print every measured value too.")
    ] = False,
    shards: Annotated[
        Path | None,
        typer.Option(help="The shards; default: where they were when the ledger was written."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Write the record's images into this folder, as PNG.")
    ] = None,
) -> None:
    """Say why a record was kept or dropped: its texts and images, every finding with value, limits and evidence.

    Example: infimed curate explain curated vqa_rad-187 --images look
    """
    from infimed.core import console
    from infimed.core.errors import InfiMedError
    from infimed.curation import explain, score_table
    from infimed.curation.engine import read_summary
    from infimed.curation.explaining import limits_in_force, record_lines
    from infimed.curation.judge_evidence import evidence_lines
    from infimed.curation.origin import open_curated, read_rubric
    from infimed.curation.tables import explanation_lines

    def say(line: str) -> None:
        console.out.print(line, markup=False, soft_wrap=True)

    found = explain(folder, record_id)
    summary = read_summary(folder)
    limits = limits_in_force(found, read_rubric(folder, summary, known_only=True))
    for line in explanation_lines(found, all_signals, limits):
        say(line)
    for line in score_table.evidence_lines(folder, record_id, found.verdict.row):
        say(line)
    for line in evidence_lines(folder, record_id):
        say(line)
    say("")
    try:
        opened = open_curated(folder, shards, summary)
    except InfiMedError as error:
        if shards is not None or images is not None:
            raise
        say(f"its texts and images are not shown: {error.what} (--shards FOLDER)")
        return
    try:
        for line in record_lines(found, opened, images):
            say(line)
    finally:
        opened.close()
    if images is None and found.signals.get("images"):
        say("to look at the images: add --images FOLDER")
