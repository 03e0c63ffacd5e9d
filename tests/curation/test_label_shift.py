"""Base rates from unlabelled records, against plain EM, plain Bayes and the truth."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from infimed.curation.calibration import expected_calibration_error, sigmoid
from infimed.curation.label_shift import (
    Joint,
    adapt_joint,
    estimate_prior,
    fit_joint,
    likelihood_ratios,
    shift_prior,
)


def _scores(seed: int, n: int, share_ok: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores that are calibrated at a share of 0.8, and the labels, at another share."""
    rng = np.random.default_rng(seed)
    ok = rng.random(n) < share_ok
    evidence = rng.normal(np.where(ok, 1.0, -1.0))  # log likelihood ratio 2x
    return sigmoid(2 * evidence + np.log(0.8 / 0.2)), ok


def _em(p: np.ndarray, before: float, hoped: float, strength: float) -> float:
    """Saerens, Latinne & Decaestecker (2002), equation 2.7, as written."""
    share = hoped
    for _ in range(3000):
        total = 0.0
        for value in p:
            a, b = value * share / before, (1 - value) * (1 - share) / (1 - before)
            total += a / (a + b)
        new = (total + strength * hoped) / (len(p) + strength)
        if abs(new - share) < 1e-13:
            break
        share = new
    return share


@pytest.mark.parametrize("strength", [0.0, 1.0, 50.0])
def test_estimated_share_equals_plain_em(strength: float) -> None:
    p, _ = _scores(0, 150, 0.4)
    found = estimate_prior(p, 0.8, expected=0.7, strength=strength)
    assert found == pytest.approx(_em(p, 0.8, 0.7, strength), abs=1e-8)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.95])
def test_the_true_share_is_found_and_the_shifted_scores_are_calibrated(share: float) -> None:
    p, ok = _scores(1, 20_000, share)
    found = estimate_prior(p, 0.8)
    assert found == pytest.approx(share, abs=0.015)
    shifted = shift_prior(p, 0.8, found)
    assert expected_calibration_error(shifted, ok) < 0.02
    assert expected_calibration_error(p, ok) > expected_calibration_error(shifted, ok) + 0.01


def test_without_evidence_the_expectation_stands() -> None:
    assert estimate_prior([], 0.8, expected=0.3) == pytest.approx(0.3)
    assert estimate_prior(np.full(50, 0.8), 0.8) == pytest.approx(0.8, abs=1e-6)


def test_shifting_equals_bayes_on_counted_records_and_keeps_certainty() -> None:
    # evidence E: P(E|ok) = 0.3, P(E|bad) = 0.6; ok 0.8 before, 0.5 after
    before = 0.3 * 0.8 / (0.3 * 0.8 + 0.6 * 0.2)
    after = 0.3 * 0.5 / (0.3 * 0.5 + 0.6 * 0.5)
    np.testing.assert_allclose(shift_prior([before, 0.0, 1.0], 0.8, 0.5), [after, 0.0, 1.0])


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_base_rate_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="base rate"):
        shift_prior([0.5], 0.5, share)


def _labels(seed: int, n: int = 500, d: int = 3) -> np.ndarray:
    """Dependent labels: a bad day makes all dimensions worse."""
    rng = np.random.default_rng(seed)
    day = rng.random(n) < 0.3
    return rng.random((n, d)) >= np.where(day, 0.5, 0.05)[:, None] * np.linspace(0.6, 1.0, d)


def test_with_independent_defects_p_ok_is_the_product_over_dimensions() -> None:
    rng = np.random.default_rng(2)
    before, after = np.array([0.9, 0.8, 0.7]), np.array([0.6, 0.95, 0.5])
    patterns = Joint((0.0,) * 8).patterns
    joint = Joint(tuple(np.where(patterns > 0, 1 - before, before).prod(axis=1).tolist()))
    p = rng.uniform(0.05, 0.95, (40, 3))
    p_ok, dimensions = joint.tilted(1 - after).posterior(likelihood_ratios(p, before))
    np.testing.assert_allclose(dimensions, shift_prior(p, before, after), atol=1e-9)
    np.testing.assert_allclose(p_ok, shift_prior(p, before, after).prod(axis=1), atol=1e-9)


def test_the_posterior_equals_enumerating_all_patterns() -> None:
    joint = fit_joint(_labels(3))
    ratios = np.exp(np.random.default_rng(3).normal(size=(20, 3)))
    p_ok, dimensions = joint.posterior(ratios)
    for row, (ratio, p) in enumerate(zip(ratios, p_ok, strict=True)):
        total, bad = 0.0, np.zeros(3)
        for pattern in itertools.product([0, 1], repeat=3):
            weight = joint.weights[sum(bit << j for j, bit in enumerate(pattern))]
            weight *= float(np.prod([r if bit else 1.0 for r, bit in zip(ratio, pattern, strict=True)]))  # fmt: skip
            total += weight
            bad += weight * np.array(pattern)
        assert p == pytest.approx(joint.weights[0] / total)
        np.testing.assert_allclose(dimensions[row], 1 - bad / total, atol=1e-12)


def test_tilting_moves_the_rates_and_keeps_the_odds_ratios() -> None:
    joint = fit_joint(_labels(4))
    moved = joint.tilted([0.3, 0.02, 0.5])
    np.testing.assert_allclose(moved.defects, [0.3, 0.02, 0.5], atol=1e-8)

    def odds_ratio(j: Joint) -> float:  # of dimensions 0 and 1, where 2 is ok
        return j.weights[0] * j.weights[3] / (j.weights[1] * j.weights[2])

    assert odds_ratio(moved) == pytest.approx(odds_ratio(joint))


def _joint_em(joint: Joint, ratios: np.ndarray, strength: float) -> np.ndarray:
    """The same EM with loops and every fit taken to the end from the start."""
    hoped = shares = joint.defects
    for _ in range(2000):
        moved = joint.tilted(shares)
        total = np.zeros(joint.dimensions)
        for row in ratios:
            total += 1 - moved.posterior(row[None])[1][0]
        new = (total + strength * hoped) / (len(ratios) + strength)
        if np.abs(new - shares).max() < 1e-6:
            return new
        shares = new
    raise AssertionError("no convergence")


def test_estimated_defects_equal_plain_em() -> None:
    joint = fit_joint(_labels(5))
    ratios = np.exp(np.random.default_rng(5).normal(0.2, 1.5, size=(30, 3)))
    np.testing.assert_allclose(
        joint.estimate_defects(ratios, strength=5.0), _joint_em(joint, ratios, 5.0), atol=1e-5
    )


def test_with_one_dimension_it_is_the_simple_estimate() -> None:
    p, _ = _scores(6, 300, 0.4)
    joint = Joint((0.8, 0.2))
    defects = joint.estimate_defects(likelihood_ratios(p[:, None], np.array([0.8])))
    assert 1 - defects[0] == pytest.approx(estimate_prior(p, 0.8), abs=1e-4)


@pytest.mark.parametrize("single", [False, True])
def test_true_shares_are_found_with_independent_and_with_exclusive_defects(single: bool) -> None:
    rng = np.random.default_rng(7)

    def draw(rates: np.ndarray, n: int) -> np.ndarray:
        if not single:
            return rng.random((n, 3)) < rates
        edges = np.cumsum(rates)
        at = rng.random(n)[:, None]
        return (at < edges) & (at >= edges - rates)

    joint = fit_joint(~draw(np.array([0.1, 0.05, 0.2]), 5000))
    truth = np.array([0.25, 0.15, 0.05])
    bad = draw(truth, 10_000)
    evidence = rng.normal(np.where(bad, 1.0, -1.0))
    found = joint.estimate_defects(np.exp(2 * evidence))
    np.testing.assert_allclose(found, truth, atol=0.02)


def test_small_strata_lean_on_the_pooled_rates_and_unseen_ones_use_them() -> None:
    rng = np.random.default_rng(8)
    joint = fit_joint(rng.random((2000, 3)) > 0.1)
    bad = rng.random((2005, 3)) < 0.3
    ratios = np.exp(2 * rng.normal(np.where(bad, 1.0, -1.0)))
    strata = ["large"] * 2000 + ["small"] * 5
    moved = adapt_joint(joint, ratios, strata)
    np.testing.assert_allclose(moved.of("large").defects, 0.3, atol=0.05)
    np.testing.assert_allclose(moved.of("small").defects, moved.pooled.defects, atol=0.05)
    assert moved.of("elsewhere") is moved.pooled


def test_a_joint_survives_json_and_never_has_an_impossible_pattern() -> None:
    joint = fit_joint(np.ones((10, 4), bool))
    assert Joint.from_dict(json.loads(json.dumps(joint.to_dict()))) == joint
    assert min(joint.weights) > 0 and sum(joint.weights) == pytest.approx(1)


def test_labels_that_fit_no_joint_are_refused() -> None:
    for labels in (np.ones((0, 3)), np.ones(3), np.ones((4, 11))):
        with pytest.raises(ValueError, match="labels"):
            fit_joint(labels)
