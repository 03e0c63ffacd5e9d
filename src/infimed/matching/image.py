"""Near-duplicate images: fingerprints propose, aligned pixels confirm.

A perceptual hash alone calls 13 % of different patients in the same view, and 68 % of pairs that
differ by one new small lesion, duplicates, and loses two thirds of the 5 % crops. So fingerprints
(`matching.fingerprint`) only propose, mirrored, inverted and cropped copies included; two images
are the same picture when their thumbnails, aligned and brought to one grey curve, differ nowhere
(`matching.alignment`).

Cost: 1 ms an image to propose, and 0.5 to 5 ms a proposed pair besides loading its thumbnails.
An image is compared with the first image of each group only, so time is linear in the copies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from infimed.matching.alignment import (
    WHOLE,
    Agreement,
    compare,
    differ_roughly,
    turned,
)
from infimed.matching.proposing import PER_IMAGE, ProposalIndex, hints

Grey = NDArray[np.uint8]
Load = Callable[[int], Grey | None]

THUMBNAIL: Final = 192
"""Side of the thumbnail that confirms, in pixels."""

MIN_CORRELATION: Final = 0.9
MAX_LOCAL_DIFFERENCE: Final = 0.065

CROPPED_ALLOWANCE: Final = 1.5
"""Factor on the limit where a crop was resampled to compare: sharp edges never fit exactly, and a
second study is hardly ever a crop of the first."""

_ALIKE: Final = 0.99
"""Similarity that is worth a comparison before all others: re-encoded copies reach 0.999."""


def thumbnail(grey: Grey, side: int = THUMBNAIL) -> Grey:
    """Square area-averaged thumbnail, uint8 [side, side]."""
    import cv2

    height, width = grey.shape
    shrinks = min(height, width) >= side
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(grey, (side, side), interpolation=method), np.uint8)


def same_picture(
    first: tuple[bytes, Grey],
    second: tuple[bytes, Grey],
    *,
    min_correlation: float = MIN_CORRELATION,
    max_local_difference: float = MAX_LOCAL_DIFFERENCE,
) -> Agreement | None:
    """How the second picture is a copy of the first, or None where it is not.

    Args:
        first, second: fingerprint and thumbnail of each.
    """
    for hint in hints(first[0], second[0]):
        one, other = (second[1], first[1]) if hint.reversed else (first[1], second[1])
        if differ_roughly(one, turned(other, hint.orientation), hint.window):
            continue
        match = compare(
            one, other,
            orientation=hint.orientation, window=hint.window, good_enough=max_local_difference,
        )  # fmt: skip
        limit = max_local_difference * (CROPPED_ALLOWANCE if match.window != WHOLE else 1.0)
        if match.correlation >= min_correlation and match.local_difference <= limit:
            return match.seen_from_second() if hint.reversed else match
    return None


def near_image_groups(
    fingerprints: Sequence[bytes],
    load: Load,
    *,
    min_correlation: float = MIN_CORRELATION,
    max_local_difference: float = MAX_LOCAL_DIFFERENCE,
    apart: Callable[[int, int], bool] = lambda first, second: False,
    on_different: Callable[[int, int], None] = lambda first, second: None,
) -> list[tuple[int, Agreement | None]]:
    """For every image the first image it duplicates (its own index if none) and how they agree.

    Args:
        fingerprints: one per image, in order of first appearance.
        load: thumbnail of image i, called for candidates only; None where it cannot be read.
        min_correlation, max_local_difference: what confirms.
        apart: whether two images are known to be different studies, however alike.
        on_different: told of every pair that was compared and differs, so that a caller who groups
            the same images again need not compare them again.
    """
    codes = list(fingerprints)
    result: list[tuple[int, Agreement | None]] = [(image, None) for image in range(len(codes))]
    held = _Recent(load)

    def confirmed(first: int, image: int) -> bool:
        if apart(first, image):
            return False
        one, other = held(first), held(image)
        if one is None or other is None:
            return False
        match = same_picture(
            (codes[first], one), (codes[image], other),
            min_correlation=min_correlation, max_local_difference=max_local_difference,
        )  # fmt: skip
        if match is None:
            on_different(first, image)
            return False
        result[image] = (first, match)
        return True

    # Copies by the hundred share a whole key: one comparison each settles them. (Of a few images
    # every pair that is alike is proposed below, the most alike first.)
    index = ProposalIndex(codes)
    for first, later in index.equal_keys() if len(codes) > PER_IMAGE else ():
        root = next((i for i in (first, *later) if result[i][0] == i), first)
        open_ones = [i for i in later if i > root and result[i][0] == i]
        if not open_ones:
            continue
        for image, similar in zip(open_ones, index.similarity(root, open_ones), strict=True):
            if similar >= _ALIKE:
                confirmed(root, image)
    del index
    left = [image for image in range(len(codes)) if result[image][0] == image]
    kept = [codes[image] for image in left]
    found = ProposalIndex(kept).proposals(kept, myself=True)
    pairs = np.stack([found.query, found.found], axis=1)
    pairs.sort(axis=1)
    order = np.lexsort((pairs[:, 0], -found.similarity, pairs[:, 1]))
    tried: set[int] = set()
    current = -1
    for earlier, later in pairs[order].tolist():
        if later != current:
            current, tried = later, set()
        image = left[later]
        first = result[left[earlier]][0]
        if result[image][0] != image or first in tried or len(tried) >= PER_IMAGE:
            continue
        tried.add(first)
        confirmed(first, image)
    return _resolved(result)


def _resolved(result: list[tuple[int, Agreement | None]]) -> list[tuple[int, Agreement | None]]:
    """Chains shortened: an image whose first later turned out to be a copy itself follows it."""
    for image, (first, match) in enumerate(result):
        while result[first][0] != first:
            first = result[first][0]
        if first != image:
            result[image] = (first, match)
    return result


def cross_matches(
    first: Sequence[bytes],
    second: Sequence[bytes],
    load_first: Load,
    load_second: Load,
    *,
    min_correlation: float = MIN_CORRELATION,
    max_local_difference: float = MAX_LOCAL_DIFFERENCE,
) -> list[tuple[int, int, Agreement]]:
    """All confirmed (first, second) pairs of one picture in two collections, by number.

    Every proposed pair is confirmed on its own; a picture that occurs often in both gives at most
    `PER_IMAGE` pairs for each of its copies.
    """
    one, other = list(first), list(second)
    forward = ProposalIndex(other).proposals(one)
    backward = ProposalIndex(one).proposals(other)
    pairs = sorted(
        {*zip(forward.query.tolist(), forward.found.tolist(), strict=True)}
        | {*zip(backward.found.tolist(), backward.query.tolist(), strict=True)}
    )
    held_first, held_second = _Recent(load_first), _Recent(load_second)
    matches = []
    for a, b in pairs:
        picture, copy = held_first(a), held_second(b)
        if picture is None or copy is None:
            continue
        match = same_picture(
            (one[a], picture), (other[b], copy),
            min_correlation=min_correlation, max_local_difference=max_local_difference,
        )  # fmt: skip
        if match is not None:
            matches.append((a, b, match))
    return matches


class _Recent:
    """Keeps the thumbnails used last (36 MiB at most)."""

    def __init__(self, load: Load, keep: int = 1024) -> None:
        self._load, self._keep = load, keep
        self._held: dict[int, Grey | None] = {}

    def __call__(self, image: int) -> Grey | None:
        if image in self._held:
            value = self._held.pop(image)
        else:
            value = self._load(image)
            if len(self._held) >= self._keep:
                self._held.pop(next(iter(self._held)))
        self._held[image] = value
        return value
