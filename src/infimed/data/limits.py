"""What an image may be, and the error that says why one is refused.

Every refusal is an `ImageError` with a fixed short code; the text of a codec library, which may hold
addresses or header values, never reaches a user.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from PIL import Image

from infimed.core.errors import DataError

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
    "window": (
        "the image has 8 bits or colour, and so no window of grey values",
        "leave the window out",
    ),
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
        word in text
        for word in (
            "truncated",
            "unexpected end",
            "end of file",
            "eof",
            "not enough",
            "less than expected",
        )
    ):
        return "truncated"
    return "unsupported" if isinstance(error, NotImplementedError) else "corrupt"
