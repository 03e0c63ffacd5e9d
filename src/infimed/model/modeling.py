"""The network: stock LLaVA with a token reducer between tower and projector.

No reducer has a weight that depends on the grid, so 36 -> 144 (or 144 -> 729) changes no tensor. Average
pooling has none at all: at the full grid it is skipped and the class is bit-equal to stock LLaVA. The
tower's position table stays at the largest grid and is interpolated on the fly for other image sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, LlavaForConditionalGeneration

from infimed.core.errors import DataError
from infimed.model.attention import PACKED, PackedLayout
from infimed.model.configuration import InfiMedConfig, token_side
from infimed.model.linear import use_fast_linears
from infimed.model.norm import use_fast_norms
from infimed.model.reducers import make_reducer


class LeakingCallError(ValueError):
    """A call in which packed documents would silently see one another."""


def refuse_leak(
    position_ids: Tensor | None, attention_mask: Tensor | None, use_cache: object
) -> None:
    """Refuse a packed row (positions that restart) together with a mask or a cache.

    transformers isolates restarting positions only without mask and without cache; with either it
    lets documents see one another and says nothing.

    Raises:
        LeakingCallError: the call would leak.
    """
    harmless = attention_mask is None and not use_cache
    if position_ids is None or position_ids.shape[-1] < 2 or harmless:
        return
    if attention_mask is not None and not bool(attention_mask.bool().all()):
        return  # left padding, not packing
    if bool((position_ids[..., 1:] < position_ids[..., :-1]).any()):
        raise LeakingCallError(
            "this row holds several documents (its positions restart), but an attention mask or a "
            "key-value cache was given: documents would see one another. Use model.forward_row, or "
            "pass attention_mask=None and use_cache=False."
        )


class InfiMedForConditionalGeneration(LlavaForConditionalGeneration):
    """SigLIP or DINOv2 tower, reducer, two-layer MLP, causal language model."""

    config_class = InfiMedConfig
    config: InfiMedConfig

    def __init__(self, config: InfiMedConfig) -> None:
        super().__init__(config)
        self.model.multi_modal_reducer = make_reducer(config)
        use_fast_norms(self.model.language_model)
        use_fast_linears(self)

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return int(self.config.vision_config.patch_size)

    def set_grid(self, visual_tokens: int, image_size: int) -> None:
        """Choose how many tokens an image becomes at `image_size` pixels; changes no tensor."""
        token_side(visual_tokens, image_size, self.patch_size)
        self.config.visual_tokens = visual_tokens

    def set_attention(self, implementation: str) -> None:
        """Attention of the language model: ``infimed_packed`` to train, ``infimed_cached`` to answer
        (`inference.cache`), ``sdpa`` for transformers' own `generate`."""
        self.model.language_model.config._attn_implementation = implementation

    def tower_features(self, pixels: Tensor) -> Tensor:
        """The tower's patch features [n, grid*grid, d] of normalised pixels [n, 3, H, W]."""
        tower = self.model.vision_tower
        extra = {"interpolate_pos_encoding": True} if "siglip" in tower.config.model_type else {}
        outputs = tower(pixels, output_hidden_states=True, return_dict=True, **extra)
        features = outputs.hidden_states[self.config.vision_feature_layer]
        if self.config.vision_feature_select_strategy == "default":
            features = features[:, 1:]
        assert isinstance(features, Tensor)
        return features

    def reduce(self, features: Tensor, side: int | None = None) -> Tensor:
        """The tower's features [n, patches, width] as [n, side*side, width]; the model's grid by default.

        Without weights in the reducer, features that are reduced already stay as they are.
        """
        side = side or math.isqrt(self.config.visual_tokens or features.shape[1])
        reduced = self.model.multi_modal_reducer(features, side)
        assert isinstance(reduced, Tensor)
        return reduced

    def pooled_features(self, pixels: Tensor, visual_tokens: int | None = None) -> Tensor:
        """Reduced features [n, visual_tokens, width] of normalised pixels [n, 3, H, W]."""
        tokens = visual_tokens or self.config.visual_tokens
        side = token_side(tokens, pixels.shape[-1], self.patch_size) if tokens else None
        return self.reduce(self.tower_features(pixels), side)

    def pooled_each(self, pixels: Tensor, visual_tokens: Sequence[int]) -> Tensor:
        """Features [sum of visual_tokens, width] of images that each become their own number of tokens."""
        features = self.tower_features(pixels)
        sides = [token_side(tokens, pixels.shape[-1], self.patch_size) for tokens in visual_tokens]
        pooled: list[Tensor] = [features[:0]] * len(sides)
        for side in set(sides):
            numbers = [number for number, own in enumerate(sides) if own == side]
            same = self.reduce(features[numbers], side)
            for number, tokens_of_it in zip(numbers, same, strict=True):
                pooled[number] = tokens_of_it
        return torch.cat(pooled)

    def project(self, pooled: Tensor) -> Tensor:
        """Features [..., width] as embeddings [..., d]."""
        projected = self.model.multi_modal_projector(pooled)
        assert isinstance(projected, Tensor)
        return projected

    def image_features(self, pixels: Tensor, visual_tokens: int | None = None) -> Tensor:
        """Projected features [n, visual_tokens, d] of normalised pixels [n, 3, H, W]."""
        return self.project(self.pooled_features(pixels, visual_tokens))

    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> Any:
        """Stock entry point, pooled: a list of [visual_tokens, d] in ``pooler_output``."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        return BaseModelOutputWithPooling(pooler_output=list(self.image_features(pixel_values)))

    def embed(self, input_ids: Tensor, features: Tensor | None) -> Tensor:
        """Token embeddings [1, T, d] with image features [..., d] put at their placeholders, in order.

        Raises:
            DataError: placeholders and features do not match in number.
        """
        embedded = self.get_input_embeddings()(input_ids)
        slots = input_ids == self.config.image_token_id
        placeholders = int(slots.sum())
        given = 0 if features is None else features.numel() // features.shape[-1]
        if placeholders != given:
            raise DataError(
                f"the row has {placeholders} image placeholders and {given} image features",
                fix="an image span was cut or an image is missing; rebuild the plan for this grid",
            )
        if features is None:
            return embedded
        values = features.reshape(-1, features.shape[-1]).to(embedded.dtype)
        return embedded.masked_scatter(slots.unsqueeze(-1), values)

    def forward_row(
        self,
        input_ids: Tensor,
        layout: PackedLayout,
        *,
        pixels: Tensor | None = None,
        visual_tokens: Sequence[int] | None = None,
        pooled: Tensor | None = None,
        features: Tensor | None = None,
    ) -> Tensor:
        """Final hidden states [T, d] of one packed row.

        Args:
            input_ids: int64 [T].
            layout: the documents of the row.
            pixels: normalised [n, 3, H, W], or None.
            visual_tokens: tokens of each image, where they differ; the model's grid otherwise.
            pooled: the tower's [n, patches, width] instead of pixels; or, where the reducer has no
                weights, [n, visual_tokens, width].
            features: projected [n, visual_tokens, d] instead of either.
        """
        if pixels is not None and visual_tokens is not None:
            pooled = self.pooled_each(pixels, visual_tokens)
        elif pixels is not None:
            pooled = self.pooled_features(pixels)
        elif pooled is not None:
            pooled = self.reduce(pooled)
        if pooled is not None:
            features = self.project(pooled)
        language = self.model.language_model
        if language.config._attn_implementation != PACKED:
            raise LeakingCallError("call set_attention('infimed_packed') before forward_row")
        hidden = language(
            inputs_embeds=self.embed(input_ids.unsqueeze(0), features),
            position_ids=layout.position_ids().to(input_ids.device),
            attention_mask=None,
            use_cache=False,
            layout=layout,
        ).last_hidden_state
        assert isinstance(hidden, Tensor)
        return hidden[0]

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Stock forward with pooling; refuses packed rows that transformers would let leak.

        The parameters are named because `generate` reads from them what it may pass on.
        """
        cached = past_key_values is not None or kwargs.get(
            "use_cache", self.config.text_config.use_cache
        )
        refuse_leak(position_ids, attention_mask, cached)
        if pixel_values is not None:
            assert input_ids is not None, "images are put where the ids say"
            inputs_embeds = self.embed(input_ids, self.image_features(pixel_values))
            input_ids = None
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )


AutoConfig.register("infimed_vl", InfiMedConfig, exist_ok=True)
AutoModelForImageTextToText.register(InfiMedConfig, InfiMedForConditionalGeneration, exist_ok=True)


def count_parameters(model: torch.nn.Module) -> int:
    """Parameters of a module, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())
