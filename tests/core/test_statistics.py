"""Bootstrap intervals against a slow, obvious reference, and their edge cases."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from infimed.core.statistics import (
    Estimate,
    Measured,
    clustered_bootstrap,
    compare_rows,
    compare_sums,
    group_index,
    majority,
    mcnemar,
    paired_clustered_bootstrap,
    resample_counts,
    wilson_interval,
)


def sample(
    n: int = 60, groups: int = 13, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    rng = np.random.default_rng(seed)
    owners = rng.integers(0, groups, n)
    return rng.random(n), rng.random(n), [f"g{owner}" for owner in owners]


def naive(
    values: np.ndarray, weights: np.ndarray, groups: list[str], resamples: int, seed: int
) -> list[float]:
    """Resample by copying the samples of each drawn group, one resample at a time."""
    names = list(dict.fromkeys(groups))
    out = []
    for block in resample_counts(len(names), resamples, seed):
        for row in block:
            taken_values: list[float] = []
            taken_weights: list[float] = []
            for name, times in zip(names, row, strict=True):
                for _ in range(int(times)):
                    taken_values += [v for v, g in zip(values, groups, strict=True) if g == name]
                    taken_weights += [w for w, g in zip(weights, groups, strict=True) if g == name]
            out.append(float(np.average(taken_values, weights=taken_weights)))
    return out


def test_the_interval_equals_the_one_found_by_copying_samples() -> None:
    values, weights, groups = sample()
    fast = clustered_bootstrap(values, groups, weights=weights, resamples=300, seed=5)
    slow = naive(values, weights, groups, 300, 5)
    assert fast.mean == pytest.approx(np.average(values, weights=weights), abs=1e-12)
    assert [fast.low, fast.high] == pytest.approx(
        list(np.quantile(slow, [0.025, 0.975])), abs=1e-12
    )


def test_the_paired_difference_equals_the_one_found_by_copying_samples() -> None:
    a, b, groups = sample(seed=1)
    fast = paired_clustered_bootstrap(a, b, groups, resamples=300, seed=2)
    ones = np.ones(len(a))
    slow = np.subtract(naive(a, ones, groups, 300, 2), naive(b, ones, groups, 300, 2))
    assert fast.mean == pytest.approx(a.mean() - b.mean(), abs=1e-12)
    assert [fast.low, fast.high] == pytest.approx(
        list(np.quantile(slow, [0.025, 0.975])), abs=1e-12
    )


def test_every_resample_draws_as_many_groups_as_there_are() -> None:
    blocks = np.concatenate(list(resample_counts(7, 50, 0)))
    assert blocks.shape == (50, 7)
    assert (blocks.sum(axis=1) == 7).all()


def test_blocks_cover_all_resamples_when_groups_are_many() -> None:
    blocks = list(resample_counts(300_000, 30, 0))
    assert len(blocks) > 1
    assert sum(len(block) for block in blocks) == 30


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    values, _, groups = sample()
    assert clustered_bootstrap(values, groups, seed=1) == clustered_bootstrap(
        values, groups, seed=1
    )
    assert clustered_bootstrap(values, groups, seed=1) != clustered_bootstrap(
        values, groups, seed=2
    )


def test_clustering_widens_the_interval_of_samples_that_move_together() -> None:
    values = np.repeat([0.0, 1.0] * 10, 10)
    together = clustered_bootstrap(values, [str(i // 10) for i in range(200)])
    apart = clustered_bootstrap(values, [str(i) for i in range(200)])
    assert together.high - together.low > 2.5 * (apart.high - apart.low)  # type: ignore[operator]


def test_about_95_percent_of_intervals_hold_the_true_mean() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        effects = np.repeat(rng.normal(size=40), 5)
        estimate = clustered_bootstrap(
            effects + rng.normal(size=200),
            [str(i // 5) for i in range(200)],
            resamples=400,
            seed=trial,
        )
        hits += estimate.low <= 0 <= estimate.high  # type: ignore[operator]
    assert 0.88 <= hits / 200 <= 0.99


def test_no_samples_give_no_mean_and_one_group_gives_no_interval() -> None:
    assert clustered_bootstrap([], []) == Estimate(None, None, None, 0, 0)
    assert clustered_bootstrap([1.0, 0.0], ["a", "a"]) == Estimate(0.5, None, None, 2, 1)


def test_samples_without_weight_give_no_mean() -> None:
    assert clustered_bootstrap([1.0, 1.0], ["a", "b"], weights=[0, 0]).mean is None


def test_resamples_without_weight_are_left_out() -> None:
    estimate = clustered_bootstrap([1.0, 0.0, 0.0], ["a", "b", "c"], weights=[1, 0, 0])
    assert (estimate.mean, estimate.low, estimate.high) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("values", "groups", "weights"),
    [
        ([1.0], ["a", "b"], None),
        ([float("nan")], ["a"], None),
        ([1.0], ["a"], [-1.0]),
        ([1.0], ["a"], []),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    values: list, groups: list, weights: list | None
) -> None:
    with pytest.raises(ValueError):
        clustered_bootstrap(values, groups, weights=weights)


def test_majority_takes_the_most_frequent_and_breaks_ties_by_text() -> None:
    assert majority(["no", "yes", "yes"]) == "yes"
    assert majority(["yes", "no"]) == "no"
    assert majority([]) is None


def test_a_row_and_its_difference_do_not_depend_on_the_other_rows() -> None:
    a, b, groups = sample(seed=3)
    both = compare_rows([(a, None), (b, a), (a, b)], groups)
    assert both.rows[1] == clustered_bootstrap(b, groups, weights=a)
    assert both.differences[2] == paired_clustered_bootstrap(a, a, groups, second_weights=b)
    assert (both.differences[0].mean, both.differences[0].low) == (0.0, 0.0)


def test_the_approximation_for_many_groups_agrees_with_the_bootstrap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(4)
    groups = [str(g) for g in rng.integers(0, 1500, 6000)]
    a, b = rng.random(6000), rng.random(6000) < 0.3
    weights = rng.integers(0, 4, 6000)
    exact = compare_rows([(a, weights), (b, None)], groups, resamples=8000)
    monkeypatch.setattr("infimed.core.statistics.MOST_GROUPS", 100)
    quick = compare_rows([(a, weights), (b, None)], groups)
    for one, other in zip(
        [*exact.rows, exact.differences[1]], [*quick.rows, quick.differences[1]], strict=True
    ):
        assert one.mean == other.mean
        width = one.high - one.low  # type: ignore[operator]
        assert [other.low, other.high] == pytest.approx([one.low, one.high], abs=0.04 * width)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe, "Two-sided confidence intervals for the single proportion" (1998), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval_equals_newcombes_table(
    successes: int, n: int, low: float, high: float
) -> None:
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_wilsons_interval_of_nothing_is_everything_and_nonsense_is_refused() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(7, 7)[1] == 1.0
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(3, 2)


def square_of_mean(sums: np.ndarray) -> np.ndarray:
    """A value of a whole set that is no mean of values."""
    return (sums[..., 0] / sums[..., 1]) ** 2


def test_a_value_of_a_whole_set_is_resampled_as_a_whole() -> None:
    rng = np.random.default_rng(4)
    rows = np.stack([rng.random(60), np.ones(60)], axis=1)
    groups = [f"g{i // 3}" for i in range(60)]
    found = compare_sums([Measured([rows, rows], square_of_mean)], groups, resamples=200, seed=1)[0]
    draws = [
        float(square_of_mean(np.repeat(rows.reshape(20, 3, 2).sum(1), row.astype(int), 0).sum(0)))
        for row in np.concatenate(list(resample_counts(20, 200, 1)))
    ]
    assert found.rows[0].mean == pytest.approx(rows[:, 0].mean() ** 2)
    assert (found.rows[0].low, found.rows[0].high) == pytest.approx(
        tuple(np.quantile(draws, [0.025, 0.975]))
    )
    assert (found.differences[1].low, found.differences[1].high) == (0.0, 0.0)


def test_metrics_together_equal_metrics_alone_and_groups_may_be_numbers() -> None:
    rng = np.random.default_rng(5)
    one, two = (np.stack([rng.random(30), np.ones(30)], axis=1) for _ in range(2))
    names = [f"g{i % 7}" for i in range(30)]
    measured = [Measured([one, two]), Measured([two], square_of_mean)]
    together = compare_sums(measured, group_index(names)[0], seed=3)
    alone = [compare_sums([metric], names, seed=3)[0] for metric in measured]
    for a, b in zip(together, alone, strict=True):
        for x, y in zip((*a.rows, *a.differences), (*b.rows, *b.differences), strict=True):
            assert (x.mean, x.low, x.high) == pytest.approx((y.mean, y.low, y.high))


def test_the_approximation_holds_for_a_value_of_a_whole_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(6)
    rows = np.stack([rng.random(600), np.ones(600)], axis=1)
    names = [str(i // 2) for i in range(600)]
    drawn = compare_sums([Measured([rows], square_of_mean)], names)[0].rows[0]
    monkeypatch.setattr("infimed.core.statistics.MOST_GROUPS", 100)
    near = compare_sums([Measured([rows], square_of_mean)], names)[0].rows[0]
    assert near.high - near.low == pytest.approx(drawn.high - drawn.low, rel=0.08)  # type: ignore[operator]


def test_rows_that_do_not_fit_the_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="3 samples"):
        compare_sums([Measured([np.ones((2, 2))])], ["a", "b", "c"])


@pytest.mark.parametrize(
    ("only_first", "only_second"), [(0, 0), (1, 0), (3, 3), (7, 2), (2, 7), (0, 9), (5, 4)]
)
def test_mcnemar_equals_the_count_over_all_coin_throws(only_first: int, only_second: int) -> None:
    first = [1.0] * only_first + [0.0] * only_second + [1.0, 0.0]
    second = [0.0] * only_first + [1.0] * only_second + [1.0, 0.0]
    found = mcnemar(first, second)
    discordant, seen = only_first + only_second, abs(only_first - only_second)
    apart = [
        abs(2 * sum(throw) - discordant) for throw in itertools.product((0, 1), repeat=discordant)
    ]
    further = sum(one > seen for one in apart) / len(apart)
    equal = sum(one == seen for one in apart) / len(apart)
    assert (found.n, found.only_first, found.only_second) == (
        discordant + 2,
        only_first,
        only_second,
    )
    assert found.exact == pytest.approx(further + equal)
    assert found.mid_p == pytest.approx(further + equal / 2 if discordant else 1.0)


def test_mcnemar_takes_many_questions_and_refuses_partial_scores() -> None:
    first, second = [1.0] * 60_000 + [0.0] * 40_000, [0.0] * 60_000 + [1.0] * 40_000
    found = mcnemar(first, second)
    assert 0 <= found.mid_p <= found.exact < 1e-6
    with pytest.raises(ValueError, match="right"):
        mcnemar([0.5], [1.0])
