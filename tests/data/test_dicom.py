"""DICOM: pixels as pydicom's reference path gives them, and only safe facts."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.pixels import apply_rescale, apply_windowing, pixel_array

from infimed.data import dicom, imaging
from infimed.data.imaging import ImageError, Limits
from tests.data.samples import dicom_bytes, noise

BUNDLED = Path(pydicom.__file__).parent / "data" / "test_files"


def bundled(name: str) -> bytes:
    file = BUNDLED / name
    if not file.is_file():
        pytest.skip(f"this pydicom does not bundle {name}")
    return file.read_bytes()


def reference(data: bytes) -> np.ndarray:
    """Rescale and window by pydicom, scaled to 0..255."""
    dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    units = apply_rescale(pixel_array(dataset), dataset)
    shown = apply_windowing(units, dataset).astype(np.float64)
    low, high = _range(dataset)
    return np.rint((shown - low) / (high - low) * 255)


def _range(dataset: pydicom.Dataset) -> tuple[float, float]:
    slope = float(dataset.get("RescaleSlope", 1))
    shift = float(dataset.get("RescaleIntercept", 0))
    bits = dataset.BitsStored
    low = -(2 ** (bits - 1)) if dataset.PixelRepresentation else 0
    high = 2 ** (bits - 1) - 1 if dataset.PixelRepresentation else 2**bits - 1
    return low * slope + shift, high * slope + shift


@pytest.mark.parametrize(
    "name", ["MR_small.dcm", "examples_overlay.dcm", "J2K_pixelrep_mismatch.dcm"]
)
def test_windowed_pixels_match_pydicom(name: str) -> None:
    data = bundled(name)
    assert np.abs(dicom.read_frame(data).pixels()[..., 0] - reference(data)).max() <= 1


SAME_MR = [
    "MR_small_RLE.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_expb.dcm",
    "MR_small_implicit.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "MR_small_padded.dcm",
]


@pytest.mark.parametrize("name", SAME_MR)
def test_every_transfer_syntax_gives_the_same_image(name: str) -> None:
    assert np.array_equal(
        dicom.read_frame(bundled(name)).pixels(), dicom.read_frame(bundled("MR_small.dcm")).pixels()
    )


def test_stored_values_and_facts_give_hounsfield_units_back() -> None:
    values = np.array([[-1024, 0, 1000, 2000] * 4] * 16, np.int16)
    raw = dicom.read_frame(
        dicom_bytes(values, Modality="CT", RescaleSlope=2, RescaleIntercept=-100)
    )
    units = raw.values * raw.facts["rescale_slope"] + raw.facts["rescale_intercept"]  # type: ignore[operator]
    assert np.array_equal(units, values * 2.0 - 100) and raw.facts["units"] == "HU"


def test_monochrome1_is_shown_inverted() -> None:
    values = noise(channels=1)
    plain = dicom.read_frame(dicom_bytes(values)).pixels().astype(int)
    inverted = dicom.read_frame(
        dicom_bytes(values, PhotometricInterpretation="MONOCHROME1")
    ).pixels()
    assert np.abs(255 - plain - inverted).max() <= 1


def test_eight_bit_grey_without_window_is_shown_as_it_is() -> None:
    values = noise(channels=1)
    assert np.array_equal(dicom.read_frame(dicom_bytes(values)).pixels()[..., 0], values)


def test_rgb_is_kept() -> None:
    assert np.array_equal(dicom.read_frame(dicom_bytes(noise())).pixels(), noise())


def test_ybr_is_converted_to_the_colours_pydicom_gives() -> None:
    data = bundled("SC_ybr_full_422_uncompressed.dcm")
    expected = pixel_array(pydicom.dcmread(io.BytesIO(data)))
    assert np.array_equal(dicom.read_frame(data).pixels(), expected)


def test_padding_does_not_widen_the_window() -> None:
    values = np.full((32, 32), -2000, np.int16)
    values[8:24, 8:24] = np.random.default_rng(0).integers(0, 100, (16, 16))
    facts = dicom.read_frame(dicom_bytes(values, PixelPaddingValue=-2000)).facts
    assert 0 <= facts["window_center"] <= 100 and facts["window_width"] <= 100  # type: ignore[operator]


def test_a_chosen_frame_is_that_frame() -> None:
    frames = np.stack([noise(channels=1, seed=seed) for seed in range(4)])
    data = dicom_bytes(frames)
    for number in range(4):
        raw = dicom.read_frame(data, frame=number)
        assert np.array_equal(raw.pixels()[..., 0], frames[number]) and raw.facts["frames"] == 4


def test_a_frame_that_does_not_exist_is_named() -> None:
    with pytest.raises(ImageError, match="frame") as caught:
        dicom.read_frame(dicom_bytes(noise(channels=1)), frame=3)
    assert caught.value.code == "frame"


@pytest.mark.parametrize(
    ("frames", "limit", "expected"),
    [(3, 16, [0, 1, 2]), (30, 4, [0, 10, 19, 29]), (5, 1, [2]), (1, 4, [0])],
)
def test_chosen_frames_are_evenly_spaced(frames: int, limit: int, expected: list[int]) -> None:
    assert dicom.chosen_frames(frames, limit) == expected


def test_facts_hold_only_the_allow_list() -> None:
    data = dicom_bytes(
        noise(channels=1),
        Modality="DX",
        ViewPosition="PA",
        BodyPartExamined="CHEST",
        ImageLaterality="L",
        PatientSex="F",
        PatientAge="067Y",
        PixelSpacing=[0.2, 0.3],
        PatientName="Canary^Jane",
        PatientID="4711",
        StudyDate="20200101",
        AccessionNumber="A1",
    )
    facts = dicom.safe_facts(dicom.open_dataset(data))
    assert facts["modality"] == "DX" and facts["view"] == "PA" and facts["anatomy"] == "chest"
    assert facts["side"] == "left" and facts["sex"] == "F" and facts["age_band"] == "60-69"
    assert facts["pixel_spacing_mm"] == [0.2, 0.3]
    text = repr(facts).lower()
    assert not any(word in text for word in ("canary", "4711", "20200101", "a1'"))


@pytest.mark.parametrize(
    ("age", "band"), [("067Y", "60-69"), ("095Y", "90+"), ("018M", "0-9"), ("x", None), ("", None)]
)
def test_ages_become_bands(age: str, band: str | None) -> None:
    assert dicom.age_band(age) == band


def test_groups_follow_the_patient_and_the_salt() -> None:
    one = dicom.open_dataset(dicom_bytes(noise(channels=1), PatientID="4711"))
    two = dicom.open_dataset(dicom_bytes(noise(channels=1, seed=1), PatientID="4711"))
    assert dicom.group_key(one, "a") == dicom.group_key(two, "a") != dicom.group_key(two, "b")
    assert "4711" not in dicom.group_key(one, "a")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rtplan.dcm", "not-image"),
        ("liver_1frame.dcm", "not-image"),
        ("MR_truncated.dcm", "truncated"),
        ("priv_SQ.dcm", "no-pixels"),
        ("SC_rgb_small_odd.dcm", "small"),
        ("JPEG-lossy.dcm", "corrupt"),
    ],
)
def test_bad_files_get_their_reason(name: str, expected: str) -> None:
    with pytest.raises(ImageError) as caught:
        dicom.read_frame(bundled(name))
    assert caught.value.code == expected


def test_a_header_that_lies_about_its_size_is_refused_before_decoding() -> None:
    data = dicom_bytes(noise(channels=1), Rows=65535, Columns=65535)
    with pytest.raises(ImageError) as caught:
        dicom.read_frame(data)
    assert caught.value.code == "pixels"


def test_a_deflated_file_that_inflates_past_the_limit_is_refused() -> None:
    whole = bundled("image_dfl.dcm")
    start = dicom._meta_end(whole)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = whole[:start] + packer.compress(b"\0" * 20_000_000) + packer.flush()
    with pytest.raises(ImageError) as caught:
        dicom.open_dataset(bomb, limits=Limits(max_bytes=1_000_000))
    assert caught.value.code == "bytes"


def test_a_deflated_file_within_the_limit_is_read() -> None:
    assert dicom.read_frame(bundled("image_dfl.dcm")).pixels().shape == (512, 512, 3)


def test_every_bundled_file_either_decodes_or_is_refused_with_a_code() -> None:
    files = [file for file in sorted(BUNDLED.rglob("*")) if file.is_file()]
    decoded = 0
    for file in files:
        try:
            pixels = imaging.decode(file.read_bytes(), suffix=file.suffix.lower())
        except ImageError as error:
            assert error.code in imaging.REASONS, file.name
        else:
            decoded += 1
            assert pixels.ndim == 3 and pixels.dtype == np.uint8, file.name
    assert decoded >= 40 or not files


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9])
def test_a_cut_dicom_file_is_refused(keep: float) -> None:
    data = dicom_bytes(noise(channels=1).astype(np.uint16))
    with pytest.raises(ImageError):
        dicom.read_frame(data[: int(len(data) * keep)])
