"""The curation report's own sentences: the result in words, and what to look at before signing.

Made of numbers and the rules' descriptions only; nothing here is read from records but names of parts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from infimed.curation.report_data import RuleReport
from infimed.curation.report_strata import STRATA, Stratum
from infimed.curation.summary import CurationSummary

FEWEST_WARNED: Final = 20
"""Records a part needs before the headline warns of it."""
LEAST_GAP: Final = 0.03
"""Kept share by which it must fall behind the rest for that."""


def headline(summary: CurationSummary, rules: Sequence[RuleReport]) -> list[str]:
    """The result in sentences made of numbers and the rules' own descriptions."""
    n, dropped = summary.records, summary.dropped
    said = [
        f"Of {n:,} records {summary.kept:,} were kept and {dropped:,} dropped ({_percent(dropped, n)})."
        if dropped
        else f"All {n:,} records were kept."
    ]
    dropping = [rule for rule in rules if rule.severity == "drop" and rule.records]
    if not dropped:
        said.append("No rule found a reason to drop anything.")
    else:
        dimensions: Mapping[str, int] = summary.dimensions
        ranked = sorted((-count, name) for name, count in dimensions.items() if count)
        parts = ", ".join(f"{name} {-count:,}" for count, name in ranked)
        said.append(f"Records dropped by dimension: {parts}.")
        for rule in sorted(dropping, key=lambda r: (-r.alone, -r.records, r.id))[:3]:
            alone = "by this rule alone" if rule.alone == rule.records else f"{rule.alone:,} alone"
            alone = alone if rule.alone else "all of them by other rules too"
            said.append(f"{rule.records:,} × “{rule.catches.rstrip('.')}” ({rule.id}, {alone}).")
    if summary.noted:
        said.append(
            f"{summary.noted:,} kept records carry a note: something to know, no reason to drop them."
        )
    return said


def warnings(
    summary: CurationSummary, rules: Sequence[RuleReport], strata: Sequence[Stratum]
) -> list[str]:
    """What a reader should look at before signing."""
    said = []
    n = max(1, summary.records)
    if summary.dropped > 0.3 * n:
        said.append(
            f"{_percent(summary.dropped, n)} of the records are dropped. Look at the examples of the "
            "largest rules before you train on the rest."
        )
    for rule in rules:
        if rule.severity == "drop" and rule.alone > 0.1 * n:
            said.append(
                f"{rule.id} alone drops {_percent(rule.alone, n)} of the records: if it is wrong here, "
                "it costs much. Look at its examples and at its limit."
            )
    less = [
        s
        for s in strata
        if s.apart == "less"
        and s.records >= FEWEST_WARNED
        and s.rest is not None
        and s.rest - s.share >= LEAST_GAP
    ]
    simple = {s.name for s in less if s.group != STRATA[0][0]}
    # A part is told once, by its shortest name: "CT" covers "CT, open" and "CT, closed".
    told = [s for s in less if s.group != STRATA[0][0] or not simple & set(s.name.split(" · "))]
    for part in sorted(told, key=lambda s: (s.share, s.name))[:3]:
        said.append(
            f"{part.group.capitalize()} “{part.name}” keeps {_percent(part.kept, part.records)} of its "
            f"{part.records:,} records, all others {100 * (part.rest or 0.0):.1f} %: curation changes the mixture."
        )
    if summary.records < 100:
        said.append(f"There are {summary.records:,} records only: shares are uncertain.")
    return said


def _percent(part: int, whole: int) -> str:
    share = part / whole if whole else 0.0
    if part and share < 0.001:
        return "less than 0.1 %"
    return f"{100 * share:.1f} %" if math.isfinite(share) else "–"
