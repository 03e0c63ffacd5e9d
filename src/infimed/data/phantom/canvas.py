"""Drawing on float32 images: soft ellipses, polygons, curves and cheap band-limited noise.

Invariant: coordinates are fractions of the image width, so a drawing looks the same at every size.
Cost: everything local works on the bounding box of what it draws; noise is made at low resolution
and enlarged.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from infimed.data.phantom.truth import Ellipse

Float = NDArray[np.float32]
Points = Sequence[tuple[float, float]]
_SHIFT = 4


@functools.lru_cache(maxsize=8)
def grids(size: int) -> tuple[Float, Float]:
    """Pixel-centre coordinates x [1, size] and y [size, 1] in fractions of the width."""
    axis = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size)
    return axis[None, :], axis[:, None]


@dataclass(frozen=True, slots=True)
class Pose:
    """Where the anatomy lies in the image: shift, scale about the centre."""

    dx: float = 0.0
    dy: float = 0.0
    scale: float = 1.0

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Template coordinates to image coordinates."""
        return 0.5 + (x - 0.5) * self.scale + self.dx, 0.5 + (y - 0.5) * self.scale + self.dy

    def ellipse(self, x: float, y: float, rx: float, ry: float, angle: float = 0.0) -> Ellipse:
        """An ellipse given in template coordinates."""
        px, py = self.at(x, y)
        return Ellipse(px, py, rx * self.scale, ry * self.scale, angle)

    def points(self, points: Points) -> list[tuple[float, float]]:
        """A polygon or curve given in template coordinates."""
        return [self.at(x, y) for x, y in points]


def draw_pose(rng: np.random.Generator) -> Pose:
    """Small random differences between patients in position and build."""
    return Pose(
        float(rng.uniform(-0.015, 0.015)),
        float(rng.uniform(-0.015, 0.015)),
        float(rng.uniform(0.95, 1.04)),
    )


Patch = tuple[tuple[slice, slice], Float]
"""A mask in [0, 1] and where it lies in the image."""


def ellipse_mask(
    size: int,
    ellipse: Ellipse,
    *,
    edge: float = 0.0,
    harmonics: Float | None = None,
) -> Patch:
    """Antialiased ellipse; `edge` is the width of the soft border as a fraction of the image width.

    `harmonics` [k, 2] (amplitude, phase) makes the outline irregular: the radius at angle t is
    multiplied by 1 + sum a_k cos((k + 2) t + p_k).
    """
    grow = 1.0 if harmonics is None else 1.0 + float(np.abs(harmonics[:, 0]).sum())
    x0, y0, x1, y1 = ellipse.box
    margin = edge + 1.5 / size
    gx, gy = (ellipse.x - x0) * (grow - 1), (ellipse.y - y0) * (grow - 1)
    c0 = max(0, math.floor((x0 - gx - margin) * size))
    r0 = max(0, math.floor((y0 - gy - margin) * size))
    c1 = max(c0, min(size, math.ceil((x1 + gx + margin) * size)))
    r1 = max(r0, min(size, math.ceil((y1 + gy + margin) * size)))
    x, y = grids(size)
    dx = x[:, c0:c1] - np.float32(ellipse.x)
    dy = y[r0:r1] - np.float32(ellipse.y)
    cos, sin = math.cos(math.radians(ellipse.angle)), math.sin(math.radians(ellipse.angle))
    u = (dx * np.float32(cos) + dy * np.float32(sin)) / np.float32(ellipse.rx)
    v = (dy * np.float32(cos) - dx * np.float32(sin)) / np.float32(ellipse.ry)
    radius = np.sqrt(u * u + v * v)
    limit: Float | float = 1.0
    if harmonics is not None:
        theta = np.arctan2(v, u)
        bumps = np.ones_like(theta)
        for k in range(len(harmonics)):
            amplitude, phase = float(harmonics[k, 0]), float(harmonics[k, 1])
            bumps += amplitude * np.cos((k + 2) * theta + phase)
        limit = bumps
    width = max(edge, 1.0 / size) / min(ellipse.rx, ellipse.ry)
    mask = np.clip((limit - radius) / np.float32(width) + np.float32(0.5), 0.0, 1.0)
    return (slice(r0, r1), slice(c0, c1)), mask.astype(np.float32, copy=False)


def wobble(rng: np.random.Generator, strength: float = 0.12, terms: int = 4) -> Float:
    """Harmonics for an irregular outline."""
    amplitude = rng.uniform(-strength, strength, terms) / np.arange(1, terms + 1)
    phase = rng.uniform(0, 2 * math.pi, terms)
    return np.stack([amplitude, phase], axis=1).astype(np.float32)


Value = float | Sequence[float] | NDArray[np.float32]
"""A grey level, or one per colour channel."""


def _shown(image: Float, mask: Float) -> Float:
    return mask[..., None] if image.ndim == 3 else mask


def blend(image: Float, patch: Patch, value: Value, alpha: float = 1.0) -> None:
    """Move the image towards `value` where the mask is set, in place."""
    where, mask = patch
    region = image[where]
    region += _shown(image, mask) * np.float32(alpha) * (np.asarray(value, np.float32) - region)


def add(image: Float, patch: Patch, amount: Value) -> None:
    """Add `amount` times the mask, in place."""
    where, mask = patch
    image[where] += _shown(image, mask) * np.asarray(amount, np.float32)


def _fixed(points: Points, size: int) -> NDArray[np.int32]:
    scaled = (np.asarray(points, np.float64) * size - 0.5) * (1 << _SHIFT)
    return np.round(scaled).astype(np.int32).reshape(-1, 1, 2)


def polygon_mask(size: int, points: Points, *, blur: float = 0.0) -> Float:
    """Antialiased filled polygon as a full mask [size, size]; `blur` sigma in fractions of width."""
    layer = np.zeros((size, size), np.uint8)
    cv2.fillPoly(layer, [_fixed(points, size)], 255, cv2.LINE_AA, _SHIFT)
    mask = layer.astype(np.float32) * np.float32(1 / 255)
    return gaussian(mask, blur) if blur else mask


def curve_layer(
    size: int, curves: Sequence[tuple[Points, float, float]], *, blur: float = 0.0
) -> Float:
    """Antialiased curves as a full layer; each is (points, thickness, strength in [0, 1])."""
    layer = np.zeros((size, size), np.uint8)
    for points, thickness, strength in curves:
        cv2.polylines(
            layer,
            [_fixed(points, size)],
            False,
            int(255 * strength),
            max(1, round(thickness * size)),
            cv2.LINE_AA,
            _SHIFT,
        )
    out = layer.astype(np.float32) * np.float32(1 / 255)
    return gaussian(out, blur) if blur else out


def full_patch(mask: Float) -> Patch:
    """A full-image mask as a patch."""
    return (slice(0, mask.shape[0]), slice(0, mask.shape[1])), mask


def gaussian(image: Float, sigma: float) -> Float:
    """Gaussian blur with sigma in fractions of the image width."""
    pixels = sigma * image.shape[0]
    if pixels < 0.25:
        return image
    return cv2.GaussianBlur(image, (0, 0), pixels)


def noise_field(
    size: int, cells: int, rng: np.random.Generator, cells_y: int | None = None
) -> Float:
    """Smooth noise of unit variance at the cells, with `cells` grid points across the image."""
    rows = cells if cells_y is None else cells_y
    coarse = rng.standard_normal((rows, cells), dtype=np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def bezier(
    start: tuple[float, float], bend: tuple[float, float], end: tuple[float, float], steps: int = 12
) -> list[tuple[float, float]]:
    """Points on a quadratic Bezier curve."""
    t = np.linspace(0.0, 1.0, steps)
    x = (1 - t) ** 2 * start[0] + 2 * (1 - t) * t * bend[0] + t**2 * end[0]
    y = (1 - t) ** 2 * start[1] + 2 * (1 - t) * t * bend[1] + t**2 * end[1]
    return list(zip(x.tolist(), y.tolist(), strict=True))


RIM = 1.7
"""Outer over inner radius of the contrast rim of a small finding."""
RIM_SHARE = 0.40
"""Rim over core contrast. The rim cancels most of the core's mean: what an edge-enhancing
reconstruction does to a dot, and what makes it vanish when the image is averaged down."""


def speck(image: Float, ellipse: Ellipse, core: Value) -> None:
    """A small finding: a sharp core of contrast `core` in a thin rim of opposite contrast."""
    size = image.shape[0]
    amount = np.asarray(core, np.float32)
    wide = Ellipse(ellipse.x, ellipse.y, ellipse.rx * RIM, ellipse.ry * RIM, ellipse.angle)
    add(image, ellipse_mask(size, wide), -RIM_SHARE * amount)
    add(image, ellipse_mask(size, ellipse), (1 + RIM_SHARE) * amount)


DECOY_SHARE = (0.34, 0.60)
"""Contrast of a decoy over that of a small finding. A dot that straddles four pixels of a 48-pixel
grid keeps a third to a half of its contrast: there, and only there, it looks like a decoy."""


def decoys(
    image: Float,
    rng: np.random.Generator,
    mask: Float | None,
    core: Value,
    number: int,
) -> None:
    """Faint soft spots, like vessels seen end-on, one in five of the opposite sign.

    Args:
        mask: where they may lie (above 0.5); None for everywhere. core: contrast of the small
            finding they are mistaken for at low resolution. number: how many are tried.
    """
    size = image.shape[0]
    amount = np.asarray(core, np.float32)
    for _ in range(number):
        x, y = (float(v) for v in rng.uniform(0.08, 0.92, 2))
        radius = float(rng.uniform(0.016, 0.023))
        share = float(rng.uniform(*DECOY_SHARE)) * (-0.6 if rng.random() < 0.2 else 1.0)
        if mask is not None and mask[int(y * size), int(x * size)] < 0.5:
            continue
        add(image, ellipse_mask(size, Ellipse(x, y, radius, radius), edge=0.020), share * amount)
