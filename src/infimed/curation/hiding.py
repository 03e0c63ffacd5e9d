"""What may be shown of a record whose findings say that it names a person.

A ledger holds where an identifier was found, not what it says, and of several identifiers only the
first place. So one known place becomes blocks; as soon as there may be others, no text of the record is
shown. An image is hidden where its header says that text is burned in and nobody looked for it; what an
import has already masked is shown.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from infimed.curation.findings import Finding

HIDDEN: Final = "it may show who the patient is"
REMARK: Final = f"(not shown: {HIDDEN})"
HARMLESS: Final = frozenset({"privacy.redacted", "privacy.masked_text", "privacy.mostly_masked"})
"""Privacy rules about what an import has removed already."""
_IMAGE: Final = re.compile(r"image(?:s| \d+)$")


def is_identity(finding: Finding) -> bool:
    """Whether a finding points at something that may name a person."""
    about = str(finding.dimension) == "privacy" or finding.rule.startswith("privacy.")
    return about and finding.rule not in HARMLESS


def masked(text: str, name: str, findings: Sequence[Finding]) -> str:
    """The text called `name` as it may be shown: whole, with blocks, or a remark in its place.

    Args:
        findings: all findings of the record.
    """
    for f in findings:
        if not is_identity(f) or _IMAGE.match(f.where):
            continue
        if f.value is None or f.value > 1:
            return REMARK
        if f.where == name:
            if not 0 <= f.start < f.end <= len(text):
                return REMARK
            text = text[: f.start] + "▮" * (f.end - f.start) + text[f.end :]
    return text


def hidden_image(number: int, findings: Sequence[Finding]) -> bool:
    """Whether image `number` of the record may not be shown."""
    names = (f"image {number}", "images")
    return any(is_identity(f) and f.where in names for f in findings)


def shown_id(record_id: str, findings: Sequence[Finding]) -> str:
    """The record's id, or a remark where the id itself names a person."""
    here = any(is_identity(f) and f.where == "id" for f in findings)
    return REMARK if here else record_id


def shown_evidence(finding: Finding, findings: Sequence[Finding]) -> str:
    """A finding's evidence; "" where it quotes a text that holds an identifier."""
    if is_identity(finding):
        return finding.evidence
    secret = any(is_identity(f) and not _IMAGE.match(f.where) for f in findings)
    quotes = not _IMAGE.match(finding.where) and finding.where not in ("data set", "facts")
    return "" if secret and quotes else finding.evidence
