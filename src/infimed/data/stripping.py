"""JPEG and PNG files without metadata, pixels untouched; and the check that a PNG is whole.

Codecs skip what they do not know and some damage they do not notice; these walkers see every block
of a file. Cost: one pass over the bytes, no decoding.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from infimed.data.limits import ImageError

PNG_KEPT = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
JPEG_KEPT = frozenset({*range(0xC0, 0xD0), *range(0xDA, 0xE0)} - {0xC8})
"""Frame headers, Huffman and arithmetic tables; scan, quantisation, line count and restart segments
(ITU-T T.81, table B.1). Application data, comments and reserved segments are not on the list."""


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, end) of every chunk to IEND; checksums of critical chunks are verified.

    Pillow decodes damaged pixel data without complaint as long as enough of it inflates.

    Raises:
        ImageError: truncated, corrupt.
    """
    at = 8
    while True:
        if at + 12 > len(data):
            raise ImageError("truncated")
        (length,) = struct.unpack(">I", data[at : at + 4])
        name, end = data[at + 4 : at + 8], at + 12 + length
        if end > len(data):
            raise ImageError("truncated")
        if name in PNG_KEPT:
            (checksum,) = struct.unpack(">I", data[end - 4 : end])
            if zlib.crc32(memoryview(data)[at + 4 : end - 4]) != checksum:
                raise ImageError("corrupt")
        yield name, at, end
        if name == b"IEND":
            return
        at = end


def strip_png(data: bytes) -> bytes:
    """The PNG with critical chunks only; what follows IEND is cut off.

    Raises:
        ImageError: truncated, corrupt (a checksum is wrong).
    """
    kept = (data[start:end] for name, start, end in png_chunks(data) if name in PNG_KEPT)
    return data[:8] + b"".join(kept)


def strip_jpeg(data: bytes) -> bytes:
    """The JPEG without EXIF, XMP, comments, profiles, thumbnails and trailing data; pixels untouched.

    Only the segments that decode the picture stay (`JPEG_KEPT`), and of JFIF (APP0) and Adobe
    (APP14), by which decoders choose the colour transform, only their fixed fields: a JFIF segment
    may carry a thumbnail, which would show what was masked in the picture.

    Raises:
        ImageError: truncated, corrupt.
    """
    pieces, at = [b"\xff\xd8"], 2
    while at < len(data):
        if data[at] != 0xFF:
            raise ImageError("corrupt")
        while at < len(data) and data[at] == 0xFF:
            at += 1
        if at >= len(data):
            break
        marker = data[at]
        at += 1
        if marker == 0xD9:
            pieces.append(b"\xff\xd9")
            return b"".join(pieces)
        if 0xD0 <= marker <= 0xD7 or marker == 0x01:
            continue
        if at + 2 > len(data):
            break
        (length,) = struct.unpack(">H", data[at : at + 2])
        end = at + length
        if length < 2 or end > len(data):
            break
        body = data[at:end]
        if marker == 0xE0 and body[2:7] == b"JFIF\x00" and length >= 16:
            pieces.append(b"\xff\xe0\x00\x10" + body[2:14] + b"\x00\x00")
        elif marker == 0xEE and body[2:7] == b"Adobe" and length >= 14:
            pieces.append(b"\xff\xee\x00\x0e" + body[2:14])
        elif marker in JPEG_KEPT:
            pieces.append(b"\xff" + bytes((marker,)) + body)
        at = end
        if marker == 0xDA:
            at = _scan_end(data, at)
            pieces.append(data[end:at])
    raise ImageError("truncated")


def _scan_end(data: bytes, at: int) -> int:
    """Offset of the marker that ends entropy-coded data starting at `at`."""
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 1 >= len(data):
            raise ImageError("truncated")
        if data[at + 1] == 0xFF:
            at += 1
        elif data[at + 1] == 0 or 0xD0 <= data[at + 1] <= 0xD7:
            at += 2
        else:
            return at
