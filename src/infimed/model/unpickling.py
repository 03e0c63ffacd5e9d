"""Pickled weights turned into safetensors, for those who ask for it.

Unpickling can run code. torch's `weights_only` reader builds plain tensors and refuses everything else;
it is used nowhere but here, and only after a person said ``--allow-pickle``. What comes out is
safetensors, and every check that follows is the same as for any folder. Cost: one copy of the largest
file's tensors in memory.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from infimed.core.errors import DataError
from infimed.core.files import read_json, write_json
from infimed.model.weight_files import (
    CONFIGS,
    INDEX,
    MAX_DEPTH,
    WEIGHTS,
    pickled_files,
    real_file,
)

PICKLED_WEIGHTS, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
LATEST: Final = "checkpoints/latest-checkpoint.pt"
"""Where Prismatic keeps a run's last checkpoint."""


def convert_pickles(folder: Path, out: Path) -> None:
    """Write the folder's weights to `out` as safetensors, with copies of its configuration and tokenizer.

    Raises:
        DataError: no pickled weights, more than one file without an index, or something in them that is
            no plain tensor.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name in (*CONFIGS, "tokenizer.json", "chat_template.jinja"):
        if (folder / name).exists():
            shutil.copyfile(real_file(folder, name), out / name)
    names = _weight_names(folder)
    places: dict[str, str] = {}
    for number, name in enumerate(names, 1):
        shard = WEIGHTS if len(names) == 1 else f"model-{number:05}-of-{len(names):05}.safetensors"
        tensors = read_pickle(real_file(folder, name))
        save_file(tensors, out / shard, metadata={"format": "pt"})
        places |= dict.fromkeys(tensors, shard)
    if len(names) > 1:
        write_json(out / INDEX, {"metadata": {}, "weight_map": places})


def _weight_names(folder: Path) -> list[str]:
    if (folder / PICKLED_INDEX).exists():
        index = read_json(real_file(folder, PICKLED_INDEX))
        places = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(places, dict) or not all(isinstance(n, str) for n in places.values()):
            raise DataError("has no weight_map", where=str(folder / PICKLED_INDEX))
        return sorted(set(places.values()))
    for name in (PICKLED_WEIGHTS, LATEST):
        if (folder / name).exists():
            return [name]
    found = [file.name for file in pickled_files(folder)]
    if len(found) != 1:
        raise DataError(
            f"{len(found)} pickled files and no index",
            where=str(folder),
            seen=", ".join(found) or None,
            accepted=f"{PICKLED_WEIGHTS}, shards with {PICKLED_INDEX}, or {LATEST}",
        )
    return found


def read_pickle(file: Path) -> dict[str, Tensor]:
    """The tensors of a pickled checkpoint, nested dictionaries with dots between their names.

    Under a key ``model`` only what lies below it is read; an optimizer beside it is not weights.

    Raises:
        DataError: there is something that is no plain tensor, or nothing.
    """
    try:
        loaded = torch.load(
            file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file)
        )
    except Exception as error:  # torch raises several kinds, and pickle whatever it likes
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(
            "holds something else than plain tensors; refused, nothing of it was run",
            where=str(file),
            seen=said[0][:200],
        ) from error
    model = loaded.get("model", loaded) if isinstance(loaded, dict) else {}
    tensors: dict[str, Tensor] = {}
    for name, tensor in _leaves(model, "", MAX_DEPTH):
        if name in tensors or tensor.layout is not torch.strided:
            raise DataError("holds a tensor that is not plain or not alone of its name",
                            where=str(file), seen=name)  # fmt: skip
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise DataError("promises more numbers than it holds", where=str(file), seen=name)
        tensors[name] = tensor.contiguous().clone()
    if not tensors:
        raise DataError("holds no weights", where=str(file))
    return tensors


def _leaves(values: Any, prefix: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    if isinstance(values, Tensor):
        yield prefix, values
    elif isinstance(values, dict) and depth:
        for name, value in values.items():
            yield from _leaves(value, f"{prefix}.{name}" if prefix else str(name), depth - 1)
