"""Checkpoints of other projects: how each lays out what InfiMed also has.

Three layouts are read: stock LLaVA of transformers (the Hub's names and those of version 5), LLaVA's own
code and LLaVA-NeXT (``llava_qwen``), and Prismatic with its descendant Open-Qwen2VL, whose SigLIP comes
from timm. A layout only says where tensors lie; whether they match is checked as for every file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch import Tensor
from transformers import AutoConfig, PretrainedConfig

from infimed.core.errors import DataError
from infimed.model.configuration import InfiMedConfig
from infimed.model.loading import checkpoint_config
from infimed.model.modeling import InfiMedForConditionalGeneration
from infimed.model.parts import (
    Part,
    config_of,
    language_part,
    tied_head,
    tower_config,
    vision_part,
    wanted,
)
from infimed.model.presets import SO400M
from infimed.model.tensor_names import (
    HEAD,
    LANGUAGE,
    LINEAR_1,
    LINEAR_2,
    VISION,
    Expected,
    first_prefix,
    renamed,
)
from infimed.model.weight_files import StoredTensor, read_config, stored_tensors

LAYOUTS: Final = ("llava", "llava_qwen", "prismatic")
KNOWN_TOWERS: Final = {
    "siglip-so400m-patch14-384": SO400M,
    "siglip-vit-so400m-384px": SO400M,
    "siglip-vit-so400m": {**SO400M, "image_size": 224},
}
"""Towers that checkpoints name without describing them."""
LANGUAGE_MODELS: Final = {
    "LlavaQwenForCausalLM": "qwen2",
    "LlavaQwen2ForCausalLM": "qwen2",
    "LlavaQwen3ForCausalLM": "qwen3",
    "LlavaLlamaForCausalLM": "llama",
    "LlavaMistralForCausalLM": "mistral",
}
PLACEHOLDERS: Final = ("<image>", "<|image_pad|>")


@dataclass(frozen=True)
class Source:
    """A checkpoint of another project that was looked at but not read.

    Attributes:
        config: of the model it becomes.
        parts: where its tensors lie.
        tokenizer: folder of the tokenizer. image_token: the placeholder, None to choose one.
        notes: what is left out or differs, for people.
    """

    layout: str
    config: InfiMedConfig
    parts: tuple[Part, ...]
    tokenizer: Path
    image_token_id: int | None
    notes: tuple[str, ...]


def look_at(folder: Path, vision: Path | None, language: Path | None) -> Source:
    """Recognise the layout of a checkpoint folder.

    Args:
        vision: folder of the tower, for checkpoints that do not hold or not describe it.
        language: the same of the language model; its tokenizer is used.

    Raises:
        DataError: not one of the layouts, not supported in a detail, or not safe to read.
    """
    values = read_config(folder)
    if "mm_vision_tower" in values:
        return _llava_qwen(folder, values, vision, language)
    if isinstance(values.get("model"), dict) and "vision_backbone_id" in values["model"]:
        return _prismatic(folder, values["model"], vision, language)
    if values.get("model_type") == "llava":
        return _llava(folder, values, language)
    raise DataError(
        "no layout that can be imported",
        where=str(folder / "config.json"),
        seen=f"model_type {values.get('model_type')}",
        accepted=LAYOUTS,
    )


def _llava(folder: Path, values: dict[str, Any], language: Path | None) -> Source:
    """Stock LLaVA: names as the Hub publishes them, as transformers has them since 4.52, or as
    version 5 writes a model that was made from configurations.
    """
    where = str(folder / "config.json")
    stored = stored_tensors(folder)
    tower = "vision_tower."
    vision = _prefix(
        stored, f"{tower}vision_model.", f"model.{tower}vision_model.", f"model.{tower}", tower
    )
    kept, notes = leave_out(stored, {f"{vision}head.": "the tower's pooling head"})
    words = _prefix(kept, "language_model.model.", "model.language_model.")
    head = _prefix(kept, "language_model.lm_head.", HEAD)
    projector = _prefix(kept, "multi_modal_projector.", "model.multi_modal_projector.")
    config = checkpoint_config({**values, "visual_tokens": None, "reducer": "average"}, where)
    if not isinstance(config.vision_feature_layer, int):
        raise DataError(
            "features of several layers are not supported",
            where=where,
            seen=config.vision_feature_layer,
            accepted="one vision_feature_layer",
        )
    strategy = "full" if config.vision_config.model_type == "siglip_vision_model" else "default"
    if config.vision_feature_select_strategy != strategy:
        raise DataError(
            "the tower's features cannot be chosen so",
            where=where,
            seen=f"vision_feature_select_strategy {config.vision_feature_select_strategy}",
            accepted=f"{strategy} for {config.vision_config.model_type}",
        )
    last = config.vision_config.num_hidden_layers + 1  # the embeddings count as one
    if not -last <= config.vision_feature_layer < last:
        raise DataError(
            "the tower has no such layer",
            where=where,
            seen=f"vision_feature_layer {config.vision_feature_layer}",
            accepted=f"-{last} to {last - 1}",
        )
    if config.tie_word_embeddings:
        tied, kept = tied_head(kept, f"{head}weight", f"{words}embed_tokens.weight")
        config.tie_word_embeddings = config.text_config.tie_word_embeddings = tied
    names = {
        VISION: vision,
        LINEAR_1: f"{projector}linear_1.",
        LINEAR_2: f"{projector}linear_2.",
        LANGUAGE: words,
        HEAD: head,
    }
    part = Part(folder, config, kept, lambda model: renamed(model, names))
    return _source("llava", config, (part,), language or folder, notes, config.image_token_index)


def _llava_qwen(
    folder: Path, values: dict[str, Any], vision: Path | None, language: Path | None
) -> Source:
    """The layout of LLaVA's own code: the language model's names, with tower and projector among them."""
    where = str(folder / "config.json")
    only(values, "mm_projector_type", "mlp2x_gelu", where)
    only(values, "mm_vision_select_feature", "patch", where)
    stored = stored_tensors(folder)
    outer = "model.vision_tower.vision_tower."
    inner = _prefix(stored, f"{outer}vision_model.", outer)
    kept, notes = leave_out(
        stored,
        {
            "model.image_newline": "the token between rows of tiles (images are one square here)",
            f"{inner}head.": "the tower's pooling head",
        },
    )
    tower, extra = _tower(str(values["mm_vision_tower"]), vision, where)
    layer = values.get("mm_vision_select_layer", -2)
    if not isinstance(layer, int):
        raise DataError("is no layer", where=where, seen=f"mm_vision_select_layer {layer}")
    layers = {name.split(".")[0] for name in _after(kept, f"{inner}encoder.layers.")}
    names = {
        LINEAR_1: "model.mm_projector.0.",
        LINEAR_2: "model.mm_projector.2.",
        LANGUAGE: "model.",
        HEAD: HEAD,
    }
    if layers:
        extra = ()
        names[VISION] = inner
        if len(layers) == tower.num_hidden_layers - 1 and layer == -2:
            tower.num_hidden_layers, layer = len(layers), -1
            notes = (*notes, "its tower was stored without the last layer, which was not used")
    elif not extra:
        raise DataError(
            "holds no vision tower", where=str(folder), fix="give its folder with --vision DIR"
        )
    text = text_config(values, where)
    if text.tie_word_embeddings:
        tied, kept = tied_head(kept, f"{HEAD}weight", "model.embed_tokens.weight")
        text.tie_word_embeddings = tied
    if values.get("image_aspect_ratio") not in (None, "square"):
        notes = (*notes, f"trained with images as {values['image_aspect_ratio']}, squashed here")
    config = _config(tower, text, layer)
    part = Part(folder, text, kept, lambda model: renamed(model, names))
    return _source("llava_qwen", config, (part, *extra), language or folder, notes)


def _prismatic(
    folder: Path, values: dict[str, Any], vision: Path | None, language: Path | None
) -> Source:
    """Three modules side by side; the tower, if it was trained, under timm's names."""
    where = str(folder / "config.json")
    if language is None:
        raise DataError(
            "names its language model but holds neither its configuration nor its tokenizer",
            where=where,
            seen=values.get("llm_backbone_id"),
            fix="give the folder of that model with --language DIR",
        )
    stored = wanted(stored_tensors(folder), lambda name: True)
    featurizer = "vision_backbone.featurizer."
    stored, notes = leave_out(stored, {f"{featurizer}attn_pool.": "the tower's pooling head"})
    tower, extra = _tower(str(values["vision_backbone_id"]), vision, where)
    words, head = "llm_backbone.llm.model.", "llm_backbone.llm.lm_head."
    text = language_part(language).config
    if text.tie_word_embeddings:
        tied, stored = tied_head(stored, f"{head}weight", f"{words}embed_tokens.weight")
        text.tie_word_embeddings = tied
    mlp = _prefix(stored, "projector.projector.", "projector.mlp_projector.")
    names = {LINEAR_1: f"{mlp}0.", LINEAR_2: f"{mlp}2.", LANGUAGE: words, HEAD: head}
    held = any(_after(stored, featurizer))
    if held:
        extra = ()
        tower.hidden_act = "gelu"  # timm's SigLIP; transformers' approximates it by tanh
    elif not extra:
        raise DataError(
            "holds no vision tower, it was frozen",
            where=where,
            fix="give its folder with --vision DIR",
        )
    if values.get("image_resize_strategy") != "resize-naive":
        notes = (
            *notes,
            f"trained with images by {values.get('image_resize_strategy')}, squashed here",
        )

    def expected(model: InfiMedForConditionalGeneration) -> Expected:
        own = renamed(model, names)
        return {**own, **timm_names(model.model.vision_tower, featurizer)} if held else own

    config = _config(tower, text, -2, _pooled_to(str(values.get("arch_specifier")), where))
    parts = (Part(folder, text, stored, expected), *extra)
    return _source("prismatic", config, parts, language, notes)


def timm_names(tower: Any, prefix: str) -> dict[str, tuple[Tensor, ...]]:
    """A SigLIP tower's tensors under timm's names: query, key and value of a layer in one."""
    own: Mapping[str, Tensor] = tower.state_dict()
    found: dict[str, tuple[Tensor, ...]] = {}
    plain = {
        "layer_norm1": "norm1",
        "layer_norm2": "norm2",
        "self_attn.out_proj": "attn.proj",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    for end in ("weight", "bias"):
        found[f"patch_embed.proj.{end}"] = (own[f"embeddings.patch_embedding.{end}"],)
        found[f"norm.{end}"] = (own[f"post_layernorm.{end}"],)
        for layer in range(tower.config.num_hidden_layers):
            inside = f"encoder.layers.{layer}."
            found[f"blocks.{layer}.attn.qkv.{end}"] = tuple(
                own[f"{inside}self_attn.{which}_proj.{end}"] for which in "qkv"
            )
            for name, other in plain.items():
                found[f"blocks.{layer}.{other}.{end}"] = (own[f"{inside}{name}.{end}"],)
    found["pos_embed"] = (own["embeddings.position_embedding.weight"].unsqueeze(0),)
    return {prefix + name: tensors for name, tensors in found.items()}


def _config(
    tower: PretrainedConfig, text: PretrainedConfig, layer: int, tokens: int | None = None
) -> InfiMedConfig:
    return InfiMedConfig(
        vision_config=tower,
        text_config=text,
        vision_feature_layer=layer,
        vision_feature_select_strategy="full",
        tie_word_embeddings=bool(text.tie_word_embeddings),
        visual_tokens=tokens,
    )


def _source(
    layout: str,
    config: InfiMedConfig,
    parts: tuple[Part, ...],
    tokenizer: Path,
    notes: tuple[str, ...],
    image_token_id: int | None = None,
) -> Source:
    side = config.vision_config.image_size // config.vision_config.patch_size
    config.image_seq_length = config.visual_tokens = config.visual_tokens or side**2
    return Source(layout, config, parts, tokenizer, image_token_id, notes)


def _tower(name: str, folder: Path | None, where: str) -> tuple[PretrainedConfig, tuple[Part, ...]]:
    """The tower's configuration, and its folder as a part if one was given."""
    if folder is not None:
        part = vision_part(folder)
        return part.config, (part,)
    known = KNOWN_TOWERS.get(name.rsplit("/", 1)[-1])
    if known is None:
        raise DataError(
            "names a vision tower that is not described in the checkpoint",
            where=where,
            seen=name,
            accepted=KNOWN_TOWERS,
            fix="give the tower's folder (config.json) with --vision DIR",
        )
    return tower_config(known, where), ()


def text_config(values: Mapping[str, Any], where: str) -> PretrainedConfig:
    """The language model's own keys among those of LLaVA."""
    asked = (values.get("architectures") or ["none"])[0]
    kind = LANGUAGE_MODELS.get(str(asked))
    if kind is None:
        raise DataError("unknown class", where=where, seen=str(asked), accepted=LANGUAGE_MODELS)
    known = {*AutoConfig.for_model(kind).to_dict(), "rope_theta", "rope_scaling"}
    own = known - {"model_type", "architectures", "transformers_version"}
    return config_of({"model_type": kind, **{k: v for k, v in values.items() if k in own}}, where)


def _pooled_to(specifier: str, where: str) -> int | None:
    """Visual tokens of ``...+729-avgpool`` and ``avgpool`` (144); None for a plain MLP."""
    last = specifier.rsplit("+", 1)[-1]
    if last == "gelu-mlp":
        return None
    number = "144" if last == "avgpool" else last.removesuffix("-avgpool")
    if (
        last.endswith("avgpool")
        and number.isdecimal()
        and math.isqrt(int(number)) ** 2 == int(number)
    ):
        return int(number)
    raise DataError(
        "another projector than a two-layer MLP",
        where=where,
        seen=specifier,
        accepted="gelu-mlp, avgpool, N-avgpool",
    )


def only(values: Mapping[str, Any], key: str, accepted: str, where: str) -> None:
    if values.get(key, accepted) != accepted:
        raise DataError(f"{key} is not supported", where=where, seen=values[key], accepted=accepted)


def _prefix(stored: Iterable[str], *candidates: str) -> str:
    return first_prefix(stored, candidates) or candidates[0]


def _after(stored: Iterable[str], prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name in stored if name.startswith(prefix)]


def leave_out(
    stored: Mapping[str, StoredTensor], prefixes: Mapping[str, str]
) -> tuple[dict[str, StoredTensor], tuple[str, ...]]:
    """The tensors without those that InfiMed has no use for, and what was left out."""
    notes = tuple(
        f"left out: {prefix.rstrip('.')} ({len(_after(stored, prefix))} tensors), {what}"
        for prefix, what in prefixes.items()
        if _after(stored, prefix)
    )
    return wanted(stored, lambda name: not name.startswith(tuple(prefixes))), notes
