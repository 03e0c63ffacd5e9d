"""Curation results for people: tables and lines for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.table import Table

from infimed.core.console import table
from infimed.curation.findings import DIMENSIONS
from infimed.curation.ledger import Explanation
from infimed.curation.rubric import Rubric
from infimed.curation.summary import CurationSummary

_HIDDEN = frozenset({"row", "record_id", "images"})


def summary_tables(summary: CurationSummary) -> list[Table]:
    """Drops per dimension, and every rule that spoke with an example."""
    share = max(1, summary.records)
    dimensions = [
        (name, summary.dimensions.get(name, 0), f"{summary.dimensions.get(name, 0) / share:.2%}")
        for name in DIMENSIONS
    ]
    rules = [
        (
            r.rule,
            r.severity,
            r.examples[0] if r.examples else "",
            r.records,
            r.alone if r.severity == "drop" else "",
        )
        for r in sorted(summary.rules, key=lambda r: (r.severity != "drop", -r.records, r.rule))
    ]
    made = [table("Dropped per dimension", ["dimension", "records", "share"], dimensions)]
    if rules:
        columns = ["rule", "severity", "first record", "records", "alone"]
        made.append(table("Rules that spoke", columns, rules, numeric=3))
    return made


def rules_table(rubric: Rubric) -> Table:
    """All rules with what they catch and their limits."""
    rows = [
        (
            rule.id,
            rule.severity,
            rule.catches,
            "\n".join(f"{name} = {t.value:g}" for name, t in rule.thresholds.items()),
        )
        for rule in rubric.all_rules
    ]
    return table(
        f"{len(rows)} rules, rubric {rubric.identity}",
        ["rule", "severity", "catches", "limits"],
        rows,
        numeric=9,
    )


def explanation_lines(
    explanation: Explanation,
    all_signals: bool = False,
    limits: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """An explanation in sentences: verdict, findings, and on request every measured value.

    Args:
        limits: rule id -> the limits that held for this record, in words.
    """
    verdict = explanation.verdict
    decision = "kept" if verdict.keep else "dropped for " + ", ".join(verdict.reasons)
    yield f"{verdict.record_id} (row {verdict.row}): {decision}"
    for finding in explanation.findings:
        yield ""
        yield f"{finding.severity}  {finding.rule} v{finding.version}  [{finding.dimension}]"
        span = f", characters {finding.start}-{finding.end}" if finding.start >= 0 else ""
        yield f"  in        {finding.where}{span}"
        if finding.value is not None:
            limit = f"   limit {finding.threshold:g}" if finding.threshold is not None else ""
            yield f"  measured  {finding.value:g}{limit}"
        yield f"  evidence  {finding.evidence}"
        if limits and finding.rule in limits:
            yield f"  limits    {limits[finding.rule]}"
    if not explanation.findings:
        yield "no rule objected"
    if all_signals:
        yield ""
        yield "measured"
        for name, value in explanation.signals.items():
            if name not in _HIDDEN:
                yield f"  {name:20} {value}"
        for number, image in enumerate(explanation.signals.get("images") or ()):
            for name, value in image.items():
                if name == "fingerprint":
                    continue
                yield f"  image {number} {name:12} {value}"
