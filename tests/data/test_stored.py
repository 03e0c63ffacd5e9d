"""The stored form: same pixels, no metadata, deterministic bytes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from infimed.data import imaging
from infimed.data.imaging import ImageError
from infimed.data.stored import prepare
from infimed.data.stripping import strip_jpeg, strip_png
from tests.data.samples import dicom_bytes, encoded, noise

CANARY = b"CANARY^PATIENT"


def tagged_png(pixels: np.ndarray) -> bytes:
    info = PngInfo()
    info.add_text("Comment", CANARY.decode())
    return encoded(pixels, "PNG", pnginfo=info)


def tagged_jpeg(**options: object) -> bytes:
    exif = Image.Exif()
    exif[0x010E] = CANARY.decode()
    return encoded(noise(40, 40), "JPEG", exif=exif, comment=CANARY, **options) + b"tail " + CANARY


def samples() -> dict[str, bytes]:
    rgba = np.concatenate([noise(), noise(seed=9, channels=1)[..., None]], axis=2)
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "png": tagged_png(noise()),
        "grey png": encoded(noise(channels=1)),
        "jpeg": tagged_jpeg(),
        "progressive jpeg": tagged_jpeg(progressive=True),
        "grey jpeg": encoded(noise(channels=1), "JPEG"),
        "cmyk jpeg": encoded(Image.fromarray(noise()).convert("CMYK"), "JPEG"),
        "rotated jpeg": encoded(noise(), "JPEG", exif=exif),
        "palette": encoded(Image.fromarray(noise()).quantize(8)),
        "rgba": encoded(rgba),
        "one bit": encoded(Image.fromarray(noise(channels=1)).convert("1")),
        "webp": encoded(noise(), "WEBP"),
        "bmp": encoded(noise(), "BMP"),
        "tiff": encoded(noise(), "TIFF"),
        "16-bit png": encoded(noise(channels=1).astype(np.uint16) * 16),
        "16-bit tiff": encoded(noise(channels=1).astype(np.uint16) * 16, "TIFF"),
        "float tiff": encoded(noise(channels=1).astype(np.float32) / 7, "TIFF"),
        "dicom": dicom_bytes(
            noise(channels=1).astype(np.int16) * 8 - 900, RescaleIntercept=-24, RescaleSlope=1
        ),
        "dicom rgb": dicom_bytes(noise()),
    }


@pytest.mark.parametrize("name", sorted(samples()))
def test_the_stored_form_shows_the_pixels_of_the_original(name: str) -> None:
    data = samples()[name]
    stored = prepare(data)
    slack = 1 if name in ("float tiff",) else 0
    difference = imaging.decode(stored.data, stored.facts).astype(int) - imaging.decode(data)
    assert np.abs(difference).max() <= slack and stored.extension in ("png", "jpg")


@pytest.mark.parametrize("name", sorted(samples()))
def test_size_and_hash_describe_the_stored_bytes(name: str) -> None:
    stored = prepare(samples()[name])
    assert Image.open(io.BytesIO(stored.data)).size == (stored.width, stored.height)
    assert prepare(samples()[name]).sha256 == stored.sha256


@pytest.mark.parametrize("name", ["png", "jpeg", "progressive jpeg"])
def test_no_metadata_survives(name: str) -> None:
    assert CANARY in samples()[name] and CANARY not in prepare(samples()[name]).data


def test_no_identifying_dicom_element_survives() -> None:
    data = dicom_bytes(
        noise(channels=1).astype(np.uint16),
        PatientName=CANARY.decode(),
        PatientID="ID-CANARY",
        PatientBirthDate="19700101",
        InstitutionName="CANARY CLINIC",
        BodyPartExamined="chest of CANARY, born 1970",
    )
    stored = prepare(data)
    assert b"CANARY" not in stored.data and "CANARY" not in repr(dict(stored.facts)).upper()


def test_deep_images_carry_their_window() -> None:
    stored = prepare(samples()["16-bit png"])
    assert {"window_center", "window_width"} <= set(stored.facts)


def test_the_window_a_record_states_wins() -> None:
    stored = prepare(samples()["16-bit png"], {"window_center": 5.0, "window_width": 10.0})
    assert stored.facts["window_center"] == 5.0


def test_a_png_with_a_wrong_checksum_is_refused() -> None:
    data = bytearray(encoded(noise()))
    data[-6] ^= 0xFF
    with pytest.raises(ImageError):
        prepare(bytes(data))


@pytest.mark.parametrize("cut", [3, 10, 30, 100, -3])
def test_cut_files_never_pass_the_strippers(cut: int) -> None:
    with pytest.raises(ImageError):
        strip_png(encoded(noise())[:cut])
    with pytest.raises(ImageError):
        strip_jpeg(encoded(noise(), "JPEG")[:cut])
