"""Records that are longer than a row: dropped, split between turns, or shown with fewer visual tokens.

Nothing is ever cut inside a turn or an image span. What a policy cannot make fit stays as it is, and the
planner counts it as over-long.

*split* makes parts of whole exchanges, as many in each as fit: an exchange is what stands up to and
including an answer. A part repeats a leading system turn and shows again, at its beginning, every image that
came before it; of earlier words it knows nothing. *shrink* gives the images of a record the largest smaller
square of visual tokens with which it fits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from infimed.packing.planner import Limits, Samples

Policy = Literal["drop", "split", "shrink"]
Integers = NDArray[np.int64]

SMALLEST_SIDE: Final = 4
"""Images are not shrunk below 4 x 4 tokens: `mini` reads kind, plane and organ from as many."""


@dataclass(frozen=True)
class Exchanges:
    """Lengths of the exchanges of every record, one after another.

    Attributes:
        start: record r has the exchanges ``start[r]`` to ``start[r + 1] - 1``; int64 [records + 1]. Records
            with a single exchange may have none here.
        turns: turns of each exchange. images: images in it. first: its text tokens where a part begins
            with it. later: where it goes on. targets: its target tokens. All int64 [exchanges].
    """

    start: Integers
    turns: Integers
    images: Integers
    first: Integers
    later: Integers
    targets: Integers

    def take(self, numbers: Integers) -> Exchanges:
        """Those of some records, in this order."""
        sizes = np.diff(self.start)[numbers]
        start = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        inside = np.repeat(self.start[:-1][numbers] - start[:-1], sizes) + np.arange(start[-1])
        return Exchanges(
            start, self.turns[inside], self.images[inside], self.first[inside],
            self.later[inside], self.targets[inside],
        )  # fmt: skip


def fit(samples: Samples, limits: Limits, policy: Policy, exchanges: Exchanges | None) -> Samples:
    """The samples with those that are longer than a row treated by `policy`.

    Args:
        exchanges: of the samples, needed to split.
    """
    long = samples.tokens(limits) > limits.row_tokens
    if policy == "drop" or not long.any():
        return samples
    if policy == "shrink":
        return _shrunk(samples, limits, long)
    assert exchanges is not None
    return _split(samples, limits, long, exchanges)


def _shrunk(samples: Samples, limits: Limits, long: NDArray[np.bool_]) -> Samples:
    text = samples.trunk_tokens + samples.branch_tokens
    room = (limits.row_tokens - text) / np.maximum(samples.images, 1)
    full = round(limits.visual_tokens**0.5)
    side = np.minimum(np.floor(np.sqrt(np.maximum(room, 0))).astype(np.int64), full - 1)
    fewer = np.where(long & (samples.images > 0) & (side >= min(SMALLEST_SIDE, full)), side**2, 0)
    # Another length is another document: what is shrunk shares its images with nothing.
    alone = np.where(fewer > 0, -1, samples.image_key)
    return replace(samples, visual_tokens=fewer, image_key=alone)


def _split(
    samples: Samples, limits: Limits, long: NDArray[np.bool_], exchanges: Exchanges
) -> Samples:
    parts = [
        (number, *part)
        for number in np.flatnonzero(long & (np.diff(exchanges.start) > 1)).tolist()
        for part in _parts(exchanges, number, limits)
    ]
    if not parts:
        return samples
    owner, first, last, text, targets, images = np.array(parts, np.int64).T
    whole = np.setdiff1d(np.arange(len(samples)), owner)
    kept = samples.take(np.concatenate([whole, owner]))
    cut = slice(len(whole), None)
    turns = np.zeros((len(kept), 2), np.int64)
    turns[cut] = np.stack([first, last], 1)
    kept.trunk_tokens[cut], kept.branch_tokens[cut] = 0, text
    kept.target_tokens[cut], kept.images[cut], kept.image_key[cut] = targets, images, -1
    return replace(kept, turns=turns)


def _parts(
    exchanges: Exchanges, number: int, limits: Limits
) -> Iterator[tuple[int, int, int, int, int]]:
    """(first turn, turn after the last, text tokens, target tokens, images) of each part of a record."""
    inside = range(int(exchanges.start[number]), int(exchanges.start[number + 1]))
    turn = shown = 0
    part: tuple[int, int, int, int, int] | None = None
    for at in inside:
        turns, images = int(exchanges.turns[at]), int(exchanges.images[at])
        targets, later = int(exchanges.targets[at]), int(exchanges.later[at])
        shown += images
        if part is not None:
            longer = (part[0], turn + turns, part[2] + later, part[3] + targets, shown)
            fits = longer[2] + shown * limits.visual_tokens <= limits.row_tokens
            if fits and shown <= limits.max_images:
                part, turn = longer, turn + turns
                continue
            yield part
        part = (turn, turn + turns, int(exchanges.first[at]), targets, shown)
        turn += turns
    if part is not None:
        yield part
