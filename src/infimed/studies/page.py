"""The page of all studies, written whole from their cells: no number in it was typed.

It begins with what a reader of the paper's abstract wants to know: each claim, what became of it, in one sentence
with its interval. Refuted, bounded and undecided claims stand there beside the supported ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from infimed.core.files import write_text
from infimed.core.page import template
from infimed.core.run import environment
from infimed.studies import energy
from infimed.studies.analysis import NO_GAP, Checked, Difference, Found, claim_probabilities, points
from infimed.studies.cells import Planned
from infimed.studies.definition import Study
from infimed.studies.figure import Point, intervals
from infimed.studies.statistics import Effect
from infimed.studies.work import is_done, read_result

SIGNIFICANT: Final = 0.05
CLAIMS: Final = "claims.svg"
"""File of the figure of all claims."""


@dataclass(frozen=True)
class LedgerRow:
    """What an arm cost, median over its seeds."""

    study: str
    preset: str
    arm: str
    score: float
    seconds: float
    seconds_a_point: float | None
    tflop: float
    tflop_a_point: float | None
    mfu: float
    memory_gib: float
    energy: str


def ledger_rows(found: Sequence[Found], names: Sequence[str]) -> list[LedgerRow]:
    """Costs of the arms of some studies; a point is one per cent above guessing."""
    rows = []
    for one in found:
        if one.study.name not in names:
            continue
        for arm in one.arms:
            effect = arm.means[0]
            if effect is None or not arm.spent:
                continue
            above = 100 * (effect.mean - one.variant.measures[0].chance)
            tflop = (arm.spent["flops"] + arm.spent["saved_flops"]) / 1e12
            rows.append(
                LedgerRow(
                    study=one.study.name,
                    preset=one.preset,
                    arm=arm.label,
                    score=effect.mean,
                    seconds=arm.spent["seconds"],
                    seconds_a_point=arm.spent["seconds"] / above if above > 0 else None,
                    tflop=tflop,
                    tflop_a_point=tflop / above if above > 0 else None,
                    mfu=arm.spent["mfu"],
                    memory_gib=arm.spent["memory_gib"],
                    energy=energy.words(arm.joules),
                )
            )
    return rows


def render(
    studies: Sequence[Study],
    found: Sequence[Found],
    planned: Sequence[Planned],
    out: Path,
    folder: str = "studies",
) -> str:
    """The page as Markdown.

    Args:
        studies: in the order of the page. found: what each found on each preset that ran. planned: all
            cells of these. out: folder of the studies. folder: of the figures, from the page.
    """
    machines = sorted(
        {read_result(out, p.cell)["machine"]["cpu"] for p in planned if is_done(out, p.cell)}
    )
    distinct = {p.cell.key for p in planned}
    done = {p.cell.key for p in planned if is_done(out, p.cell)}
    page: str = template("infimed.studies", "studies.md.j2").render(
        studies=studies,
        found=found,
        by_study={s.name: [one for one in found if one.study.name == s.name] for s in studies},
        claims=[one for one in found if not one.study.planted],
        adjusted=claim_probabilities(found),
        ledgers={s.name: ledger_rows(found, s.ledger) for s in studies if s.ledger},
        machines=machines,
        version=environment()["infimed"],
        cells=len(distinct),
        done=len(done),
        commits=sorted({c for one in found for c in one.commits}),
        negative=[one for one in found if one.verdict in ("refuted", "bounded", "not shown") and not one.study.planted],
        checks=sorted(
            ((one, check) for one in found for check in one.checks),
            key=lambda pair: pair[1].passed is None,
        ),
        besides=besides(found),
        unshown=[
            (one, [difference for _, difference in rows])
            for one in found
            if (rows := besides([one], holding=False))
        ],
        gapless=gapless,
        figure_of=lambda one: f"{folder}/{figure_name(one)}",
        claims_figure=f"{folder}/{CLAIMS}" if _answered(found) else None,
        points=points,
        percent=_percent,
        probability=_probability,
        outcome=_outcome,
    )  # fmt: skip
    return page


def besides(found: Sequence[Found], holding: bool = True) -> list[tuple[Found, Difference]]:
    """Differences of several seeds beside those that answer the claims: that hold after correction, or that do not."""
    return [
        (one, difference)
        for one in found
        if not one.study.planted
        for difference in one.differences
        if difference.compared != one.variant.conclusion.compare
        and difference.effect is not None
        and difference.effect.seeds > 1
        and difference.adjusted is not None
        and (difference.adjusted < SIGNIFICANT) == holding
    ]


def gapless(found: Found) -> bool:
    """Whether gaps between arms were to be closed and none of them is shown."""
    return bool(found.gaps) and all(gap.why == NO_GAP for gap in found.gaps)


def figures(found: Sequence[Found]) -> dict[str, str]:
    """File name -> SVG: of every study that has a mean to show, and of all claims together."""
    made = {}
    told = [
        _point(f"{one.study.title} ({one.preset})", effect, False)
        for one, effect in _answered(found)
    ]
    if told:
        title = "What each claim's comparison gave"
        unit = "difference in points; 95 % intervals over seeds and patients"
        made[CLAIMS] = intervals(title, unit, told, chance=0.0, signed=True)
    for one in found:
        measure = one.variant.measures[0]
        shown = [
            _point(arm.label, effect, arm.name == one.variant.reference)
            for arm in one.arms
            if (effect := arm.means[0]) is not None
        ]
        if shown:
            chance = 100 * measure.chance if measure.chance else None
            unit = f"{measure.title}, per cent; 95 % intervals over seeds and patients"
            made[figure_name(one)] = intervals(one.study.title, unit, shown, chance=chance)
    return made


def figure_name(found: Found) -> str:
    """File of a study's figure."""
    return f"{found.study.name}-{found.preset}.svg"


def write_page(
    page: Path,
    studies: Sequence[Study],
    found: Sequence[Found],
    planned: Sequence[Planned],
    out: Path,
) -> None:
    """Write the page and, in a folder of its name beside it, the figures."""
    folder = page.with_suffix("")
    for name, svg in figures(found).items():
        write_text(folder / name, svg)
    write_text(page, render(studies, found, planned, out, folder.name))


def _answered(found: Sequence[Found]) -> list[tuple[Found, Effect]]:
    """Studies of claims whose comparison ran, with what it gave."""
    return [
        (one, one.primary) for one in found if not one.study.planted and one.primary is not None
    ]


def _point(label: str, effect: Effect, reference: bool) -> Point:
    if effect.seeds < 2:
        # Its interval knows nothing of what another training would have given.
        return Point(f"{label}, one seed", 100 * effect.mean, None, None, reference=reference)
    low, high = (None if v is None else 100 * v for v in (effect.low, effect.high))
    return Point(label, 100 * effect.mean, low, high, reference=reference)


def _percent(effect: Effect | None) -> str:
    if effect is None:
        return "not run"
    if effect.low is None or effect.high is None:
        return f"{100 * effect.mean:.1f}"
    return f"{100 * effect.mean:.1f} [{100 * effect.low:.1f}, {100 * effect.high:.1f}]"


def _outcome(check: Checked) -> str:
    return "not decided" if check.passed is None else "passed" if check.passed else "FAILED"


def _probability(p: float | None) -> str:
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
