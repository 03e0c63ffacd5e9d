"""Deciding again from a finished ledger: another rubric, the same signals, no image opened.

Findings of rules that did not change are taken over, a changed severity is rewritten, and only
rules with another threshold are asked again. The result is the same bytes as a curation from scratch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infimed.curation import ledger
from infimed.curation.columns import SignalStore
from infimed.curation.findings import Finding
from infimed.curation.measuring import RecordSource, read_records
from infimed.curation.rubric import RULE_FAILED, Rubric
from infimed.curation.signals import Signals


@dataclass(frozen=True, slots=True)
class Changes:
    """What a new rubric asks for, rule ids each.

    Attributes:
        ask: rules to apply again. keep: rules whose findings stand, with their severity now.
    """

    ask: tuple[str, ...]
    keep: Mapping[str, str]


def changes(old: Mapping[str, Any] | None, new: Rubric) -> Changes:
    """Compare the record rules of two rubrics; `old` is a `Rubric.to_dict()`, None if unknown."""
    before = (old or {}).get("rules", {})
    after = new.to_dict()["rules"]
    ask, keep = [], {}
    for rule in new.rules:
        was, now = before.get(rule.id), after[rule.id]
        same = was is not None and all(was[k] == now[k] for k in ("version", "thresholds"))
        if same:
            keep[rule.id] = rule.severity
        else:
            ask.append(rule.id)
    return Changes(tuple(ask), keep)


class Rejudger:
    """Findings of one chunk from stored signals and findings."""

    def __init__(
        self,
        source: RecordSource,
        rubric: Rubric,
        store: SignalStore,
        findings: Path | None,
        old: Mapping[str, Any] | None,
    ) -> None:
        self.source, self.rubric, self.store = source, rubric, store
        self.changes = changes(old if findings else None, rubric)
        asked = set(self.changes.ask)
        self._asked = Rubric(tuple(r for r in rubric.rules if r.id in asked), ())
        self._findings = _by_row(findings, self.changes) if findings else None

    def chunk(self, begin: int, end: int) -> dict[str, pa.Table]:
        """The findings table of records `begin` to `end` - 1."""
        rows = self._kept(begin, end)
        if self.changes.ask:
            rows += self._judged(begin, end)
            order = self.rubric.order
            rows.sort(key=lambda row: (row["row"], order[row["rule"]]))
        return {ledger.FINDINGS: ledger.table(ledger.FINDINGS, rows)}

    def _kept(self, begin: int, end: int) -> list[dict[str, Any]]:
        if self._findings is None:
            return []
        row = self._findings["row"]
        mine = self._findings.filter(pc.and_(pc.greater_equal(row, begin), pc.less(row, end)))
        lines: list[dict[str, Any]] = mine.to_pylist()
        for line in lines:
            failed = str(line["evidence"]).startswith(RULE_FAILED)
            line["severity"] = "note" if failed else self.changes.keep[line["rule"]]
        return lines

    def _judged(self, begin: int, end: int) -> list[dict[str, Any]]:
        chunk = begin // self.store.chunk_rows
        stored = self.store.read(chunk).to_pylist()
        found: list[dict[str, Any]] = []
        records = read_records(self.source, begin, end)
        for row, (record, values) in enumerate(zip(records, stored, strict=True), begin):
            judged: list[Finding] = self._asked.judge(record, Signals.from_row(values))
            found += [ledger.finding_row(row, record.id, one) for one in judged]
        return found


def _by_row(path: Path, wanted: Changes) -> pa.Table:
    """The stored findings of the rules to keep."""
    stored = pq.read_table(path)
    rules = pa.array(sorted(wanted.keep), pa.string())
    return stored.filter(pc.is_in(stored["rule"], value_set=rules)).combine_chunks()
