"""Tars that are written once and read by offset.

Writing is deterministic (sorted by arrival, no time, owner or permission of this machine), so an
interrupted import that is run again gives identical bytes. Reading never parses a tar: members are
found through the offsets in ``images.parquet`` and read with one `pread`, checked by their hash;
member names are never used as paths. Cost: one system call an image.
"""

from __future__ import annotations

import os
import re
import tarfile
import threading
from pathlib import Path
from typing import IO

from infimed.core.errors import DataError
from infimed.core.files import sha256_bytes

TAR = re.compile(r"images-[0-9]{5,}\.tar")
MEMBER = re.compile(r"[0-9a-f]{64}\.(png|jpg)")


class DamagedImage(DataError):
    """The stored bytes of one image are not what was written; its shard can be read."""


class TarWriter:
    """Appends members to an open file. `add` returns the offset of the member's data in bytes."""

    def __init__(self, handle: IO[bytes]) -> None:
        self._handle = handle
        self._at = 0

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._at

    def add(self, name: str, data: bytes) -> int:
        """Write one content-addressed member.

        Raises:
            ValueError: the name is not ``<sha256>.png`` or ``<sha256>.jpg``.
        """
        if not MEMBER.fullmatch(name):
            raise ValueError(f"not a content-addressed member name: {name!r}")
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(data), 0o644
        header = info.tobuf(tarfile.USTAR_FORMAT)
        padding = b"\0" * (-len(data) % tarfile.BLOCKSIZE)
        self._handle.write(header + data + padding)
        offset = self._at + len(header)
        self._at = offset + len(data) + len(padding)
        return offset

    def close(self) -> None:
        """Write the end-of-archive blocks (the file itself stays open)."""
        end = 2 * tarfile.BLOCKSIZE
        self._handle.write(b"\0" * (end + (-(self._at + end) % tarfile.RECORDSIZE)))


class TarReader:
    """Reads members of the tars of one folder by offset; for several threads and forked processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._open: dict[str, int] = {}

    def read(self, tar: str, offset: int, size: int, sha256: str | None = None) -> bytes:
        """`size` bytes at `offset` of `tar`, checked against `sha256` when it is given.

        Raises:
            DataError: the tar is missing, short or cannot be read.
            DamagedImage: the bytes do not match the hash.
        """
        descriptor = self._descriptor(tar)
        try:
            data = os.pread(descriptor, size, offset)
        except OSError as error:
            raise DataError(
                f"a shard cannot be read ({error.strerror})", where=str(self._folder / tar)
            ) from error
        if len(data) != size:
            raise DataError("a shard is shorter than its index says", where=str(self._folder / tar))
        if sha256 is not None and sha256_bytes(data) != sha256:
            raise DamagedImage(
                "an image in a shard does not match its hash",
                where=f"{self._folder / tar} at {offset}",
                fix="import the data again; the file was changed or damaged after it was written",
            )
        return data

    def _descriptor(self, tar: str) -> int:
        with self._lock:
            if tar not in self._open:
                if not TAR.fullmatch(tar):
                    raise DataError("not the name of a shard", where=str(self._folder), seen=tar)
                flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
                try:
                    self._open[tar] = os.open(self._folder / tar, flags)
                except OSError as error:
                    raise DataError("a shard is missing", where=str(self._folder / tar)) from error
            return self._open[tar]

    def close(self) -> None:
        """Close every file."""
        with self._lock:
            for descriptor in self._open.values():
                os.close(descriptor)
            self._open.clear()

    def __del__(self) -> None:
        try:
            self.close()
        except (OSError, AttributeError):  # interpreter is going down
            return
