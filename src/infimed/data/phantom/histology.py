"""H&E-like histology: eosinophilic stroma with fibres, fibroblast and epithelial nuclei, in colour.

RGB in [0, 1]. Sides are halves of the image.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from infimed.data.phantom.canvas import (
    Float,
    Pose,
    blend,
    decoys,
    draw_pose,
    ellipse_mask,
    full_patch,
    gaussian,
    noise_field,
    speck,
    wobble,
)
from infimed.data.phantom.truth import Ellipse, ImageTruth

_NUCLEUS = (0.50, 0.36, 0.62)
_DARK = (0.30, 0.17, 0.46)
_SHIFT = 4
MITOSIS = (-0.62, -0.55, -0.30)


def _mirror(x: float, right: bool) -> float:
    return 0.5 + x if right else 0.5 - x


def place(
    key: str, right: bool, level: int, size: float, pose: Pose, rng: np.random.Generator
) -> tuple[Ellipse, ...]:
    """One candidate position of a finding in the given half of the image."""
    half = size / 2
    margin = max(half, 0.03)
    x = float(rng.uniform(0.05 + margin, 0.47 - margin))
    y = float(rng.uniform(0.03 + margin, 0.47 - margin * 0.8))
    return (
        Ellipse(
            _mirror(x, right),
            0.5 + (y if level == 1 else -y),
            half,
            half * float(rng.uniform(0.86, 1.0)),
            float(rng.uniform(0, 180)),
        ),
    )


def _nuclei(size: int, where: list[tuple[float, float, float, float, float]]) -> Float:
    layer = np.zeros((size, size), np.uint8)
    one = 1 << _SHIFT
    for x, y, rx, ry, angle in where:
        cv2.ellipse(
            layer,
            (round((x * size - 0.5) * one), round((y * size - 0.5) * one)),
            (round(rx * size * one), round(ry * size * one)),
            angle,
            0,
            360,
            255,
            -1,
            cv2.LINE_AA,
            _SHIFT,
        )
    return layer.astype(np.float32) * np.float32(1 / 255)


def _ring(
    e: Ellipse, number: int, share: float, rng: np.random.Generator
) -> list[tuple[float, float, float, float, float]]:
    out = []
    for turn in np.linspace(0, 2 * math.pi, number, endpoint=False):
        t = float(turn + rng.uniform(-0.08, 0.08))
        c, s = math.cos(math.radians(e.angle)), math.sin(math.radians(e.angle))
        u, v = e.rx * share * math.cos(t), e.ry * share * math.sin(t)
        out.append(
            (e.x + u * c - v * s, e.y + u * s + v * c, 0.017, 0.0105, math.degrees(t) + e.angle)
        )
    return out


def render(truth: ImageTruth, size: int) -> Float:
    """Draw the field: float32 [size, size, 3] in [0, 1]."""
    rng = np.random.default_rng(truth.anatomy_seed)
    draw_pose(rng)
    fibres = noise_field(size, 9, rng, 46) if rng.random() < 0.5 else noise_field(size, 46, rng, 9)
    fibres = cv2.remap(fibres, *_swirl(size, rng), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    image: Float = np.empty((size, size, 3), np.float32)
    image[:] = np.asarray([0.91, 0.71, 0.81], np.float32) * np.float32(rng.uniform(0.97, 1.03))
    image += fibres[..., None] * np.asarray([0.020, 0.042, 0.030], np.float32)
    cleft = np.clip((noise_field(size, 12, rng) - 1.5) * 3, 0, 1)
    blend(image, full_patch(cleft), (0.97, 0.95, 0.96), 0.8)
    spots = [
        (float(x), float(y), float(a), float(a * b), float(t))
        for x, y, a, b, t in zip(
            rng.random(120),
            rng.random(120),
            rng.uniform(0.010, 0.016, 120),
            rng.uniform(0.45, 0.8, 120),
            rng.uniform(0, 180, 120),
            strict=True,
        )
    ]
    blend(image, full_patch(_nuclei(size, spots)), _NUCLEUS, 0.78)
    decoys(image, rng, None, MITOSIS, 14)
    grain = noise_field(size, 64, rng)
    for finding in truth.findings:
        for e in finding.ellipses:
            shape = wobble(rng, 0.10)
            if finding.key == "necrosis":
                where, mask = ellipse_mask(size, e, edge=0.02, harmonics=shape)
                blend(image, (where, mask), (0.93, 0.50, 0.58), 0.96)
                blend(
                    image,
                    (where, mask * np.clip(grain[where] - 0.7, 0, 1)),
                    (0.80, 0.36, 0.46),
                    0.6,
                )
            elif finding.key == "inflammation":
                blend(image, ellipse_mask(size, e, edge=0.02), (0.74, 0.58, 0.78), 0.7)
                dots = []
                for _ in range(int(70 * (e.rx / 0.08) ** 2)):
                    r, t = math.sqrt(float(rng.random())), float(rng.uniform(0, 2 * math.pi))
                    dots.append(
                        (
                            e.x + e.rx * r * math.cos(t),
                            e.y + e.ry * r * math.sin(t),
                            0.0085,
                            0.0085,
                            0.0,
                        )
                    )
                blend(image, full_patch(_nuclei(size, dots)), (0.28, 0.20, 0.52), 0.9)
            elif finding.key == "malignant_gland":
                blend(image, ellipse_mask(size, e, edge=0.008, harmonics=shape), (0.72, 0.46, 0.70))
                lumen = Ellipse(e.x, e.y, e.rx * 0.48, e.ry * 0.46, e.angle)
                blend(image, ellipse_mask(size, lumen, harmonics=shape), (0.985, 0.97, 0.98))
                blend(
                    image,
                    full_patch(_nuclei(size, _ring(e, int(24 * e.rx / 0.08), 0.80, rng))),
                    _DARK,
                    0.92,
                )
    image = gaussian(image, 0.0018)
    for finding in truth.findings:
        if finding.key == "mitotic_figure":
            for e in finding.ellipses:
                speck(image, Ellipse(e.x, e.y, e.rx, e.rx), MITOSIS)
    return image


def _swirl(size: int, rng: np.random.Generator) -> tuple[Float, Float]:
    """A smooth displacement that bends the fibres."""
    axis = np.arange(size, dtype=np.float32)
    reach = np.float32(0.05 * size)
    return axis[None, :] + noise_field(size, 5, rng) * reach, axis[:, None] + noise_field(
        size, 5, rng
    ) * reach
