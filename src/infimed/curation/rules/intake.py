"""Intake: records that could not be read or measured at all, so that none is dropped in silence."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from infimed.curation.findings import Hit
from infimed.curation.rules.base import CLEAN_IMAGE, Example, Limits, Rule, sample
from infimed.curation.signals import DAMAGED, Signals
from infimed.data.record import Record


def _unmeasured(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    damage = record.facts.get(DAMAGED)
    if damage:
        return Hit("record", str(damage))
    if signals.text.text_chars < 0:
        return Hit("record", "the text holds characters that no measurement can take")
    return None


RULES: Final = (
    Rule(
        "completeness.unreadable_record", 1, "completeness", "drop",
        "The stored record is damaged, or its text is not valid Unicode.",
        _unmeasured,
        Example(sample(), (CLEAN_IMAGE,)),
        Example(replace(sample(), facts={DAMAGED: "a stored record is damaged (JSONDecodeError)"})),
    ),
)  # fmt: skip
