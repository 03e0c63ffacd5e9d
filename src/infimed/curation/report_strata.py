"""Who loses: kept shares of parts of the data, with intervals, so that a bias of curation shows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from infimed.core.statistics import wilson_interval
from infimed.curation import ledger
from infimed.curation.ledger_columns import Decisions, batches

MOST_STRATA: Final = 40


@dataclass(frozen=True)
class Stratum:
    """A part of the data: its records, those kept, and the interval of the kept share.

    Attributes:
        low, high: Wilson's 95 % interval. rest: kept share of all other records, None without any.
        apart: "less" or "more" where the interval leaves out `rest`; "" otherwise.
    """

    group: str
    name: str
    records: int
    kept: int
    low: float
    high: float
    apart: str
    rest: float | None

    @property
    def share(self) -> float:
        """Kept share."""
        return self.kept / self.records


STRATA: Final = (
    ("source × modality × task", ("source", "modality", "task")),
    ("source", ("source",)),
    ("modality", ("modality",)),
    ("task", ("task",)),
    ("language", ("language",)),
)


def read_strata(
    out: Path, decisions: Decisions
) -> tuple[tuple[Stratum, ...], tuple[tuple[str, int], ...]]:
    """(kept shares, sources with their records): shares by source, modality, task and language, alone and crossed.

    A grouping that puts all records into one part, or the same parts as a finer one, is left out.
    Crossed, the largest `MOST_STRATA` parts are shown and those that lose more than the rest.
    """
    columns = ["source", "modality", "task", "language"]
    counts: Counter[tuple[str, ...]] = Counter()
    kept: Counter[tuple[str, ...]] = Counter()
    for batch in batches(out, ledger.SIGNALS, ["row", *columns]):
        keep = decisions.keep[batch["row"].to_numpy()]
        grouped = (
            pa.table({**{c: pc.fill_null(batch[c], "") for c in columns}, "keep": keep})
            .group_by(columns)
            .aggregate([("keep", "count"), ("keep", "sum")])
        )
        for line in grouped.to_pylist():
            key = tuple(line[c] for c in columns)
            counts[key] += line["keep_count"]
            kept[key] += line["keep_sum"] or 0
    made: list[Stratum] = []
    for title, chosen in STRATA:
        at = [columns.index(name) for name in chosen]
        total: Counter[tuple[str, ...]] = Counter()
        stays: Counter[tuple[str, ...]] = Counter()
        for key, n in counts.items():
            part = tuple(key[i] for i in at)
            total[part] += n
            stays[part] += kept[key]
        if len(total) < 2 and title != STRATA[0][0]:
            continue
        made += _strata(title, total, stays)
    sources: Counter[str] = Counter()
    for key, n in counts.items():
        sources[key[0] or "not stated"] += n
    return tuple(made), tuple(sorted(sources.items(), key=lambda item: (-item[1], item[0])))


def _strata(title: str, total: Counter[Any], kept: Counter[Any]) -> list[Stratum]:
    everything, everything_kept = sum(total.values()), sum(kept.values())
    made = []
    for part, n in sorted(total.items(), key=lambda item: (-item[1], item[0])):
        low, high = wilson_interval(kept[part], n)
        rest = everything - n
        others = (everything_kept - kept[part]) / rest if rest else None
        apart = ""
        if others is not None and not low <= others <= high:
            apart = "less" if others > high else "more"
        name = " · ".join(value or "not stated" for value in part)
        made.append(Stratum(title, name, n, kept[part], low, high, apart, others))
    first = made[:MOST_STRATA]
    return first + [s for s in made[MOST_STRATA:] if s.apart == "less"][:MOST_STRATA]
