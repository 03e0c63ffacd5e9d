"""What a rule says (Finding) and what follows from it (Verdict).

Invariant: nothing is dropped without a finding that names rule, version, value, threshold and
evidence; a verdict is a pure function of findings.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, get_args

Dimension = Literal[
    "completeness", "accuracy", "consistency", "relevance", "readability", "privacy", "duplication"
]
"""The five quality dimensions; privacy; and duplication, a property of the set, not the record."""

Severity = Literal["drop", "note"]

DIMENSIONS: Final[tuple[str, ...]] = get_args(Dimension)
QUALITY: Final[tuple[str, ...]] = DIMENSIONS[:5]
"""The dimensions that people and judges score."""
SCORE_RULES: Final = "score."
"""Findings whose rule begins so are the score's own (`deciding`), not of a rule."""
EVIDENCE_CHARS: Final = 160


@dataclass(frozen=True, slots=True)
class Hit:
    """What a rule's check returns when the rule applies.

    Attributes:
        value, threshold: the measured value and the limit it crossed; None for rules that compare
            words, not numbers.
        where: "question", "response", "message 2", "choices", "image 0", "facts" or "data set".
        start, end: span of the evidence in the text of `where`, characters; -1 where there is none.
        evidence: the words, or one sentence saying what was seen.
    """

    where: str
    evidence: str
    value: float | None = None
    threshold: float | None = None
    start: int = -1
    end: int = -1


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule's objection to one record. Fields as in `Rule` and `Hit`."""

    rule: str
    version: int
    dimension: Dimension
    severity: Severity
    where: str
    evidence: str
    value: float | None = None
    threshold: float | None = None
    start: int = -1
    end: int = -1


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a record is kept, and the rules that dropped it, in rubric order."""

    record_id: str
    row: int
    keep: bool
    reasons: tuple[str, ...]


def decide(record_id: str, row: int, findings: Iterable[Finding]) -> Verdict:
    """A record is kept when no finding has severity "drop"."""
    reasons = tuple(dict.fromkeys(f.rule for f in findings if f.severity == "drop"))
    return Verdict(record_id, row, not reasons, reasons)


def shorten(text: str, limit: int = EVIDENCE_CHARS) -> str:
    """Evidence in at most `limit` characters, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
