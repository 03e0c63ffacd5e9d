"""Liver ultrasound: a curved-array sector with speckle, vessels and diaphragm.

Grey levels in [0, 1]. Sides are halves of the image.
"""

from __future__ import annotations

import math

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
    grids,
    noise_field,
    polygon_mask,
    speck,
    wobble,
)
from infimed.data.phantom.truth import Ellipse, ImageTruth

CALCIUM = 0.55
_APEX = (0.5, -0.16)
_NEAR, _FAR, _HALF_ANGLE = 0.20, 1.12, math.radians(36)


def _mirror(x: float, right: bool) -> float:
    return 0.5 + x if right else 0.5 - x


def place(
    key: str, right: bool, level: int, size: float, pose: Pose, rng: np.random.Generator
) -> tuple[Ellipse, ...]:
    """One candidate position of a finding in the given half of the image, inside the sector."""
    half = size / 2
    for _ in range(40):
        y = float(
            rng.uniform(0.20 + half * 0.6, 0.49 - half * 0.5)
            if level == 0
            else rng.uniform(0.51 + half * 0.5, 0.79 - half * 0.8)
        )
        reach = min((y - _APEX[1]) * math.tan(_HALF_ANGLE) - 1.25 * half - 0.025, 0.47 - half)
        inner = 0.045 + half
        if reach > inner:
            x = float(rng.uniform(inner, reach))
            return (
                Ellipse(
                    _mirror(x, right),
                    y,
                    half,
                    half * float(rng.uniform(0.86, 1.0)),
                    float(rng.uniform(0, 180)),
                ),
            )
    return (Ellipse(_mirror(0.05 + half, right), 0.42 if level == 0 else 0.65, half, half),)


def render(truth: ImageTruth, size: int) -> Float:
    """Draw the sector: float32 [size, size] in [0, 1]."""
    rng = np.random.default_rng(truth.anatomy_seed)
    draw_pose(rng)
    x, y = grids(size)
    range_ = np.hypot(x - np.float32(_APEX[0]), y - np.float32(_APEX[1]))
    angle = np.arctan2(x - np.float32(_APEX[0]), y - np.float32(_APEX[1]))
    sector = (
        np.clip((_HALF_ANGLE - np.abs(angle)) * size, 0, 1)
        * np.clip((range_ - _NEAR) * size, 0, 1)
        * np.clip((_FAR - range_) * size, 0, 1)
    )
    tissue = 0.40 + 0.05 * noise_field(size, 8, rng) - 0.10 * np.clip((range_ - 0.75) / 0.4, 0, 1)
    image: Float = tissue.astype(np.float32)
    wall = (
        np.exp(-(((range_ - 0.245) / 0.022) ** 2)) * 0.32
        + np.exp(-(((range_ - 0.285) / 0.008) ** 2)) * 0.25
    )
    image += wall.astype(np.float32)
    for _ in range(4):
        start = (float(rng.uniform(0.3, 0.7)), float(rng.uniform(0.25, 0.75)))
        turn, length, width = (
            float(rng.uniform(-0.5, 0.5)),
            float(rng.uniform(0.14, 0.26)),
            float(rng.uniform(0.009, 0.015)),
        )
        e = Ellipse(start[0], start[1], length / 2, width, math.degrees(turn))
        blend(
            image,
            ellipse_mask(size, Ellipse(e.x, e.y, e.rx * 1.05, e.ry * 1.8, e.angle), edge=0.006),
            0.62,
            0.7,
        )
        blend(image, ellipse_mask(size, e, edge=0.006), 0.10, 0.9)
    bow = 0.995 + 0.03 * np.cos(angle * 4 + float(rng.uniform(-0.6, 0.6)))
    image += (np.exp(-(((range_ - bow) / 0.012) ** 2)) * 0.5).astype(np.float32)
    image[range_ > bow + 0.02] *= np.float32(0.55)
    decoys(image, rng, sector, CALCIUM, 14)
    for finding in truth.findings:
        for e in finding.ellipses:
            shape = wobble(rng, 0.06)
            if finding.key == "liver_cyst":
                width = e.rx * 0.8
                tail = [
                    (e.x - width, e.y),
                    (e.x + width, e.y),
                    (e.x + width * 1.25 + 0.25 * (e.x - 0.5), e.y + 0.22),
                    (e.x - width * 1.25 + 0.25 * (e.x - 0.5), e.y + 0.22),
                ]
                image += polygon_mask(size, tail, blur=0.012) * np.float32(0.12)
                blend(image, ellipse_mask(size, e, edge=0.008), 0.02)
            elif finding.key == "haemangioma":
                blend(image, ellipse_mask(size, e, edge=0.010, harmonics=shape), 0.88, 0.95)
            elif finding.key == "metastasis":
                blend(image, ellipse_mask(size, e, edge=0.010, harmonics=shape), 0.10, 0.95)
                blend(
                    image,
                    ellipse_mask(
                        size,
                        Ellipse(e.x, e.y, e.rx * 0.55, e.ry * 0.55, e.angle),
                        edge=0.010,
                        harmonics=shape,
                    ),
                    0.72,
                    0.95,
                )
    noise = np.random.default_rng(truth.noise_seed)
    speckle = 0.6 * noise_field(size, 110, noise, 150) + 0.5 * noise_field(size, 60, noise, 90)
    image *= 1 + np.float32(0.19) * speckle
    image = gaussian(image, 0.002)
    for finding in truth.findings:
        if finding.key == "liver_calcification":
            for e in finding.ellipses:
                speck(image, Ellipse(e.x, e.y, e.rx, e.rx), CALCIUM)
    blend(image, full_patch((1 - sector).astype(np.float32)), 0.012)
    return image
