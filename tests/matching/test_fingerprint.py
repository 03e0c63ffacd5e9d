"""Fingerprints and what follows from them by algebra."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from infimed.matching.fingerprint import (
    BYTES,
    COARSE,
    FINE,
    KEPT,
    WHOLE_ONLY,
    coefficients,
    fingerprint,
    resemblance,
    turn,
    views,
)
from tests.curation.clinic import picture


def grey(seed: int, side: int = 256) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(picture(seed, side), cv2.COLOR_RGB2GRAY))


def vector(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    return views(coefficients([fingerprint(np.ascontiguousarray(image))]), WHOLE_ONLY)[:, 0]


def test_coefficients_are_the_cosine_transform_by_its_definition() -> None:
    image = grey(1, 64)
    made = coefficients([fingerprint(image)])[0]
    places = (np.arange(64) + 0.5) / 64
    slow = np.zeros((KEPT, KEPT))
    for row in range(KEPT):
        for column in range(KEPT):
            wave = np.outer(np.cos(np.pi * row * places), np.cos(np.pi * column * places))
            norm = (2 / 64) * (0.5**0.5 if row == 0 else 1) * (0.5**0.5 if column == 0 else 1)
            slow[row, column] = norm * (wave * image).sum()
    slow[0, 0] = 0
    weight = np.maximum(1, np.hypot(np.arange(KEPT)[:, None], np.arange(KEPT)))
    scale = 127 / np.abs(slow * weight).max()
    assert np.abs(made * weight - slow * weight * scale).max() <= 0.51


@pytest.mark.parametrize("orientation", range(8))
def test_mirroring_and_inverting_only_change_signs(orientation: int) -> None:
    image = grey(2)
    turned = image
    if orientation & 1:
        turned = turned[:, ::-1]
    if orientation & 2:
        turned = turned[::-1]
    if orientation & 4:
        turned = 255 - turned
    expected = turn(vector(image), np.array([orientation]))
    assert float((expected * vector(turned)).sum()) > 0.9999
    similarity, found = resemblance(vector(image), vector(turned))
    assert similarity[0] > 0.9999 and found[0] == orientation


@pytest.mark.parametrize("crops", [COARSE, FINE], ids=["coarse", "fine"])
def test_a_view_foresees_the_fingerprint_of_the_crop(crops: object) -> None:
    image = grey(3, 400)
    seen = views(coefficients([fingerprint(image)]), crops)[0]  # type: ignore[arg-type]
    for view in (1, 3, len(seen) // 2, len(seen) - 1):
        (top, bottom), (left, right) = crops.place(view)  # type: ignore[attr-defined]
        cut = image[round(400 * top) : round(400 * bottom), round(400 * left) : round(400 * right)]
        assert float(seen[view] @ vector(cut)[0]) > 0.97


def test_brightness_and_contrast_do_not_matter() -> None:
    image = grey(4)
    changed = np.clip(image * 0.6 + 30, 0, 255).astype(np.uint8)
    assert float((vector(image) * vector(changed)).sum()) > 0.999


def test_a_flat_or_damaged_fingerprint_resembles_nothing() -> None:
    flat = fingerprint(np.full((50, 70), 9, np.uint8))
    assert flat == bytes(BYTES)
    codes = coefficients([flat, b"short", fingerprint(grey(5))])
    seen = views(codes, WHOLE_ONLY)[:, 0]
    assert not seen[:2].any() and seen[2].any()
