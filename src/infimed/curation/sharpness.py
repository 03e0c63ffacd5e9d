"""How sharp an image is, noise or not: the gradient at a fine scale over that at a coarse one, on edges.

Invariant: a pure function of the grey pixels. Cost: 0.5 ms for 512x512 on one core, two thirds of what it
took with the coarse scale smoothed pixel by pixel: at four pixels an image of half the side holds all there
is, so it is smoothed there and brought back (`coarse_scale`).
"""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

EDGE_SIDE: Final = 256
FINE_SIGMA: Final = 1.0
COARSE_SIGMA: Final = 4.0
BORDER: Final = 4
"""Pixels along each border whose coarse gradient is mostly a mirror image."""
STRONG: Final = 33
"""One pixel in so many has a gradient of at least the limit."""
SAMPLED: Final = 4
"""Every so many-th row and column that the limit is found from: a field this smooth says no more elsewhere."""
FAINTEST: Final = 0.25
"""Least limit, in grey levels between the neighbours left and right; below it there are no edges."""
TILES: Final = 6
TILE_PIXELS: Final = 8
DIRECTION_PIXELS: Final = 24
_SQUARE_5: Final = np.ones((5, 5), np.uint8)
_SOBEL_X: Final = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], np.float32)
# A quarter: the sum of Sobel's mask is four times the difference of two neighbours.
_SOBEL: Final = np.stack([_SOBEL_X.reshape(-1), _SOBEL_X.T.reshape(-1)]) / 4
_AROUND: Final = np.arange(-1, 2)
_MARGIN: Final = 8
# Halving and doubling smooth as well, with a variance of one pixel each; 0.1 stands for the
# mask of a gradient.
_HALF_SIGMA: Final = float(np.sqrt((COARSE_SIGMA**2 - 2 + 0.1) / 4))

Floats = NDArray[np.float32]


def shrink(grey: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Area-averaged copy whose longest side is at most `side`."""
    import cv2

    height, width = grey.shape
    factor = side / max(height, width)
    if factor >= 1:
        return grey
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA))


def sharpness(grey: NDArray[np.uint8]) -> float:
    """Sharpness of the sharpest tile; see `edge_sharpness`."""
    return edge_sharpness(grey)[0]


def edge_sharpness(grey: NDArray[np.uint8]) -> tuple[float, float]:
    """Noise-robust sharpness: about 3 for a step edge, 1.2 after a blur of 6 pixels in 256.

    On the ridges of the strongest coarse edges the fine gradient is projected on the coarse
    gradient's direction and averaged: noise, which has no preferred direction, cancels out, while
    the variance of a Laplacian calls a blurred but noisy image sharp. Lines thinner than the coarse
    scale (burned-in print) have no ridge of their own and pull the ratio down, so it is taken a tile
    at a time and the sharpest tile speaks for the image.

    Motion blurs the edges across it and no others, so the second value is that of the worst of four
    directions.

    Returns:
        (sharpest tile, worst direction); 0 for an image, or directions, without enough edges.
    """
    import cv2

    small = shrink(grey, EDGE_SIDE)
    height, width = small.shape
    if min(height, width) < 32:
        return 0.0, 0.0
    coarse_x, coarse_y = _coarse_gradient(small)
    strength = cv2.magnitude(coarse_x, coarse_y)
    sample = strength[::SAMPLED, ::SAMPLED].reshape(-1)
    top = -(-sample.size // STRONG)
    limit = float(np.partition(sample, -top)[-top])
    if limit < FAINTEST:
        return 0.0, 0.0
    peak = cv2.dilate(strength, _SQUARE_5)
    # Edges across a motion are weak; down to a quarter of the limit they count for directions.
    peak *= np.float32(0.98)
    flat = strength.reshape(-1)
    ridge = np.flatnonzero(flat >= cv2.max(peak, 0.25 * limit).reshape(-1))
    weight, gx, gy = flat[ridge], coarse_x.reshape(-1)[ridge], coarse_y.reshape(-1)[ridge]
    rows, columns = np.divmod(ridge, strength.shape[1])
    rows += BORDER
    columns += BORDER
    # The fine gradient is wanted on the ridge alone: a few hundred pixels of 65,536.
    fine = _gaussian(small, FINE_SIGMA).reshape(-1)
    places = (_AROUND[:, None] * width + _AROUND).reshape(-1, 1) + (rows * width + columns)
    # No place is outside, so none is clipped; it is the quicker way to take.
    fine_x, fine_y = _SOBEL @ fine.take(places, mode="clip")
    along = ((fine_x * gx + fine_y * gy) / weight).astype(np.float64)
    tiles = rows * TILES // height * TILES + columns * TILES // width
    strong = np.flatnonzero(weight >= limit)
    return (
        _sharpest_tile(tiles[strong], along[strong], weight[strong]),
        _worst_direction(gx, gy, along, weight),
    )


def coarse_scale(small: NDArray[np.uint8]) -> Floats:
    """What a Gaussian of `COARSE_SIGMA` makes of an image, with `_MARGIN` mirrored pixels around it.

    Smoothed at half the side, which loses nothing at this scale and takes a third of the time. The
    margin keeps what doubling makes up at a border away from the picture: lines lie there.

    Returns:
        float32 [H + 2 `_MARGIN`, W + 2 `_MARGIN`], one more where a side is odd.
    """
    import cv2

    around = (_MARGIN, _MARGIN + small.shape[0] % 2, _MARGIN, _MARGIN + small.shape[1] % 2)
    wide = cv2.copyMakeBorder(small, *around, cv2.BORDER_REFLECT_101)
    return np.asarray(cv2.pyrUp(_gaussian(cv2.pyrDown(wide), _HALF_SIGMA)), np.float32)


def _coarse_gradient(small: NDArray[np.uint8]) -> tuple[Floats, Floats]:
    """Differences of the neighbours right and left, below and above; float32, `BORDER` pixels less all around."""
    import cv2

    coarse = coarse_scale(small)
    edge = _MARGIN + BORDER
    height, width = (side - 2 * BORDER for side in small.shape)
    rows, columns = slice(edge, edge + height), slice(edge, edge + width)

    def after(part: slice, step: int) -> slice:
        return slice(part.start + step, part.stop + step)

    right, left = coarse[rows, after(columns, 1)], coarse[rows, after(columns, -1)]
    below, above = coarse[after(rows, 1), columns], coarse[after(rows, -1), columns]
    return np.asarray(cv2.subtract(right, left)), np.asarray(cv2.subtract(below, above))


def _sharpest_tile(tiles: NDArray[np.intp], along: NDArray[np.float64], weight: Floats) -> float:
    """Largest ratio of a tile with `TILE_PIXELS` pixels; that of all pixels where no tile has them."""
    count = TILES * TILES
    enough = np.bincount(tiles, minlength=count) >= TILE_PIXELS
    if not enough.any():
        return float(along.sum() / weight.sum(dtype=np.float64))
    total = np.bincount(tiles, weight, count)[enough]
    return float((np.bincount(tiles, along, count)[enough] / total).max())


def _worst_direction(gx: Floats, gy: Floats, along: NDArray[np.float64], weight: Floats) -> float:
    """Sharpness of the stronger half of the edges in the worst of four directions; 0 for none.

    Args:
        gx, gy: coarse gradient. along: fine gradient in its direction. weight: its length.
    """
    sector = np.rint(np.arctan2(gy, gx) * np.float32(4 / np.pi)).astype(np.int64) & 3
    # Positive floats lie in the order of their bits: one sort of integers that hold direction, weight and place.
    bits = weight.view(np.int32).astype(np.int64)
    order = np.sort(sector << 56 | bits << 20 | np.arange(len(bits))) & 0xFFFFF
    along, weight = along[order], weight[order]
    worst, end = 0.0, 0
    for pixels in np.bincount(sector, minlength=4).tolist():
        end += pixels
        if pixels < DIRECTION_PIXELS:
            continue
        strongest = slice(end - (pixels + 1) // 2, end)
        total = float(weight[strongest].sum(dtype=np.float64))
        ratio = float(along[strongest].sum()) / total
        worst = ratio if worst == 0.0 else min(worst, ratio)
    return worst


def _gaussian(image: NDArray[np.uint8], sigma: float) -> Floats:
    """Gaussian blur of 8-bit pixels, cut at four sigmas; float32 [H, W]."""
    import cv2

    kernel = _kernel(sigma)
    return np.asarray(cv2.sepFilter2D(image, cv2.CV_32F, kernel, kernel), np.float32)


@cache
def _kernel(sigma: float) -> Floats:
    import cv2

    return np.asarray(cv2.getGaussianKernel(2 * int(4 * sigma) + 1, sigma, cv2.CV_32F), np.float32)
