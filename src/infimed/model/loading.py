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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

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
from infimed.model.presets import Preset, build_config
from infimed.model.processing import Processor

MARKER = "manifest.json"
STEP = re.compile(r"step-(\d+)")


def hub_key(name: str, vision_model_type: str) -> str:
    """Parameter name -> name in a checkpoint file."""
    if name.startswith("model.vision_tower."):
        inner = "vision_model." if vision_model_type == "siglip_vision_model" else ""
        return f"vision_tower.{inner}{name.removeprefix('model.vision_tower.')}"
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


def load_hub_state(
    model: InfiMedForConditionalGeneration, state: Mapping[str, Tensor], where: str
) -> None:
    """Fill the model from checkpoint names.

    Raises:
        DataError: keys are missing or unknown, or a shape differs; the first few are named.
    """
    vision_type = model.config.vision_config.model_type
    own = model.state_dict()
    names = {hub_key(name, vision_type): name for name in own}
    tied = model.config.tie_word_embeddings
    missing = [k for k in names if k not in state and not (tied and k.endswith("lm_head.weight"))]
    unknown = [k for k in state if k not in names]
    if missing or unknown:
        raise DataError(
            f"{len(missing)} tensors missing, {len(unknown)} unknown",
            where=where,
            seen=f"missing {missing[:5]}, unknown {unknown[:5]}",
            fix="the checkpoint belongs to another preset or layout",
        )
    for key, tensor in state.items():
        if own[names[key]].shape != tensor.shape:
            raise DataError(
                f"{key} has the wrong shape",
                where=where,
                seen=str(tuple(tensor.shape)),
                accepted=str(tuple(own[names[key]].shape)),
            )
    with torch.no_grad():
        for key, tensor in state.items():
            own[names[key]].copy_(tensor)
    model.tie_weights()


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise DataError("file not found", where=str(path)) from error
    except SafetensorError as error:
        raise DataError(
            f"is not a valid safetensors file ({error})",
            where=str(path),
            fix="restore or rebuild it",
        ) from error


def base_processor(chosen: Preset, language: Path) -> Processor:
    """The processor of a preset at its full grid, with the base language model's tokenizer."""
    return Processor(
        tokenizer_json=(language / "tokenizer.json").read_text(encoding="utf-8"),
        image_size=chosen.image_size,
        visual_tokens=chosen.full_tokens,
        mean=chosen.mean,
        std=chosen.std,
        image_token=chosen.image_token,
    )


@contextmanager
def _no_loading_bars() -> Iterator[None]:
    """transformers draws a bar for every file it reads, even one that takes milliseconds."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def build_model(
    chosen: Preset, vision: Path, language: Path, reducer: str = "average"
) -> tuple[InfiMedForConditionalGeneration, Processor]:
    """A model that starts from a pretrained tower and language model, with a fresh projector.

    Args:
        vision: folder with config.json and model.safetensors of the tower.
        language: folder with the same of the language model, and tokenizer.json.
        reducer: as in a recipe's `model.reducer`; fresh like the projector.
    """
    processor = base_processor(chosen, language)
    with _no_loading_bars():
        tower = AutoModel.from_pretrained(vision, dtype=torch.float32, trust_remote_code=False)
        base = AutoModelForCausalLM.from_pretrained(
            language, dtype=torch.float32, trust_remote_code=False
        )
    config = build_config(
        chosen,
        vision=tower.config,
        text=base.config,
        image_token_id=processor.image_token_id,
        reducer=reducer,
    )
    model = InfiMedForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(tower.state_dict(), strict=True)
    model.model.language_model.load_state_dict(base.model.state_dict(), strict=True)
    if not config.tie_word_embeddings:
        model.lm_head.load_state_dict(base.lm_head.state_dict(), strict=True)
    model.tie_weights()
    return model.float(), processor


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
            sha256_file(folder / name) == digest for name, digest in manifest["files"].items()
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
    values = read_json(folder / "config.json")
    if "auto_map" in values:
        raise DataError("config.json asks for custom code (auto_map); refused", where=str(folder))
    values = {
        k: v
        for k, v in values.items()
        if k not in ("architectures", "model_type", "transformers_version")
    }
    for part in ("vision_config", "text_config"):
        inner = dict(values[part])
        values[part] = AutoConfig.for_model(inner.pop("model_type"), **inner)
    model = InfiMedForConditionalGeneration(InfiMedConfig(**values))
    tensors = _read_tensors(folder / "model.safetensors")
    adapters = read_adapters(folder) if merge else None
    if adapters is not None:
        tensors = adapters.merged_into(tensors)
    load_hub_state(model, tensors, str(folder))
    model = model.to(dtype).eval()
    model.set_attention("sdpa")
    return model, Processor.load(folder)


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Delete all but the `keep` newest checkpoints, and partial leftovers of killed writers."""
    for old in checkpoint_folders(folder)[keep:]:
        shutil.rmtree(old)
    if folder.is_dir():
        for partial in folder.glob(".*.partial"):
            shutil.rmtree(partial, ignore_errors=True)
