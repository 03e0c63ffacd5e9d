"""What `transformers` must know to open an `infimed_vl` folder: import this module, then use its Auto classes.

A pooled model is not stock LLaVA, so its folder names the type `infimed_vl`. No code travels with the
weights (never `auto_map`); the classes come from the installed package. At the full grid none of
this is needed: the folder is stock `llava`.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoProcessor, LlavaProcessor
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.core_model_loading import WeightRenaming
from transformers.processing_utils import MultiModalData

from infimed.model.configuration import InfiMedConfig
from infimed.model.modeling import InfiMedForConditionalGeneration

__all__ = ["InfiMedConfig", "InfiMedForConditionalGeneration", "InfiMedProcessor"]


class InfiMedProcessor(LlavaProcessor):
    """The stock processor, with `visual_tokens` placeholders for every image."""

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        visual_tokens: int = 1,
        **kwargs: Any,
    ) -> None:
        """`visual_tokens` is the number after reduction, as in the model's configuration."""
        self.visual_tokens = visual_tokens
        super().__init__(image_processor, tokenizer, **kwargs)

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **_: Any) -> str:
        """The text that stands for one image."""
        return str(self.image_token) * self.visual_tokens

    def _get_num_multimodal_tokens(self, image_sizes: Any = None, **_: Any) -> MultiModalData:
        """What serving engines ask before they have pixels."""
        if image_sizes is None:
            return MultiModalData()
        return MultiModalData(
            num_image_tokens=[self.visual_tokens] * len(image_sizes),
            num_image_patches=[1] * len(image_sizes),
        )


AutoProcessor.register(InfiMedConfig, InfiMedProcessor, exist_ok=True)
register_checkpoint_conversion_mapping(
    InfiMedConfig.model_type,
    [
        *get_checkpoint_conversion_mapping("llava"),
        WeightRenaming("^multi_modal_reducer", "model.multi_modal_reducer"),
    ],
    overwrite=True,
)
