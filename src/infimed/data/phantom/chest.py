"""Chest radiograph: frontal view with ribs, clavicles, heart, vessels and diaphragm.

Grey levels in [0, 1], bone and fluid bright, air dark. The patient's right is on the image's left.
"""

from __future__ import annotations

import math

import cv2
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
    polygon_mask,
    speck,
    wobble,
)
from infimed.data.phantom.truth import Ellipse, Finding, ImageTruth

LUNG = 0.24
CALCIUM = 0.62
"""Contrast of a calcified granuloma over the lung."""
_LATERAL = (
    (0.055, 0.30),
    (0.06, 0.20),
    (0.105, 0.145),
    (0.165, 0.16),
    (0.215, 0.22),
    (0.255, 0.33),
    (0.285, 0.47),
    (0.305, 0.62),
    (0.312, 0.755),
    (0.27, 0.70),
    (0.20, 0.665),
    (0.13, 0.675),
)
_MEDIAL_HEART = ((0.15, 0.69), (0.135, 0.60), (0.085, 0.50), (0.06, 0.40))
_MEDIAL_PLAIN = ((0.075, 0.695), (0.075, 0.60), (0.06, 0.50), (0.055, 0.40))


def _mirror(x: float, right: bool) -> float:
    return 0.5 + x if right else 0.5 - x


def _lung(size: int, pose: Pose, right: bool) -> Float:
    outline = _LATERAL + (_MEDIAL_HEART if right else _MEDIAL_PLAIN)
    points = pose.points([(_mirror(x, right), y) for x, y in outline])
    return polygon_mask(size, points, blur=0.008)


def place(
    key: str, right: bool, level: int, size: float, pose: Pose, rng: np.random.Generator
) -> tuple[Ellipse, ...]:
    """One candidate position of a finding in the given half of the image."""
    half = size / 2 / pose.scale
    if key == "pleural_effusion":
        return (pose.ellipse(_mirror(0.235, right), 0.745 - half, 0.075, half),)
    if key == "pneumothorax":
        return (pose.ellipse(_mirror(0.165, right), 0.155 + half, 0.075, half),)
    if key == "consolidation":
        y = rng.uniform(0.33, 0.39) if level == 0 else rng.uniform(0.51, 0.57)
        x = rng.uniform(0.15, 0.185) if level == 0 else rng.uniform(0.18, 0.21)
        return (
            pose.ellipse(
                _mirror(float(x), right),
                float(y),
                half,
                half * float(rng.uniform(0.8, 0.95)),
                float(rng.uniform(-30, 30)),
            ),
        )
    y = rng.uniform(0.20, 0.43) if level == 0 else rng.uniform(0.45, 0.64)
    inner, outer = (0.09, 0.19 + 0.35 * (y - 0.2)) if level == 0 else (0.20, 0.27)
    return (pose.ellipse(_mirror(float(rng.uniform(inner, outer)), right), float(y), half, half),)


def _bones(size: int, pose: Pose, rng: np.random.Generator) -> Float:
    curves: list[tuple[list[tuple[float, float]], float, float]] = []
    for right in (False, True):
        for index in range(9):
            y = 0.155 + index * 0.068
            reach = 0.20 + 0.10 * min(1.0, index / 4)
            path = bezier(
                (_mirror(0.03, right), y),
                (_mirror(reach * 0.75, right), y - 0.02),
                (_mirror(reach, right), y + 0.10),
            )
            curves.append((pose.points(path), 0.016, 0.50))
            front = bezier(
                (_mirror(reach, right), y + 0.10),
                (_mirror(reach * 0.8, right), y + 0.19),
                (_mirror(0.10, right), y + 0.20),
            )
            curves.append((pose.points(front), 0.013, 0.24))
        tilt = float(rng.uniform(-0.015, 0.015))
        path = bezier(
            (_mirror(0.03, right), 0.175),
            (_mirror(0.14, right), 0.185 + tilt),
            (_mirror(0.29, right), 0.105 + tilt),
        )
        curves.append((pose.points(path), 0.024, 0.85))
        scapula = bezier(
            (_mirror(0.31, right), 0.14),
            (_mirror(0.27, right), 0.28),
            (_mirror(0.305, right), 0.42),
        )
        curves.append((pose.points(scapula), 0.014, 0.35))
    return curve_layer(size, curves, blur=0.003)


def _vessels(size: int, pose: Pose, rng: np.random.Generator) -> Float:
    curves: list[tuple[list[tuple[float, float]], float, float]] = []
    for right in (False, True):
        hilum = (_mirror(0.075, right), 0.43)
        for _ in range(11):
            angle = rng.uniform(-1.35, 1.25)
            length = rng.uniform(0.09, 0.21)
            end = (
                _mirror(0.075 + length * math.cos(angle), right),
                0.43 + length * math.sin(angle),
            )
            bend = (
                0.5 * (hilum[0] + end[0]),
                0.5 * (hilum[1] + end[1]) + float(rng.uniform(-0.03, 0.03)),
            )
            path = pose.points(bezier(hilum, bend, end))
            curves.append((path, 0.012, 0.35))
            curves.append((path[:7], 0.018, 0.60))
    return curve_layer(size, curves, blur=0.005)


def _effusion(image: Float, finding: Finding, lung: Float, pose: Pose) -> None:
    """Opacity below a concave meniscus that climbs along the chest wall."""
    size = image.shape[0]
    right = finding.half == "right"
    x, y = grids(size)
    wall = pose.at(_mirror(0.31, right), 0)[0]
    base = pose.at(0.5, 0.755)[1]
    inward = np.clip(np.abs(x - wall) / np.float32(0.22 * pose.scale), 0, 1)
    line = base - finding.size_fraction * (0.62 + 0.38 * (1 - inward) ** 2)
    opaque = np.clip((y - line) / np.float32(0.012) + 0.5, 0, 1)
    blend(image, full_patch(cv2.dilate(lung, np.ones((3, 3), np.uint8)) * opaque), 0.80, 0.96)


def _pneumothorax(image: Float, finding: Finding, lung: Float, pose: Pose) -> None:
    """Black apex without vessels, above a thin bright pleural line."""
    size = image.shape[0]
    right = finding.half == "right"
    x, y = grids(size)
    top = pose.at(0.5, 0.145)[1]
    centre = pose.at(_mirror(0.10, right), 0)[0]
    line = top + finding.size_fraction * (0.66 + 9.0 * (x - np.float32(centre)) ** 2)
    distance = (line - y) * size
    air = np.clip(distance / 2 + 0.5, 0, 1) * lung
    blend(image, full_patch(air), 0.035, 0.93)
    pleura = np.exp(-((distance / max(1.2, 0.006 * size)) ** 2)).astype(np.float32) * lung
    blend(image, full_patch(pleura), 0.78, 0.85)


def render(truth: ImageTruth, size: int) -> Float:
    """Draw the radiograph: float32 [size, size] in [0, 1]."""
    rng = np.random.default_rng(truth.anatomy_seed)
    pose = draw_pose(rng)
    image: Float = np.full((size, size), 0.035, np.float32)
    torso = [
        (0.0, 0.30),
        (0.06, 0.20),
        (0.20, 0.12),
        (0.38, 0.085),
        (0.41, -0.02),
        (0.59, -0.02),
        (0.62, 0.085),
        (0.80, 0.12),
        (0.94, 0.20),
        (1.0, 0.30),
        (0.965, 0.50),
        (0.94, 0.80),
        (0.95, 1.02),
        (0.05, 1.02),
        (0.06, 0.80),
        (0.035, 0.50),
    ]
    body = polygon_mask(size, pose.points(torso), blur=0.012)
    blend(image, full_patch(body), 0.55)
    lungs = [_lung(size, pose, right) for right in (False, True)]
    both = np.maximum(lungs[0], lungs[1])
    blend(image, full_patch(both), LUNG)
    blend(
        image,
        full_patch(
            polygon_mask(
                size,
                pose.points([(0.45, -0.02), (0.55, -0.02), (0.56, 1.02), (0.44, 1.02)]),
                blur=0.01,
            )
        ),
        0.72,
        0.8,
    )
    heart_width = (
        0.135 * (1.12 if truth.acquisition.view == "AP" else 1.0) * float(rng.uniform(0.93, 1.07))
    )
    blend(
        image,
        ellipse_mask(size, pose.ellipse(0.545, 0.60, heart_width, 0.125, 25), edge=0.02),
        0.70,
        0.95,
    )
    blend(image, ellipse_mask(size, pose.ellipse(0.555, 0.345, 0.042, 0.045), edge=0.02), 0.68, 0.9)
    for right in (False, True):
        blend(
            image,
            ellipse_mask(
                size,
                pose.ellipse(_mirror(0.08, right), 0.43, 0.028, 0.06, 12 if right else -12),
                edge=0.03,
            ),
            0.55,
            0.75,
        )
    if truth.sex == "F":
        for right in (False, True):
            add(
                image,
                ellipse_mask(
                    size, pose.ellipse(_mirror(0.185, right), 0.62, 0.125, 0.12), edge=0.03
                ),
                0.045,
            )
    blend(image, ellipse_mask(size, pose.ellipse(0.64, 0.80, 0.065, 0.04), edge=0.03), 0.30, 0.8)
    image += _vessels(size, pose, rng) * both * np.float32(0.28)
    image += noise_field(size, 24, rng) * np.float32(0.012)
    decoys(image, rng, both, CALCIUM, 18)
    for finding in truth.findings:
        lung = lungs[1 if finding.half == "right" else 0]
        if finding.key == "consolidation":
            shape = ellipse_mask(size, finding.ellipses[0], edge=0.025, harmonics=wobble(rng, 0.18))
            blend(image, (shape[0], shape[1] * lung[shape[0]]), 0.74, 0.92)
        elif finding.key == "pneumothorax":
            _pneumothorax(image, finding, lung, pose)
        elif finding.key == "pleural_effusion":
            _effusion(image, finding, lung, pose)
    image += _bones(size, pose, rng) * body * np.float32(0.15)
    spine = np.sin(np.linspace(0, 2 * math.pi * 19, size, dtype=np.float32))[:, None] * np.float32(
        0.02
    )
    column = slice(int(pose.at(0.46, 0)[0] * size), int(pose.at(0.54, 0)[0] * size))
    image[:, column] += spine
    image = gaussian(image, 0.0025)
    for finding in truth.findings:
        if finding.key == "calcified_granuloma":
            for ellipse in finding.ellipses:
                speck(image, ellipse, CALCIUM)
    return image
