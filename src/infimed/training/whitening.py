"""Start the projector from the statistics of the tower's features.

The variances of a pretrained tower's feature directions span four orders of magnitude: what an image
is drowns what is in it. A first linear layer that whitens them (zero mean, unit covariance, then a
random rotation) lets the language model see every direction from the first step; in the demo's
setting, presence of a finding is read from the image in a third of the steps. The projector
stays the two-layer MLP of stock LLaVA; only its start changes. Cost: one forward pass over a few
hundred images.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from infimed.core.seeds import derive_seed, stream
from infimed.data.record import ImageRef
from infimed.data.shards import ShardSet
from infimed.model.modeling import InfiMedForConditionalGeneration
from infimed.model.processing import Processor
from infimed.training.rows import PixelCache

IMAGES = 256
"""Images the statistics are taken from."""
FLOOR = 1e-4
"""Smallest variance that is amplified, as a share of the mean variance."""
SPREAD = 2.0
"""Standard deviation of the projected tokens, in standard deviations of the text embeddings."""


def training_images(shards: ShardSet, rows: Sequence[int], seed: int) -> list[ImageRef]:
    """Up to `IMAGES` distinct images of the given records, drawn by the seed."""
    images: dict[str, ImageRef] = {}
    for at in stream(seed, "whitening").permutation(len(rows)):
        for image in shards.record(int(rows[int(at)])).images:
            images.setdefault(image.sha256, image)
        if len(images) >= IMAGES:
            break
    return list(images.values())[:IMAGES]


@torch.no_grad()
def tower_features(
    model: InfiMedForConditionalGeneration,
    processor: Processor,
    shards: ShardSet,
    images: Sequence[ImageRef],
) -> Tensor:
    """Reduced tower features [images * visual_tokens, d] at the processor's grid, fp32."""
    cache = PixelCache(shards)
    found = []
    for start in range(0, len(images), 16):
        squares = [
            cache.square(image, processor.image_size) for image in images[start : start + 16]
        ]
        pixels = processor.pixels(squares)
        found.append(model.pooled_features(pixels, processor.visual_tokens).flatten(0, 1))
    return torch.cat(found)


@torch.no_grad()
def whiten_projector(model: InfiMedForConditionalGeneration, features: Tensor, seed: int) -> None:
    """Set the projector so that whitened features reach the language model at the scale of its words.

    Args:
        features: [tokens, d] tower features; more tokens than d.
    """
    projector = model.model.multi_modal_projector
    exact = features.double()
    mean = exact.mean(0)
    variances, directions = torch.linalg.eigh(torch.cov(exact.T))
    scale = (variances.clamp_min(0) + FLOOR * variances.mean()).rsqrt()
    whitener = (directions * scale) @ directions.T
    generator = torch.Generator().manual_seed(derive_seed(seed, "projector"))
    shape = projector.linear_1.weight.shape
    rotation = torch.randn(shape, generator=generator, dtype=torch.float64) * (
        1.5 / shape[1] ** 0.5
    )
    projector.linear_1.weight.copy_(rotation @ whitener)
    projector.linear_1.bias.copy_(-(rotation @ whitener) @ mean)
    some = features[:: max(1, len(features) // 4096)]
    wanted = SPREAD * model.get_input_embeddings().weight.std()
    projector.linear_2.weight.mul_(wanted / projector(some).std())
