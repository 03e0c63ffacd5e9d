"""Where the time of a curated record goes: every signal and every rule, in one thread.

    python benchmarks/curation.py costs

A step is timed once an image or record, in the order of use, so that what it needs is as warm or as
cold in the caches as in a curation. Steps are timed alone: what `measure_image` shares among signals
is listed under the first that needs it. A clock takes 0.1 us a call and is part of every figure.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np

from infimed.core.errors import DataError
from infimed.core.files import sha256_bytes
from infimed.curation import default_rubric, image_signals, ledger, sharpness, shortcuts
from infimed.curation.image_signals import without_repeats
from infimed.curation.signals import Signals, record_modality
from infimed.curation.text_signals import measure_text
from infimed.data import imaging
from infimed.data.shards import ShardSet
from infimed.matching.fingerprint import fingerprint
from infimed.matching.image import thumbnail

_Result = TypeVar("_Result")
SHOWN_RULES = 12


class Stopwatch:
    """Microseconds spent, by step, in the order in which steps were first timed."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)

    def __call__(self, step: str, work: Callable[..., _Result], *arguments: Any) -> _Result:
        began = time.perf_counter()
        made = work(*arguments)
        self.spent[step] += 1e6 * (time.perf_counter() - began)
        return made


@contextmanager
def nothing_remembered() -> Iterator[None]:
    """Every text read as if it were seen for the first time."""
    before = shortcuts.REMEMBERED_CHARS
    shortcuts.REMEMBERED_CHARS = -1  # type: ignore[misc]
    try:
        yield
    finally:
        shortcuts.REMEMBERED_CHARS = before  # type: ignore[misc]


def image_costs(shards: ShardSet, numbers: range) -> Stopwatch:
    """Each step from stored bytes to image signals."""
    timed = Stopwatch()
    for number in numbers:
        sha256 = shards.record(number).images[0].sha256
        data = shards.image_bytes(sha256)
        timed("hash of the stored bytes", sha256_bytes, data)
        planes = timed("decode", imaging.decode_planes, data)
        timed("measure_image, all of it", image_signals.measure_image, planes)
        image_parts(timed, planes)
        timed("a thumbnail, where pixels must confirm", _thumbnail, planes)
    return timed


def _grey(planes: np.ndarray) -> np.ndarray:
    return planes if planes.ndim == 2 else np.asarray(cv2.cvtColor(planes, cv2.COLOR_RGB2GRAY))


def _thumbnail(planes: np.ndarray) -> np.ndarray:
    return thumbnail(_grey(planes))


def image_parts(timed: Stopwatch, planes: np.ndarray) -> None:
    """The signals of one image one by one."""
    grey = timed("  grey copy", _grey, planes)
    timed("  pixel hash", image_signals.pixel_hash, planes)
    timed("  fingerprint", fingerprint, grey)
    timed("  histogram", cv2.calcHist, [grey], [0], None, [256], [0, 256])
    timed("  sharpness, two of them", sharpness.edge_sharpness, grey)
    steps = timed("  steps of neighbours", cv2.absdiff, grey[:, 1:], grey[:, :-1])
    timed("  edges", image_signals.edge_share, steps)
    timed("  blocking", image_signals.block_steps, steps)
    timed("  flat", image_signals.flat_share, grey, steps)
    timed("  noise", image_signals.noise_level, grey)
    timed("  colour", image_signals.colour_share, planes)


def record_costs(shards: ShardSet, numbers: range) -> tuple[Stopwatch, dict[str, float]]:
    """Each step from stored record to table rows beside its image, and the time of each rule."""
    timed, rules = Stopwatch(), Stopwatch()
    rubric = default_rubric()
    records = timed("reading records", shards.records, numbers.start, numbers.stop)
    texts = [timed("text signals", measure_text, record) for record in records]
    with nothing_remembered():
        for record in records:
            timed("  signals of texts never seen before", measure_text, record)
    rows = []
    for record, text in zip(records, texts, strict=True):
        image = image_signals.measure_image(shards.planes(record.images[0]))
        signals = Signals(text, (image,), record_modality(record))
        timed("record rules", rubric.judge, record, signals)
        with nothing_remembered():
            timed("  rules on texts never seen before", rubric.judge, record, signals)
        for rule in rubric.rules:
            limits = rule.limits(signals.modality, record.task)
            rules(rule.id, rule.check, record, signals, limits)
        rows.append(timed("a ledger row", signals.to_row, len(rows), record))
    timed("tables of the ledger", ledger.table, ledger.SIGNALS, rows)
    return timed, rules.spent


REAL: dict[str, str] = {
    "VQA-RAD": "vqa_rad/VQA_RAD Image Folder", "ROCOv2": "rocov2_ccby", "BCCD": "bccd",
}  # fmt: skip


def brought_to_size(path: Path, side: int = 512, quality: int = 90) -> bytes | None:
    """A real image as a JPEG of this size and quality; None for a file that is no image."""
    try:
        planes = without_repeats(imaging.decode_planes(path.read_bytes()))
    except DataError:
        return None
    method = cv2.INTER_AREA if min(planes.shape[:2]) >= side else cv2.INTER_LINEAR
    pixels = cv2.resize(planes, (side, side), interpolation=method)
    coded = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    return bytes(cv2.imencode(".jpg", coded, [cv2.IMWRITE_JPEG_QUALITY, quality])[1])


def real(data: Path, shards: ShardSet, images: int = 234) -> None:
    """Print bytes, decoding and image signals of real images beside those of the benchmark's own."""
    cv2.setNumThreads(1)
    sets = {"these phantoms": [shards.image_bytes(s) for s in _spread(shards, images)]}
    for name, folder in REAL.items():
        files = sorted(
            p for p in (data / folder).rglob("*") if p.suffix in (".jpg", ".jpeg", ".png")
        )
        sets[name] = [made for file in files[:images] if (made := brought_to_size(file))]
    timed = {name: Stopwatch() for name in sets}
    for turn in range(4):  # in turns, the first to warm up
        for name, coded in sets.items():
            watch = timed[name] if turn else Stopwatch()
            for one in coded:
                planes = watch("decode", imaging.decode_planes, one)
                watch("signals", image_signals.measure_image, planes)
    print("\nReal images brought to 512x512, quality 90; one thread, mean of 3 turns\n")
    print(f"{'':16s} {'images':>7s} {'kB':>6s} {'decode':>10s} {'signals':>10s}")
    for name, coded in sets.items():
        if not coded:
            print(f"{name:16s} none in {data}")
            continue
        size = sum(map(len, coded)) / len(coded) / 1e3
        spent = [timed[name].spent[step] / len(coded) / 3 for step in ("decode", "signals")]
        print(
            f"{name:16s} {len(coded):7d} {size:6.1f} {spent[0]:7.0f} us {spent[1]:7.0f} us",
            flush=True,
        )


def _spread(shards: ShardSet, images: int) -> list[str]:
    """Keys of that many images from all over the shards."""
    keys: list[str] = shards.images["sha256"].to_pylist()
    return keys[:: max(1, len(keys) // images)][:images]


def costs(shards: ShardSet, records: int = 512) -> None:
    """Print the table."""
    cv2.setNumThreads(1)
    numbers = range(min(records, len(shards)))
    record_costs(shards, range(32))  # patterns, word lists and matrices are made once
    timed, rules = record_costs(shards, numbers)
    print(f"\nMicroseconds a record, one thread, means over {len(numbers)} records\n")
    for step, spent in (*image_costs(shards, numbers).spent.items(), *timed.spent.items()):
        print(f"{step:44s} {spent / len(numbers):9.1f}", flush=True)
    dearest = sorted(rules, key=lambda rule: -rules[rule])
    for rule in dearest[:SHOWN_RULES]:
        print(f"  {rule:42s} {rules[rule] / len(numbers):9.1f}")
    rest = sum(rules[rule] for rule in dearest[SHOWN_RULES:])
    print(
        f"  {f'the other {len(dearest) - SHOWN_RULES}':42s} {rest / len(numbers):9.1f}", flush=True
    )
    seen = {turn.text for record in shards.records(0, len(shards)) for turn in record.messages}
    turns = sum(len(record.messages) for record in shards.records(0, len(shards)))
    print(f"{len(seen)} different texts among {turns}")
