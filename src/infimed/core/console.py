"""The terminal: messages, tables and progress with an ETA.

On a terminal progress is a live bar; elsewhere (a log file, CI) it is one plain line every few
seconds, so that logs stay readable. Everything goes to stderr except what a command is asked to
print, which goes to stdout and can be piped.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

PLAIN_EVERY_SECONDS = 10.0

Advance = Callable[..., None]
"""``advance(n=1, **fields)``: n more units are done; fields replace the text behind the bar."""


@contextlib.contextmanager
def progress(
    title: str, total: int | None, done: int = 0, unit: str = "", *, quiet: bool = False
) -> Iterator[Advance]:
    """Show progress of `total` units, `done` of them finished before; yields `advance`.

    `advance(n, loss="1.23")` moves n units and shows the given fields behind the bar. Nothing is shown
    if `quiet`.
    """
    if quiet:
        yield lambda n=1, **fields: None
        return
    if err.is_terminal:
        bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=err,
            transient=False,
        )
        with bar:
            task = bar.add_task(title, total=total, completed=done, note="")

            def advance(n: int = 1, **fields: object) -> None:
                note = "  ".join(f"{key} {value}" for key, value in fields.items())
                bar.update(task, advance=n, **({"note": note} if fields else {}))  # type: ignore[arg-type]

            yield advance
        return

    start = time.monotonic()
    last = start
    count = done

    def line(now: float, note: str) -> None:
        spent = now - start
        moved = count - done
        left = f", eta {spent / moved * (total - count):.0f} s" if total and moved else ""
        of = f"/{total}" if total is not None else ""
        err.print(
            f"{title}: {count}{of} {unit} in {spent:.0f} s{left}  {note}".rstrip(), markup=False
        )

    def advance_plain(n: int = 1, **fields: object) -> None:
        nonlocal count, last
        count += n
        now = time.monotonic()
        if now - last >= PLAIN_EVERY_SECONDS:
            last = now
            line(now, "  ".join(f"{key} {value}" for key, value in fields.items()))

    yield advance_plain
    line(time.monotonic(), "")


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], numeric: int = 1
) -> Table:
    """A table whose columns from index `numeric` on are right-aligned; made for 80 columns."""
    made = Table(
        title=title,
        title_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for index, column in enumerate(columns):
        # Fold rather than cut: names in a table are there to be copied.
        made.add_column(column, justify="right" if index >= numeric else "left", overflow="fold")
    for row in rows:
        made.add_row(*(str(cell) for cell in row))
    return made
