"""The quick JPEG path gives Pillow's pixels, for ordinary files and for damaged ones."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFile

from infimed.data import imaging
from infimed.data.jpeg import PlainJpeg, decode_plain, plain_jpeg
from infimed.data.limits import ImageError


def picture(height: int, width: int, channels: int, seed: int = 0) -> Image.Image:
    random = np.random.default_rng(seed)
    shape = (height, width) if channels == 1 else (height, width, channels)
    smooth = np.cumsum(random.normal(0, 6, shape), axis=1) + 120
    return Image.fromarray(np.clip(smooth + random.normal(0, 9, shape), 0, 255).astype(np.uint8))


def coded(image: Image.Image, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", **options)  # type: ignore[arg-type]
    return out.getvalue()


def by_pillow(data: bytes) -> NDArray[np.uint8] | None:
    """What Pillow alone makes of the file; None when it refuses it."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"), np.uint8)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(8, 8), (64, 64), (33, 71), (17, 128), (200, 15)])
@pytest.mark.parametrize("quality", [20, 75, 90, 100])
def test_ordinary_files_have_pillows_pixels(
    channels: int, size: tuple[int, int], quality: int
) -> None:
    layouts = ["4:4:4", "4:2:2", "4:2:0"] if channels == 3 else [None]
    for layout in layouts:
        more = {"subsampling": layout} if layout else {}
        for restart in (0, 2):
            data = coded(
                picture(*size, channels, quality),
                quality=quality,
                restart_marker_blocks=restart,
                optimize=restart == 0,
                **more,
            )
            header = plain_jpeg(data)
            assert header == PlainJpeg(size[1], size[0], channels)
            planes = decode_plain(data, header)
            assert planes is not None and planes.ndim == (2 if channels == 1 else 3)
            assert np.array_equal(imaging.rgb_of(planes), by_pillow(data))


def test_files_that_decoders_may_read_differently_are_left_to_pillow() -> None:
    plain = coded(picture(40, 40, 3))
    turned = Image.Exif()
    turned[0x0112] = 6
    left = [
        coded(picture(40, 40, 3), progressive=True),
        coded(picture(40, 40, 4).convert("CMYK")),
        coded(picture(40, 40, 3), exif=turned),
        plain[:-40],
        plain + b"\0",
        plain[:-2],
        b"",
        b"\xff\xd8\xff\xd9",
    ]
    assert plain_jpeg(plain) is not None
    assert [plain_jpeg(data) for data in left] == [None] * len(left)


def test_damaged_files_have_pillows_pixels_or_pillows_refusal() -> None:
    random = np.random.default_rng(5)
    sources = [coded(picture(48, 56, 1)), coded(picture(48, 56, 3), subsampling="4:2:0")]
    sources.append(coded(picture(48, 56, 3), restart_marker_blocks=3))
    quick = 0
    for number in range(1500):
        data = bytearray(sources[number % 3])
        kind = number % 4
        for _ in range(1 + number % 5):
            at = int(random.integers(2 if kind == 0 else len(data) // 2, len(data) - 2))
            if kind < 2:
                data[at] = int(random.integers(256))
            elif kind == 2:
                del data[at : at + int(random.integers(1, 40))]
            else:
                data[at:at] = bytes(random.integers(0, 255, 7, dtype=np.uint8))
        if bytes(data[-2:]) != b"\xff\xd9":
            data += b"\xff\xd9"
        damaged = bytes(data)
        header = plain_jpeg(damaged)
        if header is None or header.width * header.height > 1 << 20:
            continue
        planes, expected = decode_plain(damaged, header), by_pillow(damaged)
        if planes is not None:
            quick += 1
            assert expected is not None and np.array_equal(imaging.rgb_of(planes), expected), number
    assert quick > 300


def test_the_pixel_limit_holds_before_a_plain_file_is_decoded() -> None:
    data = coded(picture(64, 64, 1))
    at = data.index(b"\xff\xc0")
    huge = data[: at + 5] + b"\xff\xff\xff\xff" + data[at + 9 :]
    assert plain_jpeg(huge) == PlainJpeg(65535, 65535, 1)
    with pytest.raises(ImageError) as caught:
        imaging.decode(huge)
    assert caught.value.code == "pixels"


def test_a_truncated_file_is_refused_as_before() -> None:
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    with pytest.raises(ImageError) as caught:
        imaging.decode(coded(picture(64, 64, 3))[:-200])
    assert caught.value.code == "truncated"
