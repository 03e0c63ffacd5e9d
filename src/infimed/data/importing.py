"""Import: records and images of any reader into immutable shards.

``images-NNNNN.tar`` hold every image once, by content; ``records-NNNNN.parquet`` the records in
reading order; ``images.parquet`` where each image is; ``problems.jsonl`` every file or record that
was not imported and why; ``manifest.json`` the hash of each file. The folder appears under its
name only when all of it is complete.

Invariant: the bytes depend on the source, the options and the library versions alone. A killed
import that is run again keeps its finished shards and ends with identical bytes. Memory is bounded
by one shard of records and a few images; what must be remembered of all records (ids, hashes)
lies in a SQLite file in the working folder. Cost: one decode an image.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from infimed.core.errors import DataError, UsageError
from infimed.core.files import (
    atomic_open,
    canonical_json,
    sha256_file,
    sha256_json,
    write_json,
)
from infimed.data import readers, schema
from infimed.data.imaging import LIMITS, Limits
from infimed.data.locators import ImageFetcher, short
from infimed.data.manifest import ImportSummary, data_hash, finished_import, summary_of
from infimed.data.privacy.options import Privacy, open_privacy
from infimed.data.privacy.redaction import Redactor
from infimed.data.readers.base import Item, ReadProblem, problem_of, walk_files
from infimed.data.record import ImageRef, Record
from infimed.data.stored import StoredImage
from infimed.data.tarstore import TarWriter
from infimed.data.workstate import WorkState

RECORDS_PER_SHARD: Final = 4096
BYTES_PER_SHARD: Final = 2**30
ROW_GROUP: Final = 256
"""Rows a Parquet row group: what one random access has to decompress."""

TEXT_SUFFIXES: Final = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".xml")

Progress = Callable[[int, int], None]
"""``progress(items, problems)`` is called after every item with the counts so far."""


@dataclass(slots=True)
class _Shard:
    """The shard that is being filled."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    problems: list[ReadProblem] = field(default_factory=list)
    items: int = 0


def import_data(
    source: Path,
    out: Path,
    *,
    reader: str = "auto",
    options: Mapping[str, object] | None = None,
    image_root: Path | None = None,
    workers: int | None = None,
    records_per_shard: int = RECORDS_PER_SHARD,
    bytes_per_shard: int = BYTES_PER_SHARD,
    limits: Limits = LIMITS,
    resume: bool = True,
    progress: Progress | None = None,
    privacy: Privacy | None = None,
    describe: bool = False,
    overwrite: bool = False,
) -> ImportSummary:
    """Import `source` into immutable shards at `out`.

    Args:
        source: file or folder. image_root: folder that image paths are relative to (default: the
            source folder). workers: decoding threads (default: CPU count, at most 8).
        resume: take over the finished shards of a killed run with the same source and options.
        privacy: whether burned-in text is masked and identifiers in texts are replaced; None: neither.
        describe: add captions and questions from what headers and tables state of images, see
            `infimed.data.describing`.
        overwrite: replace shards of other data at `out`, which is then a cache.

    Raises:
        DataError: no such source, nothing to import, or `out` holds other data.
        UsageError: unknown reader or option.
    """
    source, out = Path(source), Path(out)
    chosen_options = {key: str(value) for key, value in (options or {}).items()}
    chosen = readers.detect_reader(source) if reader == "auto" else readers.reader_named(reader)
    beside = source if source.is_dir() else source.parent
    root = image_root or beside
    if out.resolve().is_relative_to(source.resolve()):
        raise UsageError(
            "the shards would lie inside the data they are made from",
            where="--out",
            seen=str(out),
            fix="choose a folder outside of it",
        )
    listing = _listing(source, image_root)
    tools = open_privacy(
        privacy or Privacy(), root, sha256_json([row[:2] for row in listing]), limits
    )
    fingerprint = sha256_json(
        {
            **({"privacy": tools.name} if tools.name else {}),
            **({"describe": True} if describe else {}),
            "format": schema.FORMAT_VERSION,
            "reader": chosen.NAME,
            "options": chosen_options,
            "limits": repr(limits),
            "shard": [records_per_shard, bytes_per_shard],
            "listing": [[name, size, content] for name, size, _, content in listing],
            "split_file": _content(beside / chosen_options.get("split_file", ""), always=True),
        }
    )
    done = finished_import(out, fingerprint, overwrite=overwrite)
    working = out.with_name(f".{out.name}.importing")
    if done is not None:
        shutil.rmtree(working, ignore_errors=True)
        return done
    items = readers.read(source, chosen.NAME, chosen_options)
    times = sha256_json([[name, modified] for name, _, modified, _ in listing])
    state = WorkState.open(working, fingerprint + times, resume=resume)
    try:
        job = _Import(
            working,
            state,
            ImageFetcher(root, limits, tools.masker),
            records_per_shard,
            bytes_per_shard,
        )
        job.redactor = tools.redactor
        job.describe = describe
        job.run(items, workers or min(8, os.cpu_count() or 1), progress)
        summary = job.finish(out, chosen.NAME, fingerprint)
    finally:
        state.close()
    return summary


class _Import:
    """One import at work. Shards close in order; everything before the last closed one is kept."""

    def __init__(
        self,
        working: Path,
        state: WorkState,
        fetcher: ImageFetcher,
        records_per_shard: int,
        bytes_per_shard: int,
    ) -> None:
        self.working = working
        self.folder = working / "shards"
        _sweep(self.folder, state.shards)
        self.state = state
        self.fetcher = fetcher
        self.records_per_shard = records_per_shard
        self.bytes_per_shard = bytes_per_shard
        self.kept_shards = state.shards
        self.shard = _Shard()
        self.tar_handle: Any = None
        self.tar: TarWriter | None = None
        self.redactor: Redactor | None = None
        self.describe = False
        self.taken, self.refused = state.items, state.problems

    def run(self, items: Iterator[Item], workers: int, progress: Progress | None) -> None:
        """Read, decode and store every item after those of the kept shards."""
        kept = self.state.items
        read = self._pass(items, kept, workers, progress)
        if self.describe:
            self._pass(self.state.descriptions(), max(0, kept - read), workers, progress)
        if self.shard.items:
            self._close_shard()

    def _pass(
        self, items: Iterator[Item], skip: int, workers: int, progress: Progress | None
    ) -> int:
        """Store the items after the first `skip`, which are in kept shards; returns how many there are."""
        skipped = sum(1 for _ in islice(items, skip))
        stored = 0
        window: deque[tuple[Item, list[Future[StoredImage]]]] = deque()
        with ThreadPoolExecutor(workers, thread_name_prefix="import") as pool:
            try:
                for item in items:
                    window.append((item, self._submit(item, pool)))
                    stored += 1
                    if len(window) >= 4 * workers:
                        self._take(window.popleft(), progress)
                while window:
                    self._take(window.popleft(), progress)
            except BaseException:
                for _, futures in window:
                    for future in futures:
                        future.cancel()
                self._abandon()
                raise
        return skipped + stored

    def _submit(self, item: Item, pool: ThreadPoolExecutor) -> list[Future[StoredImage]]:
        """Start decoding what is not yet known; the same locator is decoded once."""
        if isinstance(item, ReadProblem) or _unusable(item) is not None:
            return []
        return [self._future(ref, pool) for ref in item.images]

    def _future(self, ref: ImageRef, pool: ThreadPoolExecutor) -> Future[StoredImage]:
        key = _image_key(ref)
        running = self.state.running.get(key)
        if running is not None:
            return running
        if self.state.known_image(key) is not None:
            finished: Future[StoredImage] = Future()
            finished.cancel()
            return finished
        future = pool.submit(self.fetcher.stored, ref.locator, ref.facts)
        self.state.running[key] = future
        return future

    def _take(
        self,
        entry: tuple[Item, list[Future[StoredImage]]],
        progress: Progress | None,
    ) -> None:
        item, futures = entry
        self.shard.items += 1
        self.taken += 1
        problem = item if isinstance(item, ReadProblem) else self._store(item, futures)
        if problem is not None:
            self.shard.problems.append(self._shown(problem))
            self.refused += 1
        if len(self.shard.rows) >= self.records_per_shard or (
            self.tar is not None and self.tar.size >= self.bytes_per_shard
        ):
            self._close_shard()
        elif self.shard.items >= 64 * self.records_per_shard:
            self._close_shard()  # a long run of problems must not pile up in memory
        if progress is not None:
            progress(self.taken, self.refused)

    def _shown(self, problem: ReadProblem) -> ReadProblem:
        """The problem as it may be written down."""
        if self.redactor is None:
            return problem
        clean = self.redactor.text
        return replace(problem, where=clean(problem.where), what=clean(problem.what))

    def _store(self, record: Record, futures: list[Future[StoredImage]]) -> ReadProblem | None:
        """Add one record and its images to the shard, or say why not."""
        try:
            keys = [_image_key(ref) for ref in record.images]
            if self.redactor is not None:
                record = self.redactor.record(record)
            problem = _unusable(record) or self.state.duplicate_id(record.id, _place(record))
            if problem is not None:
                return problem
            schema.to_row(record)  # refuses bad text and facts before an image is written for them
            for key, future in zip(keys, futures, strict=True):
                if self.state.known_image(key) is None:
                    future.result()
            refs = [
                self._image(ref, key, future)
                for ref, key, future in zip(record.images, keys, futures, strict=True)
            ]
            stored = replace(record, images=tuple(refs))
            row = schema.to_row(stored)
        except DataError as error:
            return problem_of(error, _place(record))
        self.state.add_id(record.id)
        if self.describe:
            for number, shown in enumerate(record.images):
                self.state.note(shown, stored, number)
        self.shard.rows.append(row)
        return None

    def _image(self, ref: ImageRef, key: str, future: Future[StoredImage]) -> ImageRef:
        """The stored reference of one image; writes the image when it is new."""
        known = self.state.known_image(key)
        if known is None:
            stored = future.result()
            self.state.running.pop(key, None)
            facts = schema.facts_json(stored.facts)
            if not self.state.has_content(stored.sha256):
                name = f"{stored.sha256}.{stored.extension}"
                offset = self._writer().add(name, stored.data)
                self.state.add_content(stored, self._tar_name(), offset, facts)
            self.state.add_locator(key, stored.sha256, facts)
            known = self.state.known_image(key)
            assert known is not None
        sha256, width, height, facts_text = known
        merged = {**json.loads(facts_text), **ref.facts}
        return ImageRef(schema.LOCATOR_PREFIX + sha256, sha256, width, height, merged)

    def _tar_name(self) -> str:
        return f"images-{self.state.shards:05d}.tar"

    def _writer(self) -> TarWriter:
        if self.tar is None:
            self.tar_handle = (self.working / (self._tar_name() + ".open")).open("wb")
            self.tar = TarWriter(self.tar_handle)
        return self.tar

    def _close_shard(self) -> None:
        """Write and sync the shard's files, then commit: after this line the shard is kept."""
        number, shard = self.state.shards, self.shard
        if self.tar is not None:
            self.tar.close()
            self.tar_handle.flush()
            os.fsync(self.tar_handle.fileno())
            self.tar_handle.close()
            name = self._tar_name()
            (self.working / (name + ".open")).replace(self.folder / name)
        if shard.rows:
            with atomic_open(self.folder / f"records-{number:05d}.parquet") as handle:
                table = pa.Table.from_pylist(shard.rows, schema=schema.RECORDS)
                pq.write_table(table, handle, row_group_size=ROW_GROUP, compression="zstd")
        if shard.problems:
            with atomic_open(self.working / f"problems-{number:05d}.jsonl") as handle:
                for problem in shard.problems:
                    handle.write(_problem_line(problem).encode("utf-8", "backslashreplace"))
        self.state.commit_shard(
            items=shard.items,
            records=len(shard.rows),
            image_uses=sum(row["n_images"] for row in shard.rows),
            problems=Counter(problem.code for problem in shard.problems),
            tasks=Counter(row["task"] for row in shard.rows),
            splits=Counter(row["split"] for row in shard.rows),
        )
        self.shard, self.tar, self.tar_handle = _Shard(), None, None

    def _abandon(self) -> None:
        """Forget the open shard; the finished ones stay for the next run."""
        if self.tar_handle is not None:
            self.tar_handle.close()
            (self.working / (self._tar_name() + ".open")).unlink(missing_ok=True)
        self.state.rollback()

    def finish(self, out: Path, reader: str, fingerprint: str) -> ImportSummary:
        """Indexes, manifest, and the folder under its final name."""
        totals = self.state.totals()
        self._write_problems()
        if not totals.records:
            first = _first_problems(self.folder / "problems.jsonl")
            raise DataError(
                f"nothing was imported: {totals.problems} items, every one with a problem"
                if totals.problems
                else "the data set is empty",
                where=str(self.fetcher.root),
                seen=first or None,
                fix="run `infimed data inspect` on it to see what was found",
            )
        with (
            atomic_open(self.folder / "images.parquet") as handle,
            pq.ParquetWriter(handle, schema.IMAGES, compression="zstd") as writer,
        ):
            for batch in self.state.image_rows():
                writer.write_table(pa.Table.from_pylist(batch, schema=schema.IMAGES))
        self.state.close()
        folder = self.folder
        files = {
            file.name: {"sha256": sha256_file(file), "bytes": file.stat().st_size}
            for file in sorted(folder.iterdir())
            if file.name != "manifest.json"
        }
        write_json(
            folder / "manifest.json",
            {
                "format_version": schema.FORMAT_VERSION,
                "complete": True,
                "reader": reader,
                "fingerprint": fingerprint,
                "counts": {
                    "records": totals.records,
                    "images": totals.images,
                    "image_uses": totals.image_uses,
                    "shards": totals.shards,
                    "problems": totals.problems,
                    "problem_codes": dict(sorted(totals.problem_codes.items())),
                    "tasks": dict(sorted(totals.tasks.items())),
                    "splits": dict(sorted(totals.splits.items())),
                },
                "files": files,
                "data_sha256": data_hash(files),
            },
        )
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.is_dir():  # empty: `finished_import` refused anything else
            out.rmdir()
        folder.replace(out)
        shutil.rmtree(self.working, ignore_errors=True)
        return replace(summary_of(out), kept_shards=self.kept_shards)

    def _write_problems(self) -> None:
        with atomic_open(self.folder / "problems.jsonl") as handle:
            for number in range(self.state.shards):
                part = self.working / f"problems-{number:05d}.jsonl"
                if part.is_file():
                    with part.open("rb") as source:
                        shutil.copyfileobj(source, handle)


def _unusable(record: Record) -> ReadProblem | None:
    """Why a record cannot be imported, as far as it can be seen without its images."""
    error = record.problem()
    if error is not None:
        return problem_of(error, _place(record))
    if len(record.id) > 1024:
        return ReadProblem(
            record.id[:80] + "...", "the id is longer than 1024 characters", "shorten it", "id"
        )
    if not any(turn.role == "assistant" and turn.text.strip() for turn in record.messages):
        return ReadProblem(
            _place(record),
            "an image without text: there is nothing to learn from it",
            "add a table of captions or questions (docs/data.md)",
            "no-text",
        )
    return None


def _place(record: Record) -> str:
    """Id and first image of a record, for a message."""
    image = record.images[0].locator if record.images else ""
    return short(record.id or "?") + (f" ({short(image)})" if image and image != record.id else "")


def _image_key(ref: ImageRef) -> str:
    """Locator and reader facts: what decides the stored form."""
    try:
        return ref.locator + "\x1f" + canonical_json(dict(ref.facts))
    except (TypeError, ValueError):
        return ref.locator + "\x1f" + repr(sorted(ref.facts))


def _listing(source: Path, image_root: Path | None) -> list[tuple[str, int, int, str]]:
    """(relative path, bytes, modified ns, hash of text files) of every file of the source, sorted."""
    made = []
    for mark, base in (("", source), ("images:", image_root)):
        if base is None:
            continue
        for file in walk_files(base):
            stat = file.stat()
            relative = file.name if base.is_file() else file.relative_to(base).as_posix()
            made.append((ascii(mark + relative), stat.st_size, stat.st_mtime_ns, _content(file)))
    return made


def _content(file: Path, always: bool = False) -> str:
    """Hash of a text file, so that an edited table is other data; '' for images and what is absent.

    Images go by name and size here; their content decides `data_hash`.
    """
    if not file.is_file() or not (always or file.suffix.lower() in TEXT_SUFFIXES):
        return ""
    return sha256_file(file)


def _sweep(folder: Path, shards: int) -> None:
    """Remove what a killed run left that belongs to no closed shard."""
    folder.mkdir(exist_ok=True)
    for file in folder.iterdir():
        number = file.stem.removeprefix("images-").removeprefix("records-")
        if not (number.isdecimal() and int(number) < shards):
            file.unlink()


def _problem_line(problem: ReadProblem) -> str:
    value = {"where": problem.where, "what": problem.what, "fix": problem.fix, "code": problem.code}
    return json.dumps(value, ensure_ascii=False, sort_keys=True) + "\n"


def _first_problems(file: Path, count: int = 3) -> str:
    with file.open(encoding="utf-8") as handle:
        lines = [json.loads(line) for _, line in zip(range(count), handle, strict=False)]
    return "; ".join(f"{line['where']}: {line['what']}" for line in lines)
