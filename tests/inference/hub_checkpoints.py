"""Tiny random checkpoints of other projects, in the layout in which their authors publish them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

WORDS = (
    "user assistant system model Is there a pleural effusion on the left side? yes no right",
    "Which finding does this image show? Answer with the letter of the right option. A. B. C.",
)
ROWS = 352
TEXT: dict[str, Any] = {
    "vocab_size": ROWS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 512,
}
CHATML = (
    "{%- for message in messages -%}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{%- for part in message['content'] -%}{%- if part['type'] == 'image' -%}"
    "<|vision_start|><|image_pad|><|vision_end|>{%- else -%}{{ part['text'] }}{%- endif -%}"
    "{%- endfor -%}{% endif %}<|im_end|>\n{% endfor -%}"
    "{%- if add_generation_prompt -%}<|im_start|>assistant\n{% endif -%}"
)
GEMMA = (
    "{{ bos_token }}{%- for message in messages -%}<start_of_turn>"
    "{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{%- if message['content'] is string -%}{{ message['content'] | trim }}{%- else -%}"
    "{%- for part in message['content'] -%}{%- if part['type'] == 'image' -%}<start_of_image>"
    "{%- else -%}{{ part['text'] | trim }}{%- endif -%}{%- endfor -%}{%- endif -%}"
    "<end_of_turn>\n{% endfor -%}{%- if add_generation_prompt -%}<start_of_turn>model\n{% endif -%}"
)


@lru_cache(maxsize=8)
def tokenizer_json(*special: str) -> str:
    """A byte-level BPE whose first tokens are these."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=ROWS - 16,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(WORDS * 4, trainer)
    return str(tokenizer.to_str())


def write_json(folder: Path, name: str, value: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(value, indent=1), encoding="utf-8")


def randomised(model: Any, seed: int = 0) -> Any:
    """Every parameter random and large enough that answers depend on what is asked."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.25 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def _tokenizer(folder: Path, special: tuple[str, ...], **config: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer_json(*special), encoding="utf-8")
    values = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    write_json(folder, "tokenizer_config.json", {**values, **config})


def qwen2_5_vl(folder: Path) -> Path:
    """As Qwen/Qwen2.5-VL: one flat config.json, chat_template.json, sampling by default."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
    special = (*special, "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
    config = {
        **TEXT,
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "rope_theta": 10000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 1, 1]},
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "vision_start_token_id": 3,
        "vision_end_token_id": 4,
        "image_token_id": 6,
        "video_token_id": 7,
        "torch_dtype": "bfloat16",
        "vision_config": {
            "depth": 2,
            "hidden_size": 32,
            "out_hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "in_chans": 3,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
            "tokens_per_second": 2,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
    }
    model = randomised(Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig.from_dict(config)))
    model.save_pretrained(folder)
    write_json(folder, "config.json", config)
    sampled = {"do_sample": True, "temperature": 1e-6, "repetition_penalty": 5.0}
    write_json(
        folder,
        "generation_config.json",
        {"bos_token_id": 0, "pad_token_id": 0, "eos_token_id": [2, 0], **sampled},
    )
    write_json(
        folder,
        "preprocessor_config.json",
        {
            "min_pixels": 28 * 28,
            "max_pixels": 28 * 28 * 6,
            "patch_size": 14,
            "temporal_patch_size": 2,
            "merge_size": 2,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2_5_VLProcessor",
        },
    )
    write_json(folder, "chat_template.json", {"chat_template": CHATML})
    _tokenizer(folder, special, eos_token="<|im_end|>", pad_token="<|endoftext|>", bos_token=None)
    return folder


def gemma3(folder: Path) -> Path:
    """As google/medgemma: token for images that the template does not spell, chat_template.jinja."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    special = ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>")
    special = (*special, "<start_of_image>", "<end_of_image>", "<image_soft_token>")
    config = Gemma3Config(
        text_config={
            **TEXT,
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        vision_config={
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "image_size": 28,
            "patch_size": 7,
        },
        mm_tokens_per_image=4,
        boi_token_index=5,
        eoi_token_index=6,
        image_token_index=7,
        eos_token_id=[1, 4],
    )
    randomised(Gemma3ForConditionalGeneration(config)).save_pretrained(folder)
    # What transformers 5 writes of a model made from a configuration is flat; the Hub's names are not.
    stored = load_file(folder / "model.safetensors")
    tower, inner = "vision_tower.", "vision_tower.vision_model."
    hub = {
        name if name.startswith(inner) else name.replace(tower, inner): tensor
        for name, tensor in stored.items()
    }
    save_file(hub, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(
        folder,
        "generation_config.json",
        {
            "bos_token_id": 2,
            "pad_token_id": 0,
            "eos_token_id": [1, 4],
            "do_sample": True,
            "top_k": 64,
        },
    )
    write_json(
        folder,
        "preprocessor_config.json",
        {
            "do_pan_and_scan": None,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "image_processor_type": "Gemma3ImageProcessor",
            "image_seq_length": 4,
            "processor_class": "Gemma3Processor",
            "resample": 2,
            "rescale_factor": 1 / 255,
            "size": {"height": 28, "width": 28},
        },
    )
    write_json(
        folder,
        "processor_config.json",
        {"image_seq_length": 4, "processor_class": "Gemma3Processor"},
    )
    (folder / "chat_template.jinja").write_text(GEMMA, encoding="utf-8")
    images = {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    }
    _tokenizer(
        folder,
        special,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        extra_special_tokens=images,
        **images,
    )
    return folder


def stock_llava(seed: int = 0) -> Any:
    """The stock LLaVA whose weights `llava_qwen2` writes: CLIP and Qwen2."""
    from transformers import (
        CLIPVisionConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        Qwen2Config,
    )

    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**CLIP),
        text_config=Qwen2Config(**TEXT, rope_theta=10000.0, tie_word_embeddings=False),
        image_token_index=ROWS - 16,
        projector_hidden_act="gelu",
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    return randomised(LlavaForConditionalGeneration(config), seed)


CLIP: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 7,
    "projection_dim": 16,
    "hidden_act": "quick_gelu",
}


def llava_qwen2(folder: Path) -> Path:
    """As FreedomIntelligence/HuatuoGPT-Vision: LLaVA's own names, its CLIP described below ``vit``."""
    model = stock_llava()
    parts = {
        "model.vision_tower.": "model.vision_tower.vision_tower.vision_model.",
        "model.multi_modal_projector.linear_1.": "model.mm_projector.0.",
        "model.multi_modal_projector.linear_2.": "model.mm_projector.2.",
        "model.language_model.": "model.",
        "lm_head.": "lm_head.",
    }
    tensors = {}
    for name, tensor in model.state_dict().items():
        name = name.replace("vision_tower.vision_model.", "vision_tower.")
        own = next(prefix for prefix in parts if name.startswith(prefix))
        tensors[parts[own] + name.removeprefix(own)] = tensor.detach().clone().contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(
        folder,
        "config.json",
        {
            **TEXT,
            "architectures": ["LlavaQwen2ForCausalLM"],
            "model_type": "llava_qwen2",
            "rope_theta": 10000.0,
            "hidden_act": "silu",
            "image_aspect_ratio": "pad",
            "mm_hidden_size": 32,
            "mm_projector_type": "mlp2x_gelu",
            "mm_vision_select_feature": "patch",
            "mm_vision_select_layer": -2,
            "mm_vision_tower": "./vit/clip_vit_large_patch14_336",
            "tie_word_embeddings": False,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "torch_dtype": "bfloat16",
        },
    )
    write_json(
        folder,
        "generation_config.json",
        {"eos_token_id": [2, 0], "pad_token_id": 0, "do_sample": True, "repetition_penalty": 1.05},
    )
    vit = folder / "vit" / "clip_vit_large_patch14_336"
    write_json(vit, "config.json", {"model_type": "clip", "vision_config": CLIP})
    write_json(
        vit,
        "preprocessor_config.json",
        {
            "crop_size": 28,
            "do_center_crop": True,
            "do_normalize": True,
            "do_resize": True,
            "feature_extractor_type": "CLIPFeatureExtractor",
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "resample": 3,
            "size": 28,
        },
    )
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    _tokenizer(
        folder, special, eos_token="<|endoftext|>", pad_token="<|endoftext|>", bos_token=None
    )
    return folder


def qwen3(folder: Path) -> Path:
    """A language model alone, as Qwen/Qwen3."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(**TEXT, head_dim=8, tie_word_embeddings=True, eos_token_id=2)
    randomised(Qwen3ForCausalLM(config)).save_pretrained(folder)
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    _tokenizer(
        folder,
        special,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        bos_token=None,
        chat_template=CHATML,
    )
    return folder


MADE: dict[str, Callable[[Path], Path]] = {
    "qwen2_5_vl": qwen2_5_vl,
    "gemma3": gemma3,
    "llava_qwen2": llava_qwen2,
    "qwen3": qwen3,
}
WITH_IMAGES = ("qwen2_5_vl", "gemma3", "llava_qwen2")
