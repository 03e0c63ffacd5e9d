"""Privacy rules: identifiers left in texts, text burned into images, and what an import did about them.

Shards are immutable and identifiers must not lie in them: `infimed data import --mask-text --redact`
removes them beforehand, and these rules find what was imported without it. Evidence is where, how
long and a keyed hash, never the text; and where a record holds an identifier, no other rule's
evidence may quote it (`without_quotes`).
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Final

from infimed.curation.findings import Finding, Hit
from infimed.curation.rules.base import Example, Limits, Rule, Threshold, caption, turns
from infimed.curation.shortcuts import remembered
from infimed.curation.signals import Signals
from infimed.data.privacy.identifiers import Identifier, evidence_hash, find_identifiers
from infimed.data.privacy.redaction import REDACTED_FACT
from infimed.data.record import Record

WEAK_KINDS: Final = frozenset({"date", "age"})
"""Identifiers by law that texts made for training often hold shifted or invented: noted, not dropped."""


@remembered
def _identifiers(text: str) -> tuple[Identifier, ...]:
    return find_identifiers(text)


def places(record: Record) -> list[tuple[str, str]]:
    """(where, text) of everything in a record that a person wrote."""
    facts = [text for text in record.facts.values() if isinstance(text, str)]
    return [
        *turns(record),
        *((f"choice {i}", text) for i, text in enumerate(record.choices)),
        *([("answer", record.answer)] if record.answer else []),
        *(("facts", text) for text in facts),
        ("id", record.id),
    ]


class _Last(threading.local):
    """The record that this thread looked at last, and what was found: two rules ask one after the other."""

    record: Record | None = None
    found: tuple[tuple[str, str, tuple[Identifier, ...]], ...] = ()


_LAST: Final = _Last()


def _found(record: Record) -> tuple[tuple[str, str, tuple[Identifier, ...]], ...]:
    """(where, text, identifiers) of every place that holds any."""
    if _LAST.record is not record:
        looked = ((where, text, _identifiers(text)) for where, text in places(record))
        _LAST.found = tuple(place for place in looked if place[2])
        _LAST.record = record
    return _LAST.found


def _text_hit(record: Record, weak: bool) -> Hit | None:
    first: Hit | None = None
    count = 0
    for where, text, all_found in _found(record):
        found = [one for one in all_found if (one.kind in WEAK_KINDS) is weak]
        count += len(found)
        if found and first is None:
            one = found[0]
            words = f"{one.kind}, {one.end - one.start} characters, {evidence_hash(text, one)}"
            first = Hit(where, words, start=one.start, end=one.end)
    return None if first is None else replace(first, value=count)


def _identifier(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    return _text_hit(record, weak=False)


def _date(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    return _text_hit(record, weak=True)


def _redacted(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    kinds = record.facts.get(REDACTED_FACT)
    if not isinstance(kinds, dict) or not kinds:
        return None
    words = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
    return Hit("record", f"replaced at import: {words}", value=sum(kinds.values()))


def _burned_in_annotation(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    for index, ref in enumerate(record.images):
        if ref.facts.get("burned_in_annotation") and not ref.facts.get("text_checked"):
            words = "the header says that text is burned in, and the import did not look for it"
            return Hit(f"image {index}", words)
    return None


def _regions(record: Record) -> list[tuple[int, list[list[int]], list[str], str, float]]:
    """(image, boxes, kinds, how it was checked, masked share of the image) of masked images."""
    made = []
    for index, ref in enumerate(record.images):
        boxes, kinds = ref.facts.get("masked_regions"), ref.facts.get("masked_kinds")
        if isinstance(boxes, list) and boxes:
            area = sum(box[2] * box[3] for box in boxes) / max(1, ref.width * ref.height)
            words = [str(kind) for kind in kinds] if isinstance(kinds, list) else []
            made.append((index, boxes, words, str(ref.facts.get("text_checked")), area))
    return made


def _masked_text(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    for index, boxes, kinds, checked, _ in _regions(record):
        read = "read by " + checked.partition("+")[2] if "+" in checked else "not read"
        held = ", ".join(dict.fromkeys(kinds))
        left, top, width, height = boxes[0]
        words = f"masked at import, {read}: {held}; first at {left},{top} {width}x{height}"
        return Hit(f"image {index}", words, value=len(boxes))
    return None


def _mostly_masked(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    for index, _, _, _, share in _regions(record):
        if share > limits["max_masked"]:
            words = "much of the image is masked text"
            return Hit(f"image {index}", words, share, limits["max_masked"])
    return None


def without_quotes(record: Record, found: Finding) -> Finding:
    """The finding with evidence that quotes no identifier of the record."""
    evidence = found.evidence
    for _, text, identifiers in _found(record):
        for one in identifiers:
            quoted = text[one.start : one.end]
            for form in (quoted, " ".join(quoted.split()), quoted.lower()):
                evidence = evidence.replace(form, f"[{one.kind.upper()}]")
    return found if evidence == found.evidence else replace(found, evidence=evidence)


def _masked(share_of_512: int, **facts: object) -> Example:
    box = [0, 0, 512, share_of_512]
    made = {"text_checked": "gate", "masked_regions": [box], "masked_kinds": ["not read"], **facts}
    return Example(caption("Chest radiograph of an adult, normal heart size.", image_facts=made))


_CLEAN: Final = Example(
    caption("Mass of 3.5 x 2.1 cm, SUV 12.5, T1 500/15 ms, Gleason 3+4, 45-year-old, 120/80 mmHg.")
)

RULES: Final = (
    Rule(
        "privacy.identifier", 1, "privacy", "drop",
        "a name, number, address, phone or e-mail of a person in the text",
        _identifier, _CLEAN,
        Example(caption("Chest radiograph of MRN 00482913, no change since the prior.")),
    ),
    Rule(
        "privacy.date", 1, "privacy", "note",
        "a full date, or an age of 90 and over, in the text",
        _date, _CLEAN, Example(caption("Compared with the radiograph of 12/03/2019, no change.")),
    ),
    Rule(
        "privacy.redacted", 1, "privacy", "note",
        "identifiers that the import replaced in the text",
        _redacted, _CLEAN,
        Example(caption("Compared with [DATE], no change.", facts={REDACTED_FACT: {"date": 1}})),
    ),
    Rule(
        "privacy.burned_in_annotation", 1, "privacy", "drop",
        "an image whose header says that text is burned in, imported without --mask-text",
        _burned_in_annotation,
        Example(caption("Normal liver without a focal lesion.", image_facts={"burned_in_annotation": True, "text_checked": "gate"})),
        Example(caption("Normal liver without a focal lesion.", image_facts={"burned_in_annotation": True})),
    ),
    Rule(
        "privacy.masked_text", 1, "privacy", "note",
        "text burned into the image that the import masked",
        _masked_text, _CLEAN, _masked(30),
    ),
    Rule(
        "privacy.mostly_masked", 1, "privacy", "drop",
        "an image of which masked text takes so much that little is left to see",
        _mostly_masked, _masked(100), _masked(200),
        {"max_masked": Threshold(0.3, "share of the image's pixels inside masked regions")},
    ),
)  # fmt: skip
"""The rules of this dimension."""
