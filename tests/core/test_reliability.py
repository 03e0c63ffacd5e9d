"""Calibration and risk-coverage against slow, obvious references."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from infimed.core.reliability import MOST_POINTS, abstaining, reliability, risk_coverage
from infimed.core.statistics import resample_counts


def sample(n: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    sure = rng.random(n)
    return sure, (rng.random(n) < sure).astype(float)


def test_bins_are_consecutive_runs_of_equal_size_when_all_confidences_differ() -> None:
    sure, right = sample()
    found = reliability(sure.tolist(), right.tolist(), bins=10)
    order = np.argsort(sure)
    ece = 0.0
    for number, own in enumerate(np.array_split(order, 10)):
        one = found.bins[number]
        assert one.n == 40
        assert one.confidence == pytest.approx(sure[own].mean())
        assert one.accuracy == pytest.approx(right[own].mean())
        ece += abs(sure[own].mean() - right[own].mean()) * len(own) / len(sure)
    assert found.ece == pytest.approx(ece)


def test_equal_confidences_are_never_divided_so_the_order_of_samples_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    sure = rng.choice([0.2, 0.25, 0.5, 0.9], 300)
    right = (rng.random(300) < 0.5).astype(float)
    found = reliability(sure.tolist(), right.tolist())
    turned = rng.permutation(300)
    assert reliability(sure[turned].tolist(), right[turned].tolist()) == found
    assert sum(one.n for one in found.bins) == 300 and len(found.bins) <= 4


def test_a_calibrated_confidence_has_a_small_error_and_an_overconfident_one_its_excess() -> None:
    sure, right = sample(20_000)
    assert reliability(sure.tolist(), right.tolist()).ece < 0.02
    half = [1.0] * 100
    assert reliability(half, [1.0, 0.0] * 50).ece == pytest.approx(0.5)


def test_the_area_is_the_mean_risk_over_all_coverages() -> None:
    sure, right = sample(60)
    order = np.argsort(-sure)
    risks = [1 - right[order[: k + 1]].mean() for k in range(60)]
    found = risk_coverage(sure.tolist(), right.tolist())
    assert found.aurc == pytest.approx(np.mean(risks))
    assert [p.risk for p in found.points] == pytest.approx(risks)
    assert [p.coverage for p in found.points] == pytest.approx([(k + 1) / 60 for k in range(60)])


def test_ties_are_the_mean_over_all_their_orders() -> None:
    sure, right = [0.9, 0.5, 0.5, 0.5, 0.5, 0.1], [1.0, 0.0, 1.0, 1.0, 0.0, 0.0]
    slow = []
    for inner in permutations([1, 2, 3, 4]):
        wrong = np.cumsum([1 - right[at] for at in (0, *inner, 5)])
        slow.append((wrong / np.arange(1, 7)).mean())
    found = risk_coverage(sure, right)
    assert found.aurc == pytest.approx(np.mean(slow))
    assert [p.coverage for p in found.points] == pytest.approx([1 / 6, 5 / 6, 1.0])
    assert [p.risk for p in found.points] == pytest.approx([0.0, 2 / 5, 0.5])


def test_a_long_curve_is_thinned_and_keeps_its_end_and_its_area() -> None:
    sure, right = sample(5000)
    found = risk_coverage(sure.tolist(), right.tolist())
    assert len(found.points) == MOST_POINTS
    assert found.points[-1].coverage == 1.0
    assert found.points[-1].risk == pytest.approx(1 - right.mean())
    order = np.argsort(-sure)
    slow = np.cumsum(1 - right[order]) / np.arange(1, 5001)
    assert found.aurc == pytest.approx(slow.mean())


@pytest.mark.parametrize(
    ("sure", "right"), [([], []), ([0.5], [0.5]), ([1.5], [1.0]), ([0.5], [1.0, 0.0])]
)
def test_what_is_no_confidence_or_no_verdict_is_refused(
    sure: list[float], right: list[float]
) -> None:
    for function in (reliability, risk_coverage):
        with pytest.raises(ValueError, match="confidences"):
            function(sure, right)


def test_abstaining_against_a_loop_over_resamples() -> None:
    sure, right = sample(60, seed=3)
    groups = [n // 4 for n in range(60)]
    found = abstaining(sure.tolist(), right.tolist(), groups, coverage=0.7, resamples=50)

    def values(chosen: list[int]) -> tuple[float, float]:
        order = sorted(chosen, key=lambda at: -sure[at])
        kept = order[: int(np.ceil(0.7 * len(order)))]
        at = float(np.mean([right[i] for i in kept]))
        risks = [1 - np.mean([right[i] for i in order[:k]]) for k in range(1, len(order) + 1)]
        return at, float(np.mean(risks)) - float(1 - np.mean([right[i] for i in chosen]))

    whole = values(list(range(60)))
    assert found.at_coverage.mean == pytest.approx(whole[0])
    assert found.excess.mean == pytest.approx(whole[1]) and whole[1] < 0
    assert found.gain.mean == pytest.approx(whole[0] - right.mean())
    drawn = []
    for block in resample_counts(15, 50, 0):
        for counts in block:
            # Copies of one sample have one confidence; the mean over their orders is any of them.
            drawn.append(values([i for i in range(60) for _ in range(int(counts[groups[i]]))]))
    low, high = np.percentile([excess for _, excess in drawn], [2.5, 97.5])
    assert found.excess.low == pytest.approx(low) and found.excess.high == pytest.approx(high)


def test_a_constant_confidence_is_random_abstention() -> None:
    _, right = sample(50)
    found = abstaining([0.5] * 50, right.tolist(), list(range(50)), resamples=20)
    assert found.excess.mean == pytest.approx(0) and found.gain.mean == pytest.approx(0)


def test_abstaining_of_one_group_has_no_interval() -> None:
    found = abstaining([0.5, 0.6], [1.0, 0.0], ["a", "a"])
    assert found.excess.low is None and found.accuracy.groups == 1
    with pytest.raises(ValueError, match="coverage"):
        abstaining([0.5], [1.0], ["a"], coverage=0)
