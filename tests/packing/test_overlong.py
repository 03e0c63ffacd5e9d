"""Over-long records: what a policy makes fit stays within the row, whole turns only, nothing lost."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from infimed.packing.overlong import Exchanges, fit
from infimed.packing.planner import Limits, Samples, plan_epoch

LIMITS = Limits(row_tokens=128, max_images=4, visual_tokens=25, window=32)


def dialogues(seed: int, count: int = 40) -> tuple[Samples, Exchanges]:
    """Records of one to six exchanges, the first of which may show images."""
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 7, count)
    start = np.concatenate([[0], np.cumsum(sizes)])
    owner = np.repeat(np.arange(count), sizes)
    first = np.zeros(len(owner), bool)
    first[start[:-1]] = True
    images = np.where(first, random.integers(0, 3, len(owner)), random.random(len(owner)) < 0.1)
    later = random.integers(3, 50, len(owner))
    begins = later + random.integers(0, 3, len(owner))
    targets = random.integers(1, 3, len(owner))
    exchanges = Exchanges(
        start, np.full(len(owner), 2), images.astype(np.int64), begins, later, targets
    )
    text = np.where(first, begins, later)

    def total(values):
        return np.bincount(owner, values, count).astype(np.int64)

    samples = Samples(
        row=np.arange(count) * 3,
        trunk_tokens=np.zeros(count, np.int64),
        branch_tokens=total(text),
        target_tokens=total(targets),
        images=total(images),
        image_key=np.where(total(images) > 0, np.arange(count), -1),
        weight=np.ones(count),
    )
    return samples, exchanges


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10_000))
def test_parts_are_whole_exchanges_in_order_and_as_many_in_each_as_fit(seed):
    samples, exchanges = dialogues(seed)
    plan = plan_epoch(fit(samples, LIMITS, "split", exchanges), LIMITS, seed, 0)
    parts: dict[int, list] = defaultdict(list)
    for row in plan.rows:
        assert row.tokens <= LIMITS.row_tokens and row.images <= LIMITS.max_images
        for document in row.documents:
            for place, record in enumerate(document.records):
                turns = document.turns[place] if document.turns else (0, 0)
                parts[record].append((turns, document))
    long = samples.tokens(LIMITS) > LIMITS.row_tokens
    for number, record in enumerate(samples.row.tolist()):
        inside = range(exchanges.start[number], exchanges.start[number + 1])
        if not long[number]:
            assert [t for t, _ in parts[record]] == (
                [(0, 0)] if samples.images[number] <= LIMITS.max_images else []
            )
            continue
        shown = np.cumsum([0, *exchanges.images[inside]])
        for (first, last), document in parts[record]:
            begin, end = first // 2, last // 2
            text = exchanges.first[inside[begin]] + sum(
                exchanges.later[inside[k]] for k in range(begin + 1, end)
            )
            assert document.images == shown[end], "images that came before are shown again"
            assert document.tokens == text + 25 * shown[end]
            assert document.target_tokens == sum(
                exchanges.targets[inside[k]] for k in range(begin, end)
            )
            if end < len(inside):  # one more would not have fitted
                more = text + exchanges.later[inside[end]] + 25 * shown[end + 1]
                assert more > LIMITS.row_tokens or shown[end + 1] > LIMITS.max_images
        trained = [k for (a, b), _ in parts[record] for k in range(a // 2, b // 2)]
        lost = set(range(len(inside))) - set(trained)
        assert len(trained) == len(set(trained))
        assert bool(lost) <= (record in plan.over_long)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10_000))
def test_shrunk_images_are_the_largest_square_that_fits(seed):
    samples, _ = dialogues(seed)
    made = fit(samples, LIMITS, "shrink", None)
    long = samples.tokens(LIMITS) > LIMITS.row_tokens
    fewer = np.zeros(len(samples), int) if made.visual_tokens is None else made.visual_tokens
    text = samples.branch_tokens + samples.trunk_tokens
    for number in range(len(samples)):
        sides = [
            side
            for side in (4,)
            if long[number]
            and samples.images[number]
            and text[number] + samples.images[number] * side**2 <= LIMITS.row_tokens
        ]
        assert fewer[number] == (sides[-1] ** 2 if sides else 0)
    plan = plan_epoch(made, LIMITS, seed, 0)
    assert set(plan.shrunk) == {
        int(samples.row[n]) for n in np.flatnonzero(fewer) if samples.images[n] <= LIMITS.max_images
    }
    assert all(row.tokens <= LIMITS.row_tokens for row in plan.rows)


def test_dropped_records_are_counted_and_nothing_else_changes():
    samples, exchanges = dialogues(1)
    assert fit(samples, LIMITS, "drop", exchanges) is samples


def test_turns_and_visual_tokens_stand_in_the_stored_table():
    samples, exchanges = dialogues(5)
    plan = plan_epoch(fit(samples, LIMITS, "split", exchanges), LIMITS, 5, 0)
    stored = plan.table().to_pylist()
    flat = [
        (r, d, record, *(document.turns[k] if document.turns else (0, 0)))
        for r, row in enumerate(plan.rows)
        for d, document in enumerate(row.documents)
        for k, record in enumerate(document.records)
    ]
    assert len(plan.split)
    names = ("row", "document", "record", "first_turn", "last_turn")
    assert [tuple(line[n] for n in names) for line in stored] == flat
