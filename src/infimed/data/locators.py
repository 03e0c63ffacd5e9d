"""Where an image is before import, and how its bytes are fetched without leaving the data root.

A locator is a path below the root, optionally with a fragment for files that hold many images
(``scan.dcm#frame=7``, ``brain.nii.gz#axis=2,slice=10``, ``brain.nii.gz#montage=9``,
``part.parquet#row=12,column=image``), or a ``data:`` URL. Nothing is ever fetched over a network.
Cost: one file read an image; the last volume and the last Parquet row group are kept in memory.
"""

from __future__ import annotations

import base64
import binascii
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from infimed.core.errors import DataError
from infimed.core.files import inside
from infimed.data.imaging import LIMITS, NO_FACTS, ImageError, Limits, sniff
from infimed.data.record import Facts
from infimed.data.stored import StoredImage, from_raw, prepare

FRAGMENT = re.compile(r"#((?:frame|axis|slice|montage|row|column|item)=[^,#]*(?:,[a-z]+=[^,#]*)*)$")
DATA_URL = re.compile(r"data:image/[a-z0-9.+-]{1,32};base64,", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Locator:
    """A parsed locator: relative path and the fragment's keys."""

    path: str
    fragment: dict[str, str] = field(default_factory=dict)

    def number(self, key: str, default: int | None = None) -> int:
        """An integer of the fragment. Raises ImageError "frame" when absent or no number."""
        text = self.fragment.get(key)
        if text is None and default is not None:
            return default
        try:
            return int(text or "")
        except ValueError:
            raise ImageError("frame", seen=text) from None


def parse_locator(text: str) -> Locator:
    """Split a locator into path and fragment."""
    match = FRAGMENT.search(text)
    if not match:
        return Locator(text)
    pairs = (piece.split("=", 1) for piece in match[1].split(","))
    return Locator(text[: match.start()], {key: unquote(value) for key, value in pairs})


def with_fragment(path: str, **keys: object) -> str:
    """`path` with a fragment, for readers of files that hold many images."""
    return (
        path + "#" + ",".join(f"{key}={quote(str(value), safe='')}" for key, value in keys.items())
    )


def short(locator: str) -> str:
    """A locator fit for a message: long ``data:`` URLs are cut."""
    return locator if len(locator) <= 200 else f"{locator[:60]}... ({len(locator)} characters)"


def data_url_bytes(url: str, limits: Limits = LIMITS) -> bytes:
    """Bytes of a base64 ``data:image/...`` URL.

    Raises:
        ImageError: format (another media type), bytes, corrupt (not base64).
    """
    match = DATA_URL.match(url)
    if not match:
        raise ImageError("format", seen=url[:40], accepted="data:image/...;base64,...")
    if (len(url) - match.end()) * 3 // 4 > limits.max_bytes + 4:
        raise ImageError("bytes", accepted=f"at most {limits.max_bytes} bytes")
    try:
        return base64.b64decode(url[match.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise ImageError("corrupt") from None


def read_bytes(root: Path, relative: str, limits: Limits = LIMITS) -> bytes:
    """Bytes of a regular file below `root`, at most `limits.max_bytes` of them.

    Raises:
        ImageError: path, missing, bytes, empty.
    """
    try:
        file = inside(root, relative)
        if not file.is_file():
            raise ImageError("missing")
        size = file.stat().st_size
        if size > limits.max_bytes:
            raise ImageError("bytes", seen=size, accepted=f"at most {limits.max_bytes} bytes")
        return file.read_bytes()
    except ImageError:
        raise
    except (DataError, RuntimeError):
        raise ImageError("path") from None
    except (OSError, ValueError):
        raise ImageError("missing") from None


class ImageFetcher:
    """Fetches and prepares images below one root; safe to use from several threads.

    Args:
        root: folder that locators are relative to. limits: caps checked before decoding.
        mask: what is done to every prepared image (`privacy.masking.TextMasker`), None for nothing.
    """

    def __init__(
        self,
        root: Path,
        limits: Limits = LIMITS,
        mask: Callable[[StoredImage], StoredImage] | None = None,
    ) -> None:
        self.root = root
        self.limits = limits
        self.mask = mask
        self._lock = threading.Lock()
        self._volume: tuple[str, Any] | None = None
        self._row_group: tuple[tuple[str, int, str], list[Any]] | None = None
        self._files: dict[str, Any] = {}

    def stored(self, locator: str, facts: Facts = NO_FACTS) -> StoredImage:
        """The image of `locator` in its stored form (decoded once, to check it).

        Raises:
            ImageError: with `where` set to the locator.
        """
        try:
            made = self._stored(locator, facts)
            return made if self.mask is None else self.mask(made)
        except ImageError as error:
            raise ImageError(
                error.code, where=short(locator), seen=error.seen, accepted=error.accepted
            ) from None

    def _stored(self, locator: str, facts: Facts) -> StoredImage:
        if locator[:5].lower() == "data:":
            return prepare(data_url_bytes(locator, self.limits), facts, limits=self.limits)
        parsed = parse_locator(locator)
        suffix = _suffix(parsed.path)
        if parsed.fragment and "row" in parsed.fragment:
            return prepare(self._parquet_bytes(parsed), facts, limits=self.limits)
        if parsed.fragment and ("axis" in parsed.fragment or "montage" in parsed.fragment):
            volume = self._open_volume(parsed.path)
            axis = parsed.number("axis", 2)
            if axis not in (0, 1, 2):
                raise ImageError("frame", seen=axis)
            if "montage" in parsed.fragment:
                return from_raw(volume.montage(parsed.number("montage"), axis), facts)
            return from_raw(volume.plane(axis, parsed.number("slice")), facts)
        data = read_bytes(self.root, parsed.path, self.limits)
        if parsed.fragment and "frame" in parsed.fragment:
            from infimed.data.dicom import read_frame

            if sniff(data, suffix) != "DICOM":
                raise ImageError("format")
            return from_raw(
                read_frame(data, frame=parsed.number("frame"), limits=self.limits), facts
            )
        return prepare(data, facts, suffix=suffix, limits=self.limits)

    def _open_volume(self, path: str) -> Any:
        from infimed.data.nifti import open_volume

        with self._lock:
            if self._volume is None or self._volume[0] != path:
                self._volume = None
                self._volume = (
                    path,
                    open_volume(read_bytes(self.root, path, self.limits), limits=self.limits),
                )
            return self._volume[1]

    def _parquet_bytes(self, parsed: Locator) -> bytes:
        """Image bytes of one Parquet cell: binary, {bytes, path}, or item k of a list of those."""
        import pyarrow.parquet as pq

        column, row = parsed.fragment.get("column", "image"), parsed.number("row")
        with self._lock:
            if parsed.path not in self._files:
                try:
                    file = inside(self.root, parsed.path)
                except DataError:
                    raise ImageError("path") from None
                try:
                    self._files[parsed.path] = pq.ParquetFile(file)
                except Exception:
                    raise ImageError("corrupt" if file.is_file() else "missing") from None
            table = self._files[parsed.path]
            group, first = 0, 0
            while (
                group < table.num_row_groups
                and row >= first + table.metadata.row_group(group).num_rows
            ):
                first += table.metadata.row_group(group).num_rows
                group += 1
            if group >= table.num_row_groups or row < 0:
                raise ImageError("frame", seen=row)
            key = (parsed.path, group, column)
            if self._row_group is None or self._row_group[0] != key:
                try:
                    cells = table.read_row_group(group, columns=[column]).column(0).to_pylist()
                except Exception:
                    raise ImageError("corrupt") from None
                self._row_group = (key, cells)
            cell = self._row_group[1][row - first]
        if isinstance(cell, list):
            item = parsed.number("item", 0)
            if not 0 <= item < len(cell):
                raise ImageError("frame", seen=item)
            cell = cell[item]
        if isinstance(cell, dict):
            data = cell.get("bytes")
            if data is None and isinstance(cell.get("path"), str):
                return read_bytes(self.root, cell["path"], self.limits)
            cell = data
        if not isinstance(cell, bytes):
            raise ImageError("missing")
        return cell


def _suffix(path: str) -> str:
    return "." + path.rsplit(".", 1)[-1].lower() if "." in path else ""
