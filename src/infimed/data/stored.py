"""The form in which an image lies in a shard: lossless, stripped of metadata, one decode to check.

An 8-bit grey or RGB JPEG or PNG keeps its compressed pixels and loses every metadata block; what
needs a pixel rule (palette, transparency, CMYK, EXIF rotation, WebP, TIFF, BMP) is decoded by
`imaging` and stored as PNG; deep images (DICOM, NIfTI, 16-bit files) are stored as 16-bit PNG with
the facts that render them. Original DICOM bytes never pass. Invariant: `imaging.decode(stored.data,
stored.facts)` equals `imaging.decode` of the original. Cost: one decode, plus a PNG encode where
the pixels had to be rewritten.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from infimed.core.files import sha256_bytes
from infimed.data import imaging
from infimed.data.imaging import LIMITS, NO_FACTS, ImageError, Limits, RawImage
from infimed.data.record import Facts

PNG_KEPT = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
PNG_LEVEL = 4


@dataclass(frozen=True, slots=True)
class StoredImage:
    """Bytes as they go into a shard. `extension` is "png" or "jpg"; size in pixels."""

    data: bytes
    extension: str
    width: int
    height: int
    facts: Facts
    sha256: str


def prepare(
    data: bytes, facts: Facts = NO_FACTS, *, suffix: str = "", limits: Limits = LIMITS
) -> StoredImage:
    """Bring one raster image into its stored form. For volumes and frames see `from_raw`.

    Raises:
        ImageError: the image is refused; `code` says why.
    """
    kind = imaging.check(data, limits, suffix)
    if kind == "DICOM":
        from infimed.data.dicom import read_frame

        return from_raw(read_frame(data, limits=limits), facts)
    if kind == "NIFTI":
        from infimed.data.nifti import open_volume

        return from_raw(open_volume(data, limits=limits).axial(None), facts)
    try:
        with imaging.open_raster(data, kind, limits) as image:
            orient = imaging.orientation(image)
            frames = getattr(image, "n_frames", 1)
            image.load()
            deep = imaging.deep_values(image)
            if deep is not None:
                if kind == "PNG" and orient == 1 and deep.dtype == np.uint16 and frames == 1:
                    more = _with_window(deep, facts)
                    return _stored(strip_png(data), "png", image.size, more)
                return from_raw(RawImage(imaging.upright(deep, orient)), facts)
            plain = orient == 1 and frames == 1 and image.mode in ("L", "RGB")
            if plain and kind == "JPEG":
                return _stored(strip_jpeg(data), "jpg", image.size, dict(facts))
            if plain and kind == "PNG" and data[24] == 8 and "transparency" not in image.info:
                return _stored(strip_png(data), "png", image.size, dict(facts))
        decoded = imaging.load(data, facts, limits=limits, suffix=suffix)
    except ImageError:
        raise
    except MemoryError:
        raise ImageError("memory") from None
    except Exception as error:
        raise ImageError(imaging.failure_code(error)) from None
    noted = {**facts, "decoding": "; ".join(decoded.notes)} if decoded.notes else dict(facts)
    return _stored_array(decoded.pixels, noted)


def from_raw(raw: RawImage, facts: Facts = NO_FACTS) -> StoredImage:
    """Store a frame or slice: grey as 16-bit PNG with its facts, colour as 8-bit PNG.

    `facts` of the record win over those of the header.
    """
    if raw.values.ndim == 3:
        return _stored_array(raw.values, {**raw.facts, **facts})
    values, merged = raw.values, {**raw.facts, **facts}
    if values.dtype != np.uint16:
        values, scale = imaging.stored_grey(values)
        merged = {**raw.facts, **scale, **facts}
    return _stored_array(values, _with_window(values, merged))


def encode_png(pixels: NDArray[Any]) -> bytes:
    """PNG without metadata: uint16 [H, W], uint8 [H, W] or uint8 [H, W, 3] (grey is stored as L)."""
    if (
        pixels.ndim == 3
        and (pixels[..., 0] == pixels[..., 1]).all()
        and (pixels[..., 1] == pixels[..., 2]).all()
    ):
        pixels = np.ascontiguousarray(pixels[..., 0])
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=PNG_LEVEL)
    return out.getvalue()


def strip_png(data: bytes) -> bytes:
    """The PNG with critical chunks only; what follows IEND is cut off.

    Raises:
        ImageError: truncated, corrupt (a chunk's checksum is wrong).
    """
    pieces, at = [data[:8]], 8
    while True:
        if at + 12 > len(data):
            raise ImageError("truncated")
        (length,) = struct.unpack(">I", data[at : at + 4])
        name, end = data[at + 4 : at + 8], at + 12 + length
        if end > len(data):
            raise ImageError("truncated")
        if name in PNG_KEPT:
            (checksum,) = struct.unpack(">I", data[end - 4 : end])
            if zlib.crc32(data[at + 4 : end - 4]) != checksum:
                raise ImageError("corrupt")
            pieces.append(data[at:end])
        if name == b"IEND":
            return b"".join(pieces)
        at = end


def strip_jpeg(data: bytes) -> bytes:
    """The JPEG without EXIF, XMP, comments, profiles and trailing data; pixels untouched.

    JFIF (APP0) and Adobe (APP14) stay, because decoders choose the colour transform by them.

    Raises:
        ImageError: truncated, corrupt.
    """
    pieces, at = [b"\xff\xd8"], 2
    while at < len(data):
        if data[at] != 0xFF:
            raise ImageError("corrupt")
        while at < len(data) and data[at] == 0xFF:
            at += 1
        if at >= len(data):
            break
        marker = data[at]
        at += 1
        if marker == 0xD9:
            pieces.append(b"\xff\xd9")
            return b"".join(pieces)
        if 0xD0 <= marker <= 0xD7 or marker == 0x01:
            continue
        if at + 2 > len(data):
            break
        (length,) = struct.unpack(">H", data[at : at + 2])
        end = at + length
        if length < 2 or end > len(data):
            break
        body = data[at:end]
        keep_app = (marker == 0xE0 and body[2:7] == b"JFIF\x00") or (
            marker == 0xEE and body[2:7] == b"Adobe"
        )
        if keep_app or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            pieces.append(b"\xff" + bytes((marker,)) + body)
        at = end
        if marker == 0xDA:
            at = _scan_end(data, at)
            pieces.append(data[end:at])
    raise ImageError("truncated")


def _scan_end(data: bytes, at: int) -> int:
    """Offset of the marker that ends entropy-coded data starting at `at`."""
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 1 >= len(data):
            raise ImageError("truncated")
        if data[at + 1] == 0xFF:
            at += 1
        elif data[at + 1] == 0 or 0xD0 <= data[at + 1] <= 0xD7:
            at += 2
        else:
            return at


def _with_window(values: NDArray[Any], facts: Facts) -> Facts:
    """Facts with a window, so that no later step has to compute percentiles again."""
    if all(isinstance(facts.get(key), (int, float)) for key in ("window_center", "window_width")):
        return facts
    center, width = imaging.percentile_window(imaging.in_units(values, facts))
    return {
        **facts,
        "window_center": center,
        "window_width": width,
        "voi_function": "LINEAR_EXACT",
        "window_source": "percentiles 0.5-99.5",
    }


def _stored(data: bytes, extension: str, size: tuple[int, int], facts: Facts) -> StoredImage:
    return StoredImage(data, extension, size[0], size[1], facts, sha256_bytes(data))


def _stored_array(pixels: NDArray[Any], facts: Facts) -> StoredImage:
    return _stored(encode_png(pixels), "png", (pixels.shape[1], pixels.shape[0]), facts)
