"""What answering will need: memory of a device by what it is for, and bounds of time.

Nothing is allocated: weights are counted on the meta device, and the cache of a token follows from the
configuration. The bounds are what no implementation beats: a prompt costs its operations at the peak rate,
a step of decoding reads every weight of the language model and every request's cache once. Real engines
reach about half of the first and most of the second.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from infimed.inference.branches import TOKENS_PER_PASS
from infimed.inference.cache import head_width, slot_bytes
from infimed.inference.local import IMAGES_PER_PASS
from infimed.model.modeling import InfiMedForConditionalGeneration
from infimed.model.presets import Preset, build_config

PROMPT_TOKENS = 60
"""Tokens of text in a prompt where nothing else is said."""
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Load:
    """What is asked.

    Attributes:
        requests: answered at once. images, text_tokens, new_tokens: of each request.
        visual_tokens: of a view; None for the preset's full grid. views: of an image: 1 and its tiles.
        image_size: pixels of a view's side; None for the preset's. reducer: as in a recipe; its weights are
            counted, its operations (a few per cent of the tower's) are not. dtype: a name in `DTYPES`.
    """

    requests: int = 1
    images: int = 1
    new_tokens: int = 256
    text_tokens: int = PROMPT_TOKENS
    visual_tokens: int | None = None
    views: int = 1
    image_size: int | None = None
    reducer: str = "average"
    dtype: str = "bf16"


@dataclass(frozen=True)
class Inference:
    """What a preset needs for a load; bytes, and operations of the whole load.

    Attributes:
        prompt_tokens: of a request, images included. weights: of the whole model.
        cache_token, cache_request: keys and values of a token, and of a request to its end.
        image: activations of the images that are encoded together.
        prompt: activations and logits while prompts are read, at most one pass of them.
        prefill_flops: encoding all images and reading all prompts. decode_bytes: read by the last step, the
            dearest. decode_flops: of a step for all requests.
    """

    prompt_tokens: int
    weights: int
    cache_token: int
    cache_request: int
    image: int
    prompt: int
    requests: int
    prefill_flops: float
    decode_bytes: float
    decode_flops: float

    @property
    def total(self) -> int:
        """Bytes of the load; reading prompts and encoding images happen one after another."""
        return self.fixed + self.requests * self.cache_request

    @property
    def fixed(self) -> int:
        """Bytes that do not grow with the number of requests."""
        return self.weights + max(self.image, self.prompt)

    def fitting(self, memory: float) -> int:
        """How many such requests fit at once in so many bytes."""
        return max(0, int((memory - self.fixed) // self.cache_request))

    def seconds(self, flops: float, bandwidth: float) -> tuple[float, float]:
        """Least seconds of the prompts and of a step, at so many operations and bytes a second."""
        step = max(self.decode_bytes / bandwidth, self.decode_flops / flops)
        return self.prefill_flops / flops, step


def _products(module: nn.Module) -> int:
    """Weights of the matrix products of a module."""
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))


def estimate_inference(chosen: Preset, load: Load) -> Inference:
    """What a preset needs for a load."""
    dtype = DTYPES[load.dtype]
    with torch.device("meta"):
        config = build_config(chosen, image_token_id=0, reducer=load.reducer)
        model = InfiMedForConditionalGeneration(config)
    text, vision = model.config.text_config, model.config.vision_config
    tower, language = model.model.vision_tower, model.model.language_model
    views = load.images * load.views
    visual = views * (load.visual_tokens or chosen.full_tokens)
    prompt = visual + load.text_tokens
    whole = prompt + load.new_tokens

    patches = ((load.image_size or chosen.image_size) // chosen.patch_size) ** 2
    patches += chosen.feature_strategy == "default"  # the class token
    inner = int(getattr(vision, "intermediate_size", None) or 4 * vision.hidden_size)
    # The states of all blocks are kept until one is chosen; the widest layer stands twice.
    states = (vision.num_hidden_layers + 2) * vision.hidden_size + 2 * inner
    images = load.requests * views
    image = dtype.itemsize * min(images, IMAGES_PER_PASS) * patches * states
    width = text.hidden_size + 2 * text.intermediate_size
    logits = 4 * load.requests * text.vocab_size
    pass_tokens = min(load.requests * prompt, max(prompt, TOKENS_PER_PASS))

    seen = vision.num_hidden_layers * 4 * vision.hidden_size * patches**2
    stem = 2 * patches * vision.num_channels * chosen.patch_size**2 * vision.hidden_size
    encoding = 2 * patches * _products(tower) + seen + stem
    projecting = 2 * visual * _products(model.model.multi_modal_projector)
    attention = 4 * text.num_hidden_layers * text.num_attention_heads * head_width(text)
    head = 2 * _products(model.lm_head)
    reading = 2 * prompt * _products(language) + attention * prompt * (prompt + 1) / 2 + head
    one_step = 2 * _products(language) + head + attention * whole
    cache_token = slot_bytes(text, dtype)
    # A step reads the language model and its head, which is the embedding where they are tied.
    read = dtype.itemsize * (_products(language) + _products(model.lm_head))
    return Inference(
        prompt_tokens=prompt,
        weights=dtype.itemsize * sum(p.numel() for p in model.parameters()),
        cache_token=cache_token,
        cache_request=cache_token * whole,
        image=image if images else 0,
        prompt=dtype.itemsize * pass_tokens * width + logits,
        requests=load.requests,
        prefill_flops=load.requests * (views * encoding + projecting + reading),
        decode_bytes=read + load.requests * cache_token * whole,
        decode_flops=load.requests * one_step,
    )
