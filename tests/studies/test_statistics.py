"""Intervals over seeds and groups against the same written as loops."""

from __future__ import annotations

import numpy as np
import pytest

from infimed.core.errors import DataError
from infimed.core.seeds import stream
from infimed.core.statistics import resample_counts
from infimed.studies.statistics import (
    Scores,
    difference,
    holm,
    holm_by_name,
    mean_of,
    share_of_gap,
)

RESAMPLES = 300


def scores(seeds=3, questions=40, groups=8, accuracy=0.6, seed=0):
    random = stream(seed, "scores")
    values = (random.random((seeds, questions)) < accuracy).astype(float)
    names = tuple(f"q{at}" for at in range(questions))
    return Scores(
        values, tuple(range(seeds)), names, tuple(f"g{at % groups}" for at in range(questions))
    )


def slow_draws(about, values, resamples, seed):
    """Resample seeds and groups one by one, with the same counts."""
    names = list(dict.fromkeys(about.groups))
    seeds = len(values)
    group_counts = np.concatenate(list(resample_counts(len(names), resamples, seed)))
    seed_counts = np.concatenate(list(resample_counts(seeds, resamples, seed + 1)))
    stretch = (seeds / (seeds - 1)) ** 0.5 if seeds > 1 else 1.0
    drawn = []
    for r in range(resamples):
        total = weight = 0.0
        for g, name in enumerate(names):
            members = [at for at, group in enumerate(about.groups) if group == name]
            middle = sum(values[s][at] for s in range(seeds) for at in members) / seeds
            for s in range(seeds):
                own = sum(values[s][at] for at in members)
                total += (
                    seed_counts[r, s] * group_counts[r, g] * (middle + stretch * (own - middle))
                )
                weight += seed_counts[r, s] * group_counts[r, g] * len(members)
        drawn.append(total / weight)
    return np.array(drawn)


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_difference_and_interval_agree_with_loops(seeds):
    one, other = scores(seeds, accuracy=0.7, seed=1), scores(seeds, accuracy=0.5, seed=2)
    found = difference(one, other, resamples=RESAMPLES)
    values = one.values - other.values
    drawn = slow_draws(one, values, RESAMPLES, 0)
    assert found.mean == pytest.approx(values.mean(), abs=1e-12)
    assert [found.low, found.high] == pytest.approx(
        np.quantile(drawn, [0.025, 0.975]).tolist(), abs=1e-9
    )
    far = min((drawn <= 0).sum(), (drawn >= 0).sum())
    assert found.p == pytest.approx(min(1.0, 2 * (far + 1) / (RESAMPLES + 1)))
    assert (found.n, found.groups, found.seeds) == (40, 8, seeds)


def test_share_of_a_gap_agrees_with_loops():
    floor, arm, ceiling = (scores(accuracy=a, seed=s) for a, s in ((0.4, 1), (0.6, 2), (0.9, 3)))
    found = share_of_gap(arm, floor, ceiling, resamples=RESAMPLES)
    part = slow_draws(floor, arm.values - floor.values, RESAMPLES, 0)
    whole = slow_draws(floor, ceiling.values - floor.values, RESAMPLES, 0)
    assert [found.low, found.high] == pytest.approx(
        np.quantile(part / whole, [0.025, 0.975]).tolist()
    )
    expected = (arm.values.mean() - floor.values.mean()) / (
        ceiling.values.mean() - floor.values.mean()
    )
    assert found.mean == pytest.approx(expected)


def test_share_of_a_gap_that_is_not_there_is_none():
    floor, arm = scores(accuracy=0.6, seed=1), scores(accuracy=0.6, seed=2)
    assert share_of_gap(arm, floor, floor, resamples=RESAMPLES) is None


def test_an_arm_differs_from_itself_by_nothing():
    found = difference(scores(), scores(), resamples=RESAMPLES)
    assert (found.mean, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)


def test_seeds_that_disagree_widen_the_interval():
    calm, wild = scores(), scores()
    luck = np.array([[-0.2], [0.0], [0.2]])
    shifted = Scores(wild.values + luck, wild.seeds, wild.questions, wild.groups)
    narrow, wide = mean_of(calm, resamples=RESAMPLES), mean_of(shifted, resamples=RESAMPLES)
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


def test_stretch_gives_the_variance_of_a_mean_over_few_seeds():
    """One question a group and no difference between groups: only seeds vary."""
    values = np.repeat(np.array([[0.1], [0.5], [0.9]]), 50, axis=1)
    names = tuple(map(str, range(50)))
    about = Scores(values, (0, 1, 2), names, names)
    from infimed.studies.statistics import _draws

    drawn = np.concatenate(list(_draws(about, values, 20_000, 0)))
    assert drawn.std() == pytest.approx(np.std([0.1, 0.5, 0.9], ddof=1) / 3**0.5, rel=0.03)


def test_arms_are_compared_on_what_both_have():
    whole = scores(seeds=3)
    part = whole.over([2, 0], whole.questions[5:20])
    found = difference(whole, part, resamples=RESAMPLES)
    assert (found.mean, found.n, found.seeds) == (0.0, 15, 2)
    with pytest.raises(DataError, match="share no seed"):
        difference(whole, Scores(part.values, (7, 8), part.questions, part.groups))


def test_one_group_has_no_interval():
    one = scores(groups=1)
    found = mean_of(one)
    assert (found.low, found.high, found.groups) == (None, None, 1)


def slow_holm(p):
    """The definition: the maximum over smaller p-values of their number of remaining tests times p."""
    adjusted = []
    for own in range(len(p)):
        order = sorted(range(len(p)), key=lambda at: p[at])
        upto = order[: order.index(own) + 1]
        adjusted.append(min(1.0, max((len(p) - rank) * p[at] for rank, at in enumerate(upto))))
    return adjusted


@pytest.mark.parametrize(
    "p", [[], [0.03], [0.01, 0.04, 0.03, 0.005], [0.5, 0.5, 0.9], [0.02, 0.01, 1.0]]
)
def test_holm_agrees_with_its_definition(p):
    assert holm(p) == pytest.approx(slow_holm(p))


def test_holm_keeps_names():
    assert holm_by_name({"a": 0.04, "b": 0.01}) == pytest.approx({"a": 0.04, "b": 0.02})


def test_an_interval_of_a_mean_ends_where_scores_end():
    near = scores(seeds=2, questions=12, groups=3, accuracy=0.97, seed=3)
    found = mean_of(near, resamples=RESAMPLES)
    assert found.mean > 0.9 and found.high == 1.0 and 0.0 <= found.low < found.mean
