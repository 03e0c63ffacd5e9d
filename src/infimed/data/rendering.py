"""From stored values to pixels: units, windows, one resize. Pure functions on arrays.

Sources: DICOM PS3.3 C.11.1 (modality transformation) and C.11.2 (VOI transformation).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from infimed.data.limits import ImageError
from infimed.data.record import Fact, Facts

NO_FACTS: Final[Facts] = MappingProxyType({})

SHOWN_BY: Final = (
    "rescale_slope",
    "rescale_intercept",
    "window_center",
    "window_width",
    "voi_function",
    "photometric_interpretation",
    "frame",
)
"""Facts that decide which pixels a stored image becomes; a record may give an image its own."""


@dataclass(frozen=True, slots=True)
class RawImage:
    """An image before windowing: what DICOM, NIfTI and 16-bit files hold.

    Attributes:
        values: uint16 [H, W] stored grey values, or uint8 [H, W, 3] RGB.
        facts: safe acquisition facts, among them all that `render` needs.
    """

    values: NDArray[Any]
    facts: Facts = field(default_factory=dict)

    def pixels(self) -> NDArray[np.uint8]:
        """The image as uint8 RGB [H, W, 3]."""
        if self.values.ndim == 3:
            return np.ascontiguousarray(self.values, dtype=np.uint8)
        return render(self.values, self.facts)

    def planes(self) -> NDArray[np.uint8]:
        """`pixels` without repeating a single grey channel: uint8 [H, W] or [H, W, 3]."""
        if self.values.ndim == 3:
            return self.pixels()
        return render_grey(self.values, self.facts)


def stored_grey(
    values: NDArray[Any], slope: float = 1.0, intercept: float = 0.0
) -> tuple[NDArray[np.uint16], dict[str, Fact]]:
    """Grey values as uint16 with the facts that give their units back.

    Integers that span at most 65,536 values are kept exactly (shifted when negative); anything
    else is quantised to 65,536 levels between its finite extremes, which the facts then say.

    Returns:
        (stored [H, W] or [D, H, W], facts) with ``units = stored * rescale_slope + rescale_intercept``.

    Raises:
        ImageError: code "non-finite".
    """
    if values.dtype.kind == "b":
        values = values.astype(np.uint8)
    facts: dict[str, Fact] = {}
    if values.dtype.kind in "iu":
        low, high = int(values.min()), int(values.max())
        if low >= 0 and high <= 65535:
            offset = 0
        elif low >= -32768 and high <= 32767:
            offset = -32768
        else:
            offset = low
        if high - offset <= 65535:
            stored = (
                (values.astype(np.int64) - offset).astype(np.uint16)
                if offset
                else values.astype(np.uint16)
            )
            facts["rescale_slope"], facts["rescale_intercept"] = (
                float(slope),
                float(intercept + slope * offset),
            )
            return stored, facts
    real = values.astype(np.float64)
    finite = np.isfinite(real)
    if not finite.any():
        raise ImageError("non-finite")
    bottom, top = float(real[finite].min()), float(real[finite].max())
    step = (top - bottom) / 65535 or 1.0
    unit = np.where(finite, (real - bottom) / step, 0.0)
    facts["rescale_slope"], facts["rescale_intercept"] = (
        float(slope * step),
        float(intercept + slope * bottom),
    )
    facts["quantised"] = True
    return np.rint(np.clip(unit, 0, 65535)).astype(np.uint16), facts


def windowed(
    raw: NDArray[Any], center: float, width: float, invert: bool = False, function: str = "LINEAR"
) -> NDArray[np.uint8]:
    """Map values to 0..255 through a window (DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3).

    Args:
        raw: values in the units of the window, any shape.
        function: LINEAR (the standard's default, with its half-unit offsets), LINEAR_EXACT or
            SIGMOID. LINEAR needs a width of at least 1; a smaller one is read as LINEAR_EXACT.
    """
    values = np.asarray(raw, dtype=np.float32)
    kind = function.upper()
    if kind == "SIGMOID":
        exponent = np.clip(-4.0 * (values - center) / max(width, 1e-12), -80.0, 80.0)
        unit = 1.0 / (1.0 + np.exp(exponent))
    elif kind == "LINEAR_EXACT" or width <= 1:
        unit = (values - np.float32(center)) / np.float32(max(width, 1e-12)) + np.float32(0.5)
    else:
        unit = (values - np.float32(center - 0.5)) / np.float32(width - 1) + np.float32(0.5)
    unit = np.clip(unit, 0.0, 1.0)
    if invert:
        unit = 1.0 - unit
    return np.rint(np.nan_to_num(unit) * 255.0).astype(np.uint8)


def percentile_window(
    values: NDArray[Any], low: float = 0.5, high: float = 99.5
) -> tuple[float, float]:
    """(center, width) of a LINEAR_EXACT window over the low..high percentiles of finite values.

    Raises:
        ImageError: code "non-finite" when there is no finite value.
    """
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values.reshape(-1)
    if finite.size == 0:
        raise ImageError("non-finite")
    step = max(1, finite.size // 1_000_000)  # a million samples place a percentile well enough
    bottom, top = (float(v) for v in np.percentile(finite.reshape(-1)[::step], [low, high]))
    if top <= bottom:
        bottom, top = float(finite.min()), float(finite.max())
    if top <= bottom:
        top = bottom + 1.0
    return (bottom + top) / 2, top - bottom


def in_units(values: NDArray[Any], facts: Facts) -> NDArray[Any]:
    """Stored values in their units (``rescale_slope``, ``rescale_intercept``); unchanged without them."""
    slope, intercept = (
        number_fact(facts, "rescale_slope", 1.0),
        number_fact(facts, "rescale_intercept", 0.0),
    )
    if slope == 1.0 and intercept == 0.0:
        return values
    units: NDArray[np.float32] = np.multiply(
        values, np.float32(slope), dtype=np.float32
    ) + np.float32(intercept)
    return units


def render(values: NDArray[Any], facts: Facts = NO_FACTS) -> NDArray[np.uint8]:
    """Deep grey values [H, W] to uint8 RGB [H, W, 3] by their facts; see `render_grey`."""
    return np.repeat(render_grey(values, facts)[:, :, None], 3, axis=2)


def render_grey(values: NDArray[Any], facts: Facts = NO_FACTS) -> NDArray[np.uint8]:
    """Deep grey values [H, W] to uint8 [H, W] by their facts.

    Facts used: rescale_slope, rescale_intercept (stored value to units), window_center and
    window_width (in units), voi_function, photometric_interpretation (MONOCHROME1 inverts).
    Without a window the 0.5..99.5 percentiles of the image are used.
    """
    units = in_units(values, facts)
    center, width = (
        number_fact(facts, "window_center", math.nan),
        number_fact(facts, "window_width", math.nan),
    )
    function = str(facts.get("voi_function") or "LINEAR")
    if math.isnan(center) or math.isnan(width) or width <= 0:
        (center, width), function = percentile_window(units), "LINEAR_EXACT"
    invert = facts.get("photometric_interpretation") == "MONOCHROME1"
    return windowed(units, center, width, invert, function)


def shown_as(facts: Facts) -> str:
    """The values of `SHOWN_BY`: with the hash of the stored bytes they name the pixels."""
    return repr([facts.get(name) for name in SHOWN_BY])


def squash(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resize to a square [side, side, 3]; see `resized`.

    The one geometry of training, evaluation and serving; aspect ratio is not kept.
    """
    return resized(pixels, side, side)


def resized(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize to [height, width, 3]: area average where it shrinks, bicubic where it grows."""
    import cv2

    before = pixels.shape[:2]
    small = (min(before[0], height), min(before[1], width))
    if small != before:
        pixels = cv2.resize(pixels, (small[1], small[0]), interpolation=cv2.INTER_AREA)
    if small != (height, width):
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(pixels)


def number_fact(facts: Facts, key: str, default: float) -> float:
    """A finite number among the facts, else `default`."""
    value = facts.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return default
    return float(value)
