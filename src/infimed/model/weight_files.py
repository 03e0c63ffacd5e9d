"""What a folder of weights must be before anything opens it.

Reads safetensors headers only (a few kB each), so a check costs milliseconds whatever the size.
Invariant: nothing pickled is ever opened, and no configuration that names custom code passes.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infimed.core.errors import DataError
from infimed.core.files import read_json, sha256_file

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
MAX_HEADER_BYTES = 100_000_000
"""The safetensors library's own cap on a header."""


def check_folder(folder: Path, *, tokenizer: bool, fix: str) -> None:
    """Refuse a folder that stock `from_pretrained` could not open safely.

    Raises:
        DataError: no config, custom code (`auto_map`), no or only pickled weights, a truncated
            safetensors file, or no tokenizer.json where one is needed.
    """
    if not folder.is_dir():
        raise DataError("folder not found", where=str(folder), fix=fix)
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise DataError("config.json is not a JSON object", where=str(folder), fix=fix)
    if "auto_map" in config:
        raise DataError(
            "config.json asks for custom code (auto_map); refused", where=str(folder), fix=fix
        )
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = [file.name for file in sorted(folder.iterdir()) if file.suffix in PICKLED]
        raise DataError(
            "weights are pickled, which can run code when opened; refused"
            if pickled
            else "no weights here",
            where=str(folder),
            seen=", ".join(pickled) or None,
            accepted="*.safetensors",
            fix=fix,
        )
    for file in files:
        tensor_shapes(file)
    if tokenizer and not (folder / "tokenizer.json").is_file():
        raise DataError("no tokenizer.json here", where=str(folder), fix=fix)


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes in a safetensors file, from its header alone.

    Raises:
        DataError: the header is malformed, or the file is shorter than the header promises.
    """
    size = file.stat().st_size
    try:
        with file.open("rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8))
            if length > min(size - 8, MAX_HEADER_BYTES):
                raise ValueError("header is longer than the file")
            header = json.loads(handle.read(length))
        header.pop("__metadata__", None)
        if (
            8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
            != size
        ):
            raise ValueError("file is cut off or has bytes after its last tensor")
        return {name: tuple(int(n) for n in entry["shape"]) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise DataError(
            f"is not a valid safetensors file ({error})",
            where=str(file),
            fix="restore or rebuild it",
        ) from error


def parameter_count(folder: Path) -> int:
    """Parameters stored in a folder's safetensors files (a tied output layer counts once)."""
    shapes = (
        shape for file in folder.glob("*.safetensors") for shape in tensor_shapes(file).values()
    )
    return sum(math.prod(shape) for shape in shapes)


def damaged_files(folder: Path, manifest: Mapping[str, Any], *, hashes: bool) -> list[str]:
    """Files of a cache folder that differ from its manifest: by size, or by SHA-256 if `hashes`."""
    wrong = []
    for name, entry in manifest["files"].items():
        path = folder / name
        intact = path.is_file() and path.stat().st_size == entry["bytes"]
        if not intact or (hashes and sha256_file(path) != entry["sha256"]):
            wrong.append(name)
    return wrong
