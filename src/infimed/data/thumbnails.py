"""Thumbnails of stored images as data URIs, through the same decoding as training.

An image that cannot be read leaves its reason, never a failed page.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from infimed.core.errors import InfiMedError
from infimed.data.record import ImageRef

THUMBNAIL: Final = 160
"""Largest side, pixels."""
JPEG_QUALITY: Final = 82
MOST_IMAGES: Final = 3


class PixelSource(Protocol):
    """What thumbnails need of a `ShardSet`."""

    def pixels(self, ref: ImageRef, /) -> NDArray[np.uint8]: ...


@dataclass(frozen=True)
class Thumbnail:
    """A small picture as a data URI, with its alternative text; `uri` is "" where it failed."""

    uri: str
    alt: str
    width: int = 0
    height: int = 0
    problem: str = ""


def thumbnail(
    shards: PixelSource,
    ref: ImageRef,
    alt: str,
    side: int = THUMBNAIL,
    quality: int = JPEG_QUALITY,
) -> Thumbnail:
    """The image at most `side` pixels wide and high, its proportions kept, as JPEG."""
    try:
        pixels = shards.pixels(ref)
    except (InfiMedError, OSError, ValueError) as error:
        return Thumbnail(
            "", alt, problem=error.what if isinstance(error, InfiMedError) else "cannot be read"
        )
    height, width = pixels.shape[:2]
    scale = min(1.0, side / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA) if scale < 1 else pixels
    grey = bool((small[..., 0] == small[..., 1]).all() and (small[..., 1] == small[..., 2]).all())
    shown = np.ascontiguousarray(small[..., 0]) if grey else cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", shown, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return Thumbnail(
        "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode(), alt, *size
    )


def alternative(ref: ImageRef, id: str, place: int, of: int) -> str:
    """The alternative text of image `place` (from 1) of a record with `of` images."""
    kind = str(ref.facts.get("modality") or "Image")
    numbered = f" {place} of {of}" if of > 1 else ""
    return f"{kind},{numbered} record {id}"


def thumbnails(
    shards: PixelSource, refs: Sequence[ImageRef], id: str, side: int
) -> tuple[Thumbnail, ...]:
    """Thumbnails of a record's first `MOST_IMAGES` images."""
    return tuple(
        thumbnail(shards, ref, alternative(ref, id, place, len(refs)), side)
        for place, ref in enumerate(refs[:MOST_IMAGES], start=1)
    )
