"""`infimed import`: a checkpoint of another project becomes one of InfiMed.

Looked at first (layout, names, shapes, tokenizer), read only when all of it matches, written as every
checkpoint is: atomically, in the Hub's layout, with a manifest that says where each file came from.
The model has the one type that holds all stored ones. Cost: the model once in memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers.initialization import no_init_weights

import infimed
from infimed.core.errors import DataError
from infimed.core.files import atomic_folder, read_json, sha256_file
from infimed.model.import_layouts import PLACEHOLDERS, Source, look_at
from infimed.model.loading import read_tokenizer, write_checkpoint
from infimed.model.modeling import InfiMedForConditionalGeneration, count_parameters
from infimed.model.presets import CLIP_HALF, IMAGENET_MEAN, IMAGENET_STD
from infimed.model.processing import Processor
from infimed.model.tensor_names import made_in
from infimed.model.unpickling import convert_pickles
from infimed.model.weight_files import PICKLED, check_folder, real_file

FIX = "give a folder with config.json and *.safetensors; --allow-pickle converts pickled weights"
_TYPES = {"F64": torch.float32, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@dataclass(frozen=True)
class Imported:
    """What an import did. `parameters` are those of the model, shared ones once."""

    layout: str
    parameters: int
    dtype: str
    fingerprint: str
    notes: tuple[str, ...]


def import_checkpoint(
    checkpoint: Path,
    out: Path,
    *,
    vision: Path | None = None,
    language: Path | None = None,
    allow_pickle: bool = False,
) -> Imported:
    """Write the checkpoint in folder `checkpoint` to folder `out`.

    Args:
        vision: folder of the tower, for layouts that do not hold or not describe it.
        language: the same of the language model; its tokenizer is used.
        allow_pickle: convert pickled weights (torch's `weights_only` reader).

    Raises:
        DataError: `out` is there already, the layout is not known, a tensor does not match, the
            tokenizer has no ChatML, or a file is not safe to read.
    """
    if out.exists() and any(out.iterdir()):
        raise DataError("is there already", where=str(out), fix="give another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as scratch:
        folder = checkpoint
        if allow_pickle and checkpoint.is_dir() and not any(checkpoint.glob("*.safetensors")):
            holder = tempfile.TemporaryDirectory(prefix=".import-", dir=out.parent)
            folder = Path(scratch.enter_context(holder))
            convert_pickles(checkpoint, folder)
        check_folder(folder, tokenizer=False, fix=FIX)
        source = look_at(folder, vision, language)
        processor = _processor(source, folder)
        for part in source.parts:
            part.check(source.config)
        with made_in(_stored_type(source)), no_init_weights():
            model = InfiMedForConditionalGeneration(source.config)
        for part in source.parts:
            part.load(model)
        model.tie_weights()
        origin = {
            "layout": source.layout,
            "folder": checkpoint.name,
            "files": _hashes({"checkpoint": checkpoint, "vision": vision, "language": language}),
            "notes": list(source.notes),
        }
        with atomic_folder(out) as partial:
            fingerprint = write_checkpoint(
                partial,
                model.state_dict(),
                model.config,
                processor,
                about={"infimed": infimed.__version__, "imported": origin},
            )
    dtype = str(_stored_type(source)).removeprefix("torch.")
    return Imported(source.layout, count_parameters(model), dtype, fingerprint, source.notes)


def _stored_type(source: Source) -> torch.dtype:
    """The type that holds every stored one; transformers has one type for a whole model."""
    types = {
        _TYPES[e.dtype] for part in source.parts for e in part.stored.values() if e.dtype in _TYPES
    }
    return reduce(torch.promote_types, types) if types else torch.float32


def _processor(source: Source, folder: Path) -> Processor:
    """The processor, and the placeholder's id in the configuration.

    Raises:
        DataError: no tokenizer, no place for the placeholder, or a tokenizer without ChatML.
    """
    config = source.config
    rows = int(config.text_config.vocab_size)
    file = real_file(source.tokenizer, "tokenizer.json")
    token = _image_token(file, source.image_token_id)
    siglip = config.vision_config.model_type == "siglip_vision_model"
    mean, std = _normalisation(folder) or (
        (CLIP_HALF, CLIP_HALF) if siglip else (IMAGENET_MEAN, IMAGENET_STD)
    )
    processor = Processor(
        tokenizer_json=read_tokenizer(source.tokenizer, token, rows),
        image_size=config.vision_config.image_size,
        visual_tokens=config.visual_tokens or 0,
        mean=mean,
        std=std,
        image_token=token,
    )
    assert processor.start_id != processor.end_id  # both raise where there is no ChatML
    config.image_token_index = processor.image_token_id
    return processor


def _image_token(file: Path, index: int | None) -> str:
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare exceptions
        raise DataError(f"is not a tokenizer ({error})", where=str(file)) from error
    if index is None:
        known = [token for token in PLACEHOLDERS if tokenizer.token_to_id(token) is not None]
        return (known or list(PLACEHOLDERS))[0]
    token = tokenizer.id_to_token(index)
    if token is None:
        raise DataError("has no token for image_token_index", where=str(file), seen=index)
    return str(token)


Triple = tuple[float, float, float]


def _normalisation(folder: Path) -> tuple[Triple, Triple] | None:
    """Mean and standard deviation of pixels as the checkpoint's own processor says, if it says so."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if not (folder / name).exists():
            continue
        values = read_json(real_file(folder, name))
        inner = values.get("image_processor") if isinstance(values, dict) else None
        values = inner if isinstance(inner, dict) else values
        said = [values.get(key) for key in ("image_mean", "image_std")]
        found = [one for one in said if isinstance(one, list) and len(one) == 3]
        if len(found) == 2 and all(isinstance(n, (int, float)) for one in found for n in one):
            mean, std = (tuple(float(number) for number in one) for one in found)
            return mean, std  # type: ignore[return-value]
    return None


def _hashes(folders: Mapping[str, Path | None]) -> dict[str, str]:
    """SHA-256 of every file that could have been read, by the folder's part and the file's name."""
    return {
        f"{part}/{file.relative_to(folder).as_posix()}": sha256_file(file)
        for part, folder in folders.items()
        if folder is not None
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.suffix in (".json", ".safetensors", ".jinja", *PICKLED)
    }
