"""JPEG segments are denied by default: no thumbnail, comment or unknown segment passes."""

from __future__ import annotations

import struct

import numpy as np

from infimed.data.imaging import decode
from infimed.data.stripping import strip_jpeg
from tests.data.samples import encoded, noise

SECRET = b"ZQXCANARY"


def segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def test_hidden_segments_and_the_jfif_thumbnail_go_and_the_picture_stays() -> None:
    plain = encoded(noise(64, 64), "JPEG", quality=90)
    assert plain[2:4] == b"\xff\xe0"
    (length,) = struct.unpack(">H", plain[4:6])
    jfif = plain[6 : 4 + length]
    thumbnail = segment(0xE0, jfif[:12] + bytes((1, 3)) + SECRET)
    hidden = b"".join(segment(m, SECRET) for m in (0xE1, 0xE5, 0xF0, 0xFD, 0xFE, 0x02, 0xC8))
    made = strip_jpeg(plain[:2] + thumbnail + hidden + plain[4 + length :] + SECRET)
    assert SECRET not in made
    assert np.array_equal(decode(made), decode(plain))
