"""The four model sizes; they share every line of code.

Only `nano` and `mini` have weights this project can make or fetch without a model hub. The two
paper-sized presets are configurations, counted on the meta device and loaded from the Hub or from
local folders.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig, PretrainedConfig

from infimed.core.errors import RecipeError, nearest_name
from infimed.model.configuration import InfiMedConfig

CLIP_HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preset:
    """A model size.

    Attributes:
        name: as in a recipe's `model.preset`.
        vision, text: transformers configurations as plain dictionaries with their model_type.
        image_size: the full grid's side in pixels. feature_strategy: "full", or "default" to drop
            the tower's class token. mean, std: pixel normalisation the tower was trained with.
    """

    name: str
    vision: dict[str, Any]
    text: dict[str, Any]
    image_size: int
    feature_strategy: str
    mean: tuple[float, float, float] = CLIP_HALF
    std: tuple[float, float, float] = CLIP_HALF
    image_token: str = "<image>"

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return int(self.vision["patch_size"])

    @property
    def full_tokens(self) -> int:
        """Visual tokens at the full grid."""
        return (self.image_size // self.patch_size) ** 2


def _siglip(**sizes: int) -> dict[str, Any]:
    return {"model_type": "siglip_vision_model", "vision_use_head": False, **sizes}


def _qwen3(**sizes: Any) -> dict[str, Any]:
    return {"model_type": "qwen3", "tie_word_embeddings": True, **sizes}


SO400M = _siglip(
    hidden_size=1152,
    num_hidden_layers=27,
    num_attention_heads=16,
    intermediate_size=4304,
    image_size=384,
    patch_size=14,
)

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="nano",
            vision=_siglip(
                hidden_size=128,
                num_hidden_layers=6,
                num_attention_heads=4,
                intermediate_size=512,
                image_size=96,
                patch_size=8,
            ),
            text=_qwen3(
                vocab_size=2048,
                hidden_size=160,
                num_hidden_layers=6,
                num_attention_heads=5,
                num_key_value_heads=5,
                head_dim=32,
                intermediate_size=448,
                max_position_embeddings=4096,
            ),
            image_size=96,
            feature_strategy="full",
        ),
        Preset(
            name="mini",
            vision={
                "model_type": "dinov2",
                "hidden_size": 384,
                "num_hidden_layers": 12,
                "num_attention_heads": 6,
                "image_size": 518,
                "patch_size": 14,
            },
            text={
                "model_type": "llama",
                "vocab_size": 49152,
                "hidden_size": 576,
                "intermediate_size": 1536,
                "num_hidden_layers": 30,
                "num_attention_heads": 9,
                "num_key_value_heads": 3,
                "max_position_embeddings": 8192,
                "tie_word_embeddings": True,
            },
            image_size=336,
            feature_strategy="default",
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        ),
        Preset(
            name="infimed-1.7b",
            vision=SO400M,
            text=_qwen3(
                vocab_size=151936,
                hidden_size=2048,
                num_hidden_layers=28,
                num_attention_heads=16,
                num_key_value_heads=8,
                head_dim=128,
                intermediate_size=6144,
                max_position_embeddings=40960,
                rope_theta=1_000_000.0,
            ),
            image_size=384,
            feature_strategy="full",
            image_token="<|image_pad|>",
        ),
        Preset(
            name="infimed-4b",
            vision=SO400M,
            text=_qwen3(
                vocab_size=151936,
                hidden_size=2560,
                num_hidden_layers=36,
                num_attention_heads=32,
                num_key_value_heads=8,
                head_dim=128,
                intermediate_size=9728,
                max_position_embeddings=40960,
                rope_theta=1_000_000.0,
            ),
            image_size=384,
            feature_strategy="full",
            image_token="<|image_pad|>",
        ),
    )
}


def preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        RecipeError: there is none; the nearest name is suggested.
    """
    if name not in PRESETS:
        raise RecipeError(
            "unknown preset",
            where="model.preset",
            seen=name,
            accepted=PRESETS,
            nearest=nearest_name(name, PRESETS),
        )
    return PRESETS[name]


def sub_config(values: dict[str, Any]) -> PretrainedConfig:
    """A transformers configuration from a dictionary with its model_type."""
    rest = dict(values)
    return AutoConfig.for_model(rest.pop("model_type"), **rest)


def build_config(
    chosen: Preset,
    *,
    vision: PretrainedConfig | None = None,
    text: PretrainedConfig | None = None,
    image_token_id: int,
    reducer: str = "average",
) -> InfiMedConfig:
    """The model's configuration; `vision` and `text` replace the preset's where weights bring their own."""
    text = text or sub_config(chosen.text)
    return InfiMedConfig(
        vision_config=vision or sub_config(chosen.vision),
        text_config=text,
        image_token_index=image_token_id,
        image_seq_length=chosen.full_tokens,
        vision_feature_layer=-1,
        vision_feature_select_strategy=chosen.feature_strategy,
        tie_word_embeddings=bool(text.tie_word_embeddings),
        visual_tokens=chosen.full_tokens,
        reducer=reducer,
    )
