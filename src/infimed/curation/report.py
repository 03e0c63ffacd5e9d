"""`infimed curate report`: one self-contained page that says what was dropped and why.

Written from the ledger, with thumbnails and texts of a few seeded records from the shards. Invariants:
no script and nothing fetched; every text from records is escaped; identical input gives the identical
page; the ledger is read column by column, so a million records need no more memory than a thousand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from infimed.core.errors import DataError
from infimed.core.files import write_text
from infimed.core.page import Section, section, template
from infimed.core.seeds import derive_seed
from infimed.curation import report_data
from infimed.curation.decision import Decision, read_decision
from infimed.curation.distributions import BINS, Distribution, read_distributions
from infimed.curation.engine import read_summary
from infimed.curation.label_agreement import label_report
from infimed.curation.labels import LABELS
from infimed.curation.ledger import DECISION_FILE
from infimed.curation.ledger_columns import Decisions, Integers, read_decisions
from infimed.curation.origin import read_rubric
from infimed.curation.report_examples import Card, Cards, Source, borderline, explained, unlike
from infimed.curation.report_strata import read_strata
from infimed.curation.report_words import headline, warnings
from infimed.curation.rubric import Rubric
from infimed.curation.summary import CurationSummary

PER_RULE: Final = 3
GALLERY: Final = 9
BORDERLINE: Final = 9
MOST_STRIPS: Final = 8
DRAWN_BINS: Final = 60


@dataclass(frozen=True)
class DrawnStrip:
    """One modality's histogram, ready to draw.

    Attributes:
        path: SVG path in a box 1000 wide and 40 high. limits: (x, text) of each limit.
        n, beyond: values, and how many lie on the objected side.
    """

    name: str
    path: str
    limits: tuple[tuple[float, str], ...]
    n: int
    beyond: int


@dataclass(frozen=True)
class Drawing:
    """One measure: strips on a common axis of `ticks` (x in 0..1000, text)."""

    label: str
    unit: str
    setting: str
    severity: str
    side: str
    needs: str
    strips: tuple[DrawnStrip, ...]
    more: int
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Galleries:
    """The cards of every part of the page."""

    by_rule: dict[str, list[Card]]
    kept: list[Card]
    dropped: list[Card]
    near_kept: list[tuple[Card, str, str]]
    near_dropped: list[tuple[Card, str, str]]


def write_curation_report(ledger: Path, shards: Source, out: Path, seed: int = 0) -> Path:
    """Write the page and return its path.

    Args:
        ledger: folder of a finished curation. shards: what it was made from. seed: of all draws.

    Raises:
        DataError: there is no finished ledger, or the file cannot be written.
    """
    page = render_curation_report(Path(ledger), shards, seed)
    write_text(out, page)
    return Path(out)


def render_curation_report(ledger: Path, shards: Source, seed: int = 0) -> str:
    """The page as text."""
    summary = read_summary(ledger)
    if summary.records == 0:
        raise DataError("the ledger holds no record", where=str(ledger))
    rubric = read_rubric(ledger, summary, known_only=True)
    decisions = read_decisions(ledger, summary.records)
    rules = report_data.read_rules(ledger, summary, rubric, seed)
    distributions = read_distributions(ledger, rubric, decisions)
    strata, sources = read_strata(ledger, decisions)
    galleries = section(
        lambda: _galleries(
            ledger, shards, decisions, distributions, rules, derive_seed(seed, "page")
        )
    )
    return template("infimed.curation", "report.html.j2").render(
        name=ledger.resolve().name,
        summary=summary,
        headline=headline(summary, rules),
        warnings=warnings(summary, rules, strata),
        rules=rules,
        silent=_silent(rubric, summary),
        drawings=[drawing for d in distributions if (drawing := draw(d)) is not None],
        galleries=galleries,
        strata=strata,
        sources=sources,
        leakage=_optional(ledger, report_data.LEAKAGE, report_data.read_generic),
        scores=_optional(ledger, report_data.SCORES, lambda _: report_data.read_scores(ledger)),
        decision=_decision(ledger),
        judge_cost=_optional(
            ledger, report_data.JUDGE_COST, lambda _: report_data.read_judge_cost(ledger)
        ),
        people=_people(ledger),
        cost=section(lambda: report_data.read_costs(ledger)),
        rubric=rubric,
        limits_of=report_data.limits_of,
        seed=seed,
        per_rule=PER_RULE,
    )


def _optional(ledger: Path, name: str, read):  # type: ignore[no-untyped-def]
    """A part that exists only where another command wrote its table; None where it did not."""
    file = report_data.optional_table(ledger, name)
    return None if file is None else section(lambda: read(file))


def _decision(ledger: Path) -> Section[Decision | None] | None:
    """How scores decided, by stratum; None where rules alone did."""
    if not (ledger / DECISION_FILE).is_file():
        return None
    return section(lambda: read_decision(ledger))


def _people(ledger: Path) -> Section[dict[str, Any]] | None:
    """What people say beside the rules as they decide now; None where nobody has labelled anything."""
    if report_data.optional_table(ledger, LABELS) is None:
        return None
    return section(lambda: label_report(ledger).to_dict())


def _silent(rubric: Rubric, summary: CurationSummary) -> list[tuple[str, str]]:
    spoke = {rule.rule for rule in summary.rules}
    return [(rule.id, rule.catches) for rule in rubric.all_rules if rule.id not in spoke]


def _galleries(
    ledger: Path,
    shards: Source,
    decisions: Decisions,
    distributions: Sequence[Distribution],
    rules: Sequence[report_data.RuleReport],
    seed: int,
) -> Galleries:
    cards = Cards(shards, ledger)
    kept, dropped = report_data.draw_rows(ledger, decisions, 3 * GALLERY, seed)
    near = {keep: borderline(distributions, keep, 2 * BORDERLINE) for keep in (True, False)}
    wanted = [row for rule in rules for row in rule.rows[: 3 * PER_RULE]]
    made = cards.make([*wanted, *kept, *dropped, *(n.row for s in near.values() for _, n in s)])

    def beside(keep: bool) -> list[tuple[Card, str, str]]:
        reasons = {n.row: (explained(d, n), d.measure.key) for d, n in near[keep]}
        by_card = {id(made[row]): reason for row, reason in reasons.items() if row in made}
        chosen = unlike(made, list(reasons), BORDERLINE, fill=False)
        return [(card, *by_card[id(card)]) for card in chosen]

    by_rule = {rule.id: unlike(made, rule.rows[: 3 * PER_RULE], PER_RULE) for rule in rules}
    shown = {id(card) for cards_of_rule in by_rule.values() for card in cards_of_rule}
    others = [row for row in dropped if row in made and id(made[row]) not in shown]
    return Galleries(
        by_rule,
        unlike(made, kept, GALLERY),
        unlike(made, others, GALLERY),
        beside(True),
        beside(False),
    )


def draw(distribution: Distribution) -> Drawing | None:
    """A measure's histograms on the part of its axis where values and limits lie; None without values."""
    measure = distribution.measure
    ranked = sorted(distribution.strips.items(), key=lambda item: (-item[1].n, item[0]))
    shown = ranked[:MOST_STRIPS]
    if not shown:
        return None
    places = [
        float(measure.position(np.array([limit]))[0])
        for _, strip in shown
        for limit in strip.limits
    ]
    used = np.flatnonzero(sum(strip.counts for _, strip in shown))
    low = min([used[0] / BINS, *places])
    high = max([(used[-1] + 1) / BINS, *places])
    spare = 0.04 * max(high - low, 0.1)
    first = int(np.floor(max(0.0, low - spare) * BINS))
    last = int(np.ceil(min(1.0, high + spare) * BINS))
    step = max(1, -(-(last - first) // DRAWN_BINS))
    last = min(BINS, first + step * -(-(last - first) // step))
    left, width = first / BINS, (last - first) / BINS

    def x(position: float) -> float:
        return round(1000 * (position - left) / width, 1)

    strips = []
    for name, strip in shown:
        part = strip.counts[first:last]
        part = np.pad(part, (0, -len(part) % step)).reshape(-1, step).sum(axis=1)
        limits = sorted(
            (x(float(measure.position(np.array([limit]))[0])), f"{limit:g}")
            for limit in strip.limits
        )
        strips.append(
            DrawnStrip(
                name or "modality not stated", _outline(part), tuple(limits), strip.n, strip.beyond
            )
        )
    ticks = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        value = measure.at(left + share * width)
        ticks.append((1000 * share, f"{value:,.0f}" if value >= 100 else f"{value:.3g}"))
    return Drawing(
        measure.label, measure.unit, measure.key, distribution.severity, measure.side, measure.needs,
        tuple(strips), len(ranked) - len(shown), tuple(ticks),
    )  # fmt: skip


def _outline(counts: Integers) -> str:
    """Bars as one path, heights by the square root so that a few records beside many stay visible."""
    heights = np.sqrt(counts / max(1, counts.max())) * 38
    wide = 1000 / len(counts)
    parts = []
    for number in np.flatnonzero(counts):
        height = max(1.0, float(heights[number]))
        parts.append(f"M{number * wide:.1f} 40v-{height:.1f}h{wide:.1f}v{height:.1f}z")
    return "".join(parts)


__all__ = ["Section", "draw", "render_curation_report", "write_curation_report"]
