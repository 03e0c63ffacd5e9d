"""The pack plan: which documents share a row.

A pure function of token counts, image keys, weights, limits, window, epoch and seed; it never opens
an image. Invariants: no row exceeds `row_tokens` or `max_images`, an image span is never cut, and
every selected record is in exactly one row or is counted as over-long.

Method: documents are shuffled, and rows are filled from a window of them (`filling`). Everything works on arrays:
a million records take about two seconds. Documents of similar length are put together only where that is asked
for: attention is cheaper then, but answers of one length are answers of one kind, a step of such rows says one
thing, and models learn less from the same samples (the study of packing).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from infimed.core.seeds import stream
from infimed.packing.filling import fill_rows
from infimed.packing.plan import Documents, Plan, joined

LENGTH_BLOCK: Final = 1024
"""Documents that are put in order of length at a time, where that is wanted."""

TOKEN_ROUNDS: Final = 6
"""Corrections of a mixture given in tokens; the shares are then within a tenth of a percent point, but for
what chance draws."""


@dataclass(frozen=True)
class Samples:
    """Columns of the index that planning needs; all arrays have one entry a record.

    Attributes:
        row: row number of the record in the shards.
        trunk_tokens: text tokens up to the last image; shared by records with the same images.
        branch_tokens: text tokens after it.
        target_tokens: tokens that are predicted.
        images: images of the record.
        image_key: equal for records that show the same images in the same order; -1 without images.
        weight: times the record is seen per epoch; a fraction is drawn by chance.
        turns: int64 [n, 2], the first turn and the one after the last of a part of a record; `WHOLE`
            otherwise. A record may have several entries, one a part. None: all are whole.
        visual_tokens: of each image where they are fewer than the limits say, else 0. None: nowhere.
    """

    row: NDArray[np.int64]
    trunk_tokens: NDArray[np.int64]
    branch_tokens: NDArray[np.int64]
    target_tokens: NDArray[np.int64]
    images: NDArray[np.int64]
    image_key: NDArray[np.int64]
    weight: NDArray[np.float64]
    turns: NDArray[np.int64] | None = None
    visual_tokens: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.row)

    def take(self, numbers: NDArray[np.int64]) -> Samples:
        """The entries of these numbers, in this order."""
        taken = {name: values[numbers] for name, values in vars(self).items() if values is not None}
        return replace(self, **taken)

    def image_tokens(self, limits: Limits) -> NDArray[np.int64]:
        """Visual tokens of each image."""
        if self.visual_tokens is None:
            return np.full(len(self), limits.visual_tokens)
        return np.where(self.visual_tokens > 0, self.visual_tokens, limits.visual_tokens)

    def tokens(self, limits: Limits) -> NDArray[np.int64]:
        """All tokens of each record, alone."""
        return self.images * self.image_tokens(limits) + self.trunk_tokens + self.branch_tokens


@dataclass(frozen=True)
class Limits:
    """What a row may hold."""

    row_tokens: int
    max_images: int
    visual_tokens: int
    window: int
    share_images: bool = True
    by_length: bool = False


def draw(samples: Samples, seed: int, epoch: int) -> NDArray[np.int64]:
    """Positions of the records seen in an epoch, each as often as its weight says, shuffled."""
    random = stream(seed, "mixture", epoch)
    whole = np.floor(samples.weight).astype(np.int64)
    times = whole + (random.random(len(samples)) < samples.weight - whole)
    order = np.repeat(np.arange(len(samples)), times)
    random.shuffle(order)
    return order


def documents_of(
    samples: Samples, order: NDArray[np.int64], limits: Limits
) -> tuple[Documents, NDArray[np.int64]]:
    """Group records that show the same images into documents no longer than a row.

    A record drawn twice lands in two documents, so that no document holds a question twice. Records
    without target tokens are left out.

    Returns:
        the documents: those of a single record in the order drawn, then those that share images, by
        their first record; and the shard rows of the records that are longer than a row.
    """
    head = samples.images * samples.image_tokens(limits) + samples.trunk_tokens
    length = head + samples.branch_tokens
    fits = (length <= limits.row_tokens) & (samples.images <= limits.max_images)
    kept = order[(fits & (samples.target_tokens > 0))[order]]
    shares = (samples.image_key[kept] >= 0) & limits.share_images
    alone, shared = kept[~shares], kept[shares]
    together, group = _grouped(samples.image_key, shared)
    first = np.flatnonzero(np.diff(group, prepend=-1))
    begins = np.concatenate(
        [
            np.arange(len(alone)),
            len(alone) + _cut(first, samples.branch_tokens[together], head[together], limits),
        ]
    )
    members = np.concatenate([alone, together])
    start = np.append(begins, len(members)).astype(np.int64)

    def summed(values: NDArray[np.int64]) -> NDArray[np.int64]:
        running = np.concatenate([[0], np.cumsum(values[members])])
        return np.asarray(running[start[1:]] - running[start[:-1]], np.int64)

    leading = members[begins]
    turns, fewer = samples.turns, samples.visual_tokens
    documents = Documents(
        records=samples.row[members].astype(np.int64),
        start=start,
        tokens=head[leading] + summed(samples.branch_tokens),
        images=samples.images[leading],
        target_tokens=summed(samples.target_tokens),
        turns=np.zeros((len(members), 2), np.int64) if turns is None else turns[members],
        visual_tokens=np.zeros(len(begins), np.int64) if fewer is None else fewer[leading],
    )
    return documents, samples.row[order[~fits[order]]]


def _grouped(
    image_key: NDArray[np.int64], drawn: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Drawn positions put together by images, no position twice in a group.

    Returns:
        the positions, and the number of each one's group; groups stand by their first position.
    """
    if not len(drawn):
        return drawn, drawn
    by_record = np.argsort(drawn, kind="stable")
    sorted_ = drawn[by_record]
    begins = np.flatnonzero(np.diff(sorted_, prepend=-1))
    turn = np.empty(len(drawn), np.int64)
    turn[by_record] = np.arange(len(drawn)) - np.repeat(begins, np.diff(begins, append=len(drawn)))
    key = image_key[drawn] * (turn.max() + 1) + turn
    _, first, number = np.unique(key, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    group = rank[number]
    order = np.argsort(group, kind="stable")
    return drawn[order], group[order]


def _cut(
    first: NDArray[np.int64],
    branch: NDArray[np.int64],
    head: NDArray[np.int64],
    limits: Limits,
) -> NDArray[np.int64]:
    """Where documents begin, given where groups do: a group longer than a row is cut between records.

    Args:
        first: place of the first record of each group. branch, head: tokens of each record's own, and of
            what it shares; all by place.
    """
    ends = np.append(first[1:], len(branch))
    running = np.concatenate([[0], np.cumsum(branch)])
    total = head[first] + running[ends] - running[first]
    extra: list[int] = []
    for group in np.flatnonzero(total > limits.row_tokens).tolist():
        begin, end = int(first[group]), int(ends[group])
        room, used = limits.row_tokens - int(head[begin]), 0
        for place, need in enumerate(branch[begin:end].tolist(), begin):
            if used and used + need > room:
                extra.append(place)
                used = 0
            used += need
    return np.sort(np.concatenate([first, np.array(extra, np.int64)]))


def plan_epoch(samples: Samples, limits: Limits, seed: int, epoch: int) -> Plan:
    """The rows of one epoch, in training order."""
    documents, over_long = documents_of(samples, draw(samples, seed, epoch), limits)
    random = stream(seed, "pack", epoch)
    shuffled = np.arange(len(documents))
    random.shuffle(shuffled)
    if limits.by_length:
        block = np.arange(len(shuffled)) // LENGTH_BLOCK
        shuffled = shuffled[np.lexsort((documents.tokens[shuffled], block))]
    documents = documents.take(shuffled)
    row = fill_rows(
        documents.tokens,
        documents.images,
        row_tokens=limits.row_tokens,
        max_images=limits.max_images,
        window=limits.window,
    )
    sizes = np.bincount(row) if len(row) else np.zeros(0, np.int64)
    # Rows in any order, and the documents of each in any order: a row's last ones were chosen to fit.
    order = random.permutation(len(sizes))
    place = np.empty(len(sizes), np.int64)
    place[order] = np.arange(len(sizes))
    inside = np.lexsort((random.random(len(row)), place[row]))
    start = np.concatenate([[0], np.cumsum(sizes[order])]).astype(np.int64)
    idle = np.unique(samples.row[samples.target_tokens == 0])
    return Plan(documents.take(inside), start, over_long, limits.row_tokens, idle)


def plan_stage(
    samples: Samples, limits: Limits, *, seed: int, epochs: float, max_rows: int | None = None
) -> Plan:
    """The rows of a whole stage; the last epoch is cut to its fraction of rows.

    Args:
        epochs: `math.inf` goes on to `max_rows`.
    """
    plans: list[Plan] = []
    for epoch, share in _epochs(epochs):
        plan = plan_epoch(samples, limits, seed, epoch)
        rows = len(plan.rows)
        plans.append(plan if share >= 1 else plan.first(min(rows, max(1, round(share * rows)))))
        if not rows and math.isinf(epochs):
            break
        if max_rows is not None and sum(len(p.rows) for p in plans) >= max_rows:
            return joined(plans).first(max_rows)
    return joined(plans)


def document_kinds(
    documents: Documents, kind: NDArray[np.int64], kinds: int, values: NDArray[np.int64]
) -> NDArray[np.float64]:
    """A count of every document by kind of record, shared evenly among the records in it; float64 [kinds].

    Args:
        kind: of every record of the shards, by shard row. values: of every document.
    """
    sizes = np.diff(documents.start)
    shared = np.repeat(values / np.maximum(sizes, 1), sizes)
    return np.bincount(kind[documents.records], shared, kinds).astype(np.float64)


def token_weights(
    samples: Samples,
    limits: Limits,
    kind: NDArray[np.int64],
    shares: NDArray[np.float64],
    seed: int,
) -> NDArray[np.float64]:
    """Times to see every record so that kinds of records have these shares of an epoch's tokens.

    An epoch is as long as if every record were seen once. Records about one image share its tokens,
    and how often they meet in a document depends on the weights: so the weights are corrected by what an
    epoch with them holds.

    Args:
        kind: of every sample. shares: of every kind, any positive scale.
    """
    usable = (samples.tokens(limits) <= limits.row_tokens) & (samples.target_tokens > 0)
    present = np.bincount(kind[usable], minlength=len(shares)) > 0
    wanted = np.where(present, shares, 0.0)
    wanted /= max(wanted.sum(), 1e-12)
    by_row = np.zeros(int(samples.row.max(initial=0)) + 1, np.int64)
    by_row[samples.row] = kind
    weight = np.ones(len(shares))
    total = 0.0
    for _ in range(TOKEN_ROUNDS):
        drawn = replace(samples, weight=weight[kind])
        documents, _ = documents_of(drawn, draw(drawn, seed, 0), limits)
        found = document_kinds(documents, by_row, len(shares), documents.tokens)
        total = total or found.sum()
        weight = np.where(found > 0, weight * wanted * total / np.maximum(found, 1), 0.0)
    return weight[kind]


def with_decay(stable: Plan, decay: Plan) -> Plan:
    """The rows of `stable`, then those of another mixture; where that begins is kept as ``switch``."""
    both = joined([stable, decay])
    left_out = np.unique(np.concatenate([stable.without_targets, decay.without_targets]))
    over_long = np.concatenate([stable.over_long, decay.over_long])
    return replace(
        both, over_long=over_long, without_targets=left_out, switch=len(stable.start) - 1
    )


def _epochs(epochs: float) -> Iterator[tuple[int, float]]:
    number = 0
    while epochs > 1e-9:
        yield number, min(1.0, epochs)
        epochs -= 1.0
        number += 1
