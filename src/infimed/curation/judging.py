"""The data-set half of a curation: rules over all records, verdicts, counts.

Reads the finished chunks, column by column where all rows are needed; decides in one pass.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infimed.core.errors import DataError
from infimed.curation import ledger
from infimed.curation.findings import DIMENSIONS, Finding, decide
from infimed.curation.rubric import Rubric
from infimed.curation.rules.dataset import Line
from infimed.curation.summary import EXAMPLES, CurationSummary, RuleCount
from infimed.data.record import ImageRef, Record
from infimed.matching.image import thumbnail

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
]


class _Source(Protocol):
    def __len__(self) -> int: ...

    def record(self, number: int, /) -> Record: ...

    def pixels(self, ref: ImageRef, /) -> NDArray[np.uint8]: ...


@dataclass(frozen=True, slots=True)
class _Lookup:
    """Records and thumbnails for the few rows a data-set rule looks at."""

    shards: _Source
    held: Mapping[str, NDArray[np.uint8]]

    def text(self, row: int) -> str:
        return "\n".join(turn.text for turn in self.shards.record(row).messages)

    def answer(self, row: int) -> str:
        record = self.shards.record(row)
        return record.answer or record.response

    def thumbnail(self, row: int, image: int) -> NDArray[np.uint8] | None:
        import cv2

        ref = self.shards.record(row).images[image]
        if ref.sha256 in self.held:
            return self.held[ref.sha256]
        try:
            pixels = self.shards.pixels(ref)
        except DataError:
            return None
        return thumbnail(np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)))


@dataclass
class Judged:
    """Findings of the data-set rules by row, and the way to the final tables."""

    rubric: Rubric
    parts: ledger.Parts
    chunks: int
    images: int
    by_row: dict[int, list[Finding]] = field(default_factory=dict)
    _counts: Counter[str] = field(default_factory=Counter)
    _alone: Counter[str] = field(default_factory=Counter)
    _dimensions: Counter[str] = field(default_factory=Counter)
    _examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    _strata: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))
    _totals: Counter[str] = field(default_factory=Counter)

    def findings(self) -> Iterator[pa.Table]:
        """One findings table a chunk, by row and then in rubric order."""
        for chunk in range(self.chunks):
            yield ledger.table(
                ledger.FINDINGS,
                [
                    ledger.finding_row(row, record_id, finding)
                    for row, record_id, _, found in self._rows(chunk)
                    for finding in found
                ],
            )

    def verdicts(self) -> Iterator[pa.Table]:
        """One verdicts table a chunk; counts what `summary` reports."""
        for chunk in range(self.chunks):
            rows = []
            for row, record_id, stratum, found in self._rows(chunk):
                verdict = decide(record_id, row, found)
                rows.append(ledger.verdict_row(verdict))
                self._count(record_id, stratum, verdict.keep, found)
            yield ledger.table(ledger.VERDICTS, rows)

    def _rows(self, chunk: int) -> Iterator[tuple[int, str, str, list[Finding]]]:
        columns = ["row", "record_id", "source", "modality", "task"]
        index = self.parts.read(ledger.SIGNALS, chunk, columns).to_pylist()
        found: dict[int, list[Finding]] = defaultdict(list)
        for line in self.parts.read(ledger.FINDINGS, chunk).to_pylist():
            found[line["row"]].append(ledger.finding_of(line))
        for line in index:
            row = line["row"]
            both = [*found.get(row, ()), *self.by_row.get(row, ())]
            both.sort(key=lambda finding: self.rubric.order[finding.rule])
            stratum = " / ".join((line["source"] or "?", line["modality"] or "?", line["task"]))
            yield row, line["record_id"], stratum, both

    def _count(self, record_id: str, stratum: str, keep: bool, found: list[Finding]) -> None:
        self._totals["records"] += 1
        self._totals["kept"] += keep
        self._totals["noted"] += keep and bool(found)
        self._strata[stratum][0] += 1
        self._strata[stratum][1] += keep
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
        return CurationSummary(
            records=records,
            kept=kept,
            dropped=records - kept,
            noted=self._totals["noted"],
            images=self.images,
            dimensions={name: self._dimensions[name] for name in DIMENSIONS},
            rules=rules,
            strata={name: (a, b) for name, (a, b) in sorted(self._strata.items())},
            seconds=seconds,
            measured=measured,
            data_hash=data_hash,
            rubric=self.rubric.identity,
        )


def judge_data_set(
    shards: _Source,
    rubric: Rubric,
    parts: ledger.Parts,
    chunks: int,
    thumbnails: Mapping[str, NDArray[np.uint8]],
) -> Judged:
    """Run the data-set rules over the records that the record rules left.

    `thumbnails` (by sha256) saves decoding again what was measured a moment ago.
    """
    lines: list[Line] = []
    seen: set[str] = set()
    for chunk in range(chunks):
        findings = parts.read(ledger.FINDINGS, chunk, ["row", "severity"]).to_pylist()
        dropped = {finding["row"] for finding in findings if finding["severity"] == "drop"}
        for value in parts.read(ledger.SIGNALS, chunk, _LINE_COLUMNS).to_pylist():
            seen.update(image["sha256"] for image in value["images"])
            if value["row"] not in dropped:
                lines.append(_line(value))
    judged = Judged(rubric, parts, chunks, len(seen))
    lookup = _Lookup(shards, thumbnails)
    for rule in rubric.dataset_rules:
        out: set[int] = set()
        for row, finding in rule.apply(lines, lookup, rule.limits()):
            judged.by_row.setdefault(row, []).append(finding)
            if finding.severity == "drop":
                out.add(row)
        lines = [line for line in lines if line.row not in out]
    return judged


def _line(value: dict[str, Any]) -> Line:
    images = tuple((i["sha256"], i["pixel_hash"], i["fingerprint"]) for i in value["images"])
    return Line(
        value["row"], value["record_id"], value["task"], value["question_key"],
        value["answer_key"], value["content_key"], images,
        value["source"], value["stopped"], value["response_words"],
    )  # fmt: skip
