"""Fundus photograph: disc, cup, macula and the vascular arcades of one eye, in colour.

RGB in [0, 1]. Sides are halves of the image, because which way is nasal depends on the eye.
"""

from __future__ import annotations

import math

import numpy as np

from infimed.data.phantom.canvas import (
    Float,
    Pose,
    add,
    bezier,
    blend,
    curve_layer,
    decoys,
    draw_pose,
    ellipse_mask,
    full_patch,
    gaussian,
    grids,
    noise_field,
    speck,
    wobble,
)
from infimed.data.phantom.truth import Ellipse, ImageTruth

MICROANEURYSM = (-0.42, -0.24, -0.09)
_FIELD = 0.465
_DISC_X = 0.235


def _mirror(x: float, right: bool) -> float:
    return 0.5 + x if right else 0.5 - x


def place(
    key: str, right: bool, level: int, size: float, pose: Pose, rng: np.random.Generator
) -> tuple[Ellipse, ...]:
    """One candidate position of a finding in the given half of the image, clear of the disc."""
    half = size / 2 / pose.scale
    small = size < 0.05
    for _ in range(20):
        radius = float(rng.uniform(0.17, 0.36 if small else 0.33))
        angle = math.radians(float(rng.uniform(18, 68) if small else rng.uniform(25, 62)))
        x, y = radius * math.cos(angle), radius * math.sin(angle)
        if x > 0.06 + half and y > 0.03 + half * 0.7:
            break
    return (
        pose.ellipse(
            _mirror(x, right),
            0.5 + (y if level == 1 else -y),
            half,
            half * float(rng.uniform(0.85, 1.0)),
            float(rng.uniform(0, 180)),
        ),
    )


def _vessels(
    size: int, pose: Pose, right_disc: bool, rng: np.random.Generator
) -> tuple[Float, Float]:
    veins: list[tuple[list[tuple[float, float]], float, float]] = []
    arteries: list[tuple[list[tuple[float, float]], float, float]] = []
    disc = (_mirror(_DISC_X, right_disc), 0.5)
    sign = -1 if right_disc else 1
    for up in (-1, 1):
        for layer, offset, width in ((veins, 0.0, 0.013), (arteries, 0.028, 0.009)):
            bend = (
                disc[0] + sign * 0.07,
                0.5 + up * (0.36 + offset + float(rng.uniform(-0.03, 0.03))),
            )
            end = (
                disc[0] + sign * 0.58,
                0.5 + up * (0.20 + offset + float(rng.uniform(-0.05, 0.05))),
            )
            path = bezier(disc, bend, end, 20)
            layer.append((pose.points(path), width * 0.75, 0.8))
            layer.append((pose.points(path[:11]), width, 1.0))
            nasal = bezier(
                disc,
                (disc[0] - sign * 0.03, 0.5 + up * 0.14),
                (disc[0] - sign * 0.20, 0.5 + up * (0.24 + offset)),
            )
            layer.append((pose.points(nasal), width * 0.7, 0.85))
            for start in (5, 8, 11, 14):
                x, y = path[start]
                out = float(rng.uniform(0.5, 1.3)) * up * (1 if rng.random() < 0.6 else -0.7)
                length = float(rng.uniform(0.08, 0.16))
                tip = (x + sign * length * math.cos(out), y + length * math.sin(out))
                layer.append(
                    (pose.points(bezier((x, y), ((x + tip[0]) / 2, y), tip, 6)), width * 0.45, 0.6)
                )
    return curve_layer(size, veins, blur=0.002), curve_layer(size, arteries, blur=0.002)


def render(truth: ImageTruth, size: int) -> Float:
    """Draw the photograph: float32 [size, size, 3] in [0, 1]."""
    rng = np.random.default_rng(truth.anatomy_seed)
    pose = draw_pose(rng)
    right_disc = bool(rng.random() < 0.5)
    tone = np.asarray([0.74, 0.33, 0.13], np.float32) * np.float32(rng.uniform(0.93, 1.07))
    x, y = grids(size)
    cx, cy = pose.at(0.5, 0.5)
    radius = np.hypot(x - cx, y - cy) / np.float32(_FIELD * pose.scale)
    shade = (
        (1.06 - 0.34 * radius**2)
        + noise_field(size, 7, rng) * np.float32(0.03)
        + noise_field(size, 36, rng) * np.float32(0.012)
    )
    image: Float = (shade[..., None] * tone).astype(np.float32)
    mx, my = pose.at(_mirror(0.02, not right_disc), 0.51)
    macula = np.exp(-(((x - mx) ** 2 + (y - my) ** 2) / np.float32(0.075**2)))
    image *= 1 - np.float32(0.34) * macula[..., None]
    disc = pose.ellipse(_mirror(_DISC_X, right_disc), 0.5, 0.062, 0.070)
    blend(image, ellipse_mask(size, disc, edge=0.012), (0.96, 0.72, 0.36), 0.92)
    cup = float(rng.uniform(0.35, 0.55))
    blend(
        image,
        ellipse_mask(size, Ellipse(disc.x, disc.y, disc.rx * cup, disc.ry * cup), edge=0.012),
        (1.0, 0.90, 0.66),
        0.85,
    )
    veins, arteries = _vessels(size, pose, right_disc, rng)
    blend(image, full_patch(arteries), (0.62, 0.16, 0.07), 0.72)
    blend(image, full_patch(veins), (0.42, 0.08, 0.05), 0.85)
    decoys(image, rng, (radius < 0.85).astype(np.float32), MICROANEURYSM, 12)
    for finding in truth.findings:
        for e in finding.ellipses:
            if finding.key == "hard_exudates":
                blend(image, ellipse_mask(size, e, edge=0.03), (0.86, 0.60, 0.22), 0.45)
                for _ in range(26):
                    r, t = math.sqrt(float(rng.random())) * 0.92, float(rng.uniform(0, 2 * math.pi))
                    dot = float(rng.uniform(0.006, 0.011))
                    at = Ellipse(
                        e.x + e.rx * r * math.cos(t), e.y + e.ry * r * math.sin(t), dot, dot
                    )
                    blend(image, ellipse_mask(size, at), (1.0, 0.92, 0.36))
            elif finding.key == "retinal_haemorrhage":
                blend(
                    image,
                    ellipse_mask(size, e, edge=0.010, harmonics=wobble(rng, 0.16)),
                    (0.26, 0.03, 0.03),
                    0.93,
                )
            elif finding.key == "cotton_wool_spot":
                blend(
                    image,
                    ellipse_mask(size, e, edge=0.028, harmonics=wobble(rng, 0.12)),
                    (0.90, 0.88, 0.84),
                    0.90,
                )
    image = gaussian(image, 0.0018)
    for finding in truth.findings:
        if finding.key == "microaneurysm":
            for e in finding.ellipses:
                speck(image, Ellipse(e.x, e.y, e.rx, e.rx), MICROANEURYSM)
    add(
        image,
        full_patch((noise_field(size, 4, rng) * np.float32(0.012)).astype(np.float32)),
        (1.0, 0.6, 0.4),
    )
    inside = np.clip((1 - radius) * size * np.float32(_FIELD) + np.float32(0.5), 0, 1)
    image *= inside[..., None]
    return image
