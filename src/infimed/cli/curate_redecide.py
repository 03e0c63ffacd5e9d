"""``infimed curate redecide``: another limit, decided again from the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infimed.cli.curate_settings import parse_settings
from infimed.core.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from infimed.curation.redecide import Difference, Moved

MOST_LINES = 12


def redecide(
    ledger: Annotated[Path, typer.Argument(help="Folder given to `infimed curate run --out`.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="RULE=drop|note|off, or RULE.LIMIT=NUMBER; may be repeated."),
    ] = None,
    rubric: Annotated[
        Path | None, typer.Option(help="Rubric file (YAML) instead of the ledger's own rubric.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="New folder; default: change LEDGER itself.")
    ] = None,
    diff: Annotated[
        bool, typer.Option("--diff", help="Only say what would change; write nothing.")
    ] = False,
    shards: Annotated[
        Path | None,
        typer.Option(help="The shards; default: where they were when the ledger was written."),
    ] = None,
) -> None:
    """Decide LEDGER again with other limits, and say which records that drops or brings back.

    Nothing is measured again: the values are in the ledger. Settings start from the ledger's own rubric. What
    leaks to a benchmark (--against) stays dropped by the leakage table beside the ledger, also with another
    rubric file; --set relevance.benchmark_leak=note lets it in. A ledger that was decided by score is
    scored and decided again.

    Example: infimed curate redecide curated --set readability.blurred_image.min_sharpness=1.5 --diff
    """
    from infimed.core import console
    from infimed.curation.engine import read_summary
    from infimed.curation.leakage import RULE, with_rule
    from infimed.curation.origin import open_curated, read_rubric
    from infimed.curation.redecide import redecide as decide_again
    from infimed.curation.rubric import Rubric

    if not settings and rubric is None:
        raise UsageError(
            "nothing to change",
            fix="say what: --set RULE.LIMIT=NUMBER, --set RULE=note or --rubric FILE "
            "(all rules and limits: infimed curate rules)",
        )
    summary = read_summary(ledger)
    before = read_rubric(ledger, summary)
    after = before
    if rubric is not None:
        after = Rubric.load(rubric)
        leak = next((rule for rule in before.dataset_rules if rule.id == RULE), None)
        after = after if leak is None else with_rule(after, leak)
    after = after.with_settings(parse_settings(settings or []))
    opened = open_curated(ledger, shards, summary)
    try:
        with (
            console.progress("deciding", len(opened), unit="records") as advance,
            decide_again(ledger, opened, before, after, out=out, on_progress=advance) as made,
        ):
            for part in lines(made.difference):
                console.out.print(part, markup=False, soft_wrap=True) if isinstance(
                    part, str
                ) else console.out.print(part)
            if diff:
                console.out.print("nothing was written (--diff)")
            else:
                written = made.write(out)
                console.out.print(
                    f"written: {written}   look at it: infimed curate report {written}",
                    markup=False,
                    soft_wrap=True,
                )
    finally:
        opened.close()


def lines(found: Difference) -> Iterator[str | Table]:
    """A difference as sentences and tables."""
    for name, old, new in found.settings:
        yield f"{name}: {old} -> {new}"
    if not found.settings:
        yield "the rubric is the same as before"
    before, after = found.before, found.after
    yield (
        f"kept {before.kept:,} -> {after.kept:,}, dropped {before.dropped:,} -> {after.dropped:,} of "
        f"{after.records:,} records"
    )
    if not found.changes:
        yield "no verdict changes"
    else:
        yield (
            f"newly dropped {found.dropped:,}, newly kept {found.kept:,}"
            + (f", dropped for other reasons {found.reasons:,}" if found.reasons else "")
        )
    yield from _table("by rule", "rule", found.rules)
    yield from _table("by source / modality / task", "stratum", found.strata)
    for title, first, count in (
        ("newly dropped", found.first_dropped, found.dropped),
        ("newly kept", found.first_kept, found.kept),
    ):
        if first:
            yield f"{title}{', the first' if count > len(first) else ''}:"
            for record_id, reasons in first:
                verb = "now" if title == "newly dropped" else "before"
                yield f"  {record_id}   {verb}: {', '.join(reasons)}"
    if found.images_opened:
        yield (
            f"images opened: {found.images_opened:,}, for pairs proposed as duplicates; all other "
            "values come from the ledger"
        )
    else:
        yield "no image was opened"


def _table(title: str, what: str, moved: Sequence[Moved]) -> Iterator[Table | str]:
    from infimed.core.console import table

    if moved:
        rows = [(m.name, m.dropped, m.kept) for m in moved[:MOST_LINES]]
        yield table(title, [what, "newly dropped", "newly kept"], rows)
        if len(moved) > MOST_LINES:
            yield f"and {len(moved) - MOST_LINES} more"
