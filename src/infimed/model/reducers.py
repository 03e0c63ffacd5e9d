"""From the tower's grid of features to fewer visual tokens, in front of the projector.

Four ways behind one call, ``reducer(features [n, grid*grid, width], side) -> [n, side*side, width]``:
averaging, which has no weights, and three that learn. A learned one gives the average plus what its last
linear layer, all zeros at first, makes of what it found: it begins bit-equal to averaging, so that little
data need not teach it everything. No weight depends on `side` or on the grid: one model goes from
16 to 64 to 144 tokens, and from one image size to another, and no tensor changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, scaled_dot_product_attention

from infimed.core.errors import RecipeError, nearest_name
from infimed.model.configuration import REDUCERS, InfiMedConfig, grid_side

DEPTH: Final = 2
"""Layers of the two that attend."""
EXPANSION: Final = 4
"""Width of their MLPs, in widths of the features."""
WINDOW: Final = 2
"""Side of the window that pixel shuffle puts into one token."""
CELLS: Final = 32.0
"""What an image's side counts in position units; neighbours in a grid of 27 are 1.2 apart."""


def pool_grid(features: Tensor, side: int) -> Tensor:
    """Average-pool patch features [n, grid*grid, d] to [n, side*side, d]; identity at the grid.

    Windows follow `adaptive_avg_pool2d`, so any side works: 27 -> 12 overlaps, 3 -> 6 repeats.
    """
    images, patches, width = features.shape
    grid = math.isqrt(patches)
    if grid * grid != patches:
        raise ValueError(f"{patches} patches are not a square grid")
    if grid == side:
        return features
    planes = features.transpose(1, 2).reshape(images, width, grid, grid)
    return adaptive_avg_pool2d(planes, side).flatten(2).transpose(1, 2)


def grid_positions(side: int, width: int, like: Tensor) -> Tensor:
    """Sines and cosines [side*side, width] of the cells' centres, half of them by row, half by column.

    A centre is a share of the image, so that the same place has the same position in every grid.

    Args:
        width: a multiple of 4. like: whose device and type the result has.
    """
    device = like.device
    centres = (torch.arange(side, device=device, dtype=torch.float32) + 0.5) * (CELLS / side)
    steps = torch.arange(width // 4, device=device, dtype=torch.float32) / (width // 4)
    angles = torch.outer(centres, 10000.0**-steps)
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows, columns = axis[:, None].expand(-1, side, -1), axis[None].expand(side, -1, -1)
    return torch.cat([rows, columns], dim=2).flatten(0, 1).to(like.dtype)


class AveragePool(nn.Module):
    """Adaptive average pooling; no weights."""

    def forward(self, features: Tensor, side: int) -> Tensor:
        """features [n, grid*grid, width] -> [n, side*side, width]."""
        return pool_grid(features, side)


class LearnedReducer(nn.Module):
    """The average of a token's window, plus a linear layer of what is found, which starts at zero.

    Args:
        width: of the features. found: channels of what is found.
    """

    def __init__(self, width: int, found: int) -> None:
        super().__init__()
        self.out = nn.Linear(found, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, features: Tensor, side: int) -> Tensor:
        """features [n, grid*grid, width] -> [n, side*side, width]."""
        made: Tensor = pool_grid(features, side) + self.out(self.found(features, side))
        return made

    def found(self, features: Tensor, side: int) -> Tensor:
        """What the last layer reads, [n, side*side, found]."""
        raise NotImplementedError


class PixelShuffle(LearnedReducer):
    """Windows of 2x2 features become one token of four times the width, which a linear layer reads.

    The windows lie on a grid of twice the side, to which the features are averaged where the tower's grid is
    another: 24 -> 12 uses every feature as it is, 27 -> 12 averages to 24 x 24 first, and at the full grid
    the four features of a window are the same one. Space to depth: Shi et al., CVPR 2016; in front of a language
    model: InternVL 1.5, Idefics3.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, WINDOW * WINDOW * width)
        self.norm = nn.LayerNorm(width)

    def found(self, features: Tensor, side: int) -> Tensor:
        """See the class."""
        fine = self.norm(pool_grid(features, WINDOW * side))
        cells = fine.unflatten(1, (side, WINDOW, side, WINDOW)).transpose(2, 3)
        return cells.flatten(3).flatten(1, 2)


class Attention(nn.Module):
    """Multi-head attention of some tokens to a context."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)  # softmax would cancel it
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        """tokens [n, t, width], context [n, c, width] -> [n, t, width]."""

        def split(x: Tensor) -> Tensor:
            return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        query, key, value = self.query(tokens), self.key(context), self.value(context)
        mixed = scaled_dot_product_attention(split(query), split(key), split(value))
        made: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return made


def _mlp(width: int) -> nn.Sequential:
    inner = EXPANSION * width
    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width)
    )


class ResamplerLayer(nn.Module):
    """Latents attend to the features and to one another at once, then an MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = _mlp(width)

    def forward(self, latents: Tensor, features: Tensor) -> Tensor:
        """latents [n, t, width], features [n, p, width] -> [n, t, width]."""
        own = self.norm(latents)
        latents = latents + self.attention(own, torch.cat([features, own], dim=1))
        return latents + self.mlp(latents)


class QueryLayer(nn.Module):
    """Queries attend to one another, then to the features, then an MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.cross_norm = nn.LayerNorm(width)
        self.cross_attention = Attention(width, heads)
        self.mlp = _mlp(width)

    def forward(self, queries: Tensor, features: Tensor) -> Tensor:
        """queries [n, t, width], features [n, p, width] -> [n, t, width]."""
        own = self.norm(queries)
        queries = queries + self.attention(own, own)
        queries = queries + self.cross_attention(self.cross_norm(queries), features)
        return queries + self.mlp(queries)


class AttendingReducer(LearnedReducer):
    """A grid of learned latents that attend to the features through some layers.

    The latents lie on a grid as fine as the tower's. For `side` they are averaged to side x side as the features
    are, so that what 16 tokens learned is where 144 tokens begin. They and the features are told where
    they lie.

    Args:
        grid: side of the latents' own grid.
        layer: makes a layer of a width and a number of heads.
    """

    def __init__(
        self, width: int, heads: int, grid: int, layer: Callable[[int, int], nn.Module]
    ) -> None:
        super().__init__(width, width)
        self.latents = nn.Parameter(torch.randn(grid * grid, width) * 0.02)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(layer(width, heads) for _ in range(DEPTH))
        self.out_norm = nn.LayerNorm(width, elementwise_affine=False)  # `out` scales it

    def found(self, features: Tensor, side: int) -> Tensor:
        """See the class."""
        images, patches, width = features.shape
        seen = self.norm(features)
        seen = seen + grid_positions(math.isqrt(patches), width, seen)
        latents = pool_grid(self.latents[None], side) + grid_positions(side, width, self.latents)
        latents = latents.expand(images, -1, -1)
        for layer in self.layers:
            latents = layer(latents, seen)
        made: Tensor = self.out_norm(latents)
        return made


class Resampler(AttendingReducer):
    """Perceiver resampler: Alayrac et al., *Flamingo*, NeurIPS 2022, appendix A.1.1."""

    def __init__(self, width: int, heads: int, grid: int) -> None:
        super().__init__(width, heads, grid, ResamplerLayer)


class QueryReducer(AttendingReducer):
    """Learned queries with self- and cross-attention, as the Q-Former's: Li et al., *BLIP-2*, ICML 2023."""

    def __init__(self, width: int, heads: int, grid: int) -> None:
        super().__init__(width, heads, grid, QueryLayer)


def make_reducer(config: InfiMedConfig) -> nn.Module:
    """The reducer that a configuration names, for features of its tower.

    Raises:
        RecipeError: no reducer of that name, or features of a width that positions cannot fill.
    """
    vision = config.vision_config
    width, heads = int(vision.hidden_size), int(vision.num_attention_heads)
    if config.reducer not in REDUCERS:
        raise RecipeError(
            "unknown reducer",
            where="model.reducer",
            seen=config.reducer,
            accepted=REDUCERS,
            nearest=nearest_name(config.reducer, REDUCERS),
        )
    if config.reducer == "average":
        return AveragePool()
    if config.reducer == "pixel_shuffle":
        return PixelShuffle(width)
    if width % 4:
        raise RecipeError(
            f"{config.reducer} needs a tower whose width is a multiple of 4",
            where="model.reducer",
            seen=f"width {width}",
            fix="model.reducer=average or pixel_shuffle",
        )
    own = grid_side(int(vision.image_size), int(vision.patch_size))
    grid = config.reducer_grid or own
    kind = Resampler if config.reducer == "resampler" else QueryReducer
    return kind(width, heads, grid)
