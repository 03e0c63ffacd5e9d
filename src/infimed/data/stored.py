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
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from infimed.core.files import sha256_bytes
from infimed.data import imaging
from infimed.data.imaging import LIMITS, NO_FACTS, ImageError, Limits, RawImage
from infimed.data.record import Facts
from infimed.data.stripping import strip_jpeg, strip_png

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
    if kind in imaging.ACQUIRED:
        return from_raw(imaging.acquired(data, kind, limits=limits), facts)
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
