"""Mixtures in tokens, steps by samples or targets, a decay phase of its own."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infimed.packing.planner import (
    Limits,
    Samples,
    document_kinds,
    plan_epoch,
    plan_stage,
    token_weights,
    with_decay,
)
from infimed.packing.steps import step_starts

LIMITS = Limits(row_tokens=256, max_images=8, visual_tokens=16, window=64)


def mixed(seed: int, count: int = 6000) -> tuple[Samples, np.ndarray]:
    """Three kinds of records of very different length, that meet at the same images."""
    random = np.random.default_rng(seed)
    kind = random.integers(0, 3, count)
    key = random.integers(-1, count // 4, count)
    return Samples(
        row=np.arange(count),
        trunk_tokens=np.where(key >= 0, 5, 0),
        branch_tokens=random.integers(2, 10, count) * np.array([1, 4, 12])[kind],
        target_tokens=(random.random(count) > 0.05).astype(np.int64),
        images=(key >= 0).astype(np.int64),
        image_key=key,
        weight=np.ones(count),
    ), kind


@pytest.mark.parametrize("shares", [(0.2, 0.3, 0.5), (0.6, 0.3, 0.1), (1, 1, 1), (0, 0.5, 0.5)])
def test_kinds_get_their_shares_of_the_tokens(shares):
    samples, kind = mixed(1)
    weight = token_weights(samples, LIMITS, kind, np.array(shares, float), 4)
    plan = plan_stage(replace(samples, weight=weight), LIMITS, seed=4, epochs=3)
    found = document_kinds(plan.documents, kind, 3, plan.documents.tokens)
    assert found / found.sum() == pytest.approx(np.array(shares) / sum(shares), abs=0.01)
    once = plan_stage(samples, LIMITS, seed=4, epochs=3)
    assert plan.tokens == pytest.approx(once.tokens, rel=0.02)


def test_a_kind_without_records_leaves_its_share_to_the_others():
    samples, kind = mixed(2, 2000)
    weight = token_weights(samples, LIMITS, kind, np.array([0.3, 0.3, 0.2, 0.2]), 4)
    plan = plan_stage(replace(samples, weight=weight), LIMITS, seed=4, epochs=4)
    found = document_kinds(plan.documents, kind, 4, plan.documents.tokens)
    assert found / found.sum() == pytest.approx([0.375, 0.375, 0.25, 0], abs=0.02)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 70), st.sampled_from(["samples", "targets"]))
def test_steps_hold_what_was_asked_for_on_average(seed, size, unit):
    samples, _ = mixed(seed, 300)
    plan = plan_epoch(samples, LIMITS, seed, 0)
    starts = step_starts(plan, **{unit: size})
    count = {
        "samples": [sum(len(d.records) for d in row.documents) for row in plan.rows],
        "targets": [row.target_tokens for row in plan.rows],
    }[unit]
    expected, done = [0], 0  # the obvious reference: close a step when a multiple is reached
    for row, more in enumerate(count):
        crossed = (done + more) // size > done // size
        done += more
        if crossed and row + 1 < len(count):
            expected.append(row + 1)
    assert starts.tolist() == [*expected, len(count)]


def test_no_step_crosses_the_change_of_mixture_and_the_second_part_is_of_the_other():
    samples, kind = mixed(3, 900)
    plain = plan_stage(samples, LIMITS, seed=1, epochs=1)
    chosen = replace(samples, weight=(kind == 2).astype(float))
    decay = plan_stage(chosen, LIMITS, seed=2, epochs=math.inf, max_rows=50)
    plan = with_decay(plain.first(31), decay)
    assert plan.switch == 31 and len(plan.rows) == 81
    assert {int(kind[r]) for row in plan.rows[31:] for d in row.documents for r in d.records} == {2}
    for sizes in ({"rows": 4}, {"samples": 13}, {"targets": 17}):
        starts = step_starts(plan, **sizes)
        assert 31 in starts
        assert all(a < b for a, b in pairwise(starts.tolist()))


def test_records_without_an_answer_are_counted_once_and_in_no_row():
    samples, _ = mixed(4, 400)
    plan = plan_stage(samples, LIMITS, seed=1, epochs=2)
    idle = set(np.flatnonzero(samples.target_tokens == 0).tolist())
    assert idle and set(plan.without_targets.tolist()) == idle
    assert not idle & set(plan.documents.records.tolist())
