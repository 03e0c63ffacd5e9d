"""Crops moved to fit best: as by a loop over crops, and better than the foreseen ones."""

from __future__ import annotations

import numpy as np
import pytest

from infimed.matching.fingerprint import (
    COMPARED,
    FINE,
    KEPT,
    TRIM,
    WHOLE_ONLY,
    Crops,
    Floats,
    coefficients,
    fingerprint,
    sharpened,
    views,
)
from tests.curation.clinic import picture

STEP = TRIM / 3 / 4


def pair(seed: int) -> tuple[Floats, Floats]:
    """Coefficients of a picture [1, KEPT, KEPT] and the vector of a crop of it [1, 64]."""
    image = picture(seed, 320)[:, :, 0]
    top, bottom, left, right = np.random.default_rng(seed).integers(0, 16, 4)
    crop = np.ascontiguousarray(image[top : 320 - bottom, left : 320 - right])
    whole = views(coefficients([fingerprint(crop)]), WHOLE_ONLY)[:, 0]
    return coefficients([fingerprint(image)]), whole


def cosine(low: Floats, whole: Floats, sides: list[float]) -> float:
    """Of one crop, by way of `views`; sides are (top, bottom, left, right) in steps inside."""
    rows = (sides[0] * STEP, 1 - sides[1] * STEP)
    columns = (sides[2] * STEP, 1 - sides[3] * STEP)
    seen = views(low, Crops((rows, columns)))[0]
    return float(
        seen[1] @ whole[0]
    )  # combination 1: the first interval of rows, the second of columns


@pytest.mark.parametrize("seed", range(6))
def test_a_moved_crop_is_that_of_a_loop(seed: int) -> None:
    low, whole = pair(seed)
    foreseen = (views(low, FINE)[0] @ whole[0]).argmax()
    rows, columns = divmod(int(foreseen), 16)
    sides = [4.0 * part for axis in (rows, columns) for part in divmod(axis, 4)]
    best = -1.0
    for step in (2, 1):
        tried = [
            [sides[0] + step * a, sides[1] + step * b, sides[2] + step * c, sides[3] + step * d]
            for a in (-1, 0, 1)
            for b in (-1, 0, 1)
            for c in (-1, 0, 1)
            for d in (-1, 0, 1)
        ]
        tried = [np.clip(sides_, -1, 14).tolist() for sides_ in tried]
        found = [cosine(low, whole, sides_) for sides_ in tried]
        best, sides = max(found), tried[int(np.argmax(found))]
    assert sharpened(low, whole, np.array([foreseen]))[0] == pytest.approx(best, abs=2e-5)


def test_moving_a_crop_never_makes_it_fit_worse() -> None:
    pairs = [pair(seed) for seed in range(20, 40)]
    low, whole = (np.concatenate(part) for part in zip(*pairs, strict=True))
    foreseen = np.einsum("nvk,nk->nv", views(low, FINE), whole)
    moved = sharpened(low, whole, foreseen.argmax(axis=1))
    assert (moved >= foreseen.max(axis=1) - 1e-5).all()
    assert np.median(moved) > np.median(foreseen.max(axis=1))
    assert low.shape[1:] == (KEPT, KEPT)
    assert whole.shape[1] == COMPARED * COMPARED


def test_no_pairs_have_no_similarities() -> None:
    none = np.zeros((0, KEPT, KEPT), np.float32)
    assert sharpened(none, np.zeros((0, 64), np.float32), np.zeros(0, np.int64)).shape == (0,)
