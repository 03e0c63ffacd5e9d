"""What each patient has: demographics, acquisition and findings, drawn so that nothing can be guessed.

Invariants, exact by construction:
- every finding class is present in every image with probability 1/2, independently of the others,
  of age, sex, view and of which half of the image it would be in;
- the half is left or right with probability 1/2 each, and so is the level where it is free;
- in a pair the current image's finding is new, larger, smaller, unchanged or resolved equally often
  (1/8 of all pairs each), while presence stays at 1/2 in the prior image as in the current one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from infimed.core.seeds import derive_seed, stream
from infimed.data.phantom.canvas import RIM, Pose, draw_pose
from infimed.data.phantom.catalogue import BY_KEY, MODALITIES, FindingKind, Modality
from infimed.data.phantom.imaging import DRAWINGS
from infimed.data.phantom.truth import SIZE_BUCKETS, Acquisition, Ellipse, Finding, ImageTruth

Change = Literal["larger", "smaller", "unchanged", "new", "resolved"]
CHANGES: tuple[Change, ...] = ("larger", "smaller", "unchanged", "new", "resolved")
GROWTH = (1.45, 1.6)
PAIR_SHARE = 0.5
SEVERITIES = ("mild", "moderate", "severe")
_TRIES = 24


@dataclass(frozen=True, slots=True)
class PatientTruth:
    """One patient: one image, or a prior and a current one, and what became of each finding."""

    patient_id: str
    images: tuple[ImageTruth, ...]
    changes: tuple[tuple[str, Change], ...]


def _room(candidate: tuple[Ellipse, ...], others: list[Ellipse], margin: float) -> float:
    """Smallest gap between a candidate and what is already there (negative: overlap)."""
    gaps = [
        math.hypot(a.x - b.x, a.y - b.y) - margin * max(a.rx, a.ry) - max(b.rx, b.ry)
        for a in candidate
        for b in others
    ]
    return min(gaps, default=1.0)


def _lesions(
    modality: Modality,
    kind: FindingKind,
    right: bool,
    level: int,
    size: float,
    count: int,
    pose: Pose,
    taken: list[Ellipse],
    rng: np.random.Generator,
) -> tuple[Ellipse, ...]:
    """Positions for `count` lesions, as far from what is already there as a few tries allow."""
    place = DRAWINGS[modality.key][0]
    out: list[Ellipse] = []
    for _ in range(count):
        best: tuple[Ellipse, ...] = ()
        best_room = -math.inf
        for _ in range(_TRIES):
            candidate = place(kind.key, right, level, size, pose, rng)
            room = _room(candidate, taken + out, RIM if kind.small else 1.0)
            if kind.small and out:
                room = min(room, _room(candidate, out, 2 * RIM))
            if room > best_room:
                best, best_room = candidate, room
            if room > 0.005:
                break
        out.extend(best)
    return tuple(out)


def _scaled(
    ellipses: tuple[Ellipse, ...],
    kind: FindingKind,
    right: bool,
    level: int,
    size: float,
    pose: Pose,
    modality: Modality,
    seed: int,
) -> tuple[Ellipse, ...]:
    """The same lesion at another size: same centre where it floats, re-placed where it is anchored."""
    if kind.free_level and len(ellipses) == 1:
        e = ellipses[0]
        factor = size / 2 / max(e.rx, e.ry)
        return (Ellipse(e.x, e.y, e.rx * factor, e.ry * factor, e.angle),)
    return DRAWINGS[modality.key][0](
        kind.key, right, level, size, pose, np.random.default_rng(seed)
    )


def _sizes(
    kind: FindingKind, change: Change | None, rng: np.random.Generator
) -> tuple[float, float]:
    """(prior, current) diameters in fractions of the image width."""
    low, high = kind.sizes
    if change in ("larger", "smaller") and not kind.small:
        growth = float(rng.uniform(*GROWTH))
        less = float(rng.uniform(low * 0.9, high / growth * 1.05))
        return (less, less * growth) if change == "larger" else (less * growth, less)
    bucket = int(rng.integers(SIZE_BUCKETS))
    step = (high - low) / SIZE_BUCKETS
    # Stay off the bucket borders, so that no answer hangs on less than a pixel.
    size = low + step * (bucket + float(rng.uniform(0.15, 0.85)))
    return size, size


def _change(kind: FindingKind, present: bool, rng: np.random.Generator) -> Change | None:
    """What became of a finding since the prior image; None where it was never there."""
    if present:
        change = CHANGES[int(rng.integers(4))]
        return "unchanged" if kind.small and change in ("larger", "smaller") else change
    return "resolved" if rng.integers(4) == 0 else None


def draw_patient(
    seed: int, index: int, modality: str | None = None, pair: bool | None = None
) -> PatientTruth:
    """Draw patient `index` of the clinic `seed`.

    Args:
        seed: the clinic's seed. index: the patient's number in it.
        modality: which kind of image; None takes them in turn.
        pair: whether there is a prior image; None draws it.
    """
    chosen = BY_KEY[modality] if modality is not None else MODALITIES[index % len(MODALITIES)]
    rng = stream(seed, "phantom", "patient", index)
    patient_id = f"ph{derive_seed(seed, 'phantom', 'clinic') % 16**6:06x}-{index:06d}"
    age, sex = int(rng.integers(22, 90)), "F" if rng.random() < 0.5 else "M"
    paired = bool(rng.random() < PAIR_SHARE) if pair is None else pair
    view = chosen.views[int(rng.integers(len(chosen.views)))]
    anatomy_seed = derive_seed(seed, "phantom", "anatomy", index)
    pose = draw_pose(np.random.default_rng(anatomy_seed))
    prior: list[Finding] = []
    current: list[Finding] = []
    changes: list[tuple[str, Change]] = []
    taken: list[Ellipse] = []
    for kind in chosen.findings:
        present = bool(rng.integers(2))
        change = _change(kind, present, rng) if paired else None
        right, level = bool(rng.integers(2)), int(rng.integers(2))
        count = kind.counts[int(rng.integers(len(kind.counts)))]
        severity = SEVERITIES[int(rng.integers(len(SEVERITIES)))]
        before, now = _sizes(kind, change, rng)
        if not present and change != "resolved":
            continue
        lesions = _lesions(chosen, kind, right, level, max(before, now), count, pose, taken, rng)
        taken.extend(lesions)
        again = derive_seed(anatomy_seed, kind.key)
        half: Literal["left", "right"] = "right" if right else "left"

        def at(
            size: float,
            *,
            kind: FindingKind = kind,
            lesions: tuple[Ellipse, ...] = lesions,
            right: bool = right,
            half: Literal["left", "right"] = half,
            level: int = level,
            count: int = count,
            severity: str = severity,
            again: int = again,
        ) -> Finding:
            made = (
                lesions
                if kind.small
                else _scaled(lesions, kind, right, level, size, pose, chosen, again)
            )
            return Finding(kind.key, half, level, round(size, 4), count, severity, made)

        if present:
            current.append(at(now))
        if paired and change in ("larger", "smaller", "unchanged", "resolved"):
            prior.append(at(before))
        if change is not None:
            changes.append((kind.key, change))
    window = (
        (float(rng.integers(35, 61)), float(rng.integers(340, 431)))
        if chosen.dicom == "CT"
        else (0.0, 0.0)
    )
    images = []
    for time, findings in enumerate([prior, current] if paired else [current]):
        image_id = f"{patient_id}-{time}"
        taken_as = Acquisition(
            view,
            round(float(rng.uniform(0.008, 0.022)), 4),
            round(float(rng.uniform(0.0, 0.0022)), 5),
            *window,
        )
        noise_seed = derive_seed(seed, "phantom", "noise", index, time)
        images.append(
            ImageTruth(
                image_id,
                patient_id,
                time,
                chosen.key,
                age,
                sex,
                taken_as,
                tuple(findings),
                anatomy_seed,
                noise_seed,
            )
        )
    return PatientTruth(patient_id, tuple(images), tuple(changes))
