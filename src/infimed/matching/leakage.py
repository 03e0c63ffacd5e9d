"""Leakage: which records of a data set show or ask what a benchmark shows or asks.

A leak is an image (the same pixels, or a re-encoded, resized, rewindowed, mirrored, inverted or
cropped copy), a question (the same, with the options in another order, or in other words), or
both. A short question that any image may be asked ("Is there a pleural effusion?") is no leak by
itself: without a shared image a question counts only when it is long enough to be nobody else's.

Cost: one decode an image of both sides; afterwards about 2 ms an image and 0.1 ms a question.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from infimed.core.errors import DataError
from infimed.data.record import ImageRef, Record
from infimed.matching.fingerprint import fingerprint
from infimed.matching.image import cross_matches, thumbnail
from infimed.matching.questions import Question, QuestionIndex, QuestionMatch, question_match

MIN_CHARS: Final = 20
"""Characters of question and options that a match needs where no image is involved."""

MIN_CHARS_WITH_IMAGES: Final = 160
"""The same where both records show images, and not the same ones."""

SHARED_IMAGE: Final = 0.45
"""Score that makes two questions about one picture the same question."""

_CAPTION_LIKE: Final = frozenset({"caption", "report", "dialogue"})


class Source(Protocol):
    """What leakage needs of a `ShardSet`."""

    def __len__(self) -> int: ...

    def record(self, number: int, /) -> Record: ...

    def pixels(self, ref: ImageRef, /) -> NDArray[np.uint8]: ...


@dataclass(frozen=True, slots=True)
class Leak:
    """One pair of a data-set record and a benchmark record.

    Attributes:
        row, other_row: record numbers. record_id, other_id: their ids.
        kind: "image", "question" or "image and question".
        image: how the pictures agree ("same pixels", "same picture", "mirrored", "inverted",
            "cropped" or several), '' where they do not. image_score: 1 minus the largest local
            difference. image_key, other_key: the stored images.
        question: "same question", "options reordered", "paraphrased" or ''. question_score: 0..1.
    """

    row: int
    record_id: str
    other_row: int
    other_id: str
    kind: str
    image: str = ""
    image_score: float = 0.0
    image_key: str = ""
    other_key: str = ""
    question: str = ""
    question_score: float = 0.0


@dataclass(frozen=True, slots=True)
class _Seen:
    """One distinct image of a side: pixels hash, fingerprint, reference and the rows showing it."""

    pixels: str
    code: bytes
    ref: ImageRef
    rows: tuple[int, ...]


@dataclass(slots=True)
class Side:
    """One side of a comparison: its questions and images, each image decoded once."""

    source: Source
    ids: list[str]
    questions: list[Question | None]
    shows: list[bool]
    images: list[_Seen]
    unreadable: int = 0


def _question(record: Record) -> Question | None:
    if record.task in _CAPTION_LIKE:
        # The prompt is the same for all; what could leak is the text itself.
        text = record.response
    elif record.task == "text":
        text = record.question or record.response
    else:
        text = record.question
    return Question(text, record.choices) if text.strip() else None


def read_side(
    source: Source, *, workers: int = 1, on_progress: Callable[[int], None] = lambda n: None
) -> Side:
    """Read all records of one side and decode its images once.

    An image that cannot be decoded is counted and takes no part.
    """
    ids: list[str] = []
    questions: list[Question | None] = []
    shows: list[bool] = []
    refs: dict[str, ImageRef] = {}
    rows: dict[str, list[int]] = defaultdict(list)
    for row in range(len(source)):
        record = source.record(row)
        ids.append(record.id)
        questions.append(_question(record))
        shows.append(bool(record.images))
        for ref in record.images:
            key = ref.sha256 or ref.locator
            refs.setdefault(key, ref)
            rows[key].append(row)
        on_progress(1)

    def measured(ref: ImageRef) -> tuple[str, bytes] | None:
        try:
            pixels = source.pixels(ref)
        except DataError:
            return None
        digest = hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).data)
        return digest.hexdigest(), fingerprint(_grey(pixels))

    keys = sorted(refs)
    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(measured, (refs[key] for key in keys)))
    images = [
        _Seen(*seen, refs[key], tuple(dict.fromkeys(rows[key])))
        for key, seen in zip(keys, found, strict=True)
        if seen is not None
    ]
    return Side(source, ids, questions, shows, images, len(keys) - len(images))


def _grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    import cv2

    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))


def find_leaks(
    data: Side,
    against: Side,
    *,
    min_chars: int = MIN_CHARS,
    min_chars_with_images: int = MIN_CHARS_WITH_IMAGES,
) -> list[Leak]:
    """Every leaking pair, by data-set row and benchmark row.

    Args:
        min_chars, min_chars_with_images: see the constants of those names.
    """
    matches = _image_matches(data, against)
    index = QuestionIndex(
        [q or Question("") for q in against.questions], [q for q in data.questions if q]
    )
    leaks: dict[tuple[int, int], Leak] = {}
    for (row, other), (kind, score, key, other_key) in matches.items():
        asked = _asked_alike(data.questions[row], against.questions[other], index)
        leaks[row, other] = Leak(
            row, data.ids[row], other, against.ids[other],
            "image and question" if asked else "image", kind, score, key, other_key,
            asked.kind if asked else "", asked.score if asked else 0.0,
        )  # fmt: skip
    for row, question in enumerate(data.questions):
        if question is None or question.chars < min_chars:
            continue
        for other, match in index.matches(question):
            asked_there = against.questions[other]
            shared = min(question.chars, asked_there.chars if asked_there else 0)
            both_show = data.shows[row] and against.shows[other]
            if (row, other) in leaks or shared < (
                min_chars_with_images if both_show else min_chars
            ):
                continue
            leaks[row, other] = Leak(
                row, data.ids[row], other, against.ids[other], "question",
                question=match.kind, question_score=match.score,
            )  # fmt: skip
    return [leaks[pair] for pair in sorted(leaks)]


def _asked_alike(
    a: Question | None, b: Question | None, index: QuestionIndex
) -> QuestionMatch | None:
    if a is None or b is None:
        return None
    return question_match(a, b, index.weight, SHARED_IMAGE)


_ImageMatch = tuple[str, float, str, str]


def _image_matches(data: Side, against: Side) -> dict[tuple[int, int], _ImageMatch]:
    """(row, other row) -> (kind, score, image, other image), the best match of each pair."""
    found: list[tuple[int, int, str, float]] = []
    by_pixels: dict[str, list[int]] = defaultdict(list)
    for number, seen in enumerate(against.images):
        by_pixels[seen.pixels].append(number)
    exact = {
        (one, other)
        for one, seen in enumerate(data.images)
        for other in by_pixels.get(seen.pixels, ())
    }
    found += [(one, other, "same pixels", 1.0) for one, other in sorted(exact)]
    near = cross_matches(
        [seen.code for seen in data.images],
        [seen.code for seen in against.images],
        _loader(data),
        _loader(against),
    )
    found += [
        (one, other, match.kind, round(1 - match.local_difference, 4))
        for one, other, match in near
        if (one, other) not in exact
    ]
    best: dict[tuple[int, int], _ImageMatch] = {}
    for one, other, kind, score in found:
        key, other_key = (_key(side.images[n].ref) for side, n in ((data, one), (against, other)))
        for row in data.images[one].rows:
            for other_row in against.images[other].rows:
                known = best.get((row, other_row))
                if known is None or score > known[1]:
                    best[row, other_row] = (kind, score, key, other_key)
    return best


def _key(ref: ImageRef) -> str:
    return ref.sha256 or ref.locator


def _loader(side: Side) -> Callable[[int], NDArray[np.uint8] | None]:
    def load(number: int) -> NDArray[np.uint8] | None:
        try:
            return thumbnail(_grey(side.source.pixels(side.images[number].ref)))
        except DataError:
            return None

    return load


def worst_by_row(leaks: Iterable[Leak]) -> dict[int, Leak]:
    """For every leaking row of the data set its strongest leak."""
    rank = {"image and question": 0, "image": 1, "question": 2}
    best: dict[int, Leak] = {}
    for leak in leaks:
        known = best.get(leak.row)
        if known is None or _strength(leak, rank) < _strength(known, rank):
            best[leak.row] = leak
    return best


def _strength(leak: Leak, rank: dict[str, int]) -> tuple[Any, ...]:
    return rank[leak.kind], -leak.image_score, -leak.question_score, leak.other_row


def counts(leaks: Sequence[Leak]) -> dict[str, int]:
    """Pairs of each kind, and how many records of either side are involved."""
    kinds = {
        kind: sum(leak.kind == kind for leak in leaks)
        for kind in ("image", "question", "image and question")
    }
    return {
        **kinds,
        "data records": len({leak.row for leak in leaks}),
        "benchmark records": len({leak.other_row for leak in leaks}),
    }
