"""The plan: nothing lost, no limit broken, the same rows for the same seed."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from infimed.packing.planner import (
    DocumentPlan,
    Limits,
    Samples,
    best_fit,
    documents_of,
    draw,
    plan_epoch,
    plan_stage,
)


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


def slow_best_fit_fill(lengths, capacity):
    """Best-fit decreasing by scanning every open row: the obvious reference."""
    free = []
    for length in sorted(lengths, reverse=True):
        fits = [(space, i) for i, space in enumerate(free) if space >= length]
        if fits:
            _, i = min(fits)
            free[i] -= length
        else:
            free.append(capacity - length)
    return len(free)


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


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 100), min_size=1, max_size=80))
def test_best_fit_uses_as_few_rows_as_the_scanning_reference(lengths):
    documents = [DocumentPlan((i,), length, 0, 1) for i, length in enumerate(lengths)]
    assert len(best_fit(documents, Limits(100, 10, 9, 100))) == slow_best_fit_fill(lengths, 100)


def test_same_seed_same_rows_and_another_epoch_other_rows():
    samples = make_samples(200)
    assert plan_epoch(samples, LIMITS, 5, 1) == plan_epoch(samples, LIMITS, 5, 1)
    assert plan_epoch(samples, LIMITS, 5, 1).rows != plan_epoch(samples, LIMITS, 5, 2).rows


def test_isolated_images_when_sharing_is_off():
    limits = Limits(128, 8, 9, 32, share_images=False)
    plan = plan_epoch(make_samples(50), limits, 0, 0)
    assert all(len(d.records) == 1 for row in plan.rows for d in row.documents)


def test_stage_of_one_and_a_half_epochs_has_half_the_rows_of_the_second():
    samples = make_samples(400)
    one, half = (plan_stage(samples, LIMITS, seed=0, epochs=e) for e in (1.0, 1.5))
    second = plan_epoch(samples, LIMITS, 0, 1)
    assert half.rows[: len(one.rows)] == one.rows
    assert len(half.rows) == len(one.rows) + round(0.5 * len(second.rows))


def test_plan_table_lists_every_record_once_with_its_place():
    plan = plan_epoch(make_samples(40), LIMITS, 0, 0)
    table = plan.table()
    assert table.num_rows == sum(row.records for row in plan.rows)
    assert table.column("row").to_pylist() == sorted(table.column("row").to_pylist())
