"""A contact sheet: one row of patients per modality, to be looked at by a person."""

from __future__ import annotations

import os

import cv2
import numpy as np
from numpy.typing import NDArray

from infimed.core.files import atomic_open
from infimed.data.phantom.catalogue import MODALITIES
from infimed.data.phantom.drawing_lots import draw_patient
from infimed.data.phantom.imaging import render_image
from infimed.data.phantom.truth import ImageTruth

_STRIP = 26
"""Pixels below each image for its caption."""


def _tile(truth: ImageTruth, size: int) -> NDArray[np.uint8]:
    pixels = render_image(truth, size).pixels
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    tile = np.zeros((size + _STRIP, size, 3), np.uint8)
    tile[:size] = pixels
    kind = truth.kind
    shown = [
        f"{kind.kind(f.key).name}{' x' + str(f.count) if f.count > 1 else ''} ({f.half[0]})"
        for f in truth.findings
    ]
    lines = [", ".join(shown[:2]), ", ".join(shown[2:])] if shown else ["no finding", ""]
    scale = size / 192 * 0.28
    for row, line in enumerate(lines):
        cv2.putText(
            tile,
            line,
            (2, size + 10 + 12 * row),
            cv2.FONT_HERSHEY_SIMPLEX,
            scale,
            (255, 235, 150),
            1,
            cv2.LINE_AA,
        )
    return tile


def contact_sheet(
    path: str | os.PathLike[str], *, seed: int = 0, size: int = 192, columns: int = 7
) -> NDArray[np.uint8]:
    """Draw `columns` patients of every modality into one PNG; (l)/(r) name the half of the image.

    Returns:
        The sheet, uint8 [H, W, 3].
    """
    rows = [
        np.hstack(
            [
                _tile(draw_patient(seed, index, modality.key, pair=False).images[0], size)
                for index in range(columns)
            ]
        )
        for modality in MODALITIES
    ]
    sheet: NDArray[np.uint8] = np.vstack(rows)
    _, data = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    with atomic_open(path) as handle:
        handle.write(data.tobytes())
    return sheet
