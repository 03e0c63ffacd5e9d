"""Safe decoding: one rule for every odd image, a fixed code for every refusal."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from infimed.data import imaging
from infimed.data.imaging import ImageError, Limits
from tests.data.samples import dicom_bytes, encoded, noise


def code(data: bytes, **options: object) -> str:
    with pytest.raises(ImageError) as caught:
        imaging.decode(data, **options)  # type: ignore[arg-type]
    return caught.value.code


def png_bomb(width: int, height: int) -> bytes:
    """A well-formed PNG of a few bytes that claims a huge size."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b""))
    packed = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_give_their_exact_pixels(form: str) -> None:
    pixels = noise()
    options = {"lossless": True} if form == "WEBP" else {}
    assert np.array_equal(imaging.decode(encoded(pixels, form, **options)), pixels)


def test_jpeg_gives_the_pixels_of_pillow() -> None:
    data = encoded(noise(), "JPEG")
    assert np.array_equal(
        imaging.decode(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    )


def test_grey_becomes_three_equal_channels() -> None:
    pixels = noise(channels=1)
    assert np.array_equal(imaging.decode(encoded(pixels)), np.repeat(pixels[:, :, None], 3, axis=2))


def test_a_bomb_is_refused_by_its_header() -> None:
    assert code(png_bomb(60000, 60000)) == "pixels"


def test_the_pixel_cap_counts_before_decoding() -> None:
    assert code(encoded(noise(40, 40)), limits=Limits(max_pixels=1000)) == "pixels"


def test_the_byte_cap_is_checked_first() -> None:
    assert code(b"\x89PNG" + b"x" * 100, limits=Limits(max_bytes=10)) == "bytes"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_truncated_file_is_refused(form: str) -> None:
    data = encoded(noise(64, 64), form)
    assert code(data[: len(data) // 2]) in ("truncated", "corrupt")


def test_a_truncated_jpeg_is_called_truncated() -> None:
    data = encoded(noise(64, 64), "JPEG")
    assert code(data[: len(data) * 2 // 3]) == "truncated"


def test_cmyk_becomes_rgb() -> None:
    image = Image.fromarray(noise(seed=3)).convert("CMYK")
    data = encoded(image, "TIFF")
    assert np.array_equal(imaging.decode(data), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("orient", range(1, 9))
def test_exif_orientation_is_applied(orient: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orient
    data = encoded(noise(16, 24), "PNG", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert np.array_equal(imaging.decode(data), expected)


@pytest.mark.parametrize("orient", range(1, 9))
def test_exif_orientation_of_deep_images_matches_that_of_plain_ones(orient: int) -> None:
    image = Image.fromarray(noise(16, 24, channels=1))
    image.getexif()[0x0112] = orient
    expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(imaging.upright(noise(16, 24, channels=1), orient), expected)


@pytest.mark.parametrize("size", [(1, 1), (3000, 1), (7, 100)])
def test_a_side_below_eight_pixels_is_refused(size: tuple[int, int]) -> None:
    assert code(encoded(Image.new("RGB", size))) == "small"


def test_the_first_frame_of_an_animation_is_taken_and_noted() -> None:
    frames = [Image.fromarray(noise(seed=seed)) for seed in range(3)]
    data = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    decoded = imaging.load(data)
    assert np.array_equal(decoded.pixels, noise(seed=0)) and "first of 3 frames" in decoded.notes


def test_an_animated_gif_is_no_accepted_format() -> None:
    frames = [Image.fromarray(noise(seed=seed)) for seed in range(2)]
    assert code(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])) == "format"


@pytest.mark.parametrize(
    "data", [b"<svg></svg>", b"%PDF-1.7 ....", b"hello world, this is text", b"\0" * 300]
)
def test_other_content_is_refused_whatever_its_name(data: bytes) -> None:
    assert code(data, suffix=".png") == "format"


def test_an_empty_file_is_called_empty() -> None:
    assert code(b"") == "empty"


def test_twelve_bit_grey_is_not_saturated() -> None:
    ramp = np.tile(np.arange(4096, dtype=np.uint16)[:, None], (1, 16))
    pixels = imaging.decode(encoded(ramp))
    assert (pixels == 255).mean() < 0.02 and len(np.unique(pixels)) == 256


def test_sixteen_bit_grey_uses_the_window_of_its_facts() -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint16)[:, None] * 16, (1, 16))
    pixels = imaging.decode(encoded(ramp), {"window_center": 1024, "window_width": 2048})
    assert pixels[64, 0, 0] in (127, 128) and pixels[128:].min() == 255


def test_a_window_in_facts_does_not_touch_eight_bit_images() -> None:
    pixels = noise()
    assert np.array_equal(
        imaging.decode(encoded(pixels), {"window_center": 10, "window_width": 5}), pixels
    )


def test_sixteen_bit_tiff_and_png_agree() -> None:
    values = np.random.default_rng(1).integers(0, 4096, (20, 20)).astype(np.uint16)
    assert np.array_equal(
        imaging.decode(encoded(values, "TIFF")), imaging.decode(encoded(values, "PNG"))
    )


def test_a_float_tiff_without_a_finite_value_is_refused() -> None:
    assert code(encoded(np.full((16, 16), np.nan, np.float32), "TIFF")) == "non-finite"


def test_dark_print_on_a_transparent_page_stays_readable() -> None:
    page = np.zeros((20, 20, 4), np.uint8)
    page[5:10, 5:10] = (0, 0, 0, 255)
    pixels = imaging.decode(encoded(page))
    assert pixels[7, 7].max() == 0 and pixels[0, 0].min() == 255


def test_a_scan_with_transparent_corners_gets_black_corners() -> None:
    scan = np.zeros((20, 20, 2), np.uint8)
    scan[2:18, 2:18, 1] = 255
    scan[8:12, 8:12, 0] = 200
    pixels = imaging.decode(encoded(Image.fromarray(scan, "LA")))
    assert pixels[0, 0].max() == 0 and pixels[9, 9, 0] == 200


def test_palette_images_get_their_colours() -> None:
    image = Image.fromarray(noise(seed=5)).quantize(16)
    assert np.array_equal(imaging.decode(encoded(image)), np.asarray(image.convert("RGB")))


def test_error_text_never_quotes_a_codec() -> None:
    data = bytearray(encoded(noise(64, 64), "PNG"))
    data[60:80] = b"\xff" * 20
    with pytest.raises(ImageError) as caught:
        imaging.decode(bytes(data))
    assert (
        caught.value.what == imaging.REASONS[caught.value.code][0]
        and caught.value.__cause__ is None
    )


@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=400),
    st.sampled_from(
        [
            b"",
            b"\xff\xd8\xff",
            b"\x89PNG\r\n\x1a\n",
            b"II*\0",
            b"BM",
            b"RIFF....WEBP",
            b"\0" * 128 + b"DICM",
        ]
    ),
)
def test_any_bytes_either_decode_or_are_refused_with_a_code(body: bytes, head: bytes) -> None:
    try:
        pixels = imaging.decode(head + body)
    except ImageError as error:
        assert error.code in imaging.REASONS
    else:
        assert pixels.dtype == np.uint8 and pixels.shape[2] == 3


def test_dicom_bytes_decode_through_the_same_door() -> None:
    values = (np.arange(400, dtype=np.uint16).reshape(20, 20)) * 10
    data = dicom_bytes(values, WindowCenter=2000, WindowWidth=4000, Modality="CT")
    assert np.array_equal(imaging.decode(data)[..., 0], imaging.windowed(values, 2000, 4000))


def test_windowed_matches_the_standard_point_by_point() -> None:
    center, width = 40.0, 100.0
    for value in (-500, -10, -9, 0, 39, 40, 89, 90, 500):
        if value <= center - 0.5 - (width - 1) / 2:
            expected = 0.0
        elif value > center - 0.5 + (width - 1) / 2:
            expected = 255.0
        else:
            expected = ((value - (center - 0.5)) / (width - 1) + 0.5) * 255
        got = int(imaging.windowed(np.array([value]), center, width)[0])
        assert abs(got - expected) <= 0.5 + 1e-3


def test_windowed_inverts_after_windowing() -> None:
    values = np.arange(0, 200)
    plain = imaging.windowed(values, 100, 80).astype(int)
    assert np.abs(255 - plain - imaging.windowed(values, 100, 80, invert=True)).max() <= 1


def test_sigmoid_window_matches_its_formula() -> None:
    values = np.linspace(-100, 300, 50)
    expected = np.rint(255 / (1 + np.exp(-4 * (values - 100) / 120)))
    assert (
        np.abs(imaging.windowed(values, 100, 120, function="SIGMOID").astype(int) - expected).max()
        <= 1
    )


def test_squash_downscales_by_exact_area_average() -> None:
    pixels = noise(48, 96)
    slow = pixels.reshape(12, 4, 12, 8, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(imaging.squash(pixels, 12).astype(float) - slow).max() <= 0.51


@pytest.mark.parametrize("size", [(10, 10), (10, 90), (90, 10), (33, 33), (300, 200)])
def test_squash_always_gives_the_square_asked_for(size: tuple[int, int]) -> None:
    made = imaging.squash(noise(*size), 33)
    assert made.shape == (33, 33, 3) and made.dtype == np.uint8 and made.flags.c_contiguous


def test_squash_keeps_a_constant_image_constant() -> None:
    flat = np.full((17, 90, 3), 201, np.uint8)
    assert (imaging.squash(flat, 40) == 201).all()


@pytest.mark.parametrize("kind", [np.int16, np.uint16, np.int32, np.uint8])
def test_stored_grey_gives_integers_back_exactly(kind: type) -> None:
    low, high = (-2000, 3000) if np.dtype(kind).kind == "i" else (0, 250)
    values = np.random.default_rng(2).integers(low, high, (12, 12)).astype(kind)
    stored, facts = imaging.stored_grey(values, 1.0, -1024.0)
    back = stored.astype(np.float64) * facts["rescale_slope"] + facts["rescale_intercept"]  # type: ignore[operator]
    assert np.array_equal(back, values.astype(np.float64) - 1024)


def test_stored_grey_quantises_floats_within_a_step() -> None:
    values = np.random.default_rng(3).normal(size=(12, 12)).astype(np.float32)
    stored, facts = imaging.stored_grey(values)
    back = stored * facts["rescale_slope"] + facts["rescale_intercept"]  # type: ignore[operator]
    assert facts["quantised"] is True and np.abs(back - values).max() <= facts["rescale_slope"]  # type: ignore[operator]
