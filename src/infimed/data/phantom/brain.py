"""Brain MRI: one axial slice with scalp, sulci, ventricles and deep grey matter in T1, T2 or FLAIR.

Grey levels in [0, 1]; tissue contrasts per sequence are in `CONTRAST`. The patient's right is on
the image's left.
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
from infimed.data.phantom.truth import Ellipse, Finding, ImageTruth

CONTRAST: dict[str, dict[str, float]] = {
    "T1": {
        "csf": 0.10,
        "grey": 0.42,
        "white": 0.60,
        "scalp": 0.88,
        "skull": 0.05,
        "rim": 1.0,
        "core": 0.16,
        "oedema": 0.38,
        "infarct": 0.17,
        "blood": 0.97,
        "lacune": -0.50,
    },
    "T2": {
        "csf": 0.88,
        "grey": 0.52,
        "white": 0.34,
        "scalp": 0.62,
        "skull": 0.04,
        "rim": 0.12,
        "core": 0.98,
        "oedema": 0.72,
        "infarct": 0.90,
        "blood": 1.0,
        "lacune": 0.62,
    },
    "FLAIR": {
        "csf": 0.07,
        "grey": 0.56,
        "white": 0.42,
        "scalp": 0.74,
        "skull": 0.04,
        "rim": 0.95,
        "core": 0.20,
        "oedema": 0.80,
        "infarct": 0.94,
        "blood": 1.0,
        "lacune": 0.56,
    },
}
_RX, _RY = 0.355, 0.425


def _mirror(x: float, right: bool) -> float:
    return 0.5 + x if right else 0.5 - x


def place(
    key: str, right: bool, level: int, size: float, pose: Pose, rng: np.random.Generator
) -> tuple[Ellipse, ...]:
    """One candidate position of a finding in the given half of the image."""
    half = size / 2 / pose.scale
    back = level == 1
    if key == "brain_tumour":
        y = rng.uniform(0.64, 0.69) if back else rng.uniform(0.29, 0.34)
        return (
            pose.ellipse(
                _mirror(float(rng.uniform(0.125, 0.15)), right),
                float(y),
                half,
                half * float(rng.uniform(0.88, 1.0)),
            ),
        )
    if key == "infarct":
        angle = math.radians(float(rng.uniform(28, 42))) * (1 if back else -1)
        reach = 1 - half / 0.36
        x, y = _RX * reach * math.cos(angle), 0.5 + _RY * reach * math.sin(angle)
        return (
            pose.ellipse(
                _mirror(x, right), y, half, half * 0.75, math.degrees(angle) * (1 if right else -1)
            ),
        )
    if key == "subdural_haematoma":
        steps = np.linspace(-1, 1, 5) * (half / _RY)
        return tuple(
            pose.ellipse(
                _mirror(_RX * 0.955 * math.cos(t), right),
                0.5 + _RY * 0.955 * math.sin(t),
                0.026,
                half / 3.4,
                math.degrees(t) * (0.7 if right else -0.7),
            )
            for t in steps
        )
    y = rng.uniform(0.53, 0.74) if back else rng.uniform(0.26, 0.47)
    return (pose.ellipse(_mirror(float(rng.uniform(0.10, 0.22)), right), float(y), half, half),)


def _subdural(image: Float, finding: Finding, brain: Float, pose: Pose, level: float) -> None:
    """A crescent between the inner table and the cortex: outer ellipse minus a shifted one."""
    size = image.shape[0]
    right = finding.half == "right"
    x, y = grids(size)
    shift = -0.05 if right else 0.05
    ring = np.clip(
        (
            np.hypot(
                (x - pose.at(0.5 + shift, 0)[0]) / (_RX * pose.scale),
                (y - pose.at(0, 0.5)[1]) / (_RY * pose.scale),
            )
            - 1
        )
        * 60
        + 0.5,
        0,
        1,
    )
    extent = np.clip(
        (finding.size_fraction / 2 - np.abs(y - pose.at(0, 0.5)[1])) / 0.012 + 0.5, 0, 1
    )
    side = (x > 0.5) if right else (x < 0.5)
    blend(image, full_patch((brain * ring * extent * side).astype(np.float32)), level, 0.97)


def _infarct(
    image: Float, finding: Finding, brain: Float, rng: np.random.Generator, level: float
) -> None:
    """A wedge whose base is the cortex."""
    size = image.shape[0]
    e = finding.ellipses[0]
    angle = math.atan2(e.y - 0.5, e.x - 0.5)
    tip = (e.x - 1.0 * e.rx * math.cos(angle), e.y - 1.0 * e.rx * math.sin(angle))
    spread = float(rng.uniform(0.62, 0.72))
    far = 2.6 * e.rx
    points = [
        tip,
        (tip[0] + far * math.cos(angle - spread), tip[1] + far * math.sin(angle - spread)),
        (tip[0] + far * math.cos(angle + spread), tip[1] + far * math.sin(angle + spread)),
    ]
    where, mask = ellipse_mask(
        size,
        Ellipse(e.x, e.y, e.rx * 1.12, e.ry * 1.3, e.angle),
        edge=0.02,
        harmonics=wobble(rng, 0.06),
    )
    wedge = polygon_mask(size, points, blur=0.006) * brain
    blend(image, (where, mask * wedge[where]), level, 0.93)


def render(truth: ImageTruth, size: int) -> Float:
    """Draw the slice: float32 [size, size] in [0, 1]."""
    rng = np.random.default_rng(truth.anatomy_seed)
    pose = draw_pose(rng)
    tissue = CONTRAST[truth.acquisition.view]
    image: Float = np.full((size, size), 0.015, np.float32)
    head = wobble(rng, 0.012)
    for grow, value in (
        (0.085, tissue["scalp"]),
        (0.055, tissue["skull"]),
        (0.022, tissue["scalp"] * 0.35),
        (0.012, tissue["csf"]),
    ):
        blend(
            image,
            ellipse_mask(size, pose.ellipse(0.5, 0.5, _RX + grow, _RY + grow), harmonics=head),
            value,
        )
    where, inside = ellipse_mask(size, pose.ellipse(0.5, 0.5, _RX, _RY), harmonics=head)
    brain: Float = np.zeros((size, size), np.float32)
    brain[where] = inside
    x, y = grids(size)
    cx, cy = pose.at(0.5, 0.5)
    depth = 1 - np.hypot((x - cx) / (_RX * pose.scale), (y - cy) / (_RY * pose.scale))
    folds = noise_field(size, 15, rng)
    atrophy = 0.8 + 0.6 * (truth.age - 20) / 70
    cortex = np.clip((0.30 - np.clip(depth, 0, 1) + 0.05 * folds) * 5, 0, 1)
    ridge = np.exp(-((folds / (0.34)) ** 2)) * cortex
    base = tissue["white"] + (tissue["grey"] - tissue["white"]) * np.clip(
        np.maximum(ridge * 1.6, np.clip((0.10 - depth) * 12, 0, 1)), 0, 1
    )
    blend(image, full_patch(brain), 0.0)
    image += brain * base.astype(np.float32)
    sulci = np.exp(-((folds / (0.10 * atrophy)) ** 2)) * np.clip((0.24 - depth) * 9, 0, 1)
    blend(image, full_patch((sulci * brain).astype(np.float32)), tissue["csf"], 0.62)
    for right in (False, True):
        blend(
            image,
            ellipse_mask(
                size,
                pose.ellipse(_mirror(0.062, right), 0.535, 0.045, 0.062, 20 if right else -20),
                edge=0.015,
            ),
            tissue["grey"],
            0.9,
        )
        blend(
            image,
            ellipse_mask(
                size,
                pose.ellipse(_mirror(0.105, right), 0.475, 0.028, 0.075, -14 if right else 14),
                edge=0.012,
            ),
            tissue["grey"],
            0.8,
        )
        wide = 0.019 * atrophy
        blend(
            image,
            ellipse_mask(
                size,
                pose.ellipse(_mirror(0.036, right), 0.415, wide, 0.072, -16 if right else 16),
                edge=0.008,
            ),
            tissue["csf"],
        )
        blend(
            image,
            ellipse_mask(
                size,
                pose.ellipse(_mirror(0.060, right), 0.635, wide, 0.070, 24 if right else -24),
                edge=0.008,
            ),
            tissue["csf"],
        )
    fissure = polygon_mask(
        size, pose.points([(0.496, 0.07), (0.504, 0.07), (0.504, 0.33), (0.496, 0.33)])
    )
    fissure = np.maximum(
        fissure,
        polygon_mask(
            size, pose.points([(0.496, 0.72), (0.504, 0.72), (0.504, 0.93), (0.496, 0.93)])
        ),
    )
    blend(image, full_patch(gaussian(fissure, 0.003) * brain), tissue["csf"], 0.85)
    image += noise_field(size, 30, rng) * np.float32(0.012) * brain
    decoys(image, rng, brain * (depth > 0.22), tissue["lacune"], 11)
    image = gaussian(image, 0.0022)
    for finding in truth.findings:
        if finding.key == "infarct":
            _infarct(image, finding, brain, rng, tissue["infarct"])
        elif finding.key == "subdural_haematoma":
            _subdural(image, finding, brain, pose, tissue["blood"])
    for finding in truth.findings:
        if finding.key == "brain_tumour":
            e = finding.ellipses[0]
            shape = wobble(rng, 0.07)
            halo = ellipse_mask(
                size, Ellipse(e.x, e.y, e.rx * 1.35, e.ry * 1.35), edge=0.03, harmonics=shape
            )
            blend(image, (halo[0], halo[1] * brain[halo[0]]), tissue["oedema"], 0.75)
            blend(image, ellipse_mask(size, e, edge=0.008, harmonics=shape), tissue["rim"])
            blend(
                image,
                ellipse_mask(
                    size, Ellipse(e.x, e.y, e.rx * 0.62, e.ry * 0.62), edge=0.008, harmonics=shape
                ),
                tissue["core"],
            )
    for finding in truth.findings:
        if finding.key == "lacune":
            for ellipse in finding.ellipses:
                speck(image, ellipse, tissue["lacune"])
    return image
