"""Abdominal CT: one axial slice at the level of the kidneys, in Hounsfield units.

The drawing is in HU (air -1000, fat -100, water 0, contrast-enhanced organs about 110, bone above
300) and is windowed to grey levels for display. The patient's right is on the image's left.
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

FAT, WATER, MUSCLE, LIVER, KIDNEY, VESSEL, BONE = -98.0, 6.0, 58.0, 96.0, 120.0, 150.0, 420.0
_CAVITY_RX, _CAVITY_RY = 0.365, 0.255


def _mirror(x: float, right: bool) -> float:
    return 0.5 + x if right else 0.5 - x


def _kidney(right: bool) -> tuple[float, float, float, float, float]:
    return _mirror(0.195, right), 0.585, 0.072, 0.088, 18.0 if right else -18.0


def place(
    key: str, right: bool, level: int, size: float, pose: Pose, rng: np.random.Generator
) -> tuple[Ellipse, ...]:
    """One candidate position of a finding in the given half of the image."""
    half = size / 2 / pose.scale
    kx, ky, krx, kry, _ = _kidney(right)
    if key == "renal_cyst":
        angle = math.radians(float(rng.uniform(25, 60)) * (1 if level == 1 else -1))
        reach = 0.052 + half * 0.72
        x = abs(kx - 0.5) + reach * math.cos(angle) * 0.72
        return (
            pose.ellipse(
                _mirror(x, right),
                ky + 1.1 * reach * math.sin(angle),
                half,
                half * float(rng.uniform(0.92, 1.0)),
            ),
        )
    if key == "hydronephrosis":
        return (
            pose.ellipse(_mirror(0.178, right), ky, half * 0.72, half, 18.0 if right else -18.0),
        )
    if key == "paracolic_fluid":
        steps = np.linspace(-0.8, 0.8, 4) * (half / _CAVITY_RY)
        return tuple(
            pose.ellipse(
                _mirror(_CAVITY_RX * 0.93 * math.cos(t), right),
                0.49 + _CAVITY_RY * 0.93 * math.sin(t),
                0.030,
                half / 3,
                0.0,
            )
            for t in steps
        )
    turn = float(rng.uniform(0, 2 * math.pi))
    share = float(rng.uniform(0.62, 0.74))
    return (
        pose.ellipse(
            kx + krx * share * math.cos(turn), ky + kry * share * math.sin(turn), half, half
        ),
    )


def _fluid(image: Float, finding: Finding, pose: Pose) -> None:
    """Fluid between the abdominal wall and the bowel: cavity outline minus a shifted copy."""
    size = image.shape[0]
    right = finding.half == "right"
    x, y = grids(size)
    cx, cy = pose.at(0.5, 0.49)
    shift = -0.062 if right else 0.062
    rx, ry = _CAVITY_RX * pose.scale, _CAVITY_RY * pose.scale
    inside = np.clip((1 - np.hypot((x - cx) / rx, (y - cy) / ry)) * 60 + 0.5, 0, 1)
    beyond = np.clip((np.hypot((x - cx - shift) / rx, (y - cy) / ry) - 1) * 40 + 0.5, 0, 1)
    extent = np.clip((finding.size_fraction / 2 - np.abs(y - cy)) / 0.012 + 0.5, 0, 1)
    side = (x > 0.5) if right else (x < 0.5)
    blend(image, full_patch((inside * beyond * extent * side).astype(np.float32)), 22.0)


def render(truth: ImageTruth, size: int) -> Float:
    """Draw the slice in HU: float32 [size, size]."""
    rng = np.random.default_rng(truth.anatomy_seed)
    pose = draw_pose(rng)
    image: Float = np.full((size, size), -1000.0, np.float32)
    outline = wobble(rng, 0.02)
    fat = float(rng.uniform(0.0, 0.02))
    blend(
        image,
        polygon_mask_patch(size, [(-0.05, 0.90), (1.05, 0.90), (1.05, 0.925), (-0.05, 0.925)]),
        -350.0,
    )
    blend(
        image,
        ellipse_mask(size, pose.ellipse(0.5, 0.52, 0.455 + fat, 0.355 + fat), harmonics=outline),
        FAT,
    )
    blend(
        image, ellipse_mask(size, pose.ellipse(0.5, 0.515, 0.405, 0.305), harmonics=outline), MUSCLE
    )
    blend(
        image, ellipse_mask(size, pose.ellipse(0.5, 0.49, _CAVITY_RX, _CAVITY_RY), edge=0.006), FAT
    )
    for right in (False, True):
        blend(
            image,
            ellipse_mask(
                size,
                pose.ellipse(_mirror(0.10, right), 0.755, 0.085, 0.055, -8 if right else 8),
                edge=0.01,
            ),
            MUSCLE + 6,
        )
        blend(
            image,
            ellipse_mask(
                size, pose.ellipse(_mirror(0.085, right), 0.645, 0.040, 0.052), edge=0.008
            ),
            MUSCLE + 4,
        )
    cells = noise_field(size, 40, rng)
    liver = ellipse_mask(
        size, pose.ellipse(0.275, 0.385, 0.135, 0.125, -25), edge=0.01, harmonics=wobble(rng, 0.08)
    )
    blend(image, liver, LIVER)
    blend(image, ellipse_mask(size, pose.ellipse(0.355, 0.41, 0.028, 0.042, 30), edge=0.006), 12.0)
    for _ in range(13):
        bx, by = float(rng.uniform(0.40, 0.80)), float(rng.uniform(0.29, 0.47))
        if math.hypot((bx - 0.5) / 0.33, (by - 0.49) / 0.225) > 1:
            continue
        radius = float(rng.uniform(0.026, 0.042))
        loop = pose.ellipse(bx, by, radius * 1.2, radius, float(rng.uniform(0, 180)))
        blend(
            image, ellipse_mask(size, loop, harmonics=wobble(rng, 0.1)), float(rng.uniform(45, 80))
        )
        lumen = Ellipse(loop.x, loop.y, loop.rx * 0.55, loop.ry * 0.5, loop.angle)
        blend(
            image,
            ellipse_mask(size, lumen),
            -700.0 if rng.random() < 0.3 else float(rng.uniform(10, 40)),
        )
    for right in (False, True):
        colon = pose.ellipse(_mirror(0.285, right), 0.535, 0.034, 0.042)
        blend(image, ellipse_mask(size, colon, harmonics=wobble(rng, 0.1)), 50.0)
        blend(
            image,
            ellipse_mask(size, Ellipse(colon.x, colon.y - 0.004, colon.rx * 0.6, colon.ry * 0.6)),
            -250.0,
        )
    blend(image, ellipse_mask(size, pose.ellipse(0.5, 0.665, 0.058, 0.050)), BONE * 0.6)
    blend(image, ellipse_mask(size, pose.ellipse(0.5, 0.663, 0.048, 0.040), edge=0.01), 230.0)
    blend(
        image,
        full_patch(
            polygon_mask(
                size,
                pose.points([(0.485, 0.74), (0.515, 0.74), (0.508, 0.83), (0.492, 0.83)]),
                blur=0.003,
            )
        ),
        BONE * 0.8,
    )
    for right in (False, True):
        process = [
            (_mirror(0.02, right), 0.715),
            (_mirror(0.13, right), 0.70),
            (_mirror(0.13, right), 0.715),
            (_mirror(0.02, right), 0.745),
        ]
        blend(image, full_patch(polygon_mask(size, pose.points(process), blur=0.003)), BONE * 0.7)
    blend(image, ellipse_mask(size, pose.ellipse(0.5, 0.728, 0.024, 0.019)), 20.0)
    blend(image, ellipse_mask(size, pose.ellipse(0.53, 0.585, 0.026, 0.026)), VESSEL)
    blend(image, ellipse_mask(size, pose.ellipse(0.455, 0.588, 0.032, 0.024)), VESSEL - 25)
    for angle in rng.uniform(0, 2 * math.pi, 9):
        at = pose.ellipse(
            0.5 + 0.385 * math.cos(angle),
            0.515 + 0.285 * math.sin(angle),
            0.020,
            0.008,
            math.degrees(angle) + 90,
        )
        blend(image, ellipse_mask(size, at), BONE)
    for finding in truth.findings:
        if finding.key == "paracolic_fluid":
            _fluid(image, finding, pose)
    for right in (False, True):
        kx, ky, krx, kry, tilt = _kidney(right)
        blend(
            image,
            ellipse_mask(size, pose.ellipse(kx, ky, krx * 1.3, kry * 1.22, tilt), edge=0.01),
            FAT,
        )
        blend(
            image,
            ellipse_mask(size, pose.ellipse(kx, ky, krx, kry, tilt), harmonics=wobble(rng, 0.03)),
            KIDNEY,
        )
        blend(
            image,
            ellipse_mask(
                size, pose.ellipse(_mirror(0.165, right), ky, 0.026, 0.032, tilt), edge=0.012
            ),
            -40.0,
        )
    for finding in truth.findings:
        if finding.key == "hydronephrosis":
            e = finding.ellipses[0]
            blend(image, ellipse_mask(size, e, harmonics=wobble(rng, 0.14)), WATER)
            for turn in (-55, 0, 55):
                out = 0.72 * e.ry
                direction = (
                    math.radians(turn) if finding.half == "right" else math.pi - math.radians(turn)
                )
                bud = Ellipse(
                    e.x + out * math.cos(direction),
                    e.y + out * math.sin(direction),
                    e.rx * 0.36,
                    e.rx * 0.36,
                )
                blend(image, ellipse_mask(size, bud), WATER)
        elif finding.key == "renal_cyst":
            blend(image, ellipse_mask(size, finding.ellipses[0]), WATER)
    image += cells * np.float32(5.0)
    decoys(image, rng, ((image > 90) & (image < 160)).astype(np.float32), 185.0, 90)
    image = gaussian(image, 0.0024)
    for finding in truth.findings:
        if finding.key == "renal_calculus":
            for ellipse in finding.ellipses:
                speck(image, ellipse, 185.0)
    return image


def polygon_mask_patch(
    size: int, points: list[tuple[float, float]]
) -> tuple[tuple[slice, slice], Float]:
    """A polygon as a patch of the whole image."""
    return full_patch(polygon_mask(size, points))


def display(hu: Float, window_center: float, window_width: float) -> Float:
    """HU to grey levels in [0, 1] through the linear window (DICOM PS3.3 C.11.2.1.2 without its half-steps)."""
    return np.clip(
        (hu - np.float32(window_center)) / np.float32(window_width) + np.float32(0.5), 0, 1
    )
