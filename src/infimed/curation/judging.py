"""The data-set half of a curation: rules over all records, verdicts, counts.

Reads the finished chunks column by column. A data-set rule is shown only the records that share
what it compares (`columns`), a hundred thousand at a time, so memory stays at about 100 bytes a
record and time is linear however large the set is. A rule that opens images is shown its groups in
worker processes, where there are any: groups do not depend on each other.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infimed.core.errors import DataError
from infimed.curation import ledger
from infimed.curation.columns import (
    Flags,
    SetColumns,
    SignalStore,
    groups_of,
    read_columns,
    side_by_side,
)
from infimed.curation.findings import DIMENSIONS, Finding, decide
from infimed.curation.rubric import Rubric
from infimed.curation.rules import base
from infimed.curation.rules.dataset import DataSetRule, Line
from infimed.curation.summary import EXAMPLES, CurationSummary, RuleCount
from infimed.curation.workers import Processes
from infimed.data.record import ImageRef, Record
from infimed.matching.image import thumbnail

LINES_AT_ONCE: Final = 100_000
"""Records a data-set rule holds as objects at a time, about 1 KB each."""

THUMBNAILS_HELD: Final = 2048
"""Thumbnails kept for the pairs to come, 36 KiB each."""

WORTH_SHARING: Final = 512
"""Living records below which starting processes would cost more than they save."""

_SHARES: Final = 8
"""Batches a process has to do, at least: groups differ in how long they take."""

_LINE_COLUMNS = [
    "row",
    "record_id",
    "task",
    "question_key",
    "answer_key",
    "content_key",
    "images",
    "source",
    "stopped",
    "response_words",
    "claims",
]


class _Source(Protocol):
    def __len__(self) -> int: ...

    def record(self, number: int, /) -> Record: ...

    def pixels(self, ref: ImageRef, /) -> NDArray[np.uint8]: ...


@dataclass(frozen=True, slots=True)
class _Lookup:
    """Records and thumbnails for the few rows a data-set rule looks at."""

    shards: _Source
    held: OrderedDict[str, NDArray[np.uint8] | None] = field(default_factory=OrderedDict)
    """Thumbnails used last; an image comes up once for every question that it shares."""

    def text(self, row: int) -> str:
        return "\n".join(turn.text for turn in self.shards.record(row).messages)

    def answer(self, row: int) -> str:
        record = self.shards.record(row)
        return record.answer or record.response

    def thumbnail(self, row: int, image: int) -> NDArray[np.uint8] | None:
        ref = self.shards.record(row).images[image]
        key = ref.sha256 or ref.locator
        if key in self.held:
            self.held.move_to_end(key)
        else:
            self.held[key] = self._made(ref)
            if len(self.held) > THUMBNAILS_HELD:
                self.held.popitem(last=False)
        return self.held[key]

    def _made(self, ref: ImageRef) -> NDArray[np.uint8] | None:
        import cv2

        try:
            pixels = getattr(self.shards, "planes", self.shards.pixels)(ref)
        except (DataError, OSError):
            return None
        return thumbnail(
            pixels if pixels.ndim == 2 else np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))
        )


@dataclass
class Judged:
    """Findings of the data-set rules by row, and the way to the final tables."""

    rubric: Rubric
    store: SignalStore
    chunks: int
    images: int
    by_row: dict[int, list[Finding]] = field(default_factory=dict)
    _counts: Counter[str] = field(default_factory=Counter)
    _alone: Counter[str] = field(default_factory=Counter)
    _dimensions: Counter[str] = field(default_factory=Counter)
    _examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    _strata: dict[tuple[str, str, str], list[int]] = field(
        default_factory=lambda: defaultdict(lambda: [0, 0])
    )
    _totals: Counter[str] = field(default_factory=Counter)

    def findings(self) -> Iterator[pa.Table]:
        """One findings table a chunk, by row and then in rubric order."""
        for chunk in range(self.chunks):
            found, ids = self._found(chunk)
            yield ledger.table(
                ledger.FINDINGS,
                [
                    ledger.finding_row(row, ids[row], finding)
                    for row in sorted(found)
                    for finding in found[row]
                ],
            )

    def verdicts(self) -> Iterator[pa.Table]:
        """One verdicts table a chunk; counts what `summary` reports."""
        for chunk in range(self.chunks):
            found, _ = self._found(chunk)
            columns = ["row", "record_id", "source", "modality", "task"]
            table = self.store.read(chunk, columns)
            first = table["row"][0].as_py()
            ids = table["record_id"].to_pylist()
            keep = [True] * len(ids)
            reasons: list[tuple[str, ...]] = [()] * len(ids)
            for row, both in found.items():
                verdict = decide(ids[row - first], row, both)
                keep[row - first] = verdict.keep
                reasons[row - first] = verdict.reasons
                self._count(verdict.record_id, verdict.keep, both)
            strata = zip(*(table[name].to_pylist() for name in columns[2:]), keep, strict=True)
            for source, modality, task, kept in strata:
                counted = self._strata[source, modality, task]
                counted[0] += 1
                counted[1] += kept
            self._totals["records"] += len(ids)
            self._totals["kept"] += sum(keep)
            yield pa.table(
                [table["row"], table["record_id"], pa.array(keep), pa.array(reasons, pa.list_(pa.string()))],
                schema=ledger.SCHEMAS[ledger.VERDICTS],
            )  # fmt: skip

    def _found(self, chunk: int) -> tuple[dict[int, list[Finding]], dict[int, str]]:
        """Findings of a chunk by row, in rubric order, and the ids of those rows."""
        rows = self.store.parts.read(ledger.FINDINGS, chunk).to_pylist()
        found: dict[int, list[Finding]] = defaultdict(list)
        ids: dict[int, str] = {}
        for line in rows:
            found[line["row"]].append(ledger.finding_of(line))
            ids[line["row"]] = line["record_id"]
        begin = chunk * self.store.chunk_rows
        added = [r for r in range(begin, begin + self.store.chunk_rows) if r in self.by_row]
        if added:
            names = self.store.read(chunk, ["record_id"])["record_id"]
            for row in added:
                found[row].extend(self.by_row[row])
                ids[row] = names[row - begin].as_py()
        for both in found.values():
            both.sort(key=lambda one: self.rubric.order[one.rule])
        return found, ids

    def _count(self, record_id: str, keep: bool, found: list[Finding]) -> None:
        self._totals["noted"] += keep and bool(found)
        drops = {finding.rule for finding in found if finding.severity == "drop"}
        self._dimensions.update({f.dimension for f in found if f.severity == "drop"})
        if len(drops) == 1:
            self._alone.update(drops)
        for rule in {finding.rule for finding in found}:
            self._counts[rule] += 1
            if len(self._examples[rule]) < EXAMPLES:
                self._examples[rule].append(record_id)

    def summary(self, seconds: float, measured: int, data_hash: str) -> CurationSummary:
        """The counts; call after `verdicts` was written."""
        rules = tuple(
            RuleCount(
                rule.id, rule.dimension, rule.severity, self._counts[rule.id],
                self._alone[rule.id], tuple(self._examples[rule.id]),
            )
            for rule in self.rubric.all_rules
            if self._counts[rule.id]
        )  # fmt: skip
        records, kept = self._totals["records"], self._totals["kept"]
        strata: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        for (source, modality, task), (all_of_it, kept_of_it) in self._strata.items():
            counted = strata[" / ".join((source or "?", modality or "?", task))]
            counted[0] += all_of_it
            counted[1] += kept_of_it
        return CurationSummary(
            records=records,
            kept=kept,
            dropped=records - kept,
            noted=self._totals["noted"],
            images=self.images,
            dimensions={name: self._dimensions[name] for name in DIMENSIONS},
            rules=rules,
            strata={name: (a, b) for name, (a, b) in sorted(strata.items())},
            seconds=seconds,
            measured=measured,
            data_hash=data_hash,
            rubric=self.rubric.identity,
        )


class Examiner:
    """Shows groups of records to data-set rules, in this process or in one of its workers."""

    def __init__(self, shards: _Source, rubric: Rubric, store: SignalStore) -> None:
        self._store, self._lookup = store, _Lookup(shards)
        self._rules = {rule.id: rule for rule in rubric.dataset_rules}

    def look(
        self, rule_id: str, rows: Sequence[int], own: Sequence[int]
    ) -> list[tuple[int, Finding]]:
        """(row, finding) of one rule.

        Args:
            rows: the records it sees, ascending. own: those of them that it may object to, in whole groups.
        """
        rule, mine = self._rules[rule_id], set(own)
        lines = _lines(self._store, np.asarray(rows, np.int64))
        found = rule.apply(lines, self._lookup, rule.limits())
        return [hit for hit in found if hit[0] in mine]


def judge_data_set(
    shards: _Source,
    rubric: Rubric,
    store: SignalStore,
    chunks: int,
    processes: Processes | None = None,
) -> Judged:
    """Run the data-set rules over the records that the record rules left.

    Args:
        processes: share the rules that open images, where there are records enough.
    """
    columns = read_columns(store, chunks)
    alive = np.ones(len(columns), bool)
    for chunk in range(chunks):
        lines = store.parts.read(ledger.FINDINGS, chunk, ["row", "severity"])
        dropped = lines.filter(pc.equal(lines["severity"], "drop"))["row"]
        alive[dropped.to_numpy()] = False
    judged = Judged(rubric, store, chunks, len(np.unique(columns.image_keys)))
    examiner = Examiner(shards, rubric, store)
    for rule in rubric.dataset_rules:
        for row, found in _apply(rule, columns, alive, examiner, processes):
            judged.by_row.setdefault(row, []).append(found)
            if found.severity == "drop":
                alive[row] = False
    return judged


def _apply(
    rule: DataSetRule,
    columns: SetColumns,
    alive: Flags,
    examiner: Examiner,
    processes: Processes | None = None,
) -> list[tuple[int, Finding]]:
    """(row, finding) by row of one rule over the living records."""
    if rule.check_columns is not None:
        hits = rule.check_columns(columns, alive, rule.limits())
        return [(row, base.finding(rule, hit)) for row, hit in hits]
    rows = np.flatnonzero(alive)
    shared = processes is not None and rule.opens_images and len(rows) >= WORTH_SHARING
    most = LINES_AT_ONCE
    if processes is not None and shared:
        most = min(most, len(rows) // (_SHARES * processes.workers))
    batches: Iterator[NDArray[np.int64]] = iter([rows])
    if rule.group is not None:
        batches = groups_of(rule.group(columns), rows, most)

    def seen(batch: NDArray[np.int64]) -> list[int]:
        beside = side_by_side(columns, alive, batch) if rule.group and rule.sees_pairs else batch
        return np.union1d(batch, beside).tolist()

    found: list[tuple[int, Finding]] = []
    if processes is not None and shared:
        # The largest first, so that no process is left alone with one at the end.
        asked = [
            {"rule": rule.id, "rows": seen(batch), "own": batch.tolist()}
            for batch in sorted(batches, key=len, reverse=True)
        ]
        for answer in processes.ask(asked):
            found += [(row, Finding(**values)) for row, values in answer["findings"]]
    else:
        for batch in batches:
            found += examiner.look(rule.id, seen(batch), batch.tolist())
    return sorted(found, key=lambda item: item[0])


def _lines(store: SignalStore, rows: NDArray[np.int64]) -> list[Line]:
    made: list[Line] = []
    chunk_of = rows // store.chunk_rows
    for chunk in np.unique(chunk_of).tolist():
        wanted = rows[chunk_of == chunk] - chunk * store.chunk_rows
        made += map(_line, store.read(chunk, _LINE_COLUMNS).take(pa.array(wanted)).to_pylist())
    return made


def _line(value: dict[str, Any]) -> Line:
    images = tuple((i["sha256"], i["pixel_hash"], i["fingerprint"]) for i in value["images"])
    return Line(
        value["row"], value["record_id"], value["task"], value["question_key"],
        value["answer_key"], value["content_key"], images,
        value["source"], value["stopped"], value["response_words"], tuple(value["claims"]),
    )  # fmt: skip
