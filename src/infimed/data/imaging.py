"""The one image decoder of the house: bytes in, RGB pixels out, the same pixels everywhere.

Curation, training, evaluation and serving all decode through `decode` and resize through `squash`,
so that a 12-bit radiograph looks alike wherever it is used. (Pillow's own ``I;16 -> RGB`` saturates
94 % of a 12-bit ramp; nothing here calls it.)

Invariant: nothing is decoded before its byte count, format and pixel count are known to be within
limits, and no error carries text of a codec library: every refusal is an `ImageError` with a fixed
short `code`. Cost: about 2 ms for a 512x512 JPEG on one core.
"""

from __future__ import annotations

import io
import math
import struct
import warnings
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from infimed.core.errors import DataError
from infimed.data.record import Fact, Facts

# Pillow only warns up to twice its own cap; our cap is checked first, this is the second lock.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)

NO_FACTS: Final[Facts] = MappingProxyType({})

FORMATS: Final = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
"""Raster formats that are decoded; DICOM and NIfTI pass through their own modules."""

REASONS: Final[dict[str, tuple[str, str]]] = {
    "empty": ("the file is empty", "copy the file again"),
    "missing": ("the file is missing", "correct the path or restore the file"),
    "path": ("the path leaves the data folder", "give a path below the data folder"),
    "bytes": (
        "the file is larger than the byte limit",
        "store a smaller or better compressed file",
    ),
    "pixels": (
        "the image has more pixels than the limit",
        "store a smaller image or cut it in tiles",
    ),
    "small": (
        "a side of the image is below the minimum",
        "remove the image or use a larger version",
    ),
    "format": (
        "the content is not an accepted image format",
        "convert it to PNG, JPEG, WebP, TIFF, BMP, DICOM or NIfTI",
    ),
    "truncated": ("the image data ends too early", "copy or export the file again"),
    "corrupt": ("the image data is damaged", "copy or export the file again"),
    "no-pixels": ("the file holds no image", "remove it from the data folder"),
    "not-image": (
        "the object is a mask, dose grid, plan, directory or report, not an acquired image",
        "remove it from the data folder",
    ),
    "unsupported": ("the pixel encoding is not supported", "export it uncompressed"),
    "non-finite": ("the image holds no finite value", "export the image again"),
    "frame": ("the frame, slice or axis asked for does not exist", "correct the locator"),
    "memory": ("decoding needs more memory than there is", "store a smaller image"),
}
"""Every code an `ImageError` can carry, with its sentence and its remedy."""


class ImageError(DataError):
    """An image that is refused. `code` is one of `REASONS`; the text never quotes a codec."""

    def __init__(
        self,
        code: str,
        *,
        where: str | None = None,
        seen: object = None,
        accepted: str | None = None,
    ):
        what, fix = REASONS[code]
        self.code = code
        super().__init__(what, where=where, seen=seen, accepted=accepted, fix=fix)


@dataclass(frozen=True, slots=True)
class Limits:
    """Caps that are checked before anything is decoded.

    Attributes:
        max_bytes: size of the encoded file. max_pixels: width x height of one image or frame.
        max_volume_bytes: decoded size of a volume or of one DICOM frame.
        min_side: smallest accepted width and height in pixels. max_frames: frames or slices that
            are chosen from one multi-frame file.
    """

    max_bytes: int = 512 * 2**20
    max_pixels: int = 64_000_000
    max_volume_bytes: int = 2 * 2**30
    min_side: int = 8
    max_frames: int = 16


LIMITS: Final = Limits()


@dataclass(frozen=True, slots=True)
class Decoded:
    """One decoded image: `pixels` uint8 [H, W, 3] RGB, the source format, and what was done to it."""

    pixels: NDArray[np.uint8]
    format: str
    notes: tuple[str, ...] = ()


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


def sniff(data: bytes, suffix: str = "") -> str | None:
    """Format by content: a name of `FORMATS`, "DICOM", "NIFTI" or None. Never trusts the name.

    `suffix` only admits what has no signature of its own: DICOM without preamble (".dcm", ".ima")
    and gzip-compressed NIfTI (".gz").
    """
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[128:132] == b"DICM":
        return "DICOM"
    if data[:4] in (b"II*\x00", b"MM\x00*"):
        return "TIFF"
    if data[:2] == b"BM" and len(data) > 26:
        return "BMP"
    if data[:4] in (b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c") and data[344:347] in (b"n+1", b"ni1"):
        return "NIFTI"
    if data[:4] in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c") and data[4:7] == b"n+2":
        return "NIFTI"
    if data[:2] == b"\x1f\x8b" and suffix.lower().endswith(".gz"):
        return "NIFTI"
    if len(data) >= 8:
        group, element = struct.unpack("<HH", data[:4])
        bare = group in (0x0002, 0x0008) and element <= 0x0100
        if bare and (suffix.lower() in (".dcm", ".ima", ".dicom") or data[4:6].isalpha()):
            return "DICOM"
    return None


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
        _number(facts, "rescale_slope", 1.0),
        _number(facts, "rescale_intercept", 0.0),
    )
    if slope == 1.0 and intercept == 0.0:
        return values
    units: NDArray[np.float32] = np.multiply(
        values, np.float32(slope), dtype=np.float32
    ) + np.float32(intercept)
    return units


def render(values: NDArray[Any], facts: Facts = NO_FACTS) -> NDArray[np.uint8]:
    """Deep grey values [H, W] to uint8 RGB [H, W, 3] by their facts.

    Facts used: rescale_slope, rescale_intercept (stored value to units), window_center and
    window_width (in units), voi_function, photometric_interpretation (MONOCHROME1 inverts).
    Without a window the 0.5..99.5 percentiles of the image are used.
    """
    units = in_units(values, facts)
    center, width = (
        _number(facts, "window_center", math.nan),
        _number(facts, "window_width", math.nan),
    )
    function = str(facts.get("voi_function") or "LINEAR")
    if math.isnan(center) or math.isnan(width) or width <= 0:
        (center, width), function = percentile_window(units), "LINEAR_EXACT"
    invert = facts.get("photometric_interpretation") == "MONOCHROME1"
    grey = windowed(units, center, width, invert, function)
    return np.repeat(grey[:, :, None], 3, axis=2)


def squash(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resize to a square [side, side, 3]: area average where it shrinks, bicubic where it grows.

    The one geometry of training, evaluation and serving; aspect ratio is not kept.
    """
    import cv2

    height, width = pixels.shape[:2]
    if (height, width) == (side, side):
        return np.ascontiguousarray(pixels)
    small = (min(height, side), min(width, side))
    if small != (height, width):
        pixels = cv2.resize(pixels, (small[1], small[0]), interpolation=cv2.INTER_AREA)
    if small != (side, side):
        pixels = cv2.resize(pixels, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(pixels)


def decode(
    data: bytes, facts: Facts = NO_FACTS, *, limits: Limits = LIMITS, suffix: str = ""
) -> NDArray[np.uint8]:
    """Decode one image to uint8 [H, W, 3] RGB. See `load` for the rules.

    Raises:
        ImageError: the image is refused; `code` says why.
    """
    return load(data, facts, limits=limits, suffix=suffix).pixels


def load(
    data: bytes, facts: Facts = NO_FACTS, *, limits: Limits = LIMITS, suffix: str = ""
) -> Decoded:
    """Decode one image and say what was done to it.

    Rules: EXIF orientation is applied; CMYK becomes RGB; the first frame of an animated or
    multi-page file is taken; transparent images are composited (`flatten`); more than 8 bits of
    grey pass through `render`; DICOM takes frame ``facts["frame"]`` (0), NIfTI the middle axial
    slice. Colour profiles are not applied.

    Raises:
        ImageError: empty, too large, too small, of another format, truncated or damaged.
    """
    kind = check(data, limits, suffix)
    try:
        if kind == "DICOM":
            from infimed.data.dicom import read_frame

            return Decoded(
                read_frame(data, frame=int(_number(facts, "frame", 0)), limits=limits).pixels(),
                kind,
            )
        if kind == "NIFTI":
            from infimed.data.nifti import open_volume

            return Decoded(open_volume(data, limits=limits).axial(None).pixels(), kind)
        return _load_raster(data, kind, facts, limits)
    except ImageError:
        raise
    except MemoryError:
        raise ImageError("memory") from None
    except Exception as error:  # a codec may raise anything; its text must not reach a user
        raise ImageError(failure_code(error)) from None


def check(data: bytes, limits: Limits = LIMITS, suffix: str = "") -> str:
    """The format of `data` if it may be decoded at all (bytes and format only).

    Raises:
        ImageError: empty, bytes, format.
    """
    if not data:
        raise ImageError("empty")
    if len(data) > limits.max_bytes:
        raise ImageError("bytes", seen=len(data), accepted=f"at most {limits.max_bytes} bytes")
    kind = sniff(data, suffix)
    if kind is None:
        raise ImageError("format")
    return kind


def check_size(width: int, height: int, limits: Limits = LIMITS) -> None:
    """Refuse a size outside the limits, before the pixels are decoded.

    Raises:
        ImageError: pixels, small.
    """
    if width * height > limits.max_pixels:
        raise ImageError(
            "pixels", seen=f"{width}x{height}", accepted=f"at most {limits.max_pixels} pixels"
        )
    if min(width, height) < limits.min_side:
        raise ImageError(
            "small", seen=f"{width}x{height}", accepted=f"at least {limits.min_side} pixels a side"
        )


def failure_code(error: Exception) -> str:
    """The fixed code for an exception of a codec library."""
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return "pixels"
    text = str(error).lower()
    if any(
        word in text for word in ("truncated", "unexpected end", "end of file", "eof", "not enough")
    ):
        return "truncated"
    return "unsupported" if isinstance(error, NotImplementedError) else "corrupt"


def open_raster(data: bytes, kind: str, limits: Limits = LIMITS) -> Image.Image:
    """A lazily opened raster whose header passed the limits; no pixel is decoded yet."""
    image = Image.open(io.BytesIO(data), formats=(kind,))
    check_size(*image.size, limits)
    return image


def orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; 1 when absent or unreadable."""
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # a damaged EXIF block must not cost the image
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def deep_values(image: Image.Image) -> NDArray[Any] | None:
    """Grey values of more than 8 bits as uint16, int32 or float32 [H, W]; None for 8-bit modes."""
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16, copy=False)
    if image.mode in ("I", "F"):
        values = np.asarray(image)
        if values.dtype.kind == "f" and not np.isfinite(values).any():
            raise ImageError("non-finite")
        return values
    return None


def upright(values: NDArray[Any], orient: int) -> NDArray[Any]:
    """Apply an EXIF orientation to an array [H, W, ...]."""
    if orient in (2, 4, 5, 7):
        values = values[:, ::-1]
    quarter_turns = {3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}.get(orient, 0)
    return np.ascontiguousarray(np.rot90(values, quarter_turns))


def flatten(image: Image.Image) -> NDArray[np.uint8]:
    """Composite a transparent image to RGB [H, W, 3] on black or white.

    Black where the visible part already has a dark background (a scan with cut corners), else
    whichever of black and white is further from the mean visible brightness, so that dark print
    on a transparent page stays readable.
    """
    rgba = np.asarray(image.convert("RGBA"), dtype=np.float32)
    colour, alpha = rgba[..., :3], rgba[..., 3:] / 255.0
    grey = colour.mean(axis=2)
    visible = grey[alpha[..., 0] > 0.5]
    if visible.size == 0:
        visible = np.zeros(1, np.float32)
    scan = (visible < 32).mean() >= 0.25 and (visible > 96).mean() >= 0.01
    background = 0.0 if scan or visible.mean() >= 128 else 255.0
    return np.rint(colour * alpha + background * (1.0 - alpha)).astype(np.uint8)


def _load_raster(data: bytes, kind: str, facts: Facts, limits: Limits) -> Decoded:
    with open_raster(data, kind, limits) as image:
        notes: list[str] = []
        frames = getattr(image, "n_frames", 1)
        if frames > 1:
            notes.append(f"first of {frames} frames")
        orient = orientation(image)
        if orient != 1:
            notes.append("rotated by its EXIF orientation")
        image.load()
        deep = deep_values(image)
        if deep is not None:
            return Decoded(render(upright(deep, orient), facts), kind, (*notes, "more than 8 bits"))
        turned = ImageOps.exif_transpose(image) if orient != 1 else image
        if turned.mode in ("LA", "RGBA", "PA", "La", "RGBa") or "transparency" in turned.info:
            return Decoded(flatten(turned), kind, (*notes, "transparency composited"))
        if turned.mode not in ("RGB", "L"):
            notes.append(f"{turned.mode} converted to RGB")
        pixels = np.asarray(
            turned if turned.mode == "RGB" else turned.convert("RGB"), dtype=np.uint8
        )
        return Decoded(pixels, kind, tuple(notes))


def _number(facts: Facts, key: str, default: float) -> float:
    value = facts.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return default
    return float(value)
