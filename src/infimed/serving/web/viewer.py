"""The images of a page: taken in, shown at a frame and a window, and let go.

An upload is read once and its file removed; it is decoded where every image is, in a process with limits. The pictures that
the browser gets are files of the page's folder under names that cannot be guessed; only the last few of a page stay.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from infimed.data.imaging import sniff
from infimed.serving.media import TYPES, Look, Source, from_url
from infimed.serving.refusals import Refusal
from infimed.serving.web.holding import Held, Kept
from infimed.serving.web.results import plain
from infimed.serving.web.session import Event

SIDE: Final = 1280
"""Longest side of a picture, pixels: enough for a screen; what the model sees does not depend on it."""
LAST_PICTURES: Final = 6
OLD_SECONDS: Final = 600
PRESETS: Final[dict[str, tuple[float, float] | None]] = {
    "As in the file": None,
    "Brain 40/80": (40.0, 80.0),
    "Soft tissue 50/400": (50.0, 400.0),
    "Lung −600/1500": (-600.0, 1500.0),
    "Bone 400/1800": (400.0, 1800.0),
    "Vessels 300/600": (300.0, 600.0),
}
"""Windows for CT: center and width in HU."""
SUFFIXES: Final = (".nii.gz", ".nii", ".dcm", ".ima", ".dicom")


IMAGE_TYPES = "PNG, JPEG, WebP, TIFF, BMP, DICOM or NIfTI"


class FileRefused(Refusal):
    """A refusal of one file of an upload: names it, and what is accepted."""

    def __init__(self, name: str, refusal: Refusal, most: int) -> None:
        super().__init__(refusal.code, param=refusal.param, retry_after=refusal.retry_after)
        accepted = f"Accepted are {IMAGE_TYPES}, up to {most / 2**20:g} MiB each"
        self.message = f"“{plain(name) or 'image'}”: {refusal.message}. {accepted}"


@dataclass
class Viewer:
    """See the module.

    Attributes:
        folder: of the page, private to this process.
    """

    folder: Path
    _pictures: OrderedDict[str, list[Path]] = field(default_factory=OrderedDict)

    async def take(self, event: Event, payload: Any) -> list[Held]:
        """The images of an upload, with how each looks at first.

        Args:
            payload: what the browser says of the uploaded files: their places in the folder and their own names.

        Raises:
            Refusal: one of them is no image, too large, or there are too many.
        """
        files = [payload] if isinstance(payload, dict) else list(payload or [])
        try:
            taken = [await self._one(event, file) for file in files]
        finally:
            for file in files:
                with contextlib.suppress(Refusal):
                    shutil.rmtree(self._place(file).parent, ignore_errors=True)
        await asyncio.to_thread(self._sweep)
        return taken

    async def look(self, event: Event, held: Held) -> Look:
        """An image at its frame and window.

        Raises:
            Refusal: it cannot be decoded, or has no such frame.
        """
        return await event.service.decoders.look(await self.source(event, held), SIDE)

    async def source(self, event: Event, held: Held) -> Source:
        """An image as a decoder takes it."""
        asked = held.asked()
        return await asyncio.to_thread(
            from_url, asked.url, asked.frame, "image", event.service.settings, asked.window
        )

    def picture(self, event: Event, png: bytes) -> str:
        """A picture as a file that the browser can be told of."""
        place = self.folder / secrets.token_urlsafe(16) / "image.png"
        place.parent.mkdir(mode=0o700)
        place.write_bytes(png)
        shown = self._pictures.setdefault(event.session, [])
        shown.append(place)
        self._pictures.move_to_end(event.session)
        while len(shown) > LAST_PICTURES:
            shutil.rmtree(shown.pop(0).parent, ignore_errors=True)
        return str(place)

    def forget(self, session: str) -> None:
        """A page was closed."""
        for place in self._pictures.pop(session, []):
            shutil.rmtree(place.parent, ignore_errors=True)

    async def _one(self, event: Event, file: Any) -> Held:
        place, name = self._place(file), str(file.get("orig_name") or "")
        most = event.service.settings.limits.image_bytes
        try:
            return await self._read(event, place, name, most)
        except Refusal as refusal:
            if (
                refusal.status >= 500 or refusal.retry_after is not None
            ):  # it is not the file's fault
                raise
            raise FileRefused(name, refusal, most) from None

    async def _read(self, event: Event, place: Path, name: str, most: int) -> Held:
        if place.stat().st_size > most:
            raise Refusal("image_bytes", detail=f"at most {most} bytes")
        data = await asyncio.to_thread(place.read_bytes)
        url = await asyncio.to_thread(data_url, data, name)
        held = Held(plain(name) or "image", url, Look(b"", (0, 0), ""))
        held.first = await self.look(event, held)
        return held

    def _place(self, file: Any) -> Path:
        """Where an upload lies.

        Raises:
            Refusal: it is not in the folder: the browser made the place up.
        """
        try:
            place = Path(str(file["path"])).resolve(strict=True)
        except (KeyError, TypeError, OSError, ValueError, RuntimeError):
            raise Refusal("image_missing") from None
        if not place.is_file() or self.folder not in place.parent.parents:
            raise Refusal("image_missing")
        return place

    def _sweep(self) -> None:
        """Remove what an upload left that nobody asked for."""
        old = time.time() - OLD_SECONDS
        for place in self.folder.iterdir():
            with contextlib.suppress(OSError):
                if place.stat().st_mtime < old:
                    shutil.rmtree(place) if place.is_dir() else place.unlink()
        while len(self._pictures) > 1024:
            self._pictures.popitem(last=False)


def data_url(data: bytes, name: str) -> str:
    """An upload as the data: URL that a program would send, its type from its content.

    Raises:
        Refusal: it is empty or no accepted image.
    """
    import base64

    if not data:
        raise Refusal("image_empty")
    suffix = next((s for s in SUFFIXES if name.lower().endswith(s)), "")
    found = sniff(data, suffix)
    if found is None:
        raise Refusal("image_format")
    packed = data[:2] == b"\x1f\x8b"
    kind = next(
        kind
        for kind, (form, ending) in TYPES.items()
        if form == found and ending.endswith(".gz") == packed
    )
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def told(held: Held, look: Look) -> str:
    """An image in a line."""
    parts = [
        plain(held.name),
        look.modality or look.format,
        f"{look.size[0]} × {look.size[1]} pixels",
    ]
    if look.frames > 1:
        parts.append(f"image {look.frame + 1} of {look.frames}")
    if look.window is not None:
        unit = f" {look.units}" if look.units else ""
        parts.append(f"window {_short(look.window[0])}/{_short(look.window[1])}{unit}")
    return " · ".join(parts)


@dataclass(frozen=True)
class Range:
    """How far a window's sliders go.

    Attributes:
        center, width: lowest and highest. step: between two places.
    """

    center: tuple[float, float]
    width: tuple[float, float]
    step: float


def window_range(first: Look) -> Range:
    """The range of an image's sliders; CT's reaches every preset."""
    assert first.window is not None and first.range is not None
    low, high = first.range
    center, width = first.window
    low, high = min(low, center - width / 2), max(high, center + width / 2)
    if first.units == "HU":
        low, high = -1024.0, min(3071.0, max(high, 1500.0))
    span = max(high - low, 1e-6)
    step = 1.0 if span >= 50 else float(f"{span / 200:.1g}")
    most = max(span, width, 2000.0 if first.units == "HU" else 0.0)
    return Range((_short_of(low), _short_of(high)), (step, _short_of(most)), step)


def preset_of(held: Held) -> str | None:
    """The preset whose window an image is looked at through; None for a window of its own."""
    for name, window in PRESETS.items():
        if held.view.window == window:
            return name
    return None


def images_of(kept: Kept) -> list[tuple[str, int]]:
    """The images of a page to choose from: a short text and the place of each."""
    return [(f"{at + 1} · {plain(held.name, 32)}", at) for at, held in enumerate(kept.images)]


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _short_of(value: float) -> float:
    return float(f"{value:.6g}")
