"""NIfTI volumes: orientation-aware slices and axial montages as stored grey values.

The volume is turned to the closest canonical axes (RAS+, nibabel) and shown in the radiological
convention: anterior (or superior) up, the patient's right on the left of the picture. Stored
values stay exact where they are integers; the window is one for the whole volume (percentiles
0.5..99.5 of its non-zero voxels), so slices stay comparable. Cost: the volume in memory once.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from infimed.data import imaging
from infimed.data.imaging import (
    LIMITS,
    ImageError,
    Limits,
    RawImage,
    check_size,
    failure_code,
    percentile_window,
    stored_grey,
)
from infimed.data.record import Fact

PLANES: Final = ("sagittal", "coronal", "axial")
"""Plane that a fixed index on canonical axis 0, 1, 2 shows."""


@dataclass(frozen=True, slots=True)
class Volume:
    """A canonical (RAS+) volume: uint16 values [X, Y, Z], spacing in mm, and facts to render it."""

    values: NDArray[np.uint16]
    spacing_mm: tuple[float, float, float]
    facts: dict[str, Fact]

    def plane(self, axis: int, index: int) -> RawImage:
        """One slice across canonical `axis` in display orientation.

        Raises:
            ImageError: code "frame" when the slice does not exist.
        """
        if axis not in (0, 1, 2) or not 0 <= index < self.values.shape[axis]:
            raise ImageError("frame", seen=f"axis={axis},slice={index}")
        rows, columns = self._display(axis)
        facts: dict[str, Fact] = {
            **self.facts,
            "plane": PLANES[axis],
            "axis": axis,
            "slice": index,
            "slices": self.values.shape[axis],
            "pixel_spacing_mm": [rows, columns],
            "slice_spacing_mm": self.spacing_mm[axis],
        }
        return RawImage(self._slice(axis, index), facts)

    def axial(self, index: int | None) -> RawImage:
        """Axial slice `index`, the middle one for None."""
        return self.plane(2, self.values.shape[2] // 2 if index is None else index)

    def montage(self, tiles: int, axis: int = 2) -> RawImage:
        """`tiles` evenly spaced slices, head to foot (or left to right), in the squarest grid."""
        depth = self.values.shape[axis]
        tiles = max(1, min(tiles, depth))
        margin = depth * 0.1 if depth > tiles * 1.5 else 0.0
        picks = [round(v) for v in np.linspace(depth - 1 - margin, margin, tiles)]
        images = [self._slice(axis, pick) for pick in picks]
        columns = int(np.ceil(np.sqrt(tiles)))
        height, width = images[0].shape
        grid = np.full(
            (int(np.ceil(tiles / columns)) * height, columns * width), self.values.min(), np.uint16
        )
        for position, image in enumerate(images):
            row, column = divmod(position, columns)
            grid[row * height : (row + 1) * height, column * width : (column + 1) * width] = image
        spacing = self._display(axis)
        facts: dict[str, Fact] = {
            **self.facts,
            "plane": PLANES[axis],
            "montage": tiles,
            "montage_slices": list(picks),
            "pixel_spacing_mm": list(spacing),
            "slice_spacing_mm": self.spacing_mm[axis],
        }
        return RawImage(grid, facts)

    def _slice(self, axis: int, index: int) -> NDArray[np.uint16]:
        if axis == 2:  # rows anterior to posterior, columns patient right to left
            return np.ascontiguousarray(self.values[::-1, ::-1, index].T)
        if axis == 1:  # rows superior to inferior, columns patient right to left
            return np.ascontiguousarray(self.values[::-1, index, ::-1].T)
        return np.ascontiguousarray(self.values[index, ::-1, ::-1].T)  # anterior on the left

    def _display(self, axis: int) -> tuple[float, float]:
        """[row, column] spacing of the displayed slice in mm."""
        x, y, z = self.spacing_mm
        return {2: (y, x), 1: (z, x), 0: (z, y)}[axis]


def open_volume(data: bytes, *, limits: Limits = LIMITS) -> Volume:
    """Read a NIfTI-1 or NIfTI-2 single file, gzip-compressed or not. 4-D files give their first volume.

    Raises:
        ImageError: bytes, format, corrupt, truncated, unsupported, small, non-finite.
    """
    import nibabel as nib

    if data[:2] == b"\x1f\x8b":
        data = _inflate(data, limits.max_volume_bytes)
    try:
        kind = (
            nib.Nifti2Image
            if data[:4] in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c")
            else nib.Nifti1Image
        )
        _check_header(kind.header_class.from_fileobj(_Reader(data), check=False), len(data), limits)
        image = kind.from_bytes(data)
        raw = np.asanyarray(image.dataobj.get_unscaled())
        slope, intercept = float(image.dataobj.slope), float(image.dataobj.inter)
        notes = {"volumes": int(raw.shape[3])} if raw.ndim == 4 and raw.shape[3] > 1 else {}
        raw = (
            raw.reshape(raw.shape[:3])
            if raw.ndim > 3 and not notes
            else raw[..., 0]
            if raw.ndim > 3
            else raw
        )
        canonical = nib.as_closest_canonical(nib.Nifti1Image(raw, image.affine, dtype=raw.dtype))
        turned = np.asanyarray(canonical.dataobj)
        spacing = tuple(float(abs(v)) for v in canonical.header.get_zooms()[:3])
    except ImageError:
        raise
    except MemoryError:
        raise ImageError("memory") from None
    except Exception as error:
        raise ImageError(failure_code(error)) from None
    check_size(max(turned.shape[:2]), min(turned.shape[:2]), limits)
    stored, facts = stored_grey(turned, slope, intercept)
    units = imaging.in_units(stored, facts)
    visible = units[units != units.min()]
    center, width = percentile_window(visible if visible.size else units)
    facts.update(
        window_center=center,
        window_width=width,
        voi_function="LINEAR_EXACT",
        window_source="percentiles 0.5-99.5 of the volume",
        convention="radiological",
        **notes,
    )
    return Volume(stored, (spacing[0], spacing[1], spacing[2]), facts)


class _Reader:
    """The two methods of a file that nibabel's header parser asks for, over bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def read(self, count: int) -> bytes:
        piece = self._data[self._at : self._at + count]
        self._at += len(piece)
        return piece

    def tell(self) -> int:
        return self._at


def _check_header(header: Any, size: int, limits: Limits) -> None:
    shape, dtype = header.get_data_shape(), header.get_data_dtype()
    if len(shape) < 3 or any(int(n) < 1 for n in shape):
        raise ImageError(
            "unsupported", seen=str(tuple(shape)), accepted="a volume of three dimensions"
        )
    if dtype.kind not in "iuf":
        raise ImageError("unsupported", seen=str(dtype), accepted="real numbers")
    needed = int(np.prod([int(n) for n in shape], dtype=object)) * dtype.itemsize
    if needed > limits.max_volume_bytes:
        raise ImageError("bytes", seen=needed, accepted=f"at most {limits.max_volume_bytes} bytes")
    if needed > size:
        raise ImageError("truncated")


def _inflate(data: bytes, limit: int) -> bytes:
    """Gunzip at most `limit` bytes."""
    inflater = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        out = inflater.decompress(data, limit + 1)
    except zlib.error:
        raise ImageError("corrupt") from None
    if len(out) > limit:
        raise ImageError("bytes", accepted=f"at most {limit} bytes inflated")
    if not inflater.eof:
        raise ImageError("truncated")
    return out
