"""The comparison as one self-contained HTML page, and the three files of `infimed compare`.

Invariants: the page fetches nothing and its Content-Security-Policy allows the one script written
here, by its hash; every text from data, models or files is escaped, in the markup and in the script's
data; the tables need no script. No path of this machine is in any of the files. Cost: about a second,
and 10 KB a picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from infimed import __version__
from infimed.core.escaping import script_digest, script_safe
from infimed.core.files import write_text
from infimed.core.page import template
from infimed.evaluation.compare import added, drawing, words
from infimed.evaluation.compare.browsing import APART, SIDE, Browser
from infimed.evaluation.compare.export import to_csv, to_latex
from infimed.evaluation.compare.pairing import Pair
from infimed.evaluation.compare.published import Cited
from infimed.evaluation.compare.table import (
    FEW_QUESTIONS,
    FEWEST_GROUPS,
    Comparison,
    TaskTable,
)

PAGE, TABLE, LATEX = "compare.html", "compare.csv", "compare.tex"


@dataclass(frozen=True, slots=True)
class Track:
    """A difference on the forest's scale, in per cent of its width."""

    pair: Pair
    title: str
    low: float | None
    mid: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Forest:
    """All differences of one model to the reference, and the half width of their scale in points."""

    model: str
    reference: str
    span: int
    tracks: tuple[Track, ...]
    open: tuple[Pair, ...]


def write_comparison(found: Comparison, out: Path, browser: Browser | None) -> list[Path]:
    """Write compare.html, compare.csv and compare.tex into `out`; returns their paths.

    Args:
        browser: the single answers, None leaves them out of the page.

    Raises:
        DataError: the disk is full or the folder cannot be written.
    """
    files = {PAGE: render(found, browser), TABLE: to_csv(found), LATEX: to_latex(found)}
    for name, text in files.items():
        write_text(out / name, text.encode("utf-8", "replace").decode("utf-8"))
    return [out / name for name in files]


def render(found: Comparison, browser: Browser | None) -> str:
    """The page as text; the same folders give the same text."""
    script = "\n" + resources.files(__package__).joinpath("compare.js.j2").read_text("utf-8")
    cited = _cited(found)
    return str(
        template("infimed.evaluation.compare", "compare.html.j2").render(
            found=found,
            version=__version__,
            headline=words.headline(found),
            warnings=words.warnings(found) + _missing_pictures(browser),
            forests=[forest(found, name) for name in found.others],
            radar=_radar(found),
            curves=[figure for task in found.tasks for figure in added.drawn(found, task)],
            said={task.name: added.in_words(task, found.names) for task in found.tasks},
            cited=cited,
            browser=browser,
            data=script_safe(browser.data) if browser else "",
            script=script,
            script_hash=script_digest(script),
            words=words,
            mcnemar_of=added.mcnemar_of,
            facts={
                "apart": APART,
                "side": SIDE,
                "questions": FEW_QUESTIONS,
                "groups": FEWEST_GROUPS,
            },
        )
    )


def forest(found: Comparison, model: str) -> Forest:
    """A model's differences to the reference, task by task, on one scale around zero."""
    pairs = [pair for task in found.tasks for pair in task.pairs if pair.model == model]
    limits = [
        abs(100 * value)
        for pair in pairs
        if pair.estimate is not None
        for value in (pair.estimate.mean, pair.estimate.low, pair.estimate.high)
        if value is not None
    ]
    span = next(
        (step for step in (2, 5, 10, 20, 30, 50, 75) if step >= max(limits, default=0)), 100
    )
    tracks = []
    for pair in pairs:
        if pair.estimate is None:
            continue
        low, mid, high = (
            None if value is None else round(50 + 50 * min(1.0, max(-1.0, 100 * value / span)), 2)
            for value in (pair.estimate.low, pair.estimate.mean, pair.estimate.high)
        )
        title = pair.task if pair.column == "overall" else pair.title
        tracks.append(Track(pair, title, low, mid, high))
    unpaired = tuple(pair for pair in pairs if pair.estimate is None)
    return Forest(model, found.names[found.reference], span, tuple(tracks), unpaired)


def _radar(found: Comparison) -> dict[str, Any] | None:
    """The radar of at least three tasks, None with fewer."""
    if len(found.tasks) < 3:
        return None

    def value(task: TaskTable, at: int) -> float | None:
        scored = task.overall[at]
        return None if scored is None else scored.estimate.mean

    series = [
        (name, [value(task, at) for task in found.tasks]) for at, name in enumerate(found.names)
    ]
    shown = found.names[: drawing.MOST_SERIES]
    return {
        "svg": drawing.radar([task.name for task in found.tasks], series),
        "legend": drawing.legend(shown),
        "left_out": found.names[drawing.MOST_SERIES :],
    }


def _cited(found: Comparison) -> list[Cited]:
    """Sources of the numbers on the page, each once, in order of appearance."""
    cited: list[Cited] = []
    for task in found.tasks:
        for one in task.published:
            if not any(one.cited is known for known in cited):
                cited.append(one.cited)
    return cited


def _missing_pictures(browser: Browser | None) -> list[str]:
    if browser is None or not browser.problems:
        return []
    reasons = "; ".join(
        f"{reason} ({count:,} {'time' if count == 1 else 'times'})"
        for reason, count in sorted(browser.problems.items())
    )
    return [f"Pictures are missing in the single answers: {reasons}."]
