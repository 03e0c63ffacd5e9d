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
    EDGE_STEP,
    FINE_SIGMA,
    LIT,
    TILE_PIXELS,
    TILES,
    _worst_direction,
    kth_largest,
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


@pytest.mark.parametrize("shape", [(90, 70), (1, 40), (40, 1), (3, 3)])
def test_shares_of_neighbours_equal_loops_over_pixels(shape: tuple[int, int]) -> None:
    grey = np.random.default_rng(1).integers(0, 6, shape).astype(np.uint8) * 20
    steps = [(int(row[i]), int(row[i + 1])) for row in grey for i in range(len(row) - 1)]
    measured = measure_image(grey)
    if not steps:
        assert measured.edges == measured.flat == 0.0
        return
    edges = sum(abs(a - b) >= EDGE_STEP for a, b in steps) / len(steps)
    lit = float((grey > LIT).mean()) * len(steps)
    same = sum(a == b and b > LIT for a, b in steps) / lit
    assert measured.edges == round(edges, 4)
    assert measured.flat == pytest.approx(min(1.0, same), abs=1e-4)


@pytest.mark.parametrize("side", [20, 96, 250])
def test_the_share_of_colour_equals_a_loop_over_its_grid(side: int) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (side, side, 3)).astype(np.uint8)
    step = max(1, side // 96)
    sampled = [pixels[y, x].tolist() for y in range(0, side, step) for x in range(0, side, step)]
    expected = sum(max(p) - min(p) >= 30 for p in sampled) / len(sampled)
    assert measure_image(pixels).colour == round(expected, 4)


@pytest.mark.parametrize("seed", range(3))
def test_the_worst_direction_equals_a_sort_of_each_direction(seed: int) -> None:
    random = np.random.default_rng(seed)
    gx, gy = random.normal(size=(2, 900)).astype(np.float32)
    weight, along = np.hypot(gx, gy).round(2).astype(np.float64), random.random(900)
    ratios = []
    for direction in range(4):
        angle = np.arctan2(gy, gx) * np.float32(4 / np.pi)
        inside = [i for i in range(900) if int(np.rint(angle[i])) % 4 == direction]
        inside.sort(key=lambda i: weight[i])
        strong = inside[len(inside) // 2 :]
        ratios.append(sum(along[i] for i in strong) / sum(weight[i] for i in strong))
    assert _worst_direction(gx, gy, along, weight) == pytest.approx(min(ratios))


@pytest.mark.parametrize("size", [1, 40, 1000, 65_536])
@pytest.mark.parametrize("kind", ["noise", "zeros", "few", "rising"])
def test_the_kth_largest_by_a_sample_is_that_of_a_sort(kind: str, size: int) -> None:
    values = np.random.default_rng(size).random(size).astype(np.float32)
    if kind == "zeros":
        values[:] = 0
    elif kind == "few":  # where the sample does not look
        values[::16], values[values < 0.99] = 0, 0
    elif kind == "rising":
        values.sort()
    for k in {1, -(-size // 33), size // 2 + 1, size}:
        assert kth_largest(values, k) == np.sort(values)[-k]


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
