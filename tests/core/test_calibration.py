"""Maps from raw to calibrated probabilities against slow, obvious references."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infimed.core.calibration import (
    METHODS,
    ProbabilityMap,
    fit,
    fit_method,
    folds,
    negative_log_likelihood,
    pools,
    temperature_of_shares,
    threshold_for_coverage,
    threshold_for_risk,
)
from infimed.core.statistics import wilson_interval


def drawn(n: int, seed: int, power: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Raw probabilities that are too sure: the true ones are p^(1/power) / (p^(1/power) + (1-p)^(1/power))."""
    generator = np.random.default_rng(seed)
    raw = generator.uniform(0.02, 0.98, n)
    odds = (raw / (1 - raw)) ** (1 / power)
    return raw, (generator.random(n) < odds / (1 + odds)).astype(np.float64)


def isotonic_by_definition(raw: np.ndarray, right: np.ndarray) -> np.ndarray:
    """max over starts of the min over ends of the mean between them (Robertson et al. 1988), at each distinct raw."""
    values = np.unique(raw)
    sums = [(float(right[raw == v].sum()), int((raw == v).sum())) for v in values]
    made = []
    for at in range(len(values)):
        best = -np.inf
        for start in range(at + 1):
            lowest = min(
                sum(s for s, _ in sums[start : end + 1]) / sum(n for _, n in sums[start : end + 1])
                for end in range(at, len(values))
            )
            best = max(best, lowest)
        made.append(best)
    return np.array(made)


@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=25))
def test_pools_are_the_isotonic_regression(pairs):
    raw = np.array([p / 8 for p, _ in pairs])
    right = np.array([float(r) for _, r in pairs])
    expected = isotonic_by_definition(raw, right)
    found = pools(raw, right)
    assert sum(n for _, _, n in found) == len(raw)
    spread = np.repeat([y for _, y, _ in found], [n for _, _, n in found])
    per_value = [spread[int((raw < v).sum())] for v in np.unique(raw)]
    assert np.allclose(per_value, expected)


@pytest.mark.parametrize("power", [0.5, 1.0, 3.0])
def test_the_temperature_is_the_best_on_a_fine_grid(power):
    raw, right = drawn(400, 1, power)
    found = fit_method("temperature", raw, right)
    logit = np.log(raw / (1 - raw))
    grid = np.linspace(0, 5, 5001)
    loss = [negative_log_likelihood(1 / (1 + np.exp(-b * logit)), right) for b in grid]
    assert found.points[0][0] == pytest.approx(grid[int(np.argmin(loss))], abs=2e-3)
    assert found.points[0][0] == pytest.approx(1 / power, rel=0.35)


def test_the_temperature_of_two_options_is_that_of_one_answer():
    raw, right = drawn(300, 2)
    shares = [(p, 1 - p) for p in raw]
    found = temperature_of_shares(shares, [0 if good else 1 for good in right])
    assert found.points[0][0] == pytest.approx(fit_method("temperature", raw, right).points[0][0])
    assert found.shares(shares[0])[0] == pytest.approx(found(raw[0]))


def test_options_of_different_numbers_keep_their_order_and_sum_to_one():
    shares = [[0.5, 0.3, 0.2], [0.6, 0.4], [0.1, 0.2, 0.3, 0.4]]
    found = temperature_of_shares(shares, [0, 1, 3])
    for own in shares:
        made = found.shares(own)
        assert sum(made) == pytest.approx(1)
        assert np.argsort(made).tolist() == np.argsort(own).tolist()


def test_platt_is_the_best_of_its_neighbours():
    raw, right = drawn(500, 3)
    ((slope, offset),) = fit_method("platt", raw, right).points
    good, bad = right.sum(), (1 - right).sum()
    target = np.where(right > 0, (good + 1) / (good + 2), 1 / (bad + 2))
    logit = np.log(raw / (1 - raw))

    def loss(a: float, b: float) -> float:
        p = 1 / (1 + np.exp(-(a * logit + b)))
        return float(-(target * np.log(p) + (1 - target) * np.log(1 - p)).mean())

    best = loss(slope, offset)
    steps = [(da, db) for da in (-0.02, 0, 0.02) for db in (-0.02, 0, 0.02) if da or db]
    assert all(loss(slope + da, offset + db) > best for da, db in steps)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("right", [0.0, 1.0])
def test_answers_that_are_all_alike_give_probabilities_and_no_infinity(method, right):
    raw = np.linspace(0.1, 0.9, 60)
    sure = fit_method(method, raw, np.full(60, right)).of(raw)
    assert np.isfinite(sure).all() and ((sure >= 0) & (sure <= 1)).all()


@given(
    st.sampled_from(METHODS),
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=2, max_size=40),
)
@settings(deadline=None)
def test_no_map_ever_falls(method, pairs):
    raw, right = np.array([p for p, _ in pairs]), np.array([float(r) for _, r in pairs])
    made = fit_method(method, raw, right).of(np.linspace(0, 1, 101))
    assert (np.diff(made) >= -1e-9).all() and ((made >= 0) & (made <= 1)).all()


def test_a_misleading_probability_becomes_constant():
    raw = np.linspace(0.1, 0.9, 100)
    sure = fit_method("platt", raw, (raw < 0.5).astype(float)).of(raw)
    assert np.allclose(sure, sure[0]) and sure[0] == pytest.approx(0.5, abs=0.02)


def test_few_pairs_get_a_temperature_and_many_what_held_out_likelihood_says():
    raw, right = drawn(1200, 4)
    assert set(fit(raw[:40], right[:40], list(range(40))).nll) == {"raw", "temperature"}
    assert set(fit(raw[:120], right[:120], list(range(120))).nll) == {"raw", "temperature", "platt"}
    found = fit(raw, right, list(range(1200)))
    assert set(found.nll) == {"raw", *METHODS}
    best = min(METHODS, key=lambda method: found.nll[method])
    assert found.map == fit_method(best, raw, right) and found.nll[best] < found.nll["raw"]


def test_held_out_probabilities_come_from_maps_that_did_not_see_the_group():
    raw, right = drawn(60, 5)
    groups = [n // 3 for n in range(60)]
    found = fit(raw, right, groups, methods=["temperature"])
    fold = folds(groups)
    assert all(len(set(fold[np.array(groups) == g])) == 1 for g in set(groups))
    inside = fold != fold[0]
    expected = fit_method("temperature", raw[inside], right[inside])(raw[0])
    assert found.held_out[0] == pytest.approx(expected)


@given(st.lists(st.integers(0, 10), min_size=1, max_size=30), st.integers(1, 10))
def test_the_threshold_for_a_coverage_is_the_greatest_that_reaches_it(values, tenths):
    sure, coverage = [v / 10 for v in values], tenths / 10
    found = threshold_for_coverage(sure, coverage)
    share = [sum(s >= t for s in sure) / len(sure) for t in sorted(set(sure))]
    enough = [t for t, s in zip(sorted(set(sure)), share, strict=True) if s >= coverage - 1e-9]
    assert found == max(enough)


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=60))
@settings(deadline=None)
def test_the_threshold_for_a_risk_is_the_smallest_that_keeps_it(pairs):
    sure = [v / 6 for v, _ in pairs]
    right = [float(r) for _, r in pairs]
    possible = []
    for t in sorted(set(sure)):
        kept = [r for s, r in zip(sure, right, strict=True) if s >= t]
        if wilson_interval(round(len(kept) - sum(kept)), len(kept), 0.9)[1] <= 0.3:
            possible.append(t)
    assert threshold_for_risk(sure, right, 0.3) == (min(possible) if possible else None)


@pytest.mark.parametrize(
    ("raw", "right"),
    [([], []), ([0.5], []), ([1.5], [1.0]), ([0.5], [0.5]), ([float("nan")], [1.0])],
)
def test_what_is_no_probability_is_refused(raw, right):
    with pytest.raises(ValueError, match="probabilities"):
        fit_method("platt", raw, right)


def test_one_group_cannot_be_held_out():
    with pytest.raises(ValueError, match="at least two"):
        fit([0.5, 0.6], [1.0, 0.0], ["a", "a"])


def test_only_a_temperature_maps_options():
    with pytest.raises(ValueError, match="temperature"):
        ProbabilityMap("platt", ((1.0, 0.0),)).shares([0.5, 0.5])
