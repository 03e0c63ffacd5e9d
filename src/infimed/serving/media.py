"""Images of a request: from a ``data:`` URL to pixels, decoded in processes of their own.

The declared type must be that of the content. Bytes and pixels are within the limits before anything is decoded
(the decoder reads the header first), and a decoder that is slow, grows or dies is replaced and costs its
own image only; one whose client has left ends its work and is used again. Invariant: the pixels are those of
training, evaluation and `infimed chat`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from infimed.core.files import sha256_bytes
from infimed.data.imaging import sniff
from infimed.inference.requests import Pixels
from infimed.serving.decoder import LENGTHS, frame
from infimed.serving.refusals import CODES, Refusal
from infimed.serving.settings import Settings

_HEAD: Final = re.compile(
    r"data:([a-z0-9.+-]{1,32}/[a-z0-9.+-]{1,64})((?:;[a-z0-9.=_-]{1,64}){0,4});base64,"
)
_HEAD_CHARACTERS: Final = 512

TYPES: Final[dict[str, tuple[str, str]]] = {
    "image/png": ("PNG", ""),
    "image/jpeg": ("JPEG", ""),
    "image/jpg": ("JPEG", ""),
    "image/webp": ("WEBP", ""),
    "image/tiff": ("TIFF", ""),
    "image/bmp": ("BMP", ""),
    "application/dicom": ("DICOM", ".dcm"),
    "application/x-nifti": ("NIFTI", ".nii"),
    "application/gzip": ("NIFTI", ".nii.gz"),
    "application/x-gzip": ("NIFTI", ".nii.gz"),
    "application/octet-stream": ("", ""),
}
"""Declared types that are taken: the format that the content must have ('' for any), and a suffix for
what has no signature of its own."""

ANSWER_SECONDS: Final = 60.0
"""To start a decoder, its imports included."""
_ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LANG")


@dataclass(frozen=True)
class Source:
    """An image as it came.

    Attributes:
        data: encoded. suffix: as `TYPES` has it. frame: of a multi-frame file or volume; None for the usual one.
        place: the field of the request, for refusals.
        window: center and width in units after rescale; None for the file's own.
    """

    data: bytes = field(repr=False)
    suffix: str
    frame: int | None
    place: str
    window: tuple[float, float] | None = None

    @property
    def sha256(self) -> str:
        """Hash of content, frame and window."""
        named = sha256_bytes(self.data)
        if self.frame is not None:
            named += f"#frame={self.frame}"
        if self.window is not None:
            named += "#window={!r},{!r}".format(*self.window)
        return named


@dataclass(frozen=True)
class Shown:
    """A decoded image.

    Attributes:
        pixels: its views uint8 [views, S, S, 3]; empty where `png` is wanted.
        size: width and height before squashing. png: all of it, for a model's server behind.
    """

    sha256: str
    size: tuple[int, int]
    format: str
    pixels: Pixels = field(repr=False)
    png: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Look:
    """A picture of an image for a screen, and what its controls can do.

    Attributes:
        png: of at most the side that was asked for. size: width and height of the image itself.
        frames, frame: of a multi-frame file or volume, from 0.
        window: center and width; None for what has none, as colour. range: lowest and highest value, in `units`.
    """

    png: bytes = field(repr=False)
    size: tuple[int, int]
    format: str
    frames: int = 1
    frame: int = 0
    modality: str = ""
    units: str = ""
    window: tuple[float, float] | None = None
    range: tuple[float, float] | None = None


def from_url(
    url: str,
    frame: int | None,
    place: str,
    settings: Settings,
    window: Sequence[float] | None = None,
) -> Source:
    """The image in a ``data:`` URL.

    Raises:
        Refusal: it is no such URL, of another type, too large, or its content is of another type.
    """
    head = _HEAD.match(url[:_HEAD_CHARACTERS].lower())
    if head is None:
        raise Refusal("image_url", param=place)
    kind = head[1]
    if kind not in TYPES:
        raise Refusal("image_format", param=place, detail=f"accepted: {', '.join(TYPES)}")
    most = settings.limits.image_bytes
    if (len(url) - head.end()) * 3 // 4 > most + 4:
        raise Refusal("image_bytes", param=place, detail=f"at most {most} bytes")
    try:
        data = base64.b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise Refusal("image_corrupt", param=place, detail="it is not base64") from None
    return checked(data, kind, frame, place, settings, window)


def checked(
    data: bytes,
    kind: str,
    frame: int | None,
    place: str,
    settings: Settings,
    window: Sequence[float] | None = None,
) -> Source:
    """An image whose content is what its type says.

    Raises:
        Refusal: empty, too large, of no accepted format, or of another than the declared one.
    """
    most = settings.limits.image_bytes
    if not data:
        raise Refusal("image_empty", param=place)
    if len(data) > most:
        raise Refusal("image_bytes", param=place, detail=f"at most {most} bytes")
    if kind not in TYPES:
        raise Refusal("image_format", param=place, detail=f"accepted: {', '.join(TYPES)}")
    wanted, suffix = TYPES[kind]
    found = sniff(data, suffix)
    if found is None:
        raise Refusal("image_format", param=place)
    if wanted and found != wanted:
        detail = f"declared {kind}, the content is {found}"
        raise Refusal("image_type", param=place, detail=detail)
    if found != "NIFTI":  # whose usual slice is the middle one, not the first
        frame = frame or None
    shown = None if window is None else (float(window[0]), float(window[1]))
    return Source(data, suffix, frame, place, shown)


@dataclass(frozen=True)
class Wanted:
    """What the decoders make: views of `side` pixels with up to `tiles` tiles; PNG where side is None."""

    side: int | None
    tiles: int = 0


class Decoders:
    """A fixed number of decoding processes. `start` and `close` them in the loop that uses them."""

    def __init__(self, settings: Settings, wanted: Wanted) -> None:
        self.settings, self.wanted = settings, wanted
        self.replaced = 0
        self._free: asyncio.Queue[asyncio.subprocess.Process | None] = asyncio.Queue()
        self._all: set[asyncio.subprocess.Process] = set()
        self._busy: set[asyncio.Task[tuple[dict[str, Any], bytes]]] = set()

    async def start(self) -> None:
        """Start all processes.

        Raises:
            OSError, TimeoutError: they do not start.
        """
        count = self.settings.decoder.workers
        for process in await asyncio.gather(*(self._spawn() for _ in range(count))):
            self._free.put_nowait(process)

    async def close(self) -> None:
        """End all processes."""
        for task in self._busy:
            task.cancel()
        await asyncio.gather(*self._busy, return_exceptions=True)
        for process in list(self._all):
            await self._kill(process)

    async def decode(self, source: Source, pixels_left: int) -> Shown:
        """Decode an image of at most `pixels_left` pixels.

        Raises:
            Refusal: it is refused, no decoder was free in time, or its own was too slow or died.
        """
        return self._shown(source, *await self._done(source, self.order(source, pixels_left)))

    async def look(self, source: Source, side: int) -> Look:
        """A picture of at most `side` pixels for a screen.

        Raises:
            Refusal: as in `decode`.
        """
        order = {**self.order(source, self.settings.limits.image_pixels), "shown_side": side}
        header, png = await self._done(source, order)
        window, span = header.get("window"), header.get("range")
        return Look(
            png,
            (int(header["width"]), int(header["height"])),
            header["format"],
            int(header["frames"]),
            int(header["frame"]),
            header["modality"],
            header["units"],
            None if window is None else (window[0], window[1]),
            None if span is None else (span[0], span[1]),
        )

    def order(self, source: Source, pixels_left: int) -> dict[str, Any]:
        """What a decoder is told; see `decoder.decoded`."""
        limits = self.settings.limits
        return {
            "suffix": source.suffix,
            "frame": source.frame,
            "window": source.window,
            "max_pixels": max(0, min(limits.image_pixels, pixels_left)),
            "max_bytes": limits.image_bytes,
            "min_side": limits.image_side,
            "volume_bytes": self.settings.decoder.memory_bytes // 4,
            "side": self.wanted.side,
            "tiles": self.wanted.tiles,
        }

    async def _done(self, source: Source, order: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        """An order carried out, in a process that is replaced when it fails."""
        try:
            async with asyncio.timeout(self.settings.times.queue):
                process = await self._free.get()
        except TimeoutError:
            wait = self.settings.times.retry_after
            raise Refusal("queue_timeout", retry_after=wait) from None
        # A task of its own: a client that leaves ends its own waiting. Its decoder is not killed, which would
        # cost the others a second of CPU for a new one, and is free again within `times.decode`.
        task = asyncio.create_task(self._exchange(process, order, source))
        self._busy.add(task)
        task.add_done_callback(self._busy.discard)
        header, payload = await asyncio.shield(task)
        code = header.get("error")
        if code is not None:
            code = f"image_{code}"
            raise Refusal(code if code in CODES else "image_failed", param=source.place)
        return header, payload

    async def _exchange(
        self, process: asyncio.subprocess.Process | None, order: dict[str, Any], source: Source
    ) -> tuple[dict[str, Any], bytes]:
        """What a decoder says to an order; it, or its place, is free again afterwards."""
        healthy: asyncio.subprocess.Process | None = None
        try:
            if process is None or process.returncode is not None:
                process = await self._spawn()
            async with asyncio.timeout(self.settings.times.decode):
                answer = await _ask(process, order, source.data)
            healthy = process
            return answer
        except TimeoutError:
            raise Refusal("image_timeout", param=source.place) from None
        except (OSError, EOFError, ValueError):  # it died, or was killed for its memory
            raise Refusal("image_failed", param=source.place) from None
        finally:
            if healthy is None:
                self.replaced += 1
                if process is not None:
                    await asyncio.shield(self._kill(process))
            self._free.put_nowait(healthy)

    def _shown(self, source: Source, header: dict[str, Any], payload: bytes) -> Shown:
        size = (int(header["width"]), int(header["height"]))
        side = self.wanted.side
        if side is None:
            return Shown(source.sha256, size, header["format"], np.zeros((0, 1, 1, 3), np.uint8), payload)  # fmt: skip
        views = np.frombuffer(payload, np.uint8).reshape(-1, side, side, 3)
        return Shown(source.sha256, size, header["format"], views)

    async def _spawn(self) -> asyncio.subprocess.Process:
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "infimed.serving.decoder",
            str(self.settings.decoder.memory_bytes),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=environment | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,
        )
        self._all.add(process)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await _receive(process)
        except BaseException:
            await asyncio.shield(self._kill(process))
            raise
        return process

    async def _kill(self, process: asyncio.subprocess.Process) -> None:
        self._all.discard(process)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _ask(
    process: asyncio.subprocess.Process, order: dict[str, Any], data: bytes
) -> tuple[dict[str, Any], bytes]:
    assert process.stdin is not None
    process.stdin.write(frame(order, data))
    await process.stdin.drain()
    return await _receive(process)


async def _receive(process: asyncio.subprocess.Process) -> tuple[dict[str, Any], bytes]:
    assert process.stdout is not None
    lengths = await process.stdout.readexactly(LENGTHS.size)
    header, payload = LENGTHS.unpack(lengths)
    text = await process.stdout.readexactly(header)
    return json.loads(text), await process.stdout.readexactly(payload)
