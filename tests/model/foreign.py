"""Tiny checkpoints in the layouts of other projects, all with the weights of one stock LLaVA."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tests.conftest import tiny_tokenizer_json
from torch import Tensor
from transformers import LlavaConfig, LlavaForConditionalGeneration, Qwen2Config, SiglipVisionConfig

TEXT: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "vision_use_head": False,
}
IDS = torch.tensor([[5, *[3] * 16, 6, 7, 8]])


def stock(*, tied: bool = True, seed: int = 0, **vision: Any) -> LlavaForConditionalGeneration:
    """A stock LLaVA: SigLIP of three layers, of which the last is not used, and Qwen2."""
    torch.manual_seed(seed)
    config = LlavaConfig(
        vision_config=SiglipVisionConfig(**{**VISION, **vision}),
        text_config=Qwen2Config(**TEXT, tie_word_embeddings=tied),
        image_token_index=3,
        image_seq_length=16,
        vision_feature_layer=-2,
        vision_feature_select_strategy="full",
        tie_word_embeddings=tied,
    )
    model = LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():  # what is initialised to one value hides a mistaken place
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def logits(model: Any, pixels: Tensor) -> Tensor:
    """Logits of one image and three tokens."""
    with torch.no_grad():
        made: Tensor = model(input_ids=IDS, pixel_values=pixels).logits
    return made


def parts(model: LlavaForConditionalGeneration) -> tuple[dict[str, Tensor], ...]:
    """State of tower, projector and language model; an untied output layer as ``lm_head.weight``."""
    tower, projector, words = (
        {k: v.detach().clone().contiguous() for k, v in one.state_dict().items()}
        for one in (
            model.model.vision_tower,
            model.model.multi_modal_projector,
            model.model.language_model,
        )
    )
    words = {f"model.{name}": tensor for name, tensor in words.items()}
    if not model.config.tie_word_embeddings:
        words["lm_head.weight"] = model.lm_head.weight.detach().clone()
    return tower, projector, words


def write(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> Path:
    """A folder with config.json, tokenizer.json and one safetensors file."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(tiny_tokenizer_json())
    return folder


def prefixed(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def llava_hub(model: LlavaForConditionalGeneration) -> dict[str, Tensor]:
    """The Hub's names, as of llava-hf."""
    tower, projector, words = parts(model)
    return {
        **prefixed(tower, "vision_tower.vision_model."),
        **prefixed(projector, "multi_modal_projector."),
        **prefixed(words, "language_model."),
    }


def llava_new(model: LlavaForConditionalGeneration) -> dict[str, Tensor]:
    """The names of the class since transformers 4.52."""
    tower, projector, words = parts(model)
    head = {name: words.pop(name) for name in list(words) if name == "lm_head.weight"}
    inner = {name.removeprefix("model."): tensor for name, tensor in words.items()}
    return {
        **prefixed(tower, "model.vision_tower."),
        **prefixed(projector, "model.multi_modal_projector."),
        **prefixed(inner, "model.language_model."),
        **head,
    }


def llava_flat(model: LlavaForConditionalGeneration) -> dict[str, Tensor]:
    """What transformers 5 writes for a LLaVA made from configurations: the tower's names are flat."""
    return {
        name.replace("vision_tower.vision_model.", "vision_tower."): tensor
        for name, tensor in llava_hub(model).items()
    }


def llava_qwen(model: LlavaForConditionalGeneration) -> dict[str, Tensor]:
    """LLaVA-NeXT: the tower's last layer was deleted, a token between rows of tiles added."""
    tower, projector, words = parts(model)
    kept = {k: v for k, v in tower.items() if not k.startswith("encoder.layers.2.")}
    numbered = {
        k.replace("linear_1", "0").replace("linear_2", "2"): v for k, v in projector.items()
    }
    return {
        **prefixed(kept, "model.vision_tower.vision_tower.vision_model."),
        **prefixed(numbered, "model.mm_projector."),
        **words,
        "model.image_newline": torch.randn(32),
    }


LLAVA_QWEN = {
    **TEXT,
    "architectures": ["LlavaQwenForCausalLM"],
    "model_type": "llava_qwen",
    "image_aspect_ratio": "anyres_max_9",
    "mm_hidden_size": 32,
    "mm_patch_merge_type": "spatial_unpad",
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "mm_vision_tower": "somebody/tiny-siglip",
    "tie_word_embeddings": True,
    "tokenizer_padding_side": "right",
    "use_mm_proj": True,
}


def prismatic(model: LlavaForConditionalGeneration) -> dict[str, dict[str, Tensor]]:
    """Three modules; the tower as timm names it."""
    tower, projector, words = parts(model)
    timm: dict[str, Tensor] = {"pos_embed": tower["embeddings.position_embedding.weight"][None]}
    for end in ("weight", "bias"):
        timm[f"patch_embed.proj.{end}"] = tower[f"embeddings.patch_embedding.{end}"]
        timm[f"norm.{end}"] = tower[f"post_layernorm.{end}"]
        for n in range(3):
            old, new = f"encoder.layers.{n}", f"blocks.{n}"
            qkv = [tower[f"{old}.self_attn.{x}_proj.{end}"] for x in "qkv"]
            timm[f"{new}.attn.qkv.{end}"] = torch.cat(qkv)
            timm[f"{new}.attn.proj.{end}"] = tower[f"{old}.self_attn.out_proj.{end}"]
            timm[f"{new}.norm1.{end}"] = tower[f"{old}.layer_norm1.{end}"]
            timm[f"{new}.norm2.{end}"] = tower[f"{old}.layer_norm2.{end}"]
            timm[f"{new}.mlp.fc1.{end}"] = tower[f"{old}.mlp.fc1.{end}"]
            timm[f"{new}.mlp.fc2.{end}"] = tower[f"{old}.mlp.fc2.{end}"]
    timm["attn_pool.latent"] = torch.randn(1, 1, 32)
    numbered = {
        k.replace("linear_1", "0").replace("linear_2", "2"): v for k, v in projector.items()
    }
    head = {"lm_head.weight": words["model.embed_tokens.weight"].clone(), **words}
    return {
        "vision_backbone": prefixed(timm, "featurizer."),
        "projector": prefixed(numbered, "mlp_projector."),
        "llm_backbone": prefixed(head, "llm."),
    }


PRISMATIC = {
    "mount_path": "Qwen",
    "model": {
        "model_id": "tiny",
        "arch_specifier": "full-align+4-avgpool",
        "vision_backbone_id": "siglip-vit-tiny",
        "llm_backbone_id": "qwen2.5-tiny-instruct",
        "image_resize_strategy": "letterbox",
    },
}


def base_folders(root: Path, model: LlavaForConditionalGeneration) -> tuple[Path, Path]:
    """Folders of the tower and the language model that a checkpoint only names."""
    tower, _, words = parts(model)
    vision = write(
        root / "tower",
        prefixed(tower, "vision_model."),
        {**VISION, "model_type": "siglip_vision_model"},
    )
    language = write(root / "words", words, model.config.text_config.to_dict())
    return vision, language
