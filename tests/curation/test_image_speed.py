"""The quick image signals equal slow, obvious ones; one grey channel equals three."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from infimed.curation.image_signals import (
    EDGE_STEP,
    LIT,
    ROWS,
    measure_image,
    noise_level,
    pixel_hash,
)
from infimed.curation.sharpness import (
    BORDER,
    COARSE_SIGMA,
    EDGE_SIDE,
    FINE_SIGMA,
    SAMPLED,
    STRONG,
    TILE_PIXELS,
    TILES,
    _worst_direction,
    coarse_scale,
    edge_sharpness,
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
    inner[BORDER:-BORDER, BORDER:-BORDER] = True
    strength[~inner] = 0
    sample = strength[BORDER:-BORDER:SAMPLED, BORDER:-BORDER:SAMPLED]
    limit = np.sort(sample.reshape(-1))[-math.ceil(sample.size / STRONG)]
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
    assert sharpness(grey) == pytest.approx(slow_sharpness(grey), rel=0.05)


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
    lit = [a == b for a, b in steps if b > LIT]
    assert measured.edges == round(edges, 4)
    assert measured.flat == round(sum(lit) / len(lit), 4)


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
    weight, along = np.hypot(gx, gy).round(2), random.random(900)
    ratios = []
    for direction in range(4):
        angle = np.arctan2(gy, gx) * np.float32(4 / np.pi)
        inside = [i for i in range(900) if int(np.rint(angle[i])) % 4 == direction]
        inside.sort(key=lambda i: weight[i])
        strong = inside[len(inside) // 2 :]
        ratios.append(sum(along[i] for i in strong) / sum(weight[i] for i in strong))
    assert _worst_direction(gx, gy, along, weight) == pytest.approx(min(ratios))


@pytest.mark.parametrize("shape", [(256, 256), (256, 211), (97, 256), (33, 64)])
def test_the_coarse_scale_by_half_the_side_equals_a_gaussian_of_all_pixels(
    shape: tuple[int, int],
) -> None:
    grey = np.ascontiguousarray(picture(7, 256)[: shape[0], : shape[1], 0])
    grey[-5:] = 250  # a line along the border, as exported screens have it
    margin = (len(coarse_scale(grey)) - shape[0]) // 2
    inside = coarse_scale(grey)[margin:, margin:][: shape[0], : shape[1]]
    plain = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), COARSE_SIGMA)
    assert np.abs(inside - plain).max() < 0.02 * (plain.max() - plain.min())
    assert np.corrcoef(inside.reshape(-1), plain.reshape(-1))[0, 1] > 0.9999


@pytest.mark.parametrize("shape", [(300, 100), (100, 300), (64, 33)])
def test_sharpness_of_any_shape_is_that_of_its_mirror_images(shape: tuple[int, int]) -> None:
    grey = picture(8, 300)[: shape[0], : shape[1], 0]
    sharp, least = edge_sharpness(np.ascontiguousarray(grey))
    assert sharp > 0
    for turned in (grey[::-1], grey[:, ::-1], grey.T):
        assert edge_sharpness(np.ascontiguousarray(turned)) == pytest.approx(
            (sharp, least), rel=0.2
        )


def test_some_rows_of_a_large_image_say_the_same_of_its_grey_values() -> None:
    large = picture(9, 512)[:, :, 0].copy()
    measured, values = measure_image(large), large.astype(np.float64)
    assert len(large) >= 4 * ROWS
    assert measured.mean == pytest.approx(values.mean(), abs=0.5)
    assert measured.std == pytest.approx(values.std(), rel=0.01)
    assert measured.dark_share == pytest.approx((large <= 4).mean(), abs=0.01)
    assert measured.white_share == pytest.approx((large >= 235).mean(), abs=0.01)
    share = np.bincount(large.reshape(-1), minlength=256) / large.size
    entropy = -(share[share > 0] @ np.log2(share[share > 0]))
    assert measured.entropy == pytest.approx(entropy, abs=0.02)


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
