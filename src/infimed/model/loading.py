"""Checkpoints on disk: safetensors in the Hub's LLaVA key layout, with a completeness marker.

A checkpoint folder is complete when its `manifest.json` exists and every file matches the hash in
it; the newest *verified* one is used, never merely the newest. Tensors carry the names that
`transformers` and vLLM publish for LLaVA (`vision_tower.vision_model.*`, `language_model.model.*`),
so at the full grid the same files open as stock `llava`. In the middle of a stage with adapters these lie
beside the weights; who loads such a checkpoint gets them merged.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers.initialization import no_init_weights

from infimed.core.errors import DataError
from infimed.core.files import (
    atomic_folder,
    read_json,
    sha256_file,
    sha256_json,
    write_failed,
    write_json,
)
from infimed.model.adapters import ADAPTERS, Adapters, read_adapters, write_adapters
from infimed.model.configuration import InfiMedConfig
from infimed.model.modeling import InfiMedForConditionalGeneration
from infimed.model.parts import (
    Part,
    check_sizes,
    config_of,
    language_part,
    tower_config,
    vision_part,
)
from infimed.model.placeholder import with_placeholder
from infimed.model.presets import Preset, build_config
from infimed.model.processing import Processor
from infimed.model.tensor_names import (
    Expected,
    by_published_names,
    check_match,
    fill,
    made_in,
    published,
    skeleton,
)
from infimed.model.weight_files import (
    WEIGHTS,
    check_folder,
    read_config,
    read_header,
    read_tensors,
    real_file,
)

MARKER = "manifest.json"
STEP = re.compile(r"step-(\d+)")


def hub_key(name: str, vision_model_type: str) -> str:
    """Parameter name -> name in a checkpoint file."""
    if name.startswith("model.vision_tower."):
        inner = "vision_model." if vision_model_type == "siglip_vision_model" else ""
        return f"vision_tower.{inner}{published(name.removeprefix('model.vision_tower.'))}"
    if name.startswith(("model.multi_modal_projector.", "model.multi_modal_reducer.")):
        return name.removeprefix("model.")
    if name.startswith("model.language_model."):
        return f"language_model.model.{name.removeprefix('model.language_model.')}"
    if name.startswith("lm_head."):
        return f"language_model.{name}"
    raise ValueError(f"no checkpoint name for parameter {name!r}")


def to_hub_state(model: InfiMedForConditionalGeneration) -> dict[str, Tensor]:
    """The model's tensors under their checkpoint names; a tied output layer is left out."""
    return hub_state(model.state_dict(), model.config)


def hub_state(weights: Mapping[str, Tensor], config: InfiMedConfig) -> dict[str, Tensor]:
    """Tensors under a model's own names -> the same under their checkpoint names."""
    vision_type = config.vision_config.model_type
    tied = config.tie_word_embeddings
    return {
        hub_key(name, vision_type): tensor.detach().contiguous()
        for name, tensor in weights.items()
        if not (tied and name == "lm_head.weight")
    }


def hub_names(model: InfiMedForConditionalGeneration) -> Expected:
    """The model's tensors under their checkpoint names."""
    return {name: (tensor,) for name, tensor in to_hub_state(model).items()}


def base_processor(chosen: Preset, language: Path) -> Processor:
    """The processor of a preset at its full grid, with the base language model's tokenizer.

    Raises:
        DataError: there is no tokenizer, or no embedding row for the image placeholder.
    """
    return Processor(
        tokenizer_json=read_tokenizer(
            language, chosen.image_token, int(read_config(language)["vocab_size"])
        ),
        image_size=chosen.image_size,
        visual_tokens=chosen.full_tokens,
        mean=chosen.mean,
        std=chosen.std,
        image_token=chosen.image_token,
    )


def read_tokenizer(folder: Path, image_token: str, rows: int) -> str:
    """The tokenizer of a folder, serialised, with the image placeholder fitted into `rows` rows."""
    file = real_file(folder, "tokenizer.json")
    return with_placeholder(file.read_text(encoding="utf-8"), image_token, rows, str(file))


def build_model(
    chosen: Preset, vision: Path, language: Path, reducer: str = "average"
) -> tuple[InfiMedForConditionalGeneration, Processor]:
    """A model in float32 that starts from a pretrained tower and language model, with a fresh projector.

    Args:
        vision: folder with config.json and safetensors of the tower, or of a whole SigLIP.
        language: folder with the same of the language model, and tokenizer.json.
        reducer: as in a recipe's `model.reducer`; fresh like the projector.

    Raises:
        DataError: a folder is not safe to read, or holds another model than the preset says.
    """
    config, processor, parts = check_bases(chosen, vision, language, reducer)
    model = InfiMedForConditionalGeneration(config).float()
    for part in parts:
        part.load(model)
    model.tie_weights()
    return model, processor


def check_bases(
    chosen: Preset, vision: Path, language: Path, reducer: str = "average"
) -> tuple[InfiMedConfig, Processor, tuple[Part, Part]]:
    """What a preset's folders make, looked at but not read: names, shapes and types from headers.

    Raises:
        DataError: as `build_model` does.
    """
    parts = vision_part(vision), language_part(language)
    check_sizes(chosen, *parts)
    processor = base_processor(chosen, language)
    config = build_config(
        chosen,
        vision=parts[0].config,
        text=parts[1].config,
        image_token_id=processor.image_token_id,
        reducer=reducer,
    )
    for part in parts:
        part.check(config)
    return config, processor, parts


def save_checkpoint(
    folder: Path,
    model: InfiMedForConditionalGeneration,
    processor: Processor,
    *,
    about: Mapping[str, Any],
) -> str:
    """Write a checkpoint atomically and return its fingerprint.

    Args:
        about: JSON facts kept in the manifest (step, stage, versions, plan position, seeds).
    """
    with atomic_folder(folder) as partial:
        return write_checkpoint(partial, model.state_dict(), model.config, processor, about=about)


def write_checkpoint(
    folder: Path,
    weights: Mapping[str, Tensor],
    config: InfiMedConfig,
    processor: Processor,
    *,
    about: Mapping[str, Any],
    adapters: Adapters | None = None,
) -> str:
    """Complete a checkpoint folder: model, configuration, processor, and last the manifest.

    Args:
        weights: whole tensors under the model's own names. Other files in `folder` are hashed too.
        adapters: that are not merged into the weights, under the model's own names.
    """
    file = folder / "model.safetensors"
    try:
        save_file(hub_state(weights, config), file, metadata={"format": "pt"})
    except SafetensorError as error:
        raise write_failed(file, str(error)) from error
    if adapters is not None:
        write_adapters(folder, Adapters(hub_state(adapters.tensors, config), adapters.scale))
    values = config.to_dict()
    values["architectures"] = ["InfiMedForConditionalGeneration"]
    values.pop("auto_map", None)
    write_json(folder / "config.json", values)
    processor.save(folder)
    files = {
        file.relative_to(folder).as_posix(): sha256_file(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    decisive = {"model.safetensors", ADAPTERS, "infimed_processor.json"}
    fingerprint = sha256_json({k: files[k] for k in decisive & files.keys()})[:16]
    write_json(folder / MARKER, {"files": files, "fingerprint": fingerprint, **about})
    return fingerprint


def verify_checkpoint(folder: Path, *, hashes: bool = True) -> dict[str, Any] | None:
    """The manifest of a complete, unharmed checkpoint; None when the marker or a hash is off.

    `hashes=False` trusts the files, for ranks whose first has just read them.
    """
    try:
        manifest: dict[str, Any] = read_json(folder / MARKER)
        intact = not hashes or all(
            sha256_file(real_file(folder, name)) == digest
            for name, digest in manifest["files"].items()
        )
    except (DataError, OSError, KeyError, AttributeError, TypeError):
        return None
    return manifest if intact else None


def checkpoint_folders(folder: Path) -> list[Path]:
    """The `step-N` folders below `folder`, newest step first; partial ones are not among them."""
    if not folder.is_dir():
        return []
    steps = [
        (int(m.group(1)), f)
        for f in folder.iterdir()
        if (m := STEP.fullmatch(f.name)) and f.is_dir()
    ]
    return [f for _, f in sorted(steps, reverse=True)]


def find_checkpoint(run_or_checkpoint: Path) -> Path:
    """The newest verified checkpoint of a run folder, or the folder itself if it is a checkpoint.

    Raises:
        DataError: there is none; damaged ones that were passed over are named.
    """
    if (run_or_checkpoint / MARKER).exists() and (run_or_checkpoint / "model.safetensors").exists():
        return run_or_checkpoint
    damaged = []
    for folder in checkpoint_folders(run_or_checkpoint / "checkpoints"):
        if verify_checkpoint(folder) is not None:
            return folder
        damaged.append(folder.name)
    if (run_or_checkpoint / "config.json").exists():
        fix = f"infimed import {run_or_checkpoint} --out DIR"
        check_folder(run_or_checkpoint, tokenizer=False, fix=f"{fix} --allow-pickle")
        raise DataError(
            "a model, but no checkpoint of InfiMed", where=str(run_or_checkpoint), fix=fix
        )
    raise DataError(
        "no complete checkpoint here" + (f" (damaged: {', '.join(damaged)})" if damaged else ""),
        where=str(run_or_checkpoint),
        fix="give a run folder that has trained, e.g. runs/nano, or run: infimed run nano",
    )


def load_checkpoint(
    folder: Path, dtype: torch.dtype = torch.float32, *, merge: bool = True
) -> tuple[InfiMedForConditionalGeneration, Processor]:
    """Model (in eval mode, SDPA attention) and processor of a checkpoint folder.

    Args:
        merge: add the adapters that lie beside the weights; training that goes on adds them itself.

    Raises:
        DataError: a file is missing, damaged, or asks for custom code.
    """
    where = str(folder / "config.json")
    config = checkpoint_config(read_config(folder), where)
    stored = by_published_names(read_header(real_file(folder, WEIGHTS)))
    check_match(hub_names(skeleton(config, where)), stored, str(folder))
    tensors = read_tensors(stored)
    adapters = read_adapters(folder) if merge else None
    if adapters is not None:
        tensors = iter(adapters.merged_into(dict(tensors)).items())
    with made_in(dtype), no_init_weights():
        model = InfiMedForConditionalGeneration(config)
    fill(hub_names(model), tensors)
    model.tie_weights()
    model.eval()
    model.set_attention("sdpa")
    return model, Processor.load(folder)


def checkpoint_config(values: Mapping[str, Any], where: str) -> InfiMedConfig:
    """The configuration in a checkpoint's config.json.

    Raises:
        DataError: a part is missing, or a value is not valid.
    """
    left_out = ("architectures", "model_type", "transformers_version")
    kept = {key: value for key, value in values.items() if key not in left_out}
    for part, made in (("vision_config", tower_config), ("text_config", config_of)):
        if not isinstance(kept.get(part), dict):
            raise DataError(f"has no {part}", where=where)
        kept[part] = made(kept[part], where)
    try:
        return InfiMedConfig(**kept)
    except Exception as error:  # transformers and its validators raise classes of their own
        raise DataError(f"is no configuration of a model ({error!r})", where=where) from error


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Delete all but the `keep` newest checkpoints, and partial leftovers of killed writers."""
    for old in checkpoint_folders(folder)[keep:]:
        shutil.rmtree(old)
    if folder.is_dir():
        for partial in folder.glob(".*.partial"):
            shutil.rmtree(partial, ignore_errors=True)
