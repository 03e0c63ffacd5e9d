"""The plan: nothing lost, no limit broken, the same rows for the same seed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infimed.packing.filling import PAIR_SUMS, fill_rows
from infimed.packing.planner import Limits, Samples, documents_of, draw, plan_epoch, plan_stage


def make_samples(count, seed=0, images_of=3, weight=1.0, longest=60):
    random = np.random.default_rng(seed)
    key = random.integers(-1, max(1, count // images_of), count)
    return Samples(
        row=np.arange(count) * 2,
        trunk_tokens=np.where(key >= 0, 4, 0),
        branch_tokens=random.integers(3, longest, count),
        target_tokens=random.integers(1, 3, count),
        images=(key >= 0).astype(np.int64),
        image_key=key,
        weight=np.full(count, weight),
    )


LIMITS = Limits(row_tokens=128, max_images=3, visual_tokens=9, window=32)


def slow_fill(tokens, images, row_tokens, max_images, window):
    """The rule of `filling` by scanning lists: the obvious reference."""
    coming, waiting, placed, row = list(range(len(tokens))), [], {}, 0
    while coming or waiting:
        while coming and len(waiting) < window:
            waiting.append(coming.pop(0))
        reserve = 2 * sum(tokens[n] for n in waiting) // len(waiting)
        most = max(images)
        room, left, begun = row_tokens, max_images, False
        while waiting:
            first = waiting[0]
            if not begun or (room - tokens[first] >= reserve and images[first] <= left):
                chosen = first
            else:
                fits = [n for n in waiting if tokens[n] <= room and images[n] <= left]
                if not fits:
                    break
                best = max(tokens[n] for n in fits)
                pairs = [
                    (tokens[a] + tokens[b], max(tokens[a], tokens[b]))
                    for at, a in enumerate(fits)
                    for b in fits[at + 1 :]
                    if best < tokens[a] + tokens[b] <= room
                    and tokens[a] + tokens[b] > room - PAIR_SUMS
                ]
                if pairs and best < room and left >= 2 * most:
                    best = max(pairs)[1]
                # Of equal lengths the one with the fewest images, then the oldest.
                chosen = min((n for n in fits if tokens[n] == best), key=lambda n: (images[n], n))
            # The oldest waiting document of that length and number of images is meant.
            chosen = min(
                n for n in waiting if (tokens[n], images[n]) == (tokens[chosen], images[chosen])
            )
            waiting.remove(chosen)
            placed[chosen] = row
            room, left, begun = room - tokens[chosen], left - images[chosen], True
        row += 1
    return [placed[n] for n in range(len(tokens))]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 200), st.integers(0, 5), st.integers(0, 3), st.floats(0, 2.5))
def test_every_drawn_record_is_in_one_row_and_no_limit_is_broken(count, seed, epoch, weight):
    samples = make_samples(count, seed, weight=weight)
    plan = plan_epoch(samples, LIMITS, seed, epoch)
    drawn = Counter(samples.row[draw(samples, seed, epoch)].tolist())
    placed = Counter(r for row in plan.rows for d in row.documents for r in d.records)
    assert placed + Counter(plan.over_long) == drawn
    for row in plan.rows:
        assert row.tokens <= LIMITS.row_tokens
        assert row.images <= LIMITS.max_images


def test_document_tokens_are_trunk_once_and_every_branch():
    samples = make_samples(60, 3)
    documents, _ = documents_of(samples, np.arange(60), LIMITS)
    place = {int(row): i for i, row in enumerate(samples.row)}
    for document in documents:
        members = [place[r] for r in document.records]
        first = members[0]
        expected = (
            samples.images[first] * 9
            + samples.trunk_tokens[first]
            + samples.branch_tokens[members].sum()
        )
        assert document.tokens == expected
        assert len({int(samples.image_key[m]) for m in members}) == 1


def test_no_document_asks_one_question_twice():
    documents, _ = documents_of(make_samples(40, 1), np.repeat(np.arange(40), 3), LIMITS)
    assert all(len(set(d.records)) == len(d.records) for d in documents)


def test_records_longer_than_a_row_are_counted_not_cut():
    samples = make_samples(30, 2, longest=400)
    plan = plan_epoch(samples, LIMITS, 0, 0)
    too_long = samples.branch_tokens + samples.trunk_tokens + 9 * samples.images > LIMITS.row_tokens
    assert set(plan.over_long) == set(samples.row[too_long].tolist())


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 100), st.integers(0, 3)), max_size=70),
    st.integers(100, 600),
    st.sampled_from([3, 5, 7, 1000]),
    st.sampled_from([1, 4, 16, 64]),
)
def test_every_document_is_placed_as_by_the_scanning_reference(documents, row_tokens, most, window):
    tokens = np.array([t for t, _ in documents], np.int64)
    images = np.array([i for _, i in documents], np.int64)
    found = fill_rows(tokens, images, row_tokens=row_tokens, max_images=most, window=window)
    assert found.tolist() == slow_fill(tokens.tolist(), images.tolist(), row_tokens, most, window)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([3, 7, 10, 33, 34, 50]), max_size=120), st.integers(50, 300))
def test_many_equal_lengths_are_placed_as_by_the_reference(lengths, row_tokens):
    tokens, images = np.array(lengths, np.int64), np.zeros(len(lengths), np.int64)
    found = fill_rows(tokens, images, row_tokens=row_tokens, max_images=1, window=20)
    assert found.tolist() == slow_fill(lengths, images.tolist(), row_tokens, 1, 20)


def best_fit_decreasing(lengths, capacity, window):
    """Rows that best-fit decreasing needs, window by window."""
    rows = 0
    for begin in range(0, len(lengths), window):
        free = []
        for length in sorted(lengths[begin : begin + window], reverse=True):
            fits = [space for space in free if space >= length]
            if fits:
                free.remove(min(fits))
            rows += not fits
            free.append((min(fits) if fits else capacity) - length)
    return rows


@pytest.mark.parametrize("seed", range(8))
def test_rows_are_fuller_than_by_best_fit_decreasing_at_the_same_window(seed):
    random = np.random.default_rng(seed)
    tokens = 36 + np.clip(np.exp(random.normal(3.4, 0.7, 1500)), 1, 400).astype(np.int64)
    row = fill_rows(tokens, np.ones(1500, int), row_tokens=1024, max_images=99, window=256)
    rivals = best_fit_decreasing(tokens.tolist(), 1024, 256)
    assert row.max() + 1 <= rivals
    assert tokens.sum() / ((row.max() + 1) * 1024) > 0.99


def test_a_row_is_as_varied_as_chance_would_make_it():
    """Answers of one length are answers of one kind: rows sorted by length would be batches of one kind."""
    random = np.random.default_rng(3)
    count, limits = 4000, Limits(row_tokens=1024, max_images=64, visual_tokens=9, window=512)
    tokens = random.integers(20, 60, count)
    samples = Samples(
        row=np.arange(count), trunk_tokens=np.zeros(count, np.int64), branch_tokens=tokens,
        target_tokens=np.ones(count, np.int64), images=np.zeros(count, np.int64),
        image_key=np.full(count, -1), weight=np.ones(count),
    )  # fmt: skip

    def variety(limits):
        plan = plan_epoch(samples, limits, seed=1, epoch=0)
        rows = np.split(plan.documents.tokens, plan.start[1:-1])[:-1]
        by_chance = tokens.std() / np.sqrt(np.mean([len(row) for row in rows]))
        return np.std([row.mean() for row in rows]) / by_chance

    assert 0.5 < variety(limits) < 1.5
    assert variety(replace(limits, by_length=True)) > 3


def test_same_seed_same_rows_and_another_epoch_other_rows():
    samples = make_samples(200)
    rows = [list(plan_epoch(samples, LIMITS, 5, epoch).rows) for epoch in (1, 1, 2)]
    assert rows[0] == rows[1] != rows[2]


def test_isolated_images_when_sharing_is_off():
    limits = Limits(128, 8, 9, 32, share_images=False)
    plan = plan_epoch(make_samples(50), limits, 0, 0)
    assert all(len(d.records) == 1 for row in plan.rows for d in row.documents)


def test_stage_of_one_and_a_half_epochs_has_half_the_rows_of_the_second():
    samples = make_samples(400)
    one, half = (plan_stage(samples, LIMITS, seed=0, epochs=e) for e in (1.0, 1.5))
    second = plan_epoch(samples, LIMITS, 0, 1)
    assert half.rows[: len(one.rows)] == list(one.rows)
    assert len(half.rows) == len(one.rows) + round(0.5 * len(second.rows))


def test_plan_table_lists_every_record_once_with_its_place():
    plan = plan_epoch(make_samples(40), LIMITS, 0, 0)
    table = plan.table()
    assert table.num_rows == sum(row.records for row in plan.rows)
    assert table.column("row").to_pylist() == sorted(table.column("row").to_pylist())


def test_totals_are_those_of_the_rows():
    plan = plan_stage(make_samples(90), LIMITS, seed=3, epochs=1.4)
    for name in ("tokens", "images", "target_tokens", "records"):
        assert getattr(plan, name) == sum(getattr(row, name) for row in plan.rows)
    assert plan.per_row(plan.documents.tokens).tolist() == [row.tokens for row in plan.rows]
    assert plan.fill == plan.tokens / (len(plan.rows) * LIMITS.row_tokens)


def test_a_stage_without_records_has_a_plan_without_rows():
    plan = plan_stage(make_samples(0), LIMITS, seed=0, epochs=2)
    assert (len(plan.rows), plan.tokens, plan.fill, plan.table().num_rows) == (0, 0, 0.0, 0)
