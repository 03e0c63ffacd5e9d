"""Look before importing: what a folder, file or set of shards holds, and what is wrong with it.

Every image is decoded once with the rules of the import, so that what `inspect` counts as readable
is what `import` will take. Memory is bounded: counts, a few problems and a few thumbnails are kept.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from infimed.core.errors import DataError
from infimed.data import imaging, readers
from infimed.data.imaging import ImageError
from infimed.data.locators import ImageFetcher, short
from infimed.data.privacy.masking import default_masker
from infimed.data.readers.base import Item, Options, ReadProblem, problem_of
from infimed.data.record import Facts, ImageRef, Record
from infimed.data.shards import ShardSet, open_shards

KEPT_PROBLEMS: Final = 200
THUMBNAILS: Final = 24
THUMBNAIL_SIDE: Final = 128
KEPT_SIZES: Final = 20_000


@dataclass(slots=True)
class Inspection:
    """What was found.

    Attributes:
        records, without_text, groups: counts of records, of records that only show an image, and of
            groups. images, unreadable: distinct images that decode, and that do not.
        tasks, splits, modalities, sources, licenses, formats: records (formats: images) by value.
        sizes: images by (width, height). words: records by number of words.
        problems: the first `KEPT_PROBLEMS`, in order. codes: all problems by code.
        thumbnails: (caption, uint8 [side, side, 3]) of a few images.
    """

    path: Path
    reader: str
    records: int = 0
    without_text: int = 0
    images: int = 0
    unreadable: int = 0
    tasks: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    modalities: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    licenses: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    words: Counter[int] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    problems: list[ReadProblem] = field(default_factory=list)
    thumbnails: list[tuple[str, NDArray[np.uint8]]] = field(default_factory=list)
    groups: int = 0

    @property
    def problem_count(self) -> int:
        """All problems, also those not kept."""
        return self.codes.total()

    def add_problem(self, problem: ReadProblem) -> None:
        """Count a problem and keep it while there is room."""
        self.codes[problem.code] += 1
        if len(self.problems) < KEPT_PROBLEMS:
            self.problems.append(problem)


@dataclass(frozen=True, slots=True)
class _Look:
    """One image as it decoded."""

    width: int
    height: int
    format: str
    facts: Facts
    thumbnail: NDArray[np.uint8] | None


def inspect_data(
    path: Path,
    *,
    reader: str = "auto",
    options: Options | None = None,
    image_root: Path | None = None,
    limit: int | None = None,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
    mask_text: bool = False,
) -> Inspection:
    """Read every item of `path` (or the first `limit`) and decode every image once.

    `mask_text` paints over burned-in text in the thumbnails, as an import with it would.

    Raises:
        DataError: no such path, or no reader knows it.
        UsageError: unknown reader or option.
    """
    path = Path(path)
    if (path / "manifest.json").is_file() and (path / "images.parquet").is_file():
        return _inspect_shards(open_shards(path), limit, progress)
    chosen = readers.detect_reader(path) if reader == "auto" else readers.reader_named(reader)
    found = Inspection(path, chosen.NAME)
    fetcher = ImageFetcher(
        image_root or (path if path.is_dir() else path.parent),
        mask=default_masker() if mask_text else None,
    )
    seen_ids: set[int] = set()
    groups: set[int] = set()
    decoded: set[int] = set()
    window: deque[tuple[Record, list[tuple[str, Future[_Look]]]]] = deque()
    pool_size = workers or min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(pool_size, thread_name_prefix="inspect") as pool:
        for item in _first(readers.read(path, chosen.NAME, options), limit):
            if isinstance(item, ReadProblem):
                found.add_problem(item)
            else:
                _count(found, item, seen_ids, groups)
                looks = []
                for ref in item.images:
                    if hash(ref.locator) not in decoded:
                        decoded.add(hash(ref.locator))
                        wanted = len(decoded) <= THUMBNAILS
                        looks.append((ref.locator, pool.submit(_look, fetcher, ref, wanted)))
                window.append((item, looks))
            while len(window) > 4 * pool_size:
                _take(found, *window.popleft())
            if progress is not None:
                progress(1)
        while window:
            _take(found, *window.popleft())
    found.groups = len(groups)
    return found


def _count(found: Inspection, record: Record, seen_ids: set[int], groups: set[int]) -> None:
    found.records += 1
    error = record.problem()
    if error is not None:
        found.add_problem(problem_of(error, short(record.id or "?")))
    key = hash(record.id)
    if key in seen_ids:
        what = "this id was used before; ids must be unique"
        found.add_problem(ReadProblem(short(record.id), what, "give it another id", "duplicate-id"))
    seen_ids.add(key)
    groups.add(hash(record.group))
    if not any(turn.role == "assistant" and turn.text.strip() for turn in record.messages):
        found.without_text += 1
    found.tasks[record.task] += 1
    found.splits[record.split] += 1
    found.sources[record.source] += 1
    found.licenses[record.license] += 1
    found.words[sum(len(turn.text.split()) for turn in record.messages)] += 1


def _take(found: Inspection, record: Record, looks: list[tuple[str, Future[_Look]]]) -> None:
    modality = record.facts.get("modality")
    for locator, future in looks:
        try:
            look = future.result()
        except ImageError as error:
            found.unreadable += 1
            found.add_problem(problem_of(error, short(record.id)))
            continue
        found.images += 1
        found.formats[look.format] += 1
        if len(found.sizes) < KEPT_SIZES or (look.width, look.height) in found.sizes:
            found.sizes[(look.width, look.height)] += 1
        modality = modality or look.facts.get("modality")
        if look.thumbnail is not None:
            found.thumbnails.append((short(locator), look.thumbnail))
    found.modalities[str(modality or "not stated")] += 1


def _look(fetcher: ImageFetcher, ref: ImageRef, thumbnail: bool) -> _Look:
    stored = fetcher.stored(ref.locator, ref.facts)
    small = None
    if thumbnail:
        small = imaging.squash(imaging.decode(stored.data, stored.facts), THUMBNAIL_SIDE)
    deep = " 16-bit" if "window_center" in stored.facts and stored.extension == "png" else ""
    return _Look(stored.width, stored.height, stored.extension + deep, stored.facts, small)


def _inspect_shards(
    shards: ShardSet, limit: int | None, progress: Callable[[int], None] | None
) -> Inspection:
    """The same picture of finished shards; images are taken from the index, not decoded again."""
    found = Inspection(shards.path, "shards")
    seen_ids: set[int] = set()
    groups: set[int] = set()
    seen_images: set[str] = set()
    for number, record in enumerate(shards):
        if limit is not None and number >= limit:
            break
        _count(found, record, seen_ids, groups)
        modality = record.facts.get("modality")
        for ref in record.images:
            modality = modality or ref.facts.get("modality")
            if ref.sha256 in seen_images:
                continue
            seen_images.add(ref.sha256)
            found.sizes[(ref.width, ref.height)] += 1
            if len(found.thumbnails) < THUMBNAILS:
                small = imaging.squash(shards.pixels(ref), THUMBNAIL_SIDE)
                found.thumbnails.append((record.id, small))
        found.modalities[str(modality or "not stated")] += 1
        if progress is not None:
            progress(1)
    found.images, found.groups = len(seen_images), len(groups)
    found.formats.update(shards.images["format"].to_pylist())
    for problem in shards.problems():
        found.add_problem(ReadProblem(**problem))
    return found


def _first(items: Iterator[Item], limit: int | None) -> Iterator[Item]:
    for number, item in enumerate(items):
        if limit is not None and number >= limit:
            return
        yield item


def percentiles(
    counts: Counter[int], shares: tuple[float, ...] = (0.05, 0.5, 0.95, 1.0)
) -> list[int]:
    """Values at these shares of a counted distribution; [] when it is empty."""
    total, made, below = counts.total(), [], 0
    if not total:
        return []
    pending = deque(shares)
    for value in sorted(counts):
        below += counts[value]
        while pending and below >= pending[0] * total:
            made.append(value)
            pending.popleft()
    return made


def require_records(found: Inspection) -> None:
    """Refuse an empty data set.

    Raises:
        DataError: nothing was found at all.
    """
    if not found.records and not found.problem_count:
        raise DataError(
            "the data set is empty", where=str(found.path), fix="check the path and --reader"
        )
