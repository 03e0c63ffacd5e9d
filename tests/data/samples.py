"""Small files that the tests of the data room share."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"


def real(name: str) -> Path:
    """A folder of the development data; skips where it is absent."""
    if not (REAL / name).exists():
        pytest.skip(f"development data '{name}' is not beside the checkout")
    return REAL / name


def noise(height: int = 24, width: int = 32, seed: int = 0, channels: int = 3) -> np.ndarray:
    """Smooth-ish random uint8 pixels."""
    generator = np.random.default_rng(seed)
    shape = (height, width, channels) if channels > 1 else (height, width)
    return generator.integers(0, 256, shape, dtype=np.uint8)


def encoded(pixels: Any, form: str = "PNG", **options: Any) -> bytes:
    """An array or Pillow image as file bytes."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def write_image(path: Path, seed: int = 0, form: str = "PNG") -> Path:
    """A small image file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(noise(seed=seed), form))
    return path


def write_lines(path: Path, values: list[Any]) -> Path:
    """A JSONL file; strings are written as they are."""
    lines = [value if isinstance(value, str) else json.dumps(value) for value in values]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def dicom_bytes(
    pixels: np.ndarray, *, syntax: str = ExplicitVRLittleEndian, **elements: Any
) -> bytes:
    """A valid DICOM file around grey [H, W], frames [N, H, W] or RGB [H, W, 3] pixels."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["sample"])
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    colour = pixels.ndim == 3 and pixels.shape[-1] == 3
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        dataset.PlanarConfiguration = 0
    if pixels.ndim == 3 and not colour:
        dataset.NumberOfFrames = pixels.shape[0]
    dataset.Rows, dataset.Columns = pixels.shape[:2] if colour else pixels.shape[-2:]
    bits = pixels.dtype.itemsize * 8
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.PixelData = pixels.tobytes()
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


def llava_folder(root: Path, count: int = 12, images: int = 4) -> Path:
    """A LLaVA data set of `count` questions about `images` images."""
    root.mkdir(parents=True, exist_ok=True)
    for number in range(images):
        write_image(root / "images" / f"{number}.png", seed=number)
    records = [
        {
            "id": f"q{number}",
            "image": f"images/{number % images}.png",
            "conversations": [
                {"from": "human", "value": f"<image>\nWhat is in picture {number}?"},
                {"from": "gpt", "value": f"Noise number {number % images}."},
            ],
        }
        for number in range(count)
    ]
    (root / "data.json").write_text(json.dumps(records), encoding="utf-8")
    return root
