"""A picture for a screen: one frame at a window, and what a viewer's controls need to know of the file.

Runs in the decoding process. Nothing of a header passes but the number of frames, the modality, the units and the
window, through the closed table of `privacy.headers`. Cost: one decode and a PNG of at most `side` pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from infimed.data import imaging
from infimed.data.imaging import ImageError, Limits, RawImage
from infimed.data.record import Facts
from infimed.data.rendering import number_fact, resized
from infimed.data.stored import encode_png

Window = tuple[float, float]


def looked(
    data: bytes, facts: Facts, limits: Limits, suffix: str, side: int
) -> tuple[dict[str, Any], bytes]:
    """The header of the answer, and the picture as PNG.

    The header has format, width and height of the image itself, frames and frame (from 0), modality, units, and
    for grey values that pass through a window: window (center, width) and range (lowest and highest value).

    Args:
        facts: frame and window that are asked for. side: the picture's longest, pixels.

    Raises:
        ImageError: it is refused.
    """
    kind = imaging.check(data, limits, suffix)
    header: dict[str, Any] = {"format": kind, "frames": 1, "frame": 0, "modality": "", "units": ""}
    if kind in imaging.ACQUIRED:
        raw = _acquired(data, kind, facts, limits)
        pixels = raw.planes()
        header.update(_of(raw, kind))
        if raw.values.ndim == 2:
            header.update(_grey(raw, "window_center" in facts, data, kind, facts, limits))
    else:
        made = imaging.load(data, facts, limits=limits, suffix=suffix)
        if facts.get("frame"):
            raise ImageError("frame")
        pixels = made.planes
        if imaging.DEEP in made.notes:
            header.update(_deep(data, kind, facts, limits))
        elif "window_center" in facts:
            raise ImageError("window")
    height, width = pixels.shape[:2]
    scale = min(1.0, side / max(height, width))
    if scale < 1:
        pixels = resized(pixels, max(1, round(height * scale)), max(1, round(width * scale)))
    return {**header, "width": width, "height": height}, encode_png(pixels)


def _acquired(data: bytes, kind: str, facts: Facts, limits: Limits) -> RawImage:
    """As `imaging.load` decodes it; a codec's text reaches nobody."""
    try:
        return imaging.acquired(data, kind, facts, limits)
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        raise ImageError(imaging.failure_code(error)) from None


def _of(raw: RawImage, kind: str) -> dict[str, Any]:
    frames, frame = ("frames", "frame") if kind == "DICOM" else ("slices", "slice")
    return {
        "frames": int(number_fact(raw.facts, frames, 1)),
        "frame": int(number_fact(raw.facts, frame, 0)),
        "modality": str(raw.facts.get("modality") or ""),
        "units": str(raw.facts.get("units") or ""),
    }


def _grey(
    raw: RawImage, asked: bool, data: bytes, kind: str, facts: Facts, limits: Limits
) -> dict[str, Any]:
    """Window and range of an acquired frame.

    A VOI LUT is no window, and its output no value of the file: there the window to begin with is that of the
    values before it.
    """
    if not asked and raw.facts.get("window_source") == "VOI LUT":
        wide = {**facts, "window_center": 0.0, "window_width": 1.0}
        before = _acquired(data, kind, wide, limits)
        units = imaging.in_units(before.values, before.facts)
        return _ranged(units, imaging.percentile_window(units))
    window = (number_fact(raw.facts, "window_center", 0), number_fact(raw.facts, "window_width", 1))
    return _ranged(imaging.in_units(raw.values, raw.facts), window)


def _deep(data: bytes, kind: str, facts: Facts, limits: Limits) -> dict[str, Any]:
    """Window and range of a raster with more than 8 bits."""
    with imaging.open_raster(data, kind, limits) as image:
        image.load()
        values = imaging.deep_values(image)
    assert values is not None
    if "window_center" in facts:
        window = (number_fact(facts, "window_center", 0), number_fact(facts, "window_width", 1))
    else:
        window = imaging.percentile_window(values)
    return _ranged(values, window)


def _ranged(units: NDArray[Any], window: Window) -> dict[str, Any]:
    finite = units[np.isfinite(units)] if units.dtype.kind == "f" else units
    return {
        "window": [float(v) for v in window],
        "range": [float(finite.min()), float(finite.max())],
    }
