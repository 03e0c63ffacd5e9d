"""The truth of one phantom image, and the dense supervision made from it.

All coordinates are fractions of the image width (x to the right, y downwards), so the truth is the
same at every resolution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infimed.core.errors import DataError
from infimed.data.phantom.catalogue import BY_KEY, FINDING_KEYS, FindingKind, Half, Modality

OCCUPANCY_OVERSAMPLING = 8
SIZE_BUCKETS = 3


@dataclass(frozen=True, slots=True)
class Ellipse:
    """An ellipse in fractions of the image width; `angle` in degrees, clockwise as displayed."""

    x: float
    y: float
    rx: float
    ry: float
    angle: float = 0.0

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The bounding box (x0, y0, x1, y1)."""
        cos, sin = math.cos(math.radians(self.angle)), math.sin(math.radians(self.angle))
        half_w = math.hypot(self.rx * cos, self.ry * sin)
        half_h = math.hypot(self.rx * sin, self.ry * cos)
        return self.x - half_w, self.y - half_h, self.x + half_w, self.y + half_h


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding of one image: what, where, how large, how many.

    Attributes:
        key: the finding class. half: the half of the image it lies in. level: 0 upper, 1 lower.
        size_fraction: diameter (longest extent of one lesion) over the image width.
        count: number of lesions, all in the same half. severity: mild, moderate or severe.
        ellipses: its mask; one per lesion, or several that cover one extended lesion.
    """

    key: str
    half: Half
    level: int
    size_fraction: float
    count: int
    severity: str
    ellipses: tuple[Ellipse, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready form with bounding boxes added."""
        return {
            "key": self.key,
            "half": self.half,
            "level": self.level,
            "size_fraction": self.size_fraction,
            "count": self.count,
            "severity": self.severity,
            "ellipses": [[e.x, e.y, e.rx, e.ry, e.angle] for e in self.ellipses],
            "boxes": [[round(v, 5) for v in e.box] for e in self.ellipses],
        }

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> Finding:
        """Inverse of `to_dict`."""
        return Finding(
            key=value["key"],
            half=value["half"],
            level=int(value["level"]),
            size_fraction=float(value["size_fraction"]),
            count=int(value["count"]),
            severity=value["severity"],
            ellipses=tuple(Ellipse(*map(float, row)) for row in value["ellipses"]),
        )


@dataclass(frozen=True, slots=True)
class Acquisition:
    """How the image was taken.

    Attributes:
        view: projection, sequence or stain. noise: standard deviation of the pixel noise in grey
            levels of [0, 1]. blur: Gaussian sigma as a fraction of the image width.
        window_center, window_width: display window in HU (CT only, else 0).
    """

    view: str
    noise: float
    blur: float
    window_center: float = 0.0
    window_width: float = 0.0


@dataclass(frozen=True, slots=True)
class ImageTruth:
    """Everything that determines one image, and everything asked about it.

    Attributes:
        image_id: unique within a clinic. patient_id, time: whose image, and 0 for the prior (or
            only) and 1 for the current one. anatomy_seed, noise_seed: streams of the drawing.
    """

    image_id: str
    patient_id: str
    time: int
    modality: str
    age: int
    sex: str
    acquisition: Acquisition
    findings: tuple[Finding, ...]
    anatomy_seed: int
    noise_seed: int

    @property
    def kind(self) -> Modality:
        """The modality's catalogue entry."""
        return BY_KEY[self.modality]

    def finding(self, key: str) -> Finding | None:
        """The finding of class `key`, or None where it is absent."""
        return next((finding for finding in self.findings if finding.key == key), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready form; `from_dict` inverts it exactly."""
        a = self.acquisition
        return {
            "image_id": self.image_id,
            "patient_id": self.patient_id,
            "time": self.time,
            "modality": self.modality,
            "age": self.age,
            "sex": self.sex,
            "acquisition": {
                "view": a.view,
                "noise": a.noise,
                "blur": a.blur,
                "window_center": a.window_center,
                "window_width": a.window_width,
            },
            "findings": [finding.to_dict() for finding in self.findings],
            "anatomy_seed": self.anatomy_seed,
            "noise_seed": self.noise_seed,
        }

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> ImageTruth:
        """Inverse of `to_dict`.

        Raises:
            DataError: a key is missing or has the wrong type.
        """
        try:
            return ImageTruth(
                image_id=value["image_id"],
                patient_id=value["patient_id"],
                time=int(value["time"]),
                modality=value["modality"],
                age=int(value["age"]),
                sex=value["sex"],
                acquisition=Acquisition(**value["acquisition"]),
                findings=tuple(Finding.from_dict(item) for item in value["findings"]),
                anatomy_seed=int(value["anatomy_seed"]),
                noise_seed=int(value["noise_seed"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"not the truth of a phantom image ({error!r})",
                where=str(value.get("image_id", "?")),
            ) from error


def size_bucket(kind: FindingKind, size_fraction: float) -> int:
    """Which third of the kind's size range a diameter falls in: 0, 1 or 2 (clipped)."""
    low, high = kind.sizes
    share = (size_fraction - low) / (high - low)
    return min(SIZE_BUCKETS - 1, max(0, int(share * SIZE_BUCKETS)))


def dense_targets(truth: ImageTruth, grid: int) -> NDArray[np.float32]:
    """Per-cell occupancy of every finding class.

    A cell's value is the larger of the share of the cell that a lesion covers and the share of the
    lesion that lies in the cell, so a lesion much smaller than a cell still gives a clear target.

    Args:
        truth: the image's truth. grid: cells per side (12 for 96 pixels in patches of 8).

    Returns:
        float32 [classes, grid, grid] in [0, 1]; classes in the order of `FINDING_KEYS`, rows first.
    """
    out = np.zeros((len(FINDING_KEYS), grid, grid), np.float32)
    fine = grid * OCCUPANCY_OVERSAMPLING
    for finding in truth.findings:
        channel = out[FINDING_KEYS.index(finding.key)]
        for ellipse in finding.ellipses:
            x0, y0, x1, y1 = ellipse.box
            cols = np.arange(max(0, math.floor(x0 * fine)), min(fine, math.ceil(x1 * fine)))
            rows = np.arange(max(0, math.floor(y0 * fine)), min(fine, math.ceil(y1 * fine)))
            if not len(cols) or not len(rows):
                continue
            dx = (cols[None, :] + 0.5) / fine - ellipse.x
            dy = (rows[:, None] + 0.5) / fine - ellipse.y
            cos, sin = math.cos(math.radians(ellipse.angle)), math.sin(math.radians(ellipse.angle))
            u = (dx * cos + dy * sin) / ellipse.rx
            v = (dy * cos - dx * sin) / ellipse.ry
            hits_r, hits_c = np.nonzero(u * u + v * v <= 1.0)
            covered = np.zeros((grid, grid), np.float32)
            np.add.at(
                covered,
                (rows[hits_r] // OCCUPANCY_OVERSAMPLING, cols[hits_c] // OCCUPANCY_OVERSAMPLING),
                1.0,
            )
            if (total := float(covered.sum())) > 0:
                share = np.maximum(covered / OCCUPANCY_OVERSAMPLING**2, covered / total)
                np.maximum(channel, share, out=channel)
    return out
