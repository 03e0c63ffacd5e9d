"""Damage records, judge them with the real engine, and collect what it said.

A set is judged once clean; then in passes, in each of which at most a fifth of the records is
damaged in place (or has a damaged copy added). So the rules over the whole set see it as they would
see a set of that quality, and no damaged record is betrayed by its own twin.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from infimed.core.seeds import stream
from infimed.curation import ledger
from infimed.curation.corruption.base import Context, Corrupted, Operator
from infimed.curation.corruption.source import CorruptedSource
from infimed.curation.engine import RecordSource, curate
from infimed.curation.findings import Finding
from infimed.curation.rubric import Rubric, default_rubric
from infimed.curation.scoring import features, gated
from infimed.curation.signals import Signals
from infimed.data.record import Record

SHARE = 0.2
"""Largest share of records damaged in one pass."""
TRIES = 600
"""Records tried before an operator is said not to apply any more."""

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Judged:
    """One record as curation saw it: features by dimension, hard gates, findings, response length."""

    features: dict[str, tuple[float, ...]]
    gates: frozenset[str]
    findings: tuple[Finding, ...]
    chars: int

    @property
    def drops(self) -> frozenset[str]:
        """Rules that drop the record."""
        return frozenset(f.rule for f in self.findings if f.severity == "drop")

    @property
    def rules(self) -> frozenset[str]:
        """Rules that say anything about it."""
        return frozenset(f.rule for f in self.findings)


@dataclass(frozen=True, slots=True)
class Case:
    """One damaged record: by which operator, how severely, from which clean row, as judged."""

    operator: int
    severity: int
    row: int
    judged: Judged
    record: Record


@dataclass(frozen=True)
class Outcome:
    """Everything a benchmark scores.

    Attributes:
        clean: every record of the clean set as judged. cases: the damaged ones.
        bystanders, hurt: undamaged records judged within damaged passes, and how many of them a
            rule dropped that did not drop them in the clean set.
        skipped: operators that apply to no record.
    """

    clean: tuple[Judged, ...]
    cases: tuple[Case, ...]
    bystanders: int
    hurt: int
    skipped: tuple[int, ...]


def rubric_for(source: RecordSource, rubric: Rubric | None = None) -> Rubric:
    """The rubric, without the rules that can say nothing true about a set without any image.

    Such a set has lost its images as a whole: every record lacks one, and equal questions about
    different images look like copies.
    """
    chosen = rubric or default_rubric()
    step = max(1, len(source) // 200)
    if any(source.record(row).images for row in range(0, len(source), step)):
        return chosen
    return chosen.with_settings({"completeness.image_missing": "off", "duplication.exact": "off"})


def judge(source: RecordSource, rubric: Rubric, workers: int = 1) -> list[Judged]:
    """Curate a source and read its ledger back, in row order."""
    with tempfile.TemporaryDirectory(prefix="infimed-benchmark-") as folder:
        out = Path(folder) / "ledger"
        curate(source, out, rubric=rubric, workers=workers)
        found: dict[int, list[Finding]] = defaultdict(list)
        for line in ledger.read_ledger(out, ledger.FINDINGS).to_pylist():
            found[line["row"]].append(ledger.finding_of(line))
        judged: list[Judged] = []
        for line in ledger.read_ledger(out, ledger.SIGNALS).to_pylist():
            signals = Signals.from_row(line)
            said = tuple(found.get(line["row"], ()))
            judged.append(
                Judged(
                    features(signals, said),
                    gated(said),
                    said,
                    signals.text.text_chars,
                )
            )
        return judged


def run(
    source: RecordSource,
    operators: Sequence[Operator],
    *,
    per_operator: int = 120,
    seed: int = 0,
    rubric: Rubric | None = None,
    workers: int = 1,
    on_progress: Progress | None = None,
) -> Outcome:
    """Judge a clean set and its damaged versions.

    Args:
        source: clean records. operators: which damage. per_operator: damaged records of each, as
            far as there are records it applies to. seed: of choice and damage.
    """
    rules = rubric_for(source, rubric)
    report = on_progress or (lambda n: None)
    records = [source.record(row) for row in range(len(source))]
    clean = judge(source, rules, workers)
    report(len(records))
    context = Context(source.pixels, records)
    cases: list[Case] = []
    bystanders = hurt = 0
    made = dict.fromkeys((operator.number for operator in operators), 0)
    for damaged in _passes(records, operators, context, per_operator, seed):
        inside = {row: one for row, (_, _, one) in damaged.items() if not one.beside}
        beside = [(row, one) for row, (_, _, one) in sorted(damaged.items()) if one.beside]
        judged = judge(CorruptedSource(source, inside, [one for _, one in beside]), rules, workers)
        places = {row: row for row in inside}
        places.update({row: len(records) + i for i, (row, _) in enumerate(beside)})
        for row, (number, severity, one) in sorted(damaged.items()):
            made[number] += 1
            cases.append(Case(number, severity, row, judged[places[row]], one.record))
        for row in range(len(records)):
            if row not in damaged:
                bystanders += 1
                hurt += bool(judged[row].drops - clean[row].drops)
        report(len(damaged))
    skipped = tuple(number for number, count in made.items() if not count)
    return Outcome(tuple(clean), tuple(cases), bystanders, hurt, skipped)


def _passes(
    records: Sequence[Record],
    operators: Sequence[Operator],
    context: Context,
    per_operator: int,
    seed: int,
) -> Iterator[dict[int, tuple[int, int, Corrupted]]]:
    """Row -> (operator, severity, damage), at most `SHARE` of the rows at a time."""
    capacity = max(1, int(SHARE * len(records)))
    left = {operator.number: per_operator for operator in operators}
    seen: dict[int, set[int]] = defaultdict(set)
    random = {o.number: stream(seed, "corruption", o.number) for o in operators}
    turn = 0
    while any(left.values()):
        damaged: dict[int, tuple[int, int, Corrupted]] = {}
        idle = 0
        while len(damaged) < capacity and idle < len(operators):
            operator = operators[turn % len(operators)]
            turn += 1
            number = operator.number
            if not left[number]:
                idle += 1
                continue
            found = _damage(operator, records, context, random[number], seen[number], damaged)
            if found is None:
                left[number] = 0
                idle += 1
                continue
            row, severity, one = found
            seen[number].add(row)
            damaged[row] = (number, severity, one)
            left[number] -= 1
            idle = 0
        if damaged:
            yield damaged


def _damage(
    operator: Operator,
    records: Sequence[Record],
    context: Context,
    random: object,
    seen: set[int],
    damaged: dict[int, tuple[int, int, Corrupted]],
) -> tuple[int, int, Corrupted] | None:
    import numpy as np

    assert isinstance(random, np.random.Generator)
    if len(seen) >= len(records):
        return None
    rows = (
        random.permutation(len(records))[:TRIES]
        if len(records) <= 20_000
        else random.integers(len(records), size=TRIES)
    )
    for row in rows.tolist():
        if row in seen or row in damaged:
            continue
        severity = int(random.integers(1, 4))
        one = operator.apply(records[row], context, random, severity)
        if one is not None:
            return row, severity, one
    return None
