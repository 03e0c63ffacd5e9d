"""A checkpoint as a folder that other software opens: stock LLaVA where it can be, never custom code.

At the full grid with average pooling the model is LLaVA, and the folder says so: `transformers`
opens it (and vLLM, for SigLIP towers) without this package. Pooled, the same tensors under the
same names are `infimed_vl`, for which `infimed.model.auto` must be imported.

Invariants: the position table is the one that training interpolated on the fly, computed by the same code,
so fp32 logits are equal to the bit; adapters are merged; no file names custom code, a path of this
machine, or a record. Cost: the model once in memory, and once more in the stored precision.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import LlavaConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from infimed.core.errors import DataError, UsageError
from infimed.core.files import write_failed, write_json, write_text
from infimed.model.configuration import InfiMedConfig, grid_side, is_stock
from infimed.model.loading import hub_state
from infimed.model.modeling import InfiMedForConditionalGeneration
from infimed.model.processing import Processor

Dtype = Literal["fp32", "bf16", "fp16"]
DTYPES: Final[Mapping[str, torch.dtype]] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
SIZE: Final = re.compile(r"[1-9]\d*(\.\d+)?(KB|MB|GB)", re.IGNORECASE)

BICUBIC: Final = 3
"""Pillow's number of the filter that both of transformers' backends have and that is nearest to `squash`."""

NEW_TOKENS: Final = 256
"""Longest answer where a caller names no length; transformers' own default is 20 tokens in all."""

NOISE: Final = frozenset(
    {
        "_name_or_path", "auto_map", "chunk_size_feed_forward", "id2label", "is_encoder_decoder",
        "label2id", "output_attentions", "output_hidden_states", "problem_type", "return_dict",
    }
)  # fmt: skip
"""Configuration keys that say nothing of this model, or a path of the machine that trained it."""


@dataclass(frozen=True)
class Written:
    """What an export wrote.

    Attributes:
        model_type: "llava" or "infimed_vl". image_size, visual_tokens: the exported grid.
        weight_files: names, in order. parameters: a tied output layer counts once.
    """

    model_type: str
    image_size: int
    visual_tokens: int
    weight_files: tuple[str, ...]
    parameters: int


def bake_positions(model: InfiMedForConditionalGeneration, image_size: int) -> None:
    """Replace the tower's position table by the one it interpolates at `image_size` pixels.

    Stock LLaVA never asks a SigLIP tower to interpolate, and vLLM takes no other size than the table's.

    Raises:
        DataError: the tower is of a kind whose table is not known here.
    """
    vision = model.config.vision_config
    embeddings = model.model.vision_tower.embeddings
    patches = grid_side(image_size, int(vision.patch_size)) ** 2
    if model.config.reducer != "average" and model.config.reducer_grid is None:
        # Latents stay as they are: to average them here and again at each call would not be exact.
        model.config.reducer_grid = grid_side(int(vision.image_size), int(vision.patch_size))
    with torch.no_grad():
        if vision.model_type == "siglip_vision_model":
            places = torch.empty(1, patches, vision.hidden_size)
            table = embeddings.interpolate_pos_encoding(places, image_size, image_size)[0]
            embeddings.position_embedding = nn.Embedding.from_pretrained(table.clone())
            embeddings.num_positions = embeddings.num_patches = patches
            embeddings.position_ids = torch.arange(patches).unsqueeze(0)
        elif vision.model_type == "dinov2":
            places = torch.empty(1, patches + 1, vision.hidden_size)
            table = embeddings.interpolate_pos_encoding(places, image_size, image_size)
            embeddings.position_embeddings = nn.Parameter(table.clone())
        else:
            raise DataError(
                "no export for this vision tower",
                seen=str(vision.model_type),
                accepted="siglip_vision_model, dinov2",
            )
    embeddings.image_size = vision.image_size = image_size


def write_export(
    folder: Path,
    model: InfiMedForConditionalGeneration,
    processor: Processor,
    *,
    card: str,
    dtype: Dtype = "fp32",
    shard_size: str = "5GB",
) -> Written:
    """Fill a folder with weights, configuration, processor and model card. Bakes the model's positions.

    Args:
        model: in fp32, adapters merged. processor: at the grid that is exported.
        card: becomes README.md. shard_size: largest weight file, e.g. 500MB or 5GB.

    Raises:
        DataError: the tower is not known here, large images are tiled, or a value does not fit into fp16.
        UsageError: `shard_size` is no size.
    """
    if not SIZE.fullmatch(shard_size):
        raise UsageError("is no size", where="--shard-size", seen=shard_size, accepted="500MB, 5GB")
    if processor.tiles:
        raise DataError(
            "the model shows large images as tiles, which no processor of transformers knows",
            seen=f"tiles={processor.tiles}",
            fix="end the recipe with a stage without tiles (tiles: 0)",
        )
    bake_positions(model, processor.image_size)
    model.set_grid(processor.visual_tokens, processor.image_size)
    stock = is_stock(model.config, processor.image_size)
    state = {
        name: _stored(name, tensor, dtype)
        for name, tensor in hub_state(model.state_dict(), model.config).items()
    }
    files = _write_weights(folder, state, shard_size)
    write_json(folder / "config.json", export_config(model.config, processor, dtype, stock))
    write_json(
        folder / "generation_config.json",
        {
            "do_sample": False,
            "eos_token_id": list(processor.stop_ids),
            "max_new_tokens": NEW_TOKENS,
            "pad_token_id": processor.end_id,
            # a placeholder in an answer would stand for an image that is not there
            "suppress_tokens": [processor.image_token_id],
        },
    )
    _write_processor(folder, model.config, processor, stock)
    write_text(folder / "README.md", card)
    return Written(
        model_type="llava" if stock else InfiMedConfig.model_type,
        image_size=processor.image_size,
        visual_tokens=processor.visual_tokens,
        weight_files=tuple(files),
        parameters=sum(tensor.numel() for tensor in state.values()),
    )


def _stored(name: str, tensor: Tensor, dtype: Dtype) -> Tensor:
    made = tensor.to(DTYPES[dtype])
    if not torch.isfinite(made).all():
        raise DataError(
            f"{name} has a value that {dtype} cannot hold",
            seen=f"largest magnitude {float(tensor.abs().max()):.3g}",
            fix="export with --dtype bf16",
        )
    return made


def _write_weights(folder: Path, state: Mapping[str, Tensor], shard_size: str) -> list[str]:
    """Write one file, or numbered ones with the index that `transformers` expects; returns their names."""
    plan = split_torch_state_dict_into_shards(
        dict(state), max_shard_size=shard_size.upper(), filename_pattern="model{suffix}.safetensors"
    )
    for file, names in plan.filename_to_tensors.items():
        tensors = {name: state[name] for name in names}
        try:
            save_file(tensors, folder / file, metadata={"format": "pt"})
        except SafetensorError as error:
            raise write_failed(folder / file, str(error)) from error
        (folder / file).chmod(0o644)  # safetensors makes private files; others serve the model
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        write_json(folder / "model.safetensors.index.json", index)
    return list(plan.filename_to_tensors)


def export_config(
    config: InfiMedConfig, processor: Processor, dtype: Dtype, stock: bool
) -> dict[str, Any]:
    """The values of config.json; every key that matters is written, so no default can change it."""
    values = _told(config.to_dict())
    if stock:
        ours = set(InfiMedConfig().to_dict()) - set(LlavaConfig().to_dict())
        values = {key: value for key, value in values.items() if key not in ours}
    else:
        values["visual_tokens"] = processor.visual_tokens
    name = "Llava" if stock else "InfiMed"
    values |= {
        "architectures": [f"{name}ForConditionalGeneration"],
        "model_type": "llava" if stock else InfiMedConfig.model_type,
        "dtype": str(DTYPES[dtype]).removeprefix("torch."),
        "image_token_index": processor.image_token_id,
        "image_seq_length": processor.visual_tokens,
    }
    text = values["text_config"]
    # vLLM picks the language model's class by this name.
    text["architectures"] = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[text["model_type"]]]
    text["tie_word_embeddings"] = values["tie_word_embeddings"]
    text["eos_token_id"] = text["pad_token_id"] = processor.end_id
    for part in (text, values["vision_config"]):
        part["dtype"] = values["dtype"]
    return values


def _told(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _told(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if key not in NOISE
    }


def _write_processor(
    folder: Path, config: InfiMedConfig, processor: Processor, stock: bool
) -> None:
    """Tokenizer, template and geometry as `AutoProcessor` reads them."""
    processor.save(folder)
    (folder / "infimed_processor.json").unlink()
    kind = "LlavaProcessor" if stock else "InfiMedProcessor"
    file = folder / "preprocessor_config.json"
    size = {"height": processor.image_size, "width": processor.image_size}
    write_json(
        file,
        {
            "image_processor_type": "SiglipImageProcessor",
            "processor_class": kind,
            "do_convert_rgb": True,
            "do_resize": True,
            "size": size,
            "resample": BICUBIC,
            "do_center_crop": False,
            "crop_size": size,  # not cropped to: LlavaProcessor counts placeholders by it
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(processor.mean),
            "image_std": list(processor.std),
        },
    )
    strategy = config.vision_feature_select_strategy
    write_json(
        folder / "processor_config.json",
        {
            "processor_class": kind,
            "image_token": processor.image_token,
            "patch_size": config.vision_config.patch_size,
            "vision_feature_select_strategy": strategy,
            # "default" drops the class token, which only then is counted in
            "num_additional_image_tokens": 1 if strategy == "default" else 0,
            **({} if stock else {"visual_tokens": processor.visual_tokens}),
        },
    )
