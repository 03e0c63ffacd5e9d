"""Intake: records that could not be read, measured or told apart, so that none is lost in silence."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from infimed.curation.columns import Keys, SetColumns
from infimed.curation.findings import Hit
from infimed.curation.rules.base import CLEAN_IMAGE, Example, Limits, Rule, sample
from infimed.curation.rules.dataset import DataSetRule, Found, Line, Lookup
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


def _id_key(columns: SetColumns) -> Keys:
    return np.where(columns.ids == 0, np.uint64(1), columns.ids)


def _repeated_id(lines: list[Line], lookup: Lookup, limits: Limits) -> Found:
    first: dict[str, int] = {}
    found: Found = []
    for line in lines:
        row = first.setdefault(line.record_id, line.row)
        if row != line.row:
            found.append((line.row, Hit("record", f"the record in row {row} has the same id")))
    return found


DATASET_RULES: Final = (
    DataSetRule(
        "consistency.repeated_id", 1, "consistency", "note",
        "Another record of the data set has the same id; both are judged, by row.",
        _repeated_id,
        group=_id_key,
        needs="none",
    ),
)  # fmt: skip
