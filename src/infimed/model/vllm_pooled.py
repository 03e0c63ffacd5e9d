"""vLLM's LLaVA with average pooling before the projector. Imported by vLLM alone; see `vllm_plugin`.

Two places differ from stock: how many placeholders an image gets, and the pooling. Weights, names, parallel
layers and the language model are vLLM's own. Not yet run on a GPU.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from vllm.model_executor.models.llava import (
    LlavaDummyInputsBuilder,
    LlavaForConditionalGeneration,
    LlavaMultiModalProcessor,
    LlavaProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from infimed.model.configuration import token_side
from infimed.model.reducers import pool_grid


class PooledProcessingInfo(LlavaProcessingInfo):
    """Counts `visual_tokens` placeholders an image, whatever its size."""

    def get_num_image_tokens(self, *, image_width: int, image_height: int) -> int:
        """Placeholders of one image."""
        return int(self.get_hf_config().visual_tokens)


@MULTIMODAL_REGISTRY.register_processor(
    LlavaMultiModalProcessor, info=PooledProcessingInfo, dummy_inputs=LlavaDummyInputsBuilder
)
class PooledLlava(LlavaForConditionalGeneration):
    """Tower, average pooling, projector, language model."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        if self.config.reducer != "average":
            raise ValueError(
                f"vLLM serves average pooling only; this model's reducer is {self.config.reducer!r}"
            )
        vision = self.config.vision_config
        self.side = token_side(self.config.visual_tokens, vision.image_size, vision.patch_size)

    def _process_image_input(self, image_input: Any) -> Any:
        if image_input["type"] != "pixel_values":
            return super()._process_image_input(image_input)
        features: Tensor = self._process_image_pixels(image_input)
        return self.multi_modal_projector(pool_grid(features, self.side))
