"""The measuring half of a curation: one chunk of records to signals, findings and cost.

A chunk's tables depend on the source, the rubric and the library versions alone, so threads,
processes and machines may share the chunks in any way. Bad input becomes a row: an image that cannot
be read is a signal with a problem, a record that cannot be read or measured is dropped by the rule
for it (`rules.intake`); neither ends the pass. Cost: about 1 ms a 512x512 record beside its decode.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infimed.core.errors import DataError
from infimed.curation import ledger
from infimed.curation.image_signals import measure_image, unreadable
from infimed.curation.rubric import Rubric
from infimed.curation.signals import (
    DAMAGED,
    UNMEASURED,
    ImageSignals,
    Signals,
    TextSignals,
    record_modality,
)
from infimed.curation.text_signals import measure_text
from infimed.data.record import ImageRef, Record
from infimed.data.shards import DamagedRecord

IMAGE_CACHE: Final = 50_000
"""Image signals kept for further questions about the same image; about 1 KB each."""


class RecordSource(Protocol):
    """What curation needs of a `ShardSet`. `records` and `planes` are used where they exist."""

    data_hash: str

    def __len__(self) -> int: ...

    def record(self, number: int, /) -> Record: ...

    def pixels(self, ref: ImageRef, /) -> NDArray[np.uint8]: ...


@dataclass(slots=True)
class _Timed:
    """Signals of a record and the milliseconds they took."""

    signals: Signals
    decode_ms: float = 0.0
    image_ms: float = 0.0
    text_ms: float = 0.0


@dataclass(slots=True)
class _Rows:
    """Rows of the three tables of a chunk, as they are made."""

    signals: list[dict[str, Any]] = field(default_factory=list)
    findings: list[dict[str, Any]] = field(default_factory=list)
    cost: list[dict[str, Any]] = field(default_factory=list)


class Measurer:
    """Measures and judges chunks of one source; may be used from several threads."""

    def __init__(self, source: RecordSource, rubric: Rubric) -> None:
        self.source, self.rubric = source, rubric
        self._images: OrderedDict[str, ImageSignals] = OrderedDict()
        self._lock = threading.Lock()
        self._pixels = getattr(source, "planes", None) or source.pixels
        self._level = rubric.needs

    def chunk(self, begin: int, end: int) -> dict[str, pa.Table]:
        """Signals, findings and cost of records `begin` to `end` - 1, as ledger tables.

        One step for all records, then the next: code and patterns of a step stay in the processor's
        caches, which between two images they do not (a third of the time for text and rules).
        """
        records = list(read_records(self.source, begin, end))
        timed = [self._text(record) for record in records]
        for record, own in zip(records, timed, strict=True):
            own.signals = self._with_images(record, own)
        rows = _Rows()
        clock = time.perf_counter
        for row, (record, own) in enumerate(zip(records, timed, strict=True), begin):
            started = clock()
            found = self.rubric.judge(record, own.signals)
            spent = 1e3 * (clock() - started)
            rows.findings.extend(ledger.finding_row(row, record.id, finding) for finding in found)
            rows.cost.append(
                {
                    "row": row, "record_id": record.id, "decode_ms": own.decode_ms,
                    "image_ms": own.image_ms, "text_ms": own.text_ms, "rules_ms": spent,
                }
            )  # fmt: skip
        pairs = zip(records, timed, strict=True)
        rows.signals = [own.signals.to_row(row, r) for row, (r, own) in enumerate(pairs, begin)]
        return {
            ledger.SIGNALS: ledger.table(ledger.SIGNALS, rows.signals),
            ledger.FINDINGS: ledger.table(ledger.FINDINGS, rows.findings),
            ledger.COST: ledger.table(ledger.COST, rows.cost),
        }

    def _text(self, record: Record) -> _Timed:
        started = time.perf_counter()
        text = measured_text(record)
        return _Timed(Signals(text), text_ms=1e3 * (time.perf_counter() - started))

    def _with_images(self, record: Record, timed: _Timed) -> Signals:
        images = tuple(self._image(ref, timed) for ref in record.images)
        return Signals(timed.signals.text, images, record_modality(record))

    def _image(self, ref: ImageRef, timed: _Timed) -> ImageSignals:
        key = ref.sha256 or ref.locator
        if self._level == "none":
            return ImageSignals(sha256=key)
        with self._lock:
            known = self._images.get(key)
            if known is not None:
                self._images.move_to_end(key)
                return known
        started = time.perf_counter()
        try:
            pixels = self._pixels(ref)
            decoded = time.perf_counter()
            timed.decode_ms += 1e3 * (decoded - started)
            measured = measure_image(pixels, key, self._level)
            timed.image_ms += 1e3 * (time.perf_counter() - decoded)
        except DataError as error:
            # A bad image is a finding about its records, never the end of the pass.
            measured = unreadable(key, error.what)
        except (OSError, MemoryError) as error:
            measured = unreadable(key, f"the image cannot be read ({type(error).__name__})")
        with self._lock:
            self._images[key] = measured
            while len(self._images) > IMAGE_CACHE:
                self._images.popitem(last=False)
        return measured


def measured_text(record: Record) -> TextSignals:
    """The text signals of a record; `UNMEASURED` for one that no measurement can take."""
    if record.facts.get(DAMAGED):
        return UNMEASURED
    try:
        return measure_text(record)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        return UNMEASURED


def read_records(source: RecordSource, begin: int, end: int) -> Iterable[Record]:
    """Records `begin` to `end` - 1; a damaged one is replaced by a stand-in that says so."""
    sweep = getattr(source, "records", None)
    if callable(sweep):
        try:
            swept: Sequence[Record] = sweep(begin, end)
            return swept
        except DamagedRecord:
            pass  # find out which, one by one
    return (_record(source, number) for number in range(begin, end))


def _record(source: RecordSource, number: int) -> Record:
    try:
        return source.record(number)
    except DamagedRecord as error:
        name = error.record_id or f"row {number}"
        return Record(name, (), (), "text", facts={DAMAGED: error.what})
