"""DICOM pixels and the few header facts that may leave the file.

Pixel path (PS3.3 C.11): modality LUT or rescale, VOI LUT or window, MONOCHROME1 as a fact that
`imaging.render` inverts, PALETTE and YBR to RGB, compressed syntaxes through pylibjpeg, one frame
at a time. Invariant: facts come from the closed table of `privacy.headers`, so no name, date, number
or free text of a patient passes; identifiers exist only as salted hashes (`group_key`), and as
`KnownNames` in memory. Cost: one parse of the file a frame.
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
import warnings
import zlib
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

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
from infimed.data.privacy import headers
from infimed.data.privacy.headers import age_band, finite, kept_number, kept_term
from infimed.data.record import Fact

__all__ = [
    "age_band", "chosen_frames", "frame_count", "group_key", "open_dataset", "read_frame",
    "refuse_non_image", "safe_facts",
]  # fmt: skip

# pydicom quotes element values in warnings and log lines; those may identify a patient.
warnings.filterwarnings("ignore", module=r"pydicom(\..*)?")
for _name in ("pydicom", "pylibjpeg", "openjpeg", "libjpeg"):
    logging.getLogger(_name).addHandler(logging.NullHandler())
    logging.getLogger(_name).propagate = False

DEFLATED: Final = "1.2.840.10008.1.2.1.99"
NOT_IMAGES: Final = frozenset(
    [
        "SEG",
        "RTDOSE",
        "RTPLAN",
        "RTSTRUCT",
        "RTRECORD",
        "SR",
        "KO",
        "PR",
        "REG",
        "FID",
        "DOC",
        "ECG",
        "HD",
        "EPS",
        "AU",
        "PLAN",
        "STAIN",
    ]
)


def open_dataset(data: bytes, *, limits: Limits = LIMITS, header_only: bool = False) -> Any:
    """Parse a DICOM file (with or without preamble) held in memory.

    Raises:
        ImageError: corrupt, truncated, bytes (a deflated file that inflates past the limit).
    """
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    _refuse_deflate_bomb(data, limits)
    try:
        dataset = pydicom.dcmread(io.BytesIO(data), force=True, stop_before_pixels=header_only)
        if not len(dataset):
            raise ImageError("corrupt")
        if not hasattr(dataset, "file_meta"):
            dataset.file_meta = FileMetaDataset()
        if "TransferSyntaxUID" not in dataset.file_meta:
            implicit, little = dataset.original_encoding
            dataset.file_meta.TransferSyntaxUID = (
                ImplicitVRLittleEndian
                if implicit
                else ExplicitVRLittleEndian
                if little
                else ExplicitVRBigEndian
            )
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(failure_code(error)) from None
    return dataset


def refuse_non_image(dataset: Any) -> None:
    """Refuse what is not an acquired image, and headers whose size breaks the limits.

    Raises:
        ImageError: not-image, no-pixels.
    """
    if (
        kept_term(dataset, "modality", "Modality") in NOT_IMAGES
        or "DirectoryRecordSequence" in dataset
    ):
        raise ImageError("not-image")
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise ImageError("no-pixels")


def frame_count(dataset: Any) -> int:
    """Number of frames; 1 when not stated. Raises ImageError "corrupt" when unreadable."""
    try:
        return max(1, int(dataset.get("NumberOfFrames") or 1))
    except Exception:
        raise ImageError("corrupt") from None


def chosen_frames(frames: int, limit: int) -> list[int]:
    """All frames up to `limit`, else `limit` of them evenly spaced, first and last included."""
    if frames <= limit:
        return list(range(frames))
    if limit == 1:
        return [frames // 2]
    return [round(i * (frames - 1) / (limit - 1)) for i in range(limit)]


def read_frame(
    data: bytes,
    *,
    frame: int = 0,
    limits: Limits = LIMITS,
    window: tuple[float, float] | None = None,
) -> RawImage:
    """One frame as stored values plus safe facts. `RawImage.pixels` renders it.

    Args:
        window: center and width in units after rescale, instead of the file's own window or VOI LUT.

    Raises:
        ImageError: no-pixels, not-image, frame, pixels, small, unsupported, corrupt, truncated, window (the
            image is coloured).
    """
    dataset = open_dataset(data, limits=limits)
    refuse_non_image(dataset)
    frames = frame_count(dataset)
    if not 0 <= frame < frames:
        raise ImageError("frame", seen=frame, accepted=f"0..{frames - 1}")
    try:
        rows, columns = int(dataset.Rows), int(dataset.Columns)
    except Exception:
        raise ImageError("corrupt") from None
    check_size(columns, rows, limits)
    if rows * columns * int(dataset.get("SamplesPerPixel") or 1) * 8 > limits.max_volume_bytes:
        raise ImageError("bytes")
    try:
        facts = safe_facts(dataset, frame)
        values = _frame_values(dataset, frame, frames)
        if frames > 1:
            facts["frame"], facts["frames"] = frame, frames
        if str(dataset.get("PhotometricInterpretation", "")).startswith("MONOCHROME"):
            stored, more = _grey(dataset, values, frame, window)
            return RawImage(stored, {**facts, **more})
        if window is not None:
            raise ImageError("window")
        facts.pop("window_center", None)
        facts.pop("window_width", None)
        return RawImage(_colour(dataset, values), facts)
    except ImageError:
        raise
    except MemoryError:
        raise ImageError("memory") from None
    except Exception as error:
        raise ImageError(failure_code(error)) from None


def safe_facts(dataset: Any, frame: int = 0) -> dict[str, Fact]:
    """The header facts that `privacy.headers.KEPT` lets through, with the spacing of this frame."""
    return headers.safe_facts(dataset, _pixel_spacing(dataset, frame))


def group_key(dataset: Any, salt: str) -> str:
    """Salted hash of the patient, else study, else series: same group, never who."""
    for keyword in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID"):
        value = str(dataset.get(keyword) or "").strip()
        if value:
            return hashlib.sha256(f"{salt}\x1f{keyword}\x1f{value}".encode()).hexdigest()[:16]
    return ""


def _refuse_deflate_bomb(data: bytes, limits: Limits) -> None:
    """Refuse a deflated data set that inflates past the limit, without keeping what comes out."""
    if data[128:132] != b"DICM" or DEFLATED.encode() not in data[:2048]:
        return
    inflater, total, rest = zlib.decompressobj(-zlib.MAX_WBITS), 0, data[_meta_end(data) :]
    try:
        while rest and not inflater.eof:
            total += len(inflater.decompress(rest, 1 << 20))
            rest = inflater.unconsumed_tail
            if total > limits.max_bytes:
                raise ImageError("bytes", accepted=f"at most {limits.max_bytes} bytes inflated")
    except zlib.error:
        raise ImageError("corrupt") from None


def _meta_end(data: bytes) -> int:
    """Offset of the data set behind the file meta elements (group 0002, explicit little endian)."""
    at = 132
    while data[at : at + 2] == b"\x02\x00":
        if data[at + 4 : at + 6] in (b"OB", b"UN", b"OW", b"SQ", b"UT"):
            at += 12 + int.from_bytes(data[at + 8 : at + 12], "little")
        else:
            at += 8 + int.from_bytes(data[at + 6 : at + 8], "little")
    return at


def _frame_values(dataset: Any, frame: int, frames: int) -> NDArray[Any]:
    from pydicom.pixels import pixel_array

    return np.asarray(pixel_array(dataset, index=frame if frames > 1 else 0))


def _grey(
    dataset: Any, values: NDArray[Any], frame: int, window: tuple[float, float] | None
) -> tuple[NDArray[np.uint16], dict[str, Fact]]:
    """Stored grey values and the rescale, window and units that `render` needs."""
    from pydicom.pixels import apply_modality_lut, apply_voi

    padding = _padding_mask(dataset, values)
    slope = finite(_functional(dataset, frame, "PixelValueTransformationSequence", "RescaleSlope"))
    shift = finite(
        _functional(dataset, frame, "PixelValueTransformationSequence", "RescaleIntercept")
    )
    linear = not dataset.get("ModalityLUTSequence")
    if not linear:
        values = np.asarray(apply_modality_lut(values, dataset))
        slope, shift = 1.0, 0.0
    slope, shift = (slope or 1.0), (shift or 0.0)
    if dataset.get("VOILUTSequence") and window is None:
        units = (
            values
            if slope == 1.0 and shift == 0.0
            else np.rint(values * slope + shift).astype(np.int64)
        )
        values = np.asarray(apply_voi(units, dataset))
        bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        stored, facts = stored_grey(values)
        top = float(2 ** min(bits, 16) - 1)
        return stored, {**facts, **_window(top / 2, top, "LINEAR_EXACT", "VOI LUT")}
    stored, facts = stored_grey(values, slope, shift)
    if (
        kept_term(dataset, "modality", "Modality") == "CT"
        and linear
        and "RescaleIntercept" in dataset
    ):
        facts["units"] = "HU"
    center = kept_number(
        _functional(dataset, frame, "FrameVOILUTSequence", "WindowCenter"), "window_center"
    )
    width = kept_number(
        _functional(dataset, frame, "FrameVOILUTSequence", "WindowWidth"), "window_width"
    )
    own = (center, width) if center is not None and width is not None and width > 0 else None
    shown = window or own
    if shown is not None:
        function = kept_term(dataset, "voi_function", "VOILUTFunction") or "LINEAR"
        if own is None:
            function = "LINEAR_EXACT"
        source = "header" if window is None else "asked for"
        return stored, {**facts, **_window(*shown, function, source)}
    bits = int(dataset.get("BitsStored") or 16)
    if bits <= 8 and linear and slope == 1.0 and dataset.get("PixelRepresentation", 0) == 0:
        top = float(2**bits - 1)
        return stored, {**facts, **_window(top / 2 + shift, top, "LINEAR_EXACT", "full range")}
    visible = values[~padding] if padding is not None and not padding.all() else values
    center, width = percentile_window(visible * slope + shift)
    return stored, {**facts, **_window(center, width, "LINEAR_EXACT", "percentiles 0.5-99.5")}


def _window(center: float, width: float, function: str, source: str) -> dict[str, Fact]:
    return {
        "window_center": float(center),
        "window_width": float(width),
        "voi_function": function,
        "window_source": source,
    }


def _padding_mask(dataset: Any, values: NDArray[Any]) -> NDArray[np.bool_] | None:
    low = finite(dataset.get("PixelPaddingValue"))
    if low is None:
        return None
    high = finite(dataset.get("PixelPaddingRangeLimit"))
    limits = sorted((low, low if high is None else high))
    return np.asarray((values >= limits[0]) & (values <= limits[1]))


def _colour(dataset: Any, values: NDArray[Any]) -> NDArray[np.uint8]:
    """Any colour interpretation to uint8 RGB [H, W, 3] (YBR was converted while decoding)."""
    from pydicom.pixels import apply_color_lut

    bits = int(dataset.get("BitsStored") or 8)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        values = np.asarray(apply_color_lut(values, dataset))
        # Many writers declare 16-bit palettes and fill 8 bits of them.
        bits = 16 if values.dtype.itemsize > 1 and int(values.max()) > 255 else 8
    if values.ndim != 3 or values.shape[2] not in (3, 4):
        raise ImageError("unsupported")
    values = values[..., :3]
    if bits > 8:
        values = values >> (bits - 8)
    return np.ascontiguousarray(np.clip(values, 0, 255).astype(np.uint8))


def _functional(dataset: Any, frame: int, sequence: str, keyword: str) -> Any:
    """An attribute of a frame: per-frame functional group, shared group, else the top level."""
    for item in _groups(dataset, frame):
        inner = item.get(sequence)
        if inner and inner[0].get(keyword) is not None:
            return inner[0].get(keyword)
    return dataset.get(keyword)


def _groups(dataset: Any, frame: int) -> Iterator[Any]:
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence")
    if per_frame and frame < len(per_frame):
        yield per_frame[frame]
    yield from (dataset.get("SharedFunctionalGroupsSequence") or [])[:1]


def _pixel_spacing(dataset: Any, frame: int) -> Fact:
    """[row, column] spacing in mm; detector spacing where patient spacing is not stated."""
    value = _functional(dataset, frame, "PixelMeasuresSequence", "PixelSpacing")
    value = value if value is not None else dataset.get("ImagerPixelSpacing")
    try:
        pair = [float(v) for v in value]
    except (TypeError, ValueError):
        return None
    return pair if len(pair) == 2 and all(math.isfinite(v) and 0 < v <= 100 for v in pair) else None
