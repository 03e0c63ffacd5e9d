"""Masking burned-in text before an image is stored: find, read if there is a reader, paint over.

An image without proposed text keeps its bytes. A masked one is stored as lossless PNG, each region
painted with the median of its surroundings, in the stored depth. The facts say what was done:
``text_checked`` ("gate" or "gate+rapidocr"), ``masked_regions`` ([left, top, width, height] in
pixels) and ``masked_kinds`` (one word a region: what it held, or "not read"). Never the text.

Invariant: what `find_text_lines` proposes is masked unless a reader released it. Deep images are
looked at twice, in their window and over their full range, because text may lie outside a window.
Cost: one more decode, the gate, and a reading of some 50 ms a line on hits only.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from infimed.core.files import sha256_bytes
from infimed.data import imaging
from infimed.data.privacy.reading import TextReader, harmless, reading_kind
from infimed.data.privacy.textlines import TextLine, find_text_lines, merged
from infimed.data.record import Fact

if TYPE_CHECKING:
    from infimed.data.stored import StoredImage

NOT_READ: Final = "not read"
_RING: Final = 4
"""Pixels around a region that give its paint."""


@dataclass(frozen=True, slots=True)
class MaskedRegion:
    """A painted region: box in pixels, and what it held."""

    left: int
    top: int
    right: int
    bottom: int
    kind: str


class TextMasker:
    """Masks burned-in text of stored images. `reader` None: every proposed line is masked."""

    def __init__(self, reader: TextReader | None = None) -> None:
        self.reader = reader

    @property
    def name(self) -> str:
        """How text is checked, as it goes into facts and fingerprints."""
        return f"gate+{self.reader.name}" if self.reader else "gate"

    def regions(self, pixels: NDArray[np.uint8], *others: NDArray[np.uint8]) -> list[MaskedRegion]:
        """What to mask in an image uint8 [H, W, 3]; `others` are further renderings of it."""
        views = [pixels, *others]
        found: list[tuple[TextLine, NDArray[np.uint8]]] = []
        for view in views:
            grey = np.asarray(cv2.cvtColor(view, cv2.COLOR_RGB2GRAY), np.uint8)
            known = [line for line, _ in found]
            found.extend((line, view) for line in find_text_lines(grey) if line not in known)
        if not found:
            return []
        kinds = self._kinds(found)
        kept = [line for (line, _), kind in zip(found, kinds, strict=True) if kind is not None]
        by_line = {line: kind for (line, _), kind in zip(found, kinds, strict=True) if kind}
        boxes = merged(kept, pixels.shape[1], pixels.shape[0])
        return [
            MaskedRegion(box.left, box.top, box.right, box.bottom, _kind_in(box, by_line))
            for box in boxes
        ]

    def __call__(self, stored: StoredImage) -> StoredImage:
        """The image without its burned-in text, and with the facts that say so."""
        facts: dict[str, Fact] = {**stored.facts, "text_checked": self.name}
        pixels = imaging.decode(stored.data, stored.facts)
        values = _stored_values(stored.data)
        others = [_full_range(values)] if values.dtype == np.uint16 else []
        regions = self.regions(pixels, *others)
        if not regions:
            return replace(stored, facts=facts)
        from infimed.data.stored import encode_png

        data = encode_png(painted(values, regions))
        facts["masked_regions"] = [
            [r.left, r.top, r.right - r.left, r.bottom - r.top] for r in regions
        ]
        facts["masked_kinds"] = [r.kind for r in regions]
        return replace(stored, data=data, extension="png", facts=facts, sha256=sha256_bytes(data))

    def _kinds(self, found: Sequence[tuple[TextLine, NDArray[np.uint8]]]) -> list[str | None]:
        """For every line what it held, or None where it may stay."""
        if self.reader is None:
            return [NOT_READ] * len(found)
        crops = [view[line.top : line.bottom, line.left : line.right] for line, view in found]
        return [
            None if harmless(reading) else reading_kind(reading)
            for reading in self.reader.read(crops)
        ]


def painted(values: NDArray[Any], regions: Sequence[MaskedRegion]) -> NDArray[Any]:
    """A copy of [H, W] or [H, W, 3] values in which every region has the median of its surroundings."""
    made = values.copy()
    for region in regions:
        top, left = max(0, region.top - _RING), max(0, region.left - _RING)
        ring = values[top : region.bottom + _RING, left : region.right + _RING]
        inner = np.ones(ring.shape[:2], bool)
        inner[region.top - top : region.bottom - top, region.left - left : region.right - left] = 0
        around = ring[inner] if inner.any() else ring.reshape(-1, *ring.shape[2:])
        paint = np.median(around, axis=0)
        made[region.top : region.bottom, region.left : region.right] = paint.astype(values.dtype)
    return made


def default_masker() -> TextMasker:
    """A masker that reads where the extra ``ocr`` is installed, and masks all it proposes elsewhere."""
    from infimed.data.privacy.reading import RapidReader, reader_available

    return TextMasker(RapidReader() if reader_available() else None)


MaskFunction = Callable[["StoredImage"], "StoredImage"]


def _kind_in(box: TextLine, by_line: dict[TextLine, str]) -> str:
    inside = [
        kind
        for line, kind in by_line.items()
        if line.left < box.right and line.right > box.left and line.top < box.bottom and line.bottom > box.top
    ]  # fmt: skip
    named = [kind for kind in inside if kind not in (NOT_READ, "unreadable", "words", "number")]
    return (named or inside or [NOT_READ])[0]


def _stored_values(data: bytes) -> NDArray[Any]:
    """Stored PNG or JPEG values: uint16 or uint8 [H, W], or uint8 [H, W, 3]."""
    with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
        deep = imaging.deep_values(image)
        return deep if deep is not None else np.asarray(image)


def _full_range(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Stored values from nearly the least to nearly the largest, as RGB; a few outliers are cut off."""
    low, high = np.percentile(values[::2, ::2], (0.05, 99.95))
    scaled = (values.astype(np.float32) - low) * (255.0 / max(1.0, float(high - low)))
    grey = np.clip(scaled, 0, 255).astype(np.uint8)
    return np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), np.uint8)
