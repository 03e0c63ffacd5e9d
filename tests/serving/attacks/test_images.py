"""S6, S7, S8, S10, S11: files that are no images, or want to be more; `test_media` has the honest odd ones."""

from __future__ import annotations

import base64
import gzip
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tests.data.samples import dicom_bytes, encoded, noise
from tests.serving.attacks.common import refused, show
from tests.serving.test_media import grey16, png_header
from tests.serving.world import body, image_part, post


def deep_sequences(levels: int, *, undefined: bool) -> bytes:
    """A DICOM file with sequences nested so deep behind its pixels."""
    inner = b""
    for _ in range(levels):
        if undefined:
            item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + inner
            item += struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
            length = 0xFFFFFFFF
        else:
            item = struct.pack("<HHI", 0xFFFE, 0xE000, len(inner)) + inner
            length = len(item)
        inner = struct.pack("<HH2sHI", 0x0008, 0x1115, b"SQ", 0, length) + item
    return dicom_bytes(grey16()) + inner


def deflated(side: int) -> bytes:
    """A small file that inflates to an image of so many pixels a side."""
    return dicom_bytes(np.zeros((side, side), np.uint16), syntax="1.2.840.10008.1.2.1.99")


# S6: DICOM


@pytest.mark.parametrize(
    "data",
    [
        dicom_bytes(grey16())[:300],
        dicom_bytes(grey16(), NumberOfFrames=10**6)[:-500],
        deep_sequences(5000, undefined=True),
        deflated(4000),
        b"MZ" + bytes(126) + b"DICM" + b"\xff" * 500,
        bytes(128) + b"DICM" + struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF) * 50,
    ],
    ids=["cut", "frames", "deep", "deflate", "polyglot", "undefined length"],
)
def test_s6_hostile_dicom(url, data):
    refused(show(url, data, "application/dicom"))


def lying_dicom(rows: int, columns: int, frames: int) -> bytes:
    """A small file whose header says that it is huge."""
    data = bytearray(dicom_bytes(grey16(), NumberOfFrames=frames))
    for tag, value in ((0x10, rows), (0x11, columns)):
        at = data.index(struct.pack("<HH", 0x28, tag))
        data[at + 8 : at + 10] = struct.pack("<H", value)
    return bytes(data)


@pytest.mark.parametrize(
    ("rows", "columns", "frames"),
    [(65_535, 65_535, 10**6), (65_535, 65_535, 1), (0, 48, 1), (64, 0, 1), (64, 48, 2**31 - 1), (1, 65_535, 1)],
)  # fmt: skip
def test_s6_a_header_that_lies_of_its_size(url, rows, columns, frames):
    refused(show(url, lying_dicom(rows, columns, frames), "application/dicom"))


def test_s6_sequences_that_nobody_reads_are_harmless(url):
    data = deep_sequences(5000, undefined=False)
    assert show(url, data, "application/dicom").status_code == 200


def test_s6_a_directory_is_no_image(url):
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    entry = Dataset()
    entry.ReferencedFileID = ["..", "..", "etc", "passwd"]
    refused(show(url, dicom_bytes(grey16(), DirectoryRecordSequence=Sequence([entry])), "application/dicom"), "image_not-image")  # fmt: skip


# S7: NIfTI


def test_s7_hostile_nifti(url):
    header = bytearray(352)
    header[:4] = struct.pack("<i", 348)
    header[40:56] = struct.pack("<8h", 7, *[32_767] * 7)
    header[70:74] = struct.pack("<hh", 4, 16)
    header[108:112] = struct.pack("<f", 352)
    header[344:348] = b"n+1\0"
    refused(show(url, bytes(header), "application/x-nifti"))
    refused(show(url, gzip.compress(bytes(header) + bytes(2**28)), "application/gzip"))


# S8, S10: rasters


def icc_bomb() -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add(b"iCCP", b"x\0\0" + zlib.compress(bytes(2**26), 9))
    return encoded(Image.fromarray(noise(50, 40)), pnginfo=info)


@pytest.mark.parametrize(
    "data",
    [
        png_header(65_500, 65_500, 1),
        png_header(2**31 - 1, 2**31 - 1),
        png_header(0, 0),
        encoded(noise(1, 1)),
        encoded(noise(1, 30_000)),
        encoded(noise(50, 40))[:70],
        encoded(noise(50, 40), "JPEG")[:200],
        b"\x89PNG\r\n\x1a\n" + os.urandom(500),
        b"\xff\xd8\xff" + os.urandom(500),
        b"II*\0" + b"\xff" * 500,
        b"RIFF\xff\xff\xff\xffWEBPVP8 " + os.urandom(100),
        b"BM" + b"\xff" * 500,
        b"GIF89a" + b"\xff" * 500,
        b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
        b"<html><script>alert(1)</script></html>",
        b"%PDF-1.7 " + b"a" * 100,
        b"MZ" + b"\0" * 100,
        b"\0" * 1000,
    ],
)
def test_s8_s10_hostile_rasters(url, data):
    refused(show(url, data))
    refused(show(url, data, "application/octet-stream"))


def tiff(*entries: tuple[int, int, int, int], next_ifd: int = 0) -> bytes:
    """A little-endian TIFF of one directory: (tag, type, count, value)."""
    made = b"II*\0" + struct.pack("<IH", 8, len(entries))
    for entry in sorted(entries):
        made += struct.pack("<HHII", *entry)
    return made + struct.pack("<I", next_ifd) + bytes(400)


GREY_TIFF = ((256, 4, 1, 64), (257, 4, 1, 48), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1))


@pytest.mark.parametrize(
    "data",
    [
        tiff(*GREY_TIFF, (322, 4, 1, 2**31 - 1), (323, 4, 1, 2**31 - 1), (324, 4, 1, 8), (325, 4, 1, 2**32 - 1)),
        tiff(*GREY_TIFF, (322, 4, 1, 0), (323, 4, 1, 0), (324, 4, 1, 8), (325, 4, 1, 64)),
        tiff(*GREY_TIFF, (322, 4, 1, 16), (323, 4, 1, 16), (324, 4, 2**30, 8), (325, 4, 2**30, 8)),
        tiff((256, 4, 1, 2**31), (257, 4, 1, 2**31), *GREY_TIFF[2:], (273, 4, 1, 8), (279, 4, 1, 64)),
        tiff(*GREY_TIFF, (273, 4, 2**31, 2**31), (279, 4, 1, 2**32 - 1)),
        tiff((256, 4, 1, 1), next_ifd=8),
    ],
    ids=["huge tiles", "no tiles", "many tiles", "huge", "far strips", "a circle"],
)  # fmt: skip
def test_s8_hostile_tiff(url, data):
    refused(show(url, data, "image/tiff"))


@pytest.mark.parametrize(
    "tail", [b"PK\3\4" + bytes(500), b"<script>alert(1)</script>", b"%PDF-1.7", b"MZ" * 50]
)
def test_s8_what_hangs_behind_an_image_is_not_read(url, data_of_noise, tail):
    plain, more = (show(url, data_of_noise + each) for each in (b"", tail))
    assert plain.status_code == more.status_code == 200
    assert plain.json()["choices"] == more.json()["choices"]


@pytest.fixture
def data_of_noise() -> bytes:
    return encoded(noise(50, 40))


@pytest.mark.parametrize(
    "data",
    [
        encoded(Image.fromarray(grey16())),
        encoded(Image.fromarray(noise(50, 40)).convert("CMYK"), "JPEG"),
        encoded(Image.fromarray(noise(50, 40)).convert("LA")),
        encoded(Image.fromarray(noise(50, 40)).convert("P")),
        encoded(Image.fromarray(noise(50, 40)).convert("1")),
        encoded(noise(8, 3000)),
    ],
    ids=["16 bit", "CMYK", "grey with alpha", "palette", "1 bit", "narrow"],
)
def test_s8_unusual_and_honest_images_are_answered(url, data):
    assert show(url, data, "application/octet-stream").status_code == 200


def test_s8_a_bomb_in_a_profile_is_shown_or_refused(url):
    answer = show(url, icc_bomb())
    if answer.status_code != 200:
        refused(answer)


# S11: frames of videos


@pytest.mark.parametrize(
    "kind", ["video/jpeg", "video/mp4", "image/gif", "audio/wav", "image/svg+xml"]
)
def test_s11_no_videos(url, kind):
    frames = base64.b64encode(encoded(noise(), "JPEG")).decode()
    refused(post(url, body("a", image_part(f"data:{kind};base64,{','.join([frames] * 50)}"))), "image_format", "image_corrupt")  # fmt: skip
    refused(post(url, body("a", {"type": "video_url", "video_url": {"url": "data:video/jpeg;base64,"}})), "invalid_value")  # fmt: skip
