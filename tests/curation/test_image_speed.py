"""The quick image signals equal slow, obvious ones; one grey channel equals three."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from infimed.curation.image_signals import (
    COARSE_SIGMA,
    EDGE_SIDE,
    FINE_SIGMA,
    TILE_PIXELS,
    TILES,
    measure_image,
    noise_level,
    pixel_hash,
    sharpness,
    shrink,
)
from tests.curation.clinic import picture


def slow_sharpness(grey: NDArray[np.uint8]) -> float:
    """The sharpest tile with every gradient computed everywhere, tile by tile."""
    small = shrink(grey, EDGE_SIDE).astype(np.float32)
    height, width = small.shape
    fine, coarse = (cv2.GaussianBlur(small, (0, 0), s) for s in (FINE_SIGMA, COARSE_SIGMA))
    fine_x, fine_y = cv2.Sobel(fine, cv2.CV_32F, 1, 0), cv2.Sobel(fine, cv2.CV_32F, 0, 1)
    coarse_x, coarse_y = cv2.Sobel(coarse, cv2.CV_32F, 1, 0), cv2.Sobel(coarse, cv2.CV_32F, 0, 1)
    strength = np.hypot(coarse_x, coarse_y)
    inner = np.zeros_like(strength, bool)
    inner[4:-4, 4:-4] = True
    strength[~inner] = 0
    limit = np.sort(strength.reshape(-1))[-math.ceil(strength.size / 33)]
    peak = cv2.dilate(strength, np.ones((5, 5), np.uint8))
    ratios = []
    rows, columns = np.nonzero((strength >= limit) & (strength >= 0.98 * peak))
    for tile in range(TILES * TILES):
        mine = [
            (r, c)
            for r, c in zip(rows, columns, strict=True)
            if (r * TILES // height) * TILES + c * TILES // width == tile
        ]
        if len(mine) < TILE_PIXELS:
            continue
        along = sum((fine_x[p] * coarse_x[p] + fine_y[p] * coarse_y[p]) / strength[p] for p in mine)
        ratios.append(along / sum(strength[p] for p in mine))
    return float(max(ratios))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("blur", [0.0, 3.0])
def test_sharpness_on_the_ridge_alone_equals_gradients_everywhere(seed: int, blur: float) -> None:
    grey = picture(seed, 300)[:, :, 0]
    if blur:
        grey = cv2.GaussianBlur(grey, (0, 0), blur)
    assert sharpness(grey) == pytest.approx(slow_sharpness(grey), rel=0.02)


def test_noise_from_one_vector_equals_the_printed_mask() -> None:
    grey = picture(3, 90)[:, :, 0]
    mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])
    total = 0
    for y in range(88):
        for x in range(88):
            total += abs(int((grey[y : y + 3, x : x + 3].astype(int) * mask).sum()))
    assert noise_level(grey) == pytest.approx(total * np.sqrt(np.pi / 2) / (6 * 88 * 88))


@pytest.mark.parametrize("side", [48, 160, 700])
def test_a_grey_image_has_the_same_signals_in_one_channel_and_in_three(side: int) -> None:
    pixels = picture(5, side)
    assert measure_image(pixels[:, :, 0].copy()) == measure_image(pixels)
    assert pixel_hash(pixels[:, :, 0].copy()) == pixel_hash(pixels)


def test_one_coloured_pixel_makes_another_picture() -> None:
    pixels = picture(5, 160)
    tinted = pixels.copy()
    tinted[77, 41, 2] ^= 1
    assert pixel_hash(tinted) != pixel_hash(pixels)
    assert pixel_hash(tinted) != pixel_hash(tinted[:, :, 0].copy())
