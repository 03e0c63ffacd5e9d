"""Calibration against slow, obvious references."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infimed.curation.calibration import (
    Isotonic,
    Logistic,
    StratumThresholds,
    expected_calibration_error,
    fit_isotonic,
    fit_logistic,
    reject_threshold,
    sigmoid,
    stratum_thresholds,
)


def _sample(seed: int, n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3)) * [1.0, 50.0, 0.01] + [0.0, 300.0, 5.0]
    y = rng.random(n) < sigmoid(x[:, 0] - (x[:, 1] - 300) / 40)
    return x, y


def _descended(x: np.ndarray, y: np.ndarray, l2: float) -> np.ndarray:
    """The same minimum by plain gradient descent on standardised features."""
    z = np.hstack([np.ones((len(x), 1)), (x - x.mean(0)) / x.std(0)])
    beta = np.zeros(z.shape[1])
    penalty = np.array([0.0] + [l2] * x.shape[1])
    for _ in range(20_000):
        beta -= (z.T @ (1 / (1 + np.exp(-z @ beta)) - y) + penalty * beta) / len(x)
    return beta


@pytest.mark.parametrize("l2", [0.1, 10.0])
def test_logistic_equals_gradient_descent(l2: float) -> None:
    x, y = _sample(0)
    fitted = fit_logistic(x, y, l2)
    np.testing.assert_allclose([fitted.bias, *fitted.weights], _descended(x, y, l2), atol=1e-6)


def test_logistic_at_its_minimum_predicts_the_base_rate() -> None:
    x, y = _sample(1)
    assert fit_logistic(x, y).probability(x).mean() == pytest.approx(y.mean(), abs=1e-8)


def test_logistic_on_separable_data_stays_finite_and_right() -> None:
    x = np.linspace(-1, 1, 50)[:, None]
    fitted = fit_logistic(x, x[:, 0] > 0)
    assert np.isfinite(fitted.weights).all()
    assert ((fitted.probability(x) > 0.5) == (x[:, 0] > 0)).all()


def test_logistic_ignores_a_feature_that_never_varies() -> None:
    x, y = _sample(2)
    constant = fit_logistic(np.hstack([x, np.full((len(x), 1), 7.3)]), y)
    assert constant.weights[-1] == 0.0
    np.testing.assert_allclose(constant.weights[:-1], fit_logistic(x, y).weights, atol=1e-9)


def test_logistic_of_one_class_is_the_smoothed_base_rate() -> None:
    fitted = fit_logistic(np.eye(3), np.ones(3))
    np.testing.assert_allclose(fitted.probability(np.eye(3)), 3.5 / 4)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.zeros((0, 2)), np.zeros(0)),
        (np.array([[np.nan]]), np.zeros(1)),
        (np.zeros(3), np.zeros(3)),
        (np.zeros((3, 1)), np.zeros(2)),
        (np.zeros((2, 1)), np.array([0.0, 2.0])),
    ],
)
def test_logistic_refuses_what_it_cannot_fit(x: np.ndarray, y: np.ndarray) -> None:
    with pytest.raises(ValueError):
        fit_logistic(x, y)


def test_fitted_objects_survive_json_exactly() -> None:
    x, y = _sample(3)
    logistic, isotonic = fit_logistic(x, y), fit_isotonic(x[:, 0], y)
    thresholds = stratum_thresholds(np.linspace(0, 1, 400), y, ["a", "b"] * 200, 0.5)
    for kind, value in (
        (Logistic, logistic),
        (Isotonic, isotonic),
        (StratumThresholds, thresholds),
    ):
        assert kind.from_dict(json.loads(json.dumps(value.to_dict()))) == value


def _max_min(score: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The max-min formula of isotonic regression: max over a <= i of min over b >= i of a mean."""
    values = np.unique(score)
    groups = [y[score == value] for value in values]
    made = []
    for i in range(len(values)):
        best = -np.inf
        for a in range(i + 1):
            worst = min(np.concatenate(groups[a : b + 1]).mean() for b in range(i, len(values)))
            best = max(best, worst)
        made.append(best)
    return np.array(made)[np.searchsorted(values, score)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=25))
def test_isotonic_equals_the_max_min_formula(pairs: list[tuple[int, bool]]) -> None:
    score = np.array([float(s) for s, _ in pairs])
    y = np.array([float(v) for _, v in pairs])
    np.testing.assert_allclose(fit_isotonic(score, y)(score), _max_min(score, y), atol=1e-12)


def test_isotonic_interpolates_between_blocks_and_is_constant_outside() -> None:
    fitted = fit_isotonic([0.0, 1.0, 3.0, 4.0], [0, 0, 1, 1])
    np.testing.assert_allclose(fitted([-9.0, 0.5, 2.0, 3.5, 9.0]), [0, 0, 0.5, 1, 1])


def test_isotonic_with_smoothing_is_never_certain_and_still_increases() -> None:
    score = np.arange(40.0)
    values = fit_isotonic(score, score > 20, smoothing=0.5)(score)
    assert values.min() > 0 and values.max() < 1
    assert (np.diff(values) >= 0).all()


def _ece_by_loop(p: np.ndarray, y: np.ndarray, bins: int) -> float:
    total = 0.0
    for b in range(bins):
        inside = [
            i for i in range(len(p)) if b / bins < p[i] <= (b + 1) / bins or (b == 0 and p[i] == 0)
        ]
        if inside:
            gap = abs(np.mean([p[i] for i in inside]) - np.mean([y[i] for i in inside]))
            total += len(inside) / len(p) * gap
    return total


def test_calibration_error_equals_the_loop_over_bins() -> None:
    rng = np.random.default_rng(4)
    p = np.concatenate([rng.random(300), [0.0, 1.0]])
    y = rng.random(302) < p**2
    assert expected_calibration_error(p, y) == pytest.approx(_ece_by_loop(p, y, 15), abs=1e-12)


def test_calibration_error_of_true_probabilities_is_small_and_of_inverted_ones_large() -> None:
    rng = np.random.default_rng(5)
    p = rng.random(20_000)
    y = rng.random(20_000) < p
    assert expected_calibration_error(p, y) < 0.02
    assert expected_calibration_error(1 - p, y) > 0.3


def _threshold_by_trial(p: np.ndarray, ok: np.ndarray, target: float) -> float:
    best = 0.0
    for t in [*sorted(set(p)), np.nextafter(max(p), 2)]:
        below = p < t
        if below.any() and np.mean(~ok[below]) >= target - 1e-12:
            best = max(best, t)
    return best


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 10), st.booleans()), min_size=1, max_size=30),
    st.sampled_from([0.5, 0.8, 0.9, 1.0]),
)
def test_reject_threshold_equals_trying_every_threshold(
    pairs: list[tuple[int, bool]], target: float
) -> None:
    p = np.array([v / 10 for v, _ in pairs])
    ok = np.array([v for _, v in pairs])
    assert reject_threshold(p, ok, target) == _threshold_by_trial(p, ok, target)


def test_reject_threshold_that_nothing_reaches_rejects_nothing() -> None:
    p = np.array([0.0, 0.2, 0.9])
    threshold = reject_threshold(p, [True, True, True], 0.9)
    assert threshold == 0.0 and not (p < threshold).any()
    assert reject_threshold([], [], 0.9) == 0.0


def test_reject_threshold_on_calibrated_probabilities_needs_no_labels() -> None:
    rng = np.random.default_rng(6)
    p = rng.beta(0.4, 0.8, 40_000)
    ok = rng.random(40_000) < p
    below = p < reject_threshold(p, p, 0.9)
    assert 1 - ok[below].mean() == pytest.approx(0.9, abs=0.01)


def _strata(seed: int, n: int = 6000) -> tuple[np.ndarray, np.ndarray, list[str]]:
    rng = np.random.default_rng(seed)
    p = rng.random(n)
    names = rng.choice(["good / ct", "bad / mr"], n).tolist()
    flip = np.array([0.02 if name.startswith("good") else 0.10 for name in names])
    ok = (rng.random(n) < p**3) | (rng.random(n) < flip)
    return p, ok, names


def test_stratum_with_many_rejects_gets_nearly_its_own_threshold() -> None:
    p, ok, names = _strata(7)
    fitted = stratum_thresholds(p, ok, names, 0.9, shrinkage=0.0)
    for name in set(names):
        inside = np.array(names) == name
        rejected = inside & fitted.rejected(p, names)
        assert 1 - ok[rejected].mean() >= 0.9
        assert 1 - ok[rejected].mean() == pytest.approx(0.9, abs=0.01)
    assert fitted.of("good / ct") > fitted.pooled > fitted.of("bad / mr")


def test_shrinkage_moves_every_stratum_towards_the_pooled_threshold() -> None:
    p, ok, names = _strata(8)
    free = stratum_thresholds(p, ok, names, 0.9, shrinkage=0.0)
    tied = stratum_thresholds(p, ok, names, 0.9, shrinkage=1e9)
    some = stratum_thresholds(p, ok, names, 0.9, shrinkage=1000.0)
    for name in set(names):
        assert tied.of(name) == tied.pooled
        assert abs(some.of(name) - some.pooled) < abs(free.of(name) - free.pooled)


def test_small_and_unseen_strata_use_the_pooled_threshold() -> None:
    p, ok, names = _strata(9)
    names[:5] = ["rare / us"] * 5
    fitted = stratum_thresholds(p, ok, names, 0.9)
    assert "rare / us" not in fitted.own
    assert fitted.of("rare / us") == fitted.of("never seen") == fitted.pooled
