"""Identifiers out of records at import: every text, every fact, and ids that hold one.

What the header of a record's own images says of its patient is looked up when the record is stored
and kept in memory only; a resumed import reads the header again. Invariant: a record without
identifiers is the same object. Cost: one parse of a header a file (the last 4096 are kept).
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from infimed.data.imaging import LIMITS, ImageError, Limits, sniff
from infimed.data.locators import parse_locator, read_bytes
from infimed.data.privacy.headers import known_names
from infimed.data.privacy.identifiers import NOBODY, KnownNames, redact_text
from infimed.data.record import Fact, ImageRef, Message, Part, Record

REDACTED_FACT: Final = "redacted"
"""Fact of a redacted record: kind -> how many were replaced."""
_KEPT_HEADERS: Final = 4096


class Redactor:
    """Redacts the records of one import; for one thread.

    Args:
        root: folder that locators are relative to. salt: mixed into hashes of ids and groups.
    """

    name = "redact-1"

    def __init__(self, root: Path, salt: str, limits: Limits = LIMITS) -> None:
        self._root, self._salt, self._limits = root, salt, limits
        self._headers: OrderedDict[str, KnownNames] = OrderedDict()
        self._everyone: KnownNames = NOBODY

    def record(self, record: Record) -> Record:
        """The record without identifiers; what was replaced is counted in its facts."""
        known = NOBODY
        for ref in record.images:
            known = known | self._header(ref)
        kinds: Counter[str] = Counter()

        def clean(text: str) -> str:
            made, found = redact_text(text, known)
            kinds.update(found)
            return made

        def part(value: Part) -> Part:
            return clean(value) if isinstance(value, str) else value

        messages = tuple(
            Message(turn.role, tuple(part(value) for value in turn.content))
            for turn in record.messages
        )
        changed = replace(
            record,
            messages=messages,
            choices=tuple(clean(choice) for choice in record.choices),
            answer=None if record.answer is None else clean(record.answer),
            facts={key: _clean_fact(value, clean) for key, value in record.facts.items()},
            source=clean(record.source),
            images=tuple(
                replace(ref, facts={k: _clean_fact(v, clean) for k, v in ref.facts.items()})
                for ref in record.images
            ),
            id=self._name(record.id, known, kinds),
            group=self._name(record.group, known, kinds),
        )
        if not kinds:
            return record
        return replace(changed, facts={**changed.facts, REDACTED_FACT: dict(sorted(kinds.items()))})

    def text(self, text: str) -> str:
        """A message about the data (a problem, a file name) without identifiers seen so far."""
        return redact_text(text, self._everyone)[0]

    def _name(self, name: str, known: KnownNames, kinds: Counter[str]) -> str:
        """An id or group; one that holds an identifier becomes a salted hash."""
        loose = KnownNames(frozenset(), known.literals | known.words | frozenset(w.title() for w in known.words) | frozenset(w.upper() for w in known.words))  # fmt: skip
        found = redact_text(name, loose)[1]
        if not found:
            return name
        kinds.update(found)
        return "hashed-" + hashlib.sha256(f"{self._salt}\x1f{name}".encode()).hexdigest()[:16]

    def _header(self, ref: ImageRef) -> KnownNames:
        if ref.locator[:5].lower() == "data:":
            return NOBODY
        path = parse_locator(ref.locator).path
        known = self._headers.get(path)
        if known is None:
            known = self._headers[path] = self._read(path)
            self._everyone = self._everyone | known
            while len(self._headers) > _KEPT_HEADERS:
                self._headers.popitem(last=False)
        return known

    def _read(self, path: str) -> KnownNames:
        from infimed.data.dicom import open_dataset

        try:
            data = read_bytes(self._root, path, self._limits)
            if sniff(data, Path(path).suffix) != "DICOM":
                return NOBODY
            return known_names(open_dataset(data, limits=self._limits, header_only=True))
        except ImageError:  # the image itself is refused and listed elsewhere
            return NOBODY


def _clean_fact(value: Fact, clean: Any) -> Fact:
    if isinstance(value, str):
        return str(clean(value))
    if isinstance(value, list):
        return [_clean_fact(item, clean) for item in value]
    if isinstance(value, Mapping):
        return {key: _clean_fact(item, clean) for key, item in value.items()}
    return value
