"""The one image decoder of the house: bytes in, RGB pixels out, the same pixels everywhere.

Curation, training, evaluation and serving all decode through `decode` and resize through `squash`,
so that a 12-bit radiograph looks alike wherever it is used. (Pillow's own ``I;16 -> RGB`` saturates
94 % of a 12-bit ramp; nothing here calls it.)

Invariant: nothing is decoded before its byte count, format and pixel count are known to be within
limits, and no error carries text of a codec library: every refusal is an `ImageError` with a fixed
short `code`. Cost: under 1 ms for a 512x512 JPEG on one core.
"""

from __future__ import annotations

import io
import math
import struct
import warnings
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from infimed.data.jpeg import decode_plain, plain_jpeg
from infimed.data.limits import LIMITS, REASONS, ImageError, Limits, check_size, failure_code
from infimed.data.record import Facts
from infimed.data.rendering import (
    NO_FACTS,
    RawImage,
    in_units,
    number_fact,
    percentile_window,
    render,
    render_grey,
    squash,
    stored_grey,
    windowed,
)
from infimed.data.stripping import png_chunks

__all__ = [
    "ACQUIRED",
    "DEEP",
    "FORMATS",
    "LIMITS",
    "NO_FACTS",
    "REASONS",
    "Decoded",
    "ImageError",
    "Limits",
    "RawImage",
    "acquired",
    "check",
    "check_size",
    "decode",
    "decode_planes",
    "failure_code",
    "in_units",
    "load",
    "percentile_window",
    "render",
    "sniff",
    "squash",
    "stored_grey",
    "windowed",
]

# Pillow only warns up to twice its own cap; our cap is checked first, this is the second lock.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)

FORMATS: Final = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
"""Raster formats that are decoded; DICOM and NIfTI pass through their own modules."""
ACQUIRED: Final = ("DICOM", "NIFTI")
DEEP: Final = "more than 8 bits"
"""The note of a raster whose grey values pass through a window."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """One decoded image, the source format, and what was done to it.

    Attributes:
        planes: uint8 [H, W] where the format has one grey channel, else RGB [H, W, 3].
    """

    planes: NDArray[np.uint8]
    format: str
    notes: tuple[str, ...] = ()

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """RGB, uint8 [H, W, 3]."""
        return rgb_of(self.planes)


def rgb_of(planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB [H, W, 3] of a grey [H, W] or RGB image; uint8."""
    import cv2

    if planes.ndim == 3:
        return planes
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(planes), cv2.COLOR_GRAY2RGB), np.uint8)


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


def decode(
    data: bytes, facts: Facts = NO_FACTS, *, limits: Limits = LIMITS, suffix: str = ""
) -> NDArray[np.uint8]:
    """Decode one image to uint8 [H, W, 3] RGB. See `load` for the rules.

    Raises:
        ImageError: the image is refused; `code` says why.
    """
    return load(data, facts, limits=limits, suffix=suffix).pixels


def decode_planes(
    data: bytes, facts: Facts = NO_FACTS, *, limits: Limits = LIMITS
) -> NDArray[np.uint8]:
    """What `decode` gives, without repeating a single grey channel: uint8 [H, W] or [H, W, 3].

    Raises:
        ImageError: the image is refused; `code` says why.
    """
    return load(data, facts, limits=limits).planes


def load(
    data: bytes, facts: Facts = NO_FACTS, *, limits: Limits = LIMITS, suffix: str = ""
) -> Decoded:
    """Decode one image and say what was done to it.

    Rules: EXIF orientation is applied; CMYK becomes RGB; the first frame of an animated or
    multi-page file is taken; transparent images are composited (`flatten`); more than 8 bits of
    grey pass through `render`; DICOM and NIfTI through `acquired`. Colour profiles are not applied.

    Raises:
        ImageError: empty, too large, too small, of another format, truncated or damaged.
    """
    kind = check(data, limits, suffix)
    try:
        if kind in ACQUIRED:
            return Decoded(acquired(data, kind, facts, limits).planes(), kind)
        return _load_raster(data, kind, facts, limits)
    except ImageError:
        raise
    except MemoryError:
        raise ImageError("memory") from None
    except Exception as error:  # a codec may raise anything; its text must not reach a user
        raise ImageError(failure_code(error)) from None


def acquired(data: bytes, kind: str, facts: Facts = NO_FACTS, limits: Limits = LIMITS) -> RawImage:
    """A frame of a DICOM file or an axial slice of a NIfTI volume, before windowing.

    Args:
        facts: ``frame`` picks the frame (0) or the slice (the middle one); ``window_center`` and
            ``window_width`` win over those of the file.

    Raises:
        ImageError: see `read_frame` and `open_volume`.
    """
    center, width = (number_fact(facts, f"window_{name}", math.nan) for name in ("center", "width"))
    window = (center, width) if width > 0 and not math.isnan(center) else None
    if kind == "DICOM":
        from infimed.data.dicom import read_frame

        frame = int(number_fact(facts, "frame", 0))
        return read_frame(data, frame=frame, limits=limits, window=window)
    from infimed.data.nifti import open_volume

    raw = open_volume(data, limits=limits).axial(
        int(number_fact(facts, "frame", 0)) if "frame" in facts else None
    )
    if window is None:
        return raw
    return RawImage(raw.values, {**raw.facts, "window_center": center, "window_width": width})


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
    if kind == "JPEG":
        header = plain_jpeg(data)
        if header is not None:
            check_size(header.width, header.height, limits)
            planes = decode_plain(data, header)
            if planes is not None:
                return Decoded(planes, kind)
    with open_raster(data, kind, limits) as image:
        notes: list[str] = []
        frames = getattr(image, "n_frames", 1)
        if frames > 1:
            notes.append(f"first of {frames} frames")
        orient = orientation(image)
        if orient != 1:
            notes.append("rotated by its EXIF orientation")
        if kind == "PNG":
            for _ in png_chunks(data):
                pass
        image.load()
        deep = deep_values(image)
        if deep is not None:
            grey = render_grey(upright(deep, orient), facts)
            return Decoded(grey, kind, (*notes, DEEP))
        turned = ImageOps.exif_transpose(image) if orient != 1 else image
        if turned.mode in ("LA", "RGBA", "PA", "La", "RGBa") or "transparency" in turned.info:
            return Decoded(flatten(turned), kind, (*notes, "transparency composited"))
        if turned.mode not in ("RGB", "L"):
            notes.append(f"{turned.mode} converted to RGB")
        plain = turned if turned.mode in ("RGB", "L") else turned.convert("RGB")
        return Decoded(np.asarray(plain, dtype=np.uint8), kind, tuple(notes))
