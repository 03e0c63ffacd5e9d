"""A folder of another project's model: what kind it is, that it is safe to read, and what is in it.

Looked at, not loaded. Invariants: only safetensors; a folder that asks for
code of its own, or has pickled weights only, is refused with the reason; the digest covers every byte
that can change an answer. Hashing reads each file once; the result is kept by path, size and time of
change, so that asking again costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from infimed.core.console import progress
from infimed.core.errors import DataError
from infimed.core.files import read_json, sha256_bytes, sha256_file, sha256_json, write_json
from infimed.model.weight_files import check_folder, read_config, stored_tensors

Kind = Literal["images", "text", "llava"]
"""images: transformers opens it and shows it images. text: the same without images. llava: the layout of
LLaVA's own code, which transformers does not open."""
SETTINGS: Final = (".json", ".jinja", ".model", ".txt")
"""Endings of files beside the weights that a tokenizer, a template or a processor may be read from."""
FIX: Final = (
    "give a folder with config.json, *.safetensors and tokenizer files, as the Hub lays it out"
)


@dataclass(frozen=True, slots=True)
class HubFolder:
    """A folder that was looked at.

    Attributes:
        folder: where. values: its config.json, without keys that choose code or a number type.
        kind: see `Kind`. model_type: as transformers names the architecture.
    """

    folder: Path
    values: dict[str, Any]
    kind: Kind
    model_type: str


def look(folder: Path) -> HubFolder:
    """Recognise a folder.

    Raises:
        DataError: no folder, no or only pickled weights, custom code, quantised weights, a malformed
            file, or an architecture that the installed transformers does not know.
    """
    check_folder(folder, tokenizer=False, fix=FIX)
    values = read_config(folder)
    model_type = str(values.get("model_type") or "")
    if "mm_vision_tower" in values:
        return HubFolder(folder, values, "llava", model_type)
    return HubFolder(folder, values, _kind(folder, model_type), model_type)


def _kind(folder: Path, model_type: str) -> Kind:
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    from infimed.model.configuration import InfiMedConfig

    if model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return "images"
    if model_type == InfiMedConfig.model_type:
        return "images"
    if model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "text"
    raise DataError(
        "no model that answers questions, or one that needs code of its own; never run",
        where=str(folder / "config.json"),
        seen=f"model_type {model_type or 'missing'}",
        accepted="what the installed transformers opens as image-text-to-text or causal language model",
        fix="update transformers, serve it and give the endpoint's URL, or see docs/models.md",
    )


def digest(found: HubFolder, cache: Path | None) -> str:
    """Hex SHA-256 of names and contents of weights and settings.

    Args:
        cache: folder that keeps hashes of files by path, size and time of change; None hashes anew.
    """
    folder = found.folder
    weights = {entry.file for entry in stored_tensors(folder).values()}
    settings = {
        file
        for file in folder.rglob("*")
        if file.suffix in SETTINGS
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    }
    files = sorted(weights | settings)
    kept = _kept_hashes(folder, cache)
    hashes: dict[str, list[Any]] = {}
    unread = [f for f in files if _stamp(f) != kept.get(_name(f, folder), [None, None])[:2]]
    with progress("hash weights", len(files), len(files) - len(unread), "files") as advance:
        for file in files:
            name, stamp = _name(file, folder), _stamp(file)
            if file in unread:
                hashes[name] = [*stamp, sha256_file(file)]
                advance(1)
            else:
                hashes[name] = kept[name]
    if cache is not None and hashes != kept:
        write_json(_hash_file(folder, cache), hashes)
    return sha256_json({name: value[-1] for name, value in hashes.items()})


def _name(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix()


def _stamp(file: Path) -> list[int]:
    state = file.stat()
    return [state.st_size, state.st_mtime_ns]


def _hash_file(folder: Path, cache: Path) -> Path:
    return cache / "hashes" / f"{sha256_bytes(str(folder.resolve()).encode())[:24]}.json"


def _kept_hashes(folder: Path, cache: Path | None) -> dict[str, list[Any]]:
    """Stored [bytes, time of change, SHA-256] by name; nothing where the file is not what we write."""
    if cache is None or not (file := _hash_file(folder, cache)).is_file():
        return {}
    try:
        value = read_json(file)
    except DataError:
        return {}
    entries = value.items() if isinstance(value, dict) else ()
    return {k: v for k, v in entries if isinstance(v, list) and len(v) == 3}
