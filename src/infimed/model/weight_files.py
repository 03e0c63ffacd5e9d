"""The one way weights are read from disk: checked first, then tensor by tensor.

A folder of weights often comes from strangers. Invariant: nothing pickled is opened here, and no file
outside the folder (the Hub's cache keeps a snapshot as links into its own ``blobs``; these are
allowed); a header must account for every byte of its file; a configuration that names custom code or
quantised weights does not pass. A check reads headers only, so it costs milliseconds whatever the size.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any, Final

from infimed.core.errors import DataError
from infimed.core.files import read_json, sha256_file

if TYPE_CHECKING:
    from torch import Tensor

PICKLED: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
CONFIGS: Final = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
)
"""Files in which a model can ask for code of its own."""
ITEM_BYTES: Final = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "U8": 1,
    "BOOL": 1,
}
"""Bytes of a number by its type's name; types of quantised formats are not read."""
MAX_DEPTH: Final = 64
"""Levels of lists and objects in a configuration."""
MAX_HEADER_BYTES: Final = 100_000_000
"""The safetensors library's own cap on a header."""
_CHOSEN_CODE: Final = "attn_implementation", "experts_implementation"
"""Endings of configuration keys that may name a kernel to fetch; they are left out."""
_STORED_TYPE: Final = "dtype", "torch_dtype"
"""Keys that name the type of the files. transformers would build parts of a model in it, whatever type is
asked for, and so round what was trained in float32; they are left out too."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies, and its name there. `dtype` is spelled as safetensors does, e.g. ``BF16``."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]


def check_folder(folder: Path, *, tokenizer: bool, fix: str) -> None:
    """Refuse a folder whose weights cannot be read safely.

    Raises:
        DataError: no config, custom code (`auto_map`), no or only pickled weights, a malformed file or
            index, or no tokenizer.json where one is needed.
    """
    if not folder.is_dir():
        raise DataError("folder not found", where=str(folder), fix=fix)
    read_config(folder)
    if not any(folder.glob("*.safetensors")) and not (folder / INDEX).exists():
        pickled = pickled_files(folder)
        raise DataError(
            "weights are pickled, which can run code when opened; refused"
            if pickled
            else "no weights here",
            where=str(folder),
            seen=", ".join(file.name for file in pickled) or None,
            accepted="*.safetensors",
            fix=fix,
        )
    stored_tensors(folder)
    if tokenizer:
        if not (folder / "tokenizer.json").exists():
            raise DataError("no tokenizer.json here", where=str(folder), fix=fix)
        real_file(folder, "tokenizer.json")


def pickled_files(folder: Path) -> list[Path]:
    """Files of a folder that only unpickling could open."""
    return [file for file in sorted(folder.iterdir()) if file.suffix in PICKLED]


def real_file(folder: Path, name: str) -> Path:
    """The path of a plain file that belongs to `folder`.

    Args:
        name: relative to the folder, with forward slashes.

    Raises:
        DataError: it is missing, not a plain file, or lies elsewhere: by its name or as a link.
    """
    if (
        not name
        or ".." in PurePosixPath(name).parts
        or PureWindowsPath(name).anchor
        or "\\" in name
    ):
        raise DataError(
            "a file's name leads out of its folder; refused", where=str(folder), seen=name
        )
    path = folder / name
    home = folder.resolve()
    homes = [home]
    if home.parent.name == "snapshots":
        homes.append(home.parents[1] / "blobs")
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:  # missing, links in a circle, no file name
        raise DataError("file not found", where=str(path)) from error
    if not any(real.is_relative_to(allowed) for allowed in homes):
        raise DataError(
            "is a link that leads out of its folder; refused",
            where=str(path),
            seen=str(real),
            fix="put a copy of the file there",
        )
    if not real.is_file():
        raise DataError("is not a plain file", where=str(path))
    return path


def read_config(folder: Path) -> dict[str, Any]:
    """config.json without keys that choose code or a type, after a look into every file that could ask for code.

    Raises:
        DataError: there is none, it is malformed, it names quantised weights, or one of `CONFIGS` asks
            for custom code.
    """
    for name in CONFIGS:
        if (folder / name).is_symlink() or (folder / name).exists():
            found = _read_object(real_file(folder, name))
            if _mentions(found, "auto_map"):
                raise DataError(
                    f"{name} asks for custom code (auto_map); refused", where=str(folder)
                )
    values = _read_object(folder / "config.json")
    if _mentions(values, "quantization_config"):
        raise DataError(
            "the weights are quantised",
            where=str(folder / "config.json"),
            accepted="weights in float32, bfloat16 or float16",
        )
    chosen: dict[str, Any] = _without_choices(values)
    return chosen


def _read_object(file: Path) -> dict[str, Any]:
    try:
        values = read_json(file)
    except RecursionError as error:
        raise DataError("is nested too deeply", where=str(file)) from error
    if _depth_exceeds(values, MAX_DEPTH):
        raise DataError("is nested too deeply", where=str(file), accepted=f"{MAX_DEPTH} levels")
    if not isinstance(values, dict):
        raise DataError(f"{file.name} is not a JSON object", where=str(file.parent))
    return values


def _depth_exceeds(values: Any, most: int) -> bool:
    inner = values.values() if isinstance(values, dict) else values
    if not isinstance(values, (dict, list)):
        return False
    return most == 0 or any(_depth_exceeds(value, most - 1) for value in inner)


def _mentions(values: Any, key: str) -> bool:
    if isinstance(values, dict):
        return values.get(key) is not None or any(_mentions(v, key) for v in values.values())
    return isinstance(values, list) and any(_mentions(value, key) for value in values)


def _without_choices(values: Any) -> Any:
    if not isinstance(values, dict):
        return values
    return {
        key: _without_choices(value)
        for key, value in values.items()
        if not key.endswith(_CHOSEN_CODE) and key not in _STORED_TYPE
    }


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of a folder by name: of ``model.safetensors``, of the shards its index names, or of
    the only safetensors file there.

    Raises:
        DataError: a file is missing or malformed, a tensor lies in two files, or index and shards differ.
    """
    if (folder / WEIGHTS).exists():
        return read_header(real_file(folder, WEIGHTS))
    if (folder / INDEX).exists():
        return _indexed(folder)
    files = sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        raise DataError(
            f"{len(files)} safetensors files and no {INDEX}",
            where=str(folder),
            accepted=f"{WEIGHTS}, or shards with their index",
        )
    return read_header(real_file(folder, files[0].name))


def _indexed(folder: Path) -> dict[str, StoredTensor]:
    index = real_file(folder, INDEX)
    places = _read_object(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise DataError("has no weight_map of tensor and file names", where=str(index))
    found: dict[str, StoredTensor] = {}
    for name in sorted(set(places.values())):
        if not name.endswith(".safetensors"):
            raise DataError(
                "names a shard that is not safetensors; refused", where=str(index), seen=name
            )
        for tensor, entry in read_header(real_file(folder, name)).items():
            if tensor in found:
                raise DataError(
                    f"tensor {tensor} lies in two shards",
                    where=str(folder),
                    seen=f"{found[tensor].file.name}, {name}",
                )
            found[tensor] = entry
    astray = [
        tensor
        for tensor in places.keys() | found.keys()
        if tensor not in places or tensor not in found or found[tensor].file.name != places[tensor]
    ]
    if astray:
        raise DataError(
            f"{len(astray)} tensors are not where the index says",
            where=str(index),
            seen=", ".join(sorted(astray)[:5]),
            fix="restore the index that belongs to these shards",
        )
    return found


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes in a safetensors file; see `read_header`."""
    return {name: entry.shape for name, entry in read_header(file).items()}


def read_header(file: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file, from its header alone.

    Raises:
        DataError: the header is malformed, names a type that is not read, or its tensors overlap, leave
            a gap, or do not fill exactly the rest of the file.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8))
            if length > min(size - 8, MAX_HEADER_BYTES):
                raise ValueError("header is longer than the file")
            header = json.loads(handle.read(length), object_pairs_hook=_unique)
        header.pop("__metadata__", None)
        spans = sorted((*_span(name, entry), name) for name, entry in header.items())
        reached = 0
        for begin, end, name in spans:
            if begin != reached:
                raise ValueError(f"tensor {name} overlaps another or leaves a gap")
            reached = end
        if 8 + length + reached != size:
            raise ValueError("file is cut off or has bytes after its last tensor")
        return {
            name: StoredTensor(file, name, entry["dtype"], tuple(entry["shape"]))
            for name, entry in header.items()
        }
    except FileNotFoundError as error:
        raise DataError("file not found", where=str(file)) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
        raise DataError(
            f"is not a valid safetensors file ({error})",
            where=str(file),
            fix="restore or rebuild it",
        ) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name appears twice")
    return found


def _span(name: str, entry: Mapping[str, Any]) -> tuple[int, int]:
    """First byte and the byte after the last; what the shape needs must be what lies between them."""
    dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype not in ITEM_BYTES:
        raise ValueError(f"tensor {name} is of type {dtype}; read are {', '.join(ITEM_BYTES)}")
    numbers = [*shape, begin, end]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError(f"tensor {name} has a shape or offset that is no count")
    if end - begin != math.prod(shape) * ITEM_BYTES[dtype]:
        raise ValueError(f"tensor {name} has other bytes than its shape needs")
    return begin, end


def read_tensors(stored: Mapping[str, StoredTensor]) -> Iterator[tuple[str, Tensor]]:
    """These tensors under the names of the mapping, one at a time, file by file.

    Raises:
        DataError: a file cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    by_file = sorted(stored.items(), key=lambda item: str(item[1].file))
    for file, entries in groupby(by_file, key=lambda item: item[1].file):
        try:
            with safe_open(file, "pt") as handle:
                for name, entry in entries:
                    yield name, handle.get_tensor(entry.name)
        except SafetensorError as error:
            raise DataError(
                f"is not a valid safetensors file ({error})",
                where=str(file),
                fix="restore or rebuild it",
            ) from error


def parameter_count(folder: Path) -> int:
    """Parameters stored in a folder of weights (a tied output layer counts once)."""
    return sum(math.prod(entry.shape) for entry in stored_tensors(folder).values())


def damaged_files(folder: Path, manifest: Mapping[str, Any], *, hashes: bool) -> list[str]:
    """Files of a cache folder that differ from its manifest: by size, or by SHA-256 if `hashes`."""
    wrong = []
    for name, entry in manifest["files"].items():
        path = folder / name
        intact = path.is_file() and path.stat().st_size == entry["bytes"]
        if not intact or (hashes and sha256_file(path) != entry["sha256"]):
            wrong.append(name)
    return wrong
