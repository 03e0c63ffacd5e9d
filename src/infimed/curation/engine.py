"""Curation from shards to ledger: measure in chunks, judge each record, then the set as a whole.

Invariant: signals, findings and verdicts depend on shards, rubric and library versions alone, not
on who computed them or how often the run was interrupted. A killed run resumes at its first
unfinished chunk. When only the rubric changed, the stored signals are judged again (`redeciding`)
and no image is opened except the few pairs that a perceptual hash proposes.

Memory: one chunk of 512 records a worker, a bounded cache of image signals, and about 100 bytes a
record for the data-set rules.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args

from infimed.core.errors import DataError, UsageError, nearest_name
from infimed.core.files import read_json, write_json
from infimed.curation import ledger
from infimed.curation.columns import SignalStore
from infimed.curation.joining import Joining
from infimed.curation.judging import Judged, judge_data_set
from infimed.curation.measuring import Measurer, RecordSource
from infimed.curation.redeciding import Rejudger
from infimed.curation.rubric import Rubric, default_rubric
from infimed.curation.signals import IMAGE_LEVELS, SIGNALS_VERSION, ImageLevel
from infimed.curation.summary import CurationSummary
from infimed.curation.workers import Processes, in_threads
from infimed.data.shards import ShardSet

__all__ = ["ENGINES", "Engine", "RecordSource", "curate", "engine_named", "read_summary"]

Engine = Literal["auto", "threads", "processes", "ray"]
ENGINES: Final[tuple[str, ...]] = get_args(Engine)

CHUNKS_A_PROCESS: Final = 2
"""Chunks each worker must have before "auto" takes processes, which need a second to start."""

OnProgress = Callable[[int], None]
"""``on_progress(n)``: n more records are measured."""


def engine_named(name: str) -> Engine:
    """The engine of that name.

    Raises:
        UsageError: there is none.
    """
    for known in ENGINES:
        if known == name:
            return cast(Engine, known)
    nearest = nearest_name(name, ENGINES)
    raise UsageError(
        "unknown engine", where="--engine", seen=name, accepted=ENGINES, nearest=nearest
    )


def curate(
    shards: RecordSource,
    out: Path,
    *,
    rubric: Rubric | None = None,
    workers: int = 1,
    engine: Engine = "auto",
    on_progress: OnProgress | None = None,
) -> CurationSummary:
    """Judge every record of `shards` and write the ledger into `out`.

    Args:
        shards: an opened `ShardSet` (or anything with its interface); never written to.
        out: folder of the ledger. A finished ledger of the same data and rubric is returned as is.
        rubric: rules and thresholds; `default_rubric()` when None.
        workers: how many chunks are measured at a time.
        engine: who measures. "threads" of this process; "processes" of this machine; "ray" tasks of
            a Ray cluster (extra `ray`); "auto": processes where there is enough to do, else threads.

    Raises:
        DataError: the shards are empty or cannot be read, or `out` cannot be written.
        UsageError: an engine that this source or rubric does not allow, or that is not installed.
    """
    started = time.monotonic()
    engine_named(engine)
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

    out.mkdir(parents=True, exist_ok=True)
    level = _measured(out, stored, measured_key)
    reuse = level is not None and IMAGE_LEVELS.index(level) >= IMAGE_LEVELS.index(rubric.needs)
    measured_key["images"] = rubric.needs
    run = _Run(shards, rubric, out, key, reuse, (stored or {}).get("rubric"))
    with _one_opencv_thread(), run.processes(max(1, workers), engine) as processes:
        run.measure(max(1, workers), engine, processes, report, measured_key)
        signals = finished_signals(out, run.parts, run.chunk_rows)
        judged = judge_data_set(shards, rubric, signals, run.chunks, processes)
        summary = _finish(out, judged, key, rubric, started, run.done, shards.data_hash)
    run.parts.remove()
    return summary


def _finish(
    out: Path, judged: Judged, key: dict[str, Any], rubric: Rubric,
    started: float, measured: int, data_hash: str,
) -> CurationSummary:  # fmt: skip
    # The summary names what the tables hold; while they are replaced there must be none.
    new = {name: out / f"{name}.new" for name in (ledger.FINDINGS, ledger.VERDICTS)}
    ledger.write_table(new[ledger.FINDINGS], ledger.FINDINGS, judged.findings())
    ledger.write_table(new[ledger.VERDICTS], ledger.VERDICTS, judged.verdicts())
    (out / ledger.SUMMARY_FILE).unlink(missing_ok=True)
    ledger.forget_scores(out)
    for name, file in new.items():
        file.replace(ledger.path_of(out, name))
    summary = judged.summary(round(time.monotonic() - started, 3), measured, data_hash)
    content = {"key": key, "summary": summary.to_dict(), "rubric": rubric.to_dict()}
    write_json(out / ledger.SUMMARY_FILE, content)
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


def _measured(
    out: Path, stored: dict[str, Any] | None, measured_key: dict[str, Any]
) -> ImageLevel | None:
    """How much of the images the signals in `out` hold; None where they are not of this data and version."""
    if not ledger.path_of(out, ledger.SIGNALS).is_file():
        return None
    known = (stored or {}).get("key", {})
    if (out / ledger.MEASURED_FILE).is_file():
        known = read_json(out / ledger.MEASURED_FILE)
    if {k: known.get(k) for k in measured_key} != measured_key:
        return None
    return measured_level(known)


def measured_level(measured: Mapping[str, Any]) -> ImageLevel:
    """How much of the images was measured, by the content of `measured.json`."""
    level = measured.get("images", "look")
    return level if level in IMAGE_LEVELS else "none"


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


@dataclass
class _Run:
    """The measuring half of one curation.

    Attributes:
        reuse: whether `out` holds these signals already. old_rubric: what judged its findings.
        done: records measured or judged again in this run.
    """

    shards: RecordSource
    rubric: Rubric
    out: Path
    key: dict[str, Any]
    reuse: bool
    old_rubric: dict[str, Any] | None
    done: int = 0

    def __post_init__(self) -> None:
        self.parts = ledger.Parts(self.out, self.key)
        self.chunk_rows = ledger.CHUNK_ROWS
        self.chunks = -(-len(self.shards) // self.chunk_rows)

    def processes(
        self, workers: int, engine: Engine
    ) -> contextlib.AbstractContextManager[Processes | None]:
        """The processes of this engine, none of them started yet; None where it has none.

        Raises:
            UsageError: the engine cannot be used for this source or rubric.
        """
        travels = isinstance(self.shards, ShardSet) and self.rubric.is_catalogue
        if engine in ("processes", "ray") and not travels:
            raise UsageError(
                "this engine needs shards on disk and the rules of the catalogue",
                where="--engine",
                seen=engine,
                accepted="auto, threads",
            )
        # Deciding again opens no image; nothing is worth a cluster.
        local = engine == "auto" or (engine == "ray" and self.reuse)
        if travels and (engine == "processes" or (local and workers > 1)):
            return Processes(self._job(), workers)
        return contextlib.nullcontext()

    def measure(
        self, workers: int, engine: Engine, processes: Processes | None, report: OnProgress,
        measured_key: dict[str, Any],
    ) -> None:  # fmt: skip
        """Complete every chunk; from then on another rubric needs no image."""
        marker = ledger.FINDINGS if self.reuse else ledger.SIGNALS
        todo = [chunk for chunk in range(self.chunks) if not self.parts.done(chunk, marker)]
        self.done = sum(map(self._size, todo))
        report(len(self.shards) - self.done)
        done = self._engine(workers, engine, processes, todo)
        if self.reuse:
            for records in done:
                report(records)
            return
        with Joining(self.parts, (ledger.COST, ledger.SIGNALS), self.chunks) as joining:
            for records in done:
                joining.look()
                report(records)
            joined = joining.finish()
        for name in (ledger.MEASURED_FILE, ledger.SUMMARY_FILE):
            (self.out / name).unlink(missing_ok=True)
        for name, file in joined.items():
            file.replace(ledger.path_of(self.out, name))
        write_json(self.out / ledger.MEASURED_FILE, measured_key)

    def _engine(
        self, workers: int, engine: Engine, processes: Processes | None, todo: Sequence[int]
    ) -> Iterator[int]:
        if engine == "ray" and not self.reuse:
            from infimed.curation.ray_engine import in_ray

            return in_ray(self._job(), self.parts, todo, workers)
        many = len(todo) >= CHUNKS_A_PROCESS * workers
        if todo and processes is not None and (engine == "processes" or many):
            return processes.measure(todo)
        maker = self._maker()

        def one(chunk: int) -> int:
            begin = chunk * self.chunk_rows
            self.parts.write(chunk, maker.chunk(begin, begin + self._size(chunk)))
            return self._size(chunk)

        # Judging again is pure Python: a second thread would only wait for the first.
        return map(one, todo) if workers == 1 or self.reuse else in_threads(one, todo, workers)

    def _job(self) -> dict[str, Any]:
        """What a worker elsewhere needs (`infimed.curation.worker`)."""
        assert isinstance(self.shards, ShardSet)
        return {
            "shards": str(self.shards.path.absolute()), "out": str(self.out.absolute()),
            "key": self.key, "rubric": self.rubric.to_dict(), "chunk_rows": self.chunk_rows,
            "reuse": self.reuse, "old_rubric": self.old_rubric,
        }  # fmt: skip

    def _maker(self) -> Measurer | Rejudger:
        return chunk_maker(
            self.shards, self.rubric, self.out, self.parts, self.chunk_rows,
            reuse=self.reuse, old_rubric=self.old_rubric,
        )  # fmt: skip

    def _size(self, chunk: int) -> int:
        return min(self.chunk_rows, len(self.shards) - chunk * self.chunk_rows)


def finished_signals(out: Path, parts: ledger.Parts, chunk_rows: int) -> SignalStore:
    """The signals of a ledger once all chunks are measured."""
    return SignalStore(parts, ledger.path_of(out, ledger.SIGNALS), chunk_rows)


def chunk_maker(
    shards: RecordSource,
    rubric: Rubric,
    out: Path,
    parts: ledger.Parts,
    chunk_rows: int,
    *,
    reuse: bool,
    old_rubric: dict[str, Any] | None,
) -> Measurer | Rejudger:
    """What makes the tables of a chunk: from the images, or (`reuse`) from the signals in `out`."""
    if not reuse:
        return Measurer(shards, rubric)
    store = finished_signals(out, parts, chunk_rows)
    known = ledger.path_of(out, ledger.FINDINGS) if old_rubric else None
    return Rejudger(shards, rubric, store, known, old_rubric)
