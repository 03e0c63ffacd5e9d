"""The process that decodes images: it has no network code, little memory, and is killed when it is slow.

    python -m infimed.serving.decoder MEMORY_BYTES

Orders come on stdin, answers go to stdout, each as a length, a JSON header and a payload (`write_frame`); nothing is
pickled. A refusal is a fixed code of `data.limits`. What codecs print goes nowhere. The process may not write
files, leaves no core dump and ends with its parent.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
import sys
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from infimed.data.record import Fact

LENGTHS = struct.Struct("<II")
"""Bytes of header and payload, before both."""
HEADER_BYTES = 65_536


def write_frame(out: BinaryIO, header: dict[str, Any], payload: bytes = b"") -> None:
    """Send a header and a payload."""
    out.write(frame(header, payload))
    out.flush()


def frame(header: dict[str, Any], payload: bytes = b"") -> bytes:
    """A header and a payload as bytes."""
    text = json.dumps(header).encode()
    return LENGTHS.pack(len(text), len(payload)) + text + payload


def read_frame(source: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """The next header and payload, or None at the end."""
    lengths = source.read(LENGTHS.size)
    if len(lengths) < LENGTHS.size:
        return None
    header, payload = LENGTHS.unpack(lengths)
    return json.loads(source.read(header)), source.read(payload)


def decoded(order: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    """The answer to an order: views of the image, the whole image as PNG, or a picture for a screen.

    Args:
        order: suffix, frame, window, max_pixels, max_bytes, min_side, volume_bytes; then side and tiles for
            views, no side for a PNG, or `shown_side` for a picture (see `looking`).

    Raises:
        ImageError: it is refused.
    """
    from infimed.data.imaging import ACQUIRED, DEEP, LIMITS, ImageError, load
    from infimed.data.stored import encode_png
    from infimed.model.tiling import NO_TILES, cut, tile_grid
    from infimed.serving.looking import looked

    limits = replace(
        LIMITS,
        max_bytes=order["max_bytes"],
        max_pixels=order["max_pixels"],
        max_volume_bytes=order["volume_bytes"],
        min_side=order["min_side"],
    )
    facts = shown_by(order)
    if order.get("shown_side"):
        return looked(data, facts, limits, order["suffix"], order["shown_side"])
    made = load(data, facts, limits=limits, suffix=order["suffix"])
    if order["frame"] and made.format not in ACQUIRED:
        raise ImageError("frame")
    if order.get("window") and made.format not in ACQUIRED and DEEP not in made.notes:
        raise ImageError("window")
    pixels: NDArray[np.uint8] = made.pixels
    height, width = pixels.shape[:2]
    header = {"format": made.format, "width": width, "height": height}
    side = order["side"]
    if side is None:
        return header, encode_png(pixels)
    tiles = order["tiles"]
    views = cut(pixels, side, tile_grid((width, height), side, tiles) if tiles else NO_TILES)
    return {**header, "views": len(views)}, np.ascontiguousarray(views).tobytes()


def shown_by(order: dict[str, Any]) -> dict[str, Fact]:
    """The facts that an order's frame and window are."""
    facts: dict[str, Fact] = {}
    if order["frame"] is not None:
        facts["frame"] = order["frame"]
    if order.get("window"):
        center, width = order["window"]
        facts.update(window_center=center, window_width=width, voi_function="LINEAR_EXACT")
    return facts


def limit_memory(more_bytes: int) -> None:
    """Allow so many bytes of address space beside what is there already."""
    with open("/proc/self/statm", encoding="ascii") as file:
        there = int(file.read().split()[0]) * resource.getpagesize()
    most = there + more_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def main() -> None:
    """Decode until stdin ends."""
    from infimed.core.process import signal_at_death_of_parent
    from infimed.data.limits import ImageError

    signal_at_death_of_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    out = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # what a codec prints must not pass for an answer
    os.dup2(nowhere, 2)
    import cv2
    import nibabel
    import pydicom.pixels

    import infimed.data.dicom
    import infimed.data.imaging
    import infimed.data.nifti
    import infimed.data.stored
    import infimed.model.tiling
    import infimed.serving.looking

    assert nibabel and pydicom and infimed.data.nifti  # all code is there before memory is limited
    cv2.setNumThreads(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    limit_memory(int(sys.argv[1]))
    write_frame(out, {"ready": True})
    while (order := read_frame(sys.stdin.buffer)) is not None:
        try:
            header, payload = decoded(*order)
        except ImageError as error:
            header, payload = {"error": error.code}, b""
        except MemoryError:
            header, payload = {"error": "memory"}, b""
        except Exception:  # its text must reach nobody
            header, payload = {"error": "corrupt"}, b""
        del order
        write_frame(out, header, payload)


if __name__ == "__main__":
    main()
