"""What the curation report says in numbers: counts read from a ledger, column by column.

Nothing is rendered here and no image is opened. Memory stays bounded for any number of records:
counts, a sample of values for every rule, and seeded draws of row numbers.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infimed.curation import ledger
from infimed.curation.decision_words import CATCHES
from infimed.curation.findings import DIMENSIONS
from infimed.curation.ledger_columns import Decisions, Lot, batches, column_names, files_of
from infimed.curation.rubric import AnyRule, Rubric
from infimed.curation.summary import CurationSummary

VALUES_PER_RULE: Final = 20_000
EXAMPLES_PER_RULE: Final = 40
JUDGE_COST: Final = "judge_cost"
LEAKAGE, SCORES = "leakage", ledger.SCORES


@dataclass(frozen=True)
class Limit:
    """A limit of a rule: its value, its meaning, and the exceptions by modality and task."""

    name: str
    value: float
    meaning: str
    exceptions: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class RuleReport:
    """One rule that spoke.

    Attributes:
        records, alone: as in `RuleCount`. values: (least, median, greatest) measured value of its
            findings, None for rules that compare words. rows: records drawn as examples.
    """

    id: str
    dimension: str
    severity: str
    catches: str
    records: int
    alone: int
    values: tuple[float, float, float] | None
    limits: tuple[Limit, ...]
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Cost:
    """One step's mean cost: `per_thousand` in seconds of one core (or units) a thousand records."""

    name: str
    per_thousand: float
    share: float
    timed: bool


@dataclass(frozen=True)
class Generic:
    """The first rows of a table whose columns are not known here; cells as text."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    total: int


@dataclass(frozen=True)
class Scores:
    """P(ok) of one dimension: counts in 20 equal bins, and the threshold where one is stored."""

    dimension: str
    counts: tuple[int, ...]
    n: int
    unknown: int
    threshold: float | None


@dataclass
class _Spoken:
    values: list[float] = field(default_factory=list)
    lot: Lot | None = None


def read_rules(
    out: Path, summary: CurationSummary, rubric: Rubric, seed: int
) -> tuple[RuleReport, ...]:
    """Every rule that spoke, those that drop first, the commonest first."""
    spoken: dict[str, _Spoken] = defaultdict(_Spoken)
    for batch in batches(out, ledger.FINDINGS, ["row", "rule", "value"]):
        encoded = pc.dictionary_encode(batch["rule"])
        codes = encoded.indices.to_numpy()
        rows = batch["row"].to_numpy()
        values = batch["value"].to_numpy(zero_copy_only=False).astype(np.float64)
        for code, name in enumerate(encoded.dictionary.to_pylist()):
            ours = codes == code
            held = spoken[name]
            held.lot = held.lot or Lot(EXAMPLES_PER_RULE, seed, "report", "rule", name)
            held.lot.offer(rows[ours])
            finite = values[ours][np.isfinite(values[ours])]
            held.values.extend(finite[: VALUES_PER_RULE - len(held.values)].tolist())
    known = {rule.id: rule for rule in rubric.all_rules}
    made = [
        _rule_report(count, known.get(count.rule), spoken[count.rule]) for count in summary.rules
    ]
    return tuple(sorted(made, key=lambda r: (r.severity != "drop", -r.records, r.id)))


def _rule_report(count: Any, rule: AnyRule | None, held: _Spoken) -> RuleReport:
    values = None
    if held.values:
        values = (min(held.values), float(np.median(held.values)), max(held.values))
    return RuleReport(
        id=count.rule,
        dimension=count.dimension,
        severity=count.severity,
        catches=rule.catches
        if rule
        else CATCHES.get(
            count.rule,
            "a rule outside the standard catalogue, made for this ledger or of another version",
        ),
        records=count.records,
        alone=count.alone,
        values=values,
        limits=limits_of(rule) if rule else (),
        rows=tuple(held.lot.rows) if held.lot else (),
    )


def limits_of(rule: AnyRule) -> tuple[Limit, ...]:
    """A rule's limits with their exceptions."""
    return tuple(
        Limit(
            name,
            float(limit.value),
            limit.meaning,
            tuple(
                (key, float(value))
                for table in (limit.by_modality, limit.by_task)
                for key, value in sorted(table.items())
            ),
        )
        for name, limit in rule.thresholds.items()
    )


def draw_rows(
    out: Path, decisions: Decisions, count: int, seed: int
) -> tuple[list[int], list[int]]:
    """(kept, dropped) rows drawn by seed."""
    rows = np.arange(len(decisions.keep))
    drawn = []
    for name, belongs in (
        ("kept", decisions.keep),
        ("dropped", ~decisions.keep & decisions.exists),
    ):
        lot = Lot(count, seed, "report", name)
        lot.offer(rows[belongs])
        drawn.append(lot.rows)
    return drawn[0], drawn[1]


def read_costs(out: Path) -> tuple[tuple[Cost, ...], float]:
    """(cost of each step, seconds of one core for a thousand records in all).

    Columns that end in ``_ms`` are times; any other number (tokens, calls) is shown by itself.
    """
    names = sorted(column_names(out, ledger.COST) - {"row", "record_id"})
    sums: dict[str, float] = defaultdict(float)
    records = 0
    for batch in batches(out, ledger.COST, names):
        records += batch.num_rows
        for name in names:
            if pa.types.is_floating(batch[name].type) or pa.types.is_integer(batch[name].type):
                sums[name] += float(pc.sum(pc.cast(batch[name], pa.float64())).as_py() or 0.0)
    times = {n: sums[n] / max(1, records) for n in names if n.endswith("_ms")}
    whole = sum(times.values())
    made = [
        Cost(n.removesuffix("_ms"), seconds, seconds / whole if whole else 0.0, True)
        for n, seconds in times.items()
    ]
    made.sort(key=lambda cost: -cost.per_thousand)
    others = [n for n in names if n in sums and n not in times and sums[n]]
    made += [Cost(n, 1000 * sums[n] / max(1, records), 0.0, False) for n in others]
    return tuple(made), whole


def read_judge_cost(out: Path) -> tuple[tuple[tuple[str, float], ...], int]:
    """((what, mean for 1,000 judged records), records judged) from ``judge_cost.parquet``."""
    names = [
        name
        for name in ("attempts", "seconds", "prompt_tokens", "completion_tokens", "price")
        if name in column_names(out, JUDGE_COST)
    ]
    sums: dict[str, float] = defaultdict(float)
    records = 0
    for batch in batches(out, JUDGE_COST, names):
        records += batch.num_rows
        for name in names:
            sums[name] += float(np.nansum(_numbers(batch[name])))
    means = tuple((name.replace("_", " "), 1000 * sums[name] / max(1, records)) for name in names)
    return means, records


def read_generic(file: Path, most: int = 50) -> Generic:
    """The first rows of any Parquet table, every cell as text."""
    with pq.ParquetFile(file) as opened:
        total = opened.metadata.num_rows
        every = opened.schema_arrow.names
        # Row numbers and image keys are for programs; ids say the same to people.
        names = tuple(n for n in every if n != "row" and not n.endswith(("_row", "_key")))
        first = next(opened.iter_batches(most), None)
    rows = first.to_pylist()[:most] if first is not None else []
    return Generic(names, tuple(tuple(_cell(row[n]) for n in names) for row in rows), total)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


PROBABILITY: Final = ("p_ok", "probability", "p", "score")


def read_scores(out: Path) -> tuple[Scores, ...]:
    """Distribution of P(ok) by dimension from ``scores.parquet``.

    Two layouts are read: a row a record and dimension (`dimension` and one of `PROBABILITY`, with
    `threshold` where there is one), or a row a record with a column a dimension, the overall one
    named by one of `PROBABILITY`.
    """
    names = column_names(out, SCORES)
    probability = next((name for name in PROBABILITY if name in names), None)
    held: dict[str, Any] = defaultdict(lambda: [np.zeros(20, np.int64), 0, None])

    def add(dimension: str, values: np.ndarray[Any, Any]) -> None:
        finite = values[np.isfinite(values)]
        bins = np.clip((finite * 20).astype(np.int64), 0, 19)
        held[dimension][0] += np.bincount(bins, minlength=20)
        held[dimension][1] += len(values) - len(finite)

    if "dimension" in names and probability is not None:
        wanted = ["dimension", probability, *(["threshold"] if "threshold" in names else [])]
        for batch in batches(out, SCORES, wanted):
            encoded = pc.dictionary_encode(batch["dimension"])
            values = _numbers(batch[probability])
            limits = _numbers(batch["threshold"]) if len(wanted) == 3 else None
            for code, name in enumerate(encoded.dictionary.to_pylist()):
                ours = encoded.indices.to_numpy() == code
                add(name, values[ours])
                if limits is not None and np.isfinite(limits[ours]).any():
                    held[name][2] = float(limits[ours][np.isfinite(limits[ours])][0])
    else:
        named = {n: n.removeprefix("p_ok_").removeprefix("p_") for n in names}
        columns = sorted(n for n, name in named.items() if name in DIMENSIONS)
        if probability is not None:
            named[probability] = "overall"
            columns.append(probability)
        for batch in batches(out, SCORES, columns):
            for column in columns:
                add(named[column], _numbers(batch[column]))
    order = {name: i for i, name in enumerate(DIMENSIONS)}
    return tuple(
        Scores(name, tuple(int(c) for c in counts), int(counts.sum()), unknown, limit)
        for name, (counts, unknown, limit) in sorted(
            held.items(), key=lambda item: (order.get(item[0], 99), item[0])
        )
    )


def _numbers(column: pa.Array) -> np.ndarray[Any, Any]:
    values = pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False)
    return np.asarray(values, np.float64)


def optional_table(out: Path, name: str) -> Path | None:
    """The file of a table that other commands may have written beside the ledger."""
    path = ledger.path_of(out, name)
    return files_of(out, name)[0] if path.exists() else None
