"""Atomic files and content hashes.

Invariant: a name that exists is complete. Everything is written to a temporary name in the same
folder, flushed to disk and renamed; a crash leaves at most a `*.partial` that the next writer
replaces. Cost: one fsync per file.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from infimed.core.errors import DataError

PARTIAL_SUFFIX = ".partial"


def _no_space(path: Path, error: OSError) -> DataError:
    return DataError(
        "the disk is full; nothing half-written was left behind",
        where=str(path),
        fix=f"free some space on the disk that holds {path.parent} and run the same command again "
        f"({error.strerror})",
    )


FULL = ("No space left", "os error 28", "quota", "os error 122", "File too large", "os error 27")
"""How libraries that write files of their own tell of a full disk, a quota, a limit."""


def write_failed(path: Path, reason: str) -> DataError:
    """The error for a write that failed in a library, given what the library said of it."""
    if any(sign in reason for sign in FULL):
        return _no_space(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    return DataError(f"cannot be written ({reason})", where=str(path))


@contextlib.contextmanager
def atomic_open(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file for writing that appears under `path` only when the block ends without error.

    Raises:
        DataError: the disk is full or the folder cannot be written.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}{PARTIAL_SUFFIX}")
    encoding = None if "b" in mode else "utf-8"
    try:
        with open(partial, mode, encoding=encoding) as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(partial, target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise _no_space(target, error) from error
        if error.errno in (errno.EACCES, errno.EROFS):
            raise DataError(
                "cannot be written", where=str(target), fix="choose a folder you own"
            ) from error
        raise
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def partial_folder(target: Path) -> Path:
    """Where `atomic_folder` builds `target`, for other processes that help to fill it."""
    return target.with_name(f".{target.name}{PARTIAL_SUFFIX}")


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Fill a folder that appears under `path` only when the block ends without error.

    A stale partial folder of a killed writer is removed first. An existing `path` is replaced.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_folder(target)
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir()
    try:
        yield partial
        for file in sorted(partial.rglob("*")):
            if file.is_file():
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())
        if target.exists():
            shutil.rmtree(target)
        os.replace(partial, target)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise _no_space(target, error) from error
        raise
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_open(path, "w") as handle:
        handle.write(text)


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Write indented JSON atomically; refuses NaN, which JSON does not have."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read JSON; a missing or malformed file is a DataError that names it."""
    file = Path(path)
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError("file not found", where=str(file)) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"is not valid JSON ({error})", where=str(file)) from error


def canonical_json(value: object) -> str:
    """JSON with one spelling per value: sorted keys, no spaces. The input of every content hash."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def sha256_bytes(data: bytes) -> str:
    """Hex SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_json(value: object) -> str:
    """Hex SHA-256 of the canonical JSON of `value`."""
    return sha256_bytes(canonical_json(value).encode("utf-8"))


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Hex SHA-256 of a file's content."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def inside(root: str | os.PathLike[str], relative: str) -> Path:
    """Resolve `relative` under `root`, refusing any path that leaves it (``..``, absolute, symlink).

    Raises:
        DataError: the path is absolute, holds a NUL, or resolves outside `root`.
    """
    base = Path(root).resolve()
    if "\x00" in relative or Path(relative).is_absolute() or "\\" in relative:
        raise DataError(
            "path must be relative and stay below the data folder", where=str(base), seen=relative
        )
    full = (base / relative).resolve()
    if not full.is_relative_to(base):
        raise DataError("path leaves the data folder", where=str(base), seen=relative)
    return full
