"""Curation from shards to ledger: measure in chunks, judge each record, then the set as a whole.

Invariant: signals, findings and verdicts depend on shards, rubric and library versions alone, not
on workers or interruptions. A killed run resumes at its first unfinished chunk. When only the
rubric changed, the stored signals are judged again and no image is opened except the few pairs
that a perceptual hash proposes.

Memory: one chunk of 512 records a worker, a bounded cache of image signals, and about 300 bytes a
record for the data-set rules. Threads suffice: decoding and OpenCV release the interpreter lock.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infimed.core.errors import DataError
from infimed.core.files import read_json, write_json
from infimed.curation import ledger
from infimed.curation.image_signals import measure_image, unreadable
from infimed.curation.judging import judge_data_set
from infimed.curation.rubric import Rubric, default_rubric
from infimed.curation.signals import SIGNALS_VERSION, ImageSignals, Signals, record_modality
from infimed.curation.summary import CurationSummary
from infimed.curation.text_signals import measure_text
from infimed.data.record import ImageRef, Record
from infimed.matching.image import thumbnail

IMAGE_CACHE: Final = 50_000
THUMBNAIL_CACHE: Final = 4096
"""Thumbnails kept for the duplicate rules, 16 KiB each; beyond them candidates are decoded again."""

OnProgress = Callable[[int], None]
"""``on_progress(n)``: n more records are measured."""


class RecordSource(Protocol):
    """What curation needs of a `ShardSet`."""

    data_hash: str

    def __len__(self) -> int: ...

    def record(self, number: int, /) -> Record: ...

    def pixels(self, ref: ImageRef, /) -> NDArray[np.uint8]: ...


def curate(
    shards: RecordSource,
    out: Path,
    *,
    rubric: Rubric | None = None,
    workers: int = 1,
    on_progress: OnProgress | None = None,
) -> CurationSummary:
    """Judge every record of `shards` and write the ledger into `out`.

    Args:
        shards: an opened `ShardSet` (or anything with its interface); never written to.
        out: folder of the ledger. A finished ledger of the same data and rubric is returned as is.
        rubric: rules and thresholds; `default_rubric()` when None.
        workers: threads.

    Raises:
        DataError: the shards are empty or cannot be read, or `out` cannot be written.
    """
    started = time.monotonic()
    rubric = rubric or default_rubric()
    out = Path(out)
    if len(shards) == 0:
        raise DataError("there is nothing to curate: the shards hold no record", where=str(out))
    report = on_progress or (lambda n: None)
    measured_key = {"data": shards.data_hash, "records": len(shards), "signals": SIGNALS_VERSION}
    key = {**measured_key, "rubric": rubric.identity}
    stored = _stored(out)
    if stored is not None and stored.get("key") == key:
        report(len(shards))
        return CurationSummary.from_dict(stored["summary"])
    reuse = stored is not None and {k: stored["key"].get(k) for k in measured_key} == measured_key

    out.mkdir(parents=True, exist_ok=True)
    parts = ledger.Parts(out, key)
    run = _Run(shards, rubric, parts, ledger.path_of(out, ledger.SIGNALS) if reuse else None)
    with _one_opencv_thread():
        measured = run.measure(max(1, workers), report)
        judged = judge_data_set(shards, rubric, parts, run.chunks, run.thumbnails)
    if not reuse:
        for name in (ledger.SIGNALS, ledger.COST):
            tables = (parts.read(name, chunk) for chunk in range(run.chunks))
            ledger.write_table(ledger.path_of(out, name), name, tables)
    # The summary names what the tables hold; while they are replaced there must be none.
    (out / ledger.SUMMARY_FILE).unlink(missing_ok=True)
    ledger.write_table(ledger.path_of(out, ledger.FINDINGS), ledger.FINDINGS, judged.findings())
    ledger.write_table(ledger.path_of(out, ledger.VERDICTS), ledger.VERDICTS, judged.verdicts())
    seconds = round(time.monotonic() - started, 3)
    summary = judged.summary(seconds, measured, shards.data_hash)
    content = {"key": key, "summary": summary.to_dict(), "rubric": rubric.to_dict()}
    write_json(out / ledger.SUMMARY_FILE, content)
    parts.remove()
    return summary


def read_summary(out: Path) -> CurationSummary:
    """The summary of a finished curation.

    Raises:
        DataError: there is none.
    """
    stored = _stored(Path(out))
    if stored is None:
        raise DataError(
            "no finished curation here",
            where=str(out),
            fix="run: infimed curate run SHARDS --out FOLDER",
        )
    return CurationSummary.from_dict(stored["summary"])


def _stored(out: Path) -> dict[str, Any] | None:
    if not (out / ledger.SUMMARY_FILE).is_file():
        return None
    if not all(ledger.path_of(out, name).is_file() for name in ledger.SCHEMAS):
        return None
    value = read_json(out / ledger.SUMMARY_FILE)
    return value if isinstance(value, dict) and isinstance(value.get("key"), dict) else None


@contextlib.contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """OpenCV's own threads would only fight with ours."""
    import cv2

    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


@dataclass(slots=True)
class _Timed:
    """Signals of a record and the milliseconds they took."""

    signals: Signals
    decode_ms: float = 0.0
    image_ms: float = 0.0
    text_ms: float = 0.0


class _Run:
    """The measuring half of one curation."""

    def __init__(
        self, shards: RecordSource, rubric: Rubric, parts: ledger.Parts, stored: Path | None
    ) -> None:
        self.shards, self.rubric, self.parts, self.stored = shards, rubric, parts, stored
        self.chunks = -(-len(shards) // ledger.CHUNK_ROWS)
        self._images: OrderedDict[str, ImageSignals] = OrderedDict()
        self.thumbnails: dict[str, NDArray[np.uint8]] = {}
        self._lock = threading.Lock()

    def measure(self, workers: int, report: OnProgress) -> int:
        """Complete every chunk; returns the number of records done in this run."""
        todo = [chunk for chunk in range(self.chunks) if not self.parts.done(chunk)]
        report(sum(map(self._size, set(range(self.chunks)) - set(todo))))
        if self.stored is not None:
            self._judge_stored(set(todo), report)
        elif workers == 1:
            for chunk in todo:
                report(self._chunk(chunk))
        else:
            self._threaded(todo, workers, report)
        return sum(map(self._size, todo))

    def _threaded(self, todo: list[int], workers: int, report: OnProgress) -> None:
        waiting: set[Future[int]] = set()
        with ThreadPoolExecutor(workers) as pool:
            try:
                for chunk in todo:
                    if len(waiting) >= 2 * workers:
                        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                        for future in done:
                            report(future.result())
                    waiting.add(pool.submit(self._chunk, chunk))
                for future in waiting:
                    report(future.result())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _size(self, chunk: int) -> int:
        return min(ledger.CHUNK_ROWS, len(self.shards) - chunk * ledger.CHUNK_ROWS)

    def _chunk(self, chunk: int) -> int:
        begin = chunk * ledger.CHUNK_ROWS
        records = [self.shards.record(begin + i) for i in range(self._size(chunk))]
        self._write(chunk, records, [self._measured(record) for record in records])
        return len(records)

    def _judge_stored(self, todo: set[int], report: OnProgress) -> None:
        assert self.stored is not None
        batches = pq.ParquetFile(self.stored).iter_batches(batch_size=ledger.CHUNK_ROWS)
        for chunk, rows in enumerate(_chunks_of(batches)):
            if chunk in todo:
                begin = chunk * ledger.CHUNK_ROWS
                records = [self.shards.record(begin + i) for i in range(len(rows))]
                self._write(chunk, records, [_Timed(Signals.from_row(row)) for row in rows])
                report(len(records))

    def _write(self, chunk: int, records: list[Record], measured: list[_Timed]) -> None:
        signals: list[dict[str, Any]] = []
        findings: list[dict[str, Any]] = []
        cost: list[dict[str, Any]] = []
        for row, (record, timed) in enumerate(
            zip(records, measured, strict=True), chunk * ledger.CHUNK_ROWS
        ):
            started = time.perf_counter()
            found = self.rubric.judge(record, timed.signals)
            spent = 1e3 * (time.perf_counter() - started)
            signals.append(timed.signals.to_row(row, record))
            findings.extend(ledger.finding_row(row, record.id, finding) for finding in found)
            cost.append(
                {
                    "row": row, "record_id": record.id, "decode_ms": timed.decode_ms,
                    "image_ms": timed.image_ms, "text_ms": timed.text_ms, "rules_ms": spent,
                }
            )  # fmt: skip
        self.parts.write(
            chunk, {ledger.SIGNALS: signals, ledger.FINDINGS: findings, ledger.COST: cost}
        )

    def _measured(self, record: Record) -> _Timed:
        started = time.perf_counter()
        text = measure_text(record)
        timed = _Timed(Signals(text), text_ms=1e3 * (time.perf_counter() - started))
        images = tuple(self._image(ref, timed) for ref in record.images)
        timed.signals = Signals(text, images, record_modality(record))
        return timed

    def _image(self, ref: ImageRef, timed: _Timed) -> ImageSignals:
        key = ref.sha256 or ref.locator
        with self._lock:
            known = self._images.get(key)
            if known is not None:
                self._images.move_to_end(key)
                return known
        import cv2

        started = time.perf_counter()
        try:
            pixels = self.shards.pixels(ref)
            decoded = time.perf_counter()
            timed.decode_ms += 1e3 * (decoded - started)
            measured = measure_image(pixels, key)
            small = thumbnail(np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)))
            with self._lock:
                if len(self.thumbnails) < THUMBNAIL_CACHE:
                    self.thumbnails[key] = small
            timed.image_ms += 1e3 * (time.perf_counter() - decoded)
        except DataError as error:
            # A bad image is a finding about its records, never the end of the pass.
            measured = unreadable(key, error.what)
        with self._lock:
            self._images[key] = measured
            while len(self._images) > IMAGE_CACHE:
                self._images.popitem(last=False)
        return measured


def _chunks_of(batches: Iterator[pa.RecordBatch]) -> Iterator[list[dict[str, Any]]]:
    """Rows in chunks of `CHUNK_ROWS`, whatever the row groups of the file."""
    waiting: list[dict[str, Any]] = []
    for batch in batches:
        waiting.extend(batch.to_pylist())
        while len(waiting) >= ledger.CHUNK_ROWS:
            yield waiting[: ledger.CHUNK_ROWS]
            waiting = waiting[ledger.CHUNK_ROWS :]
    if waiting:
        yield waiting
