"""Agreement: published worked examples, slow references, missing ratings."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infimed.core.agreement import (
    alpha_of_coincidences,
    coincidences,
    kappa_of_table,
    krippendorff_alpha,
    weighted_kappa,
)

# Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), section C: 4 observers, 12 units.
RELIABILITY = [
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
]
OBSERVED = [[-1 if v == "." else int(v) - 1 for v in row.split()] for row in RELIABILITY]

# Cohen, "Weighted kappa" (1968), table 1: two raters, three diagnoses, shares of 200 patients.
COHEN = [[0.44, 0.07, 0.09], [0.05, 0.20, 0.05], [0.01, 0.03, 0.06]]
COHEN_WEIGHTS = [[0, 1, 3], [1, 0, 6], [3, 6, 0]]


@pytest.mark.parametrize(
    ("metric", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)]
)
def test_alpha_equals_krippendorffs_published_example(metric: str, published: float) -> None:
    found = krippendorff_alpha(OBSERVED, 5, metric=metric)  # type: ignore[arg-type]
    assert found.mean == pytest.approx(published, abs=0.0005)
    assert found.n == 11  # the last unit has one rating and cannot be paired


def test_kappa_equals_cohens_published_example() -> None:
    nominal = 1 - np.eye(3)
    assert kappa_of_table(COHEN, nominal) == pytest.approx(0.492, abs=0.0005)
    assert kappa_of_table(COHEN, COHEN_WEIGHTS) == pytest.approx(0.348, abs=0.0005)


def slow_kappa(a: list[int], b: list[int], k: int) -> float | None:
    """The definition, pair by pair: observed against all pairings of the two raters' units."""
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x >= 0 and y >= 0]
    if not pairs:
        return None
    observed = sum((x - y) ** 2 for x, y in pairs) / len(pairs)
    expected = sum((x - y) ** 2 for (x, _), (_, y) in itertools.product(pairs, pairs))
    expected /= len(pairs) ** 2
    return None if expected == 0 else 1 - observed / expected


def slow_alpha(ratings: list[list[int]], k: int) -> float | None:
    """The definition of ordinal alpha: every pair of values within units against every pair at all."""
    units = [[row[u] for row in ratings if row[u] >= 0] for u in range(len(ratings[0]))]
    units = [unit for unit in units if len(unit) >= 2]
    values = [v for unit in units for v in unit]
    count = [values.count(level) for level in range(k)]

    def delta(c: int, d: int) -> float:
        low, high = min(c, d), max(c, d)
        return (sum(count[low : high + 1]) - (count[low] + count[high]) / 2) ** 2 if c != d else 0.0

    observed = sum(
        delta(unit[i], unit[j]) / (len(unit) - 1)
        for unit in units
        for i, j in itertools.permutations(range(len(unit)), 2)
    )
    expected = sum(delta(x, y) for x, y in itertools.permutations(values, 2))
    return None if not expected else 1 - (len(values) - 1) * observed / expected


LEVELS = st.integers(-1, 2)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(LEVELS, LEVELS), min_size=1, max_size=25))
def test_kappa_equals_its_slow_definition_with_missing_ratings(
    pairs: list[tuple[int, int]],
) -> None:
    a, b = [list(column) for column in zip(*pairs, strict=True)]
    found = weighted_kappa(a, b, 3, resamples=2).mean
    slow = slow_kappa(a, b, 3)
    assert found == (None if slow is None else pytest.approx(slow, abs=1e-9))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(LEVELS, LEVELS, LEVELS), min_size=1, max_size=15))
def test_alpha_equals_its_slow_definition_with_missing_ratings(
    units: list[tuple[int, int, int]],
) -> None:
    ratings = [list(row) for row in zip(*units, strict=True)]
    found = krippendorff_alpha(ratings, 3, resamples=2).mean
    slow = slow_alpha(ratings, 3)
    assert found == (None if slow is None else pytest.approx(slow, abs=1e-9))


def test_full_agreement_is_one_and_chance_is_about_zero() -> None:
    random = np.random.default_rng(0)
    a = random.integers(0, 3, 3000)
    assert weighted_kappa(a, a, 3).mean == 1
    assert krippendorff_alpha(np.stack([a, a, a]), 3).mean == 1
    b = random.permutation(a)
    assert abs(weighted_kappa(a, b, 3).mean or 1) < 0.05
    assert abs(krippendorff_alpha(np.stack([a, b]), 3).mean or 1) < 0.05


def test_without_variation_there_is_no_value() -> None:
    assert weighted_kappa([2, 2, 2], [2, 2, 2], 3).mean is None
    assert krippendorff_alpha([[2, 2], [2, 2]], 3).mean is None
    assert krippendorff_alpha([[0, -1], [-1, 2]], 3).n == 0
    assert alpha_of_coincidences(np.zeros((3, 3))) is None
    assert weighted_kappa([], [], 3).n == 0


def test_a_unit_with_one_rating_contributes_nothing() -> None:
    assert coincidences([[0, 1], [-1, 1]], 2)[0].sum() == 0


def test_the_interval_holds_the_value_and_whole_groups_make_it_wider() -> None:
    random = np.random.default_rng(1)
    truth = np.repeat(random.integers(0, 3, 40), 5)
    slip = np.repeat(random.random(40) < 0.3, 5)
    other = np.where(slip, (truth + 1) % 3, truth)
    alone = weighted_kappa(truth, other, 3)
    grouped = weighted_kappa(truth, other, 3, groups=np.repeat(np.arange(40), 5).tolist())
    assert alone.mean == grouped.mean
    assert alone.low is not None and alone.high is not None and alone.mean is not None
    assert grouped.low is not None and grouped.high is not None
    assert alone.low < alone.mean < alone.high
    assert grouped.high - grouped.low > 1.3 * (alone.high - alone.low)
    assert grouped.groups == 40


def test_codes_outside_the_levels_and_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="between"):
        weighted_kappa([3], [0], 3)
    with pytest.raises(ValueError, match="ratings"):
        weighted_kappa([0, 1], [0], 3)
    with pytest.raises(ValueError, match="between"):
        krippendorff_alpha([[-2]], 3)
