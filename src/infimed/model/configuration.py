"""The model's configuration: stock LLaVA plus the number of visual tokens and the reducer.

A pooled checkpoint is `infimed_vl`; at the full grid the same weights are stock `llava`.
"""

from __future__ import annotations

import math

from transformers import LlavaConfig

from infimed.core.errors import RecipeError

REDUCERS = ("average", "pixel_shuffle", "resampler", "query")


class InfiMedConfig(LlavaConfig):
    """LLaVA configuration with `visual_tokens` (per image, after reduction) and `reducer`.

    Attributes:
        visual_tokens: placeholders per image; a square number, at most the tower's grid. None means
            the full grid.
        reducer: how the grid becomes `visual_tokens`, one of `REDUCERS`; ``average`` is adaptive
            average pooling before the projector and has no weights.
        reducer_grid: side of the grid that the reducer's latents lie on; None for the tower's own. An
            export at another image size keeps it apart from the tower's.
    """

    model_type = "infimed_vl"

    visual_tokens: int | None = None
    reducer: str = "average"
    reducer_grid: int | None = None


def is_stock(config: InfiMedConfig, image_size: int | None = None) -> bool:
    """Whether stock LLaVA computes the same: every patch is a token, and nothing is learned between.

    Args:
        image_size: pixels that the processor gives; the grid of `image_seq_length` otherwise.
    """
    if image_size is None:
        patches = int(config.image_seq_length)
    else:
        patches = grid_side(image_size, int(config.vision_config.patch_size)) ** 2
    return config.reducer == "average" and config.visual_tokens in (None, patches)


def grid_side(image_size: int, patch_size: int) -> int:
    """Patches along one side of a square image; pixels past the last whole patch are not seen.

    Raises:
        RecipeError: the image is smaller than one patch.
    """
    if image_size < patch_size:
        raise RecipeError(
            "image size is smaller than one patch",
            where="image_size",
            seen=image_size,
            accepted=f"at least {patch_size}",
        )
    return image_size // patch_size


def token_side(visual_tokens: int, image_size: int, patch_size: int) -> int:
    """Side of the square that `visual_tokens` form, checked against the tower's grid.

    Raises:
        RecipeError: not a square number, or more tokens than the grid has patches.
    """
    grid = grid_side(image_size, patch_size)
    side = math.isqrt(max(visual_tokens, 0))
    if visual_tokens <= 0 or side * side != visual_tokens:
        raise RecipeError(
            "visual_tokens must be a square number",
            where="visual_tokens",
            seen=visual_tokens,
            accepted=f"1, 4, 9, ... up to {grid * grid}",
            nearest=str(max(1, side) ** 2),
        )
    if side > grid:
        raise RecipeError(
            f"more visual tokens than the tower gives at {image_size} px",
            where="visual_tokens",
            seen=visual_tokens,
            accepted=f"at most {grid * grid}",
            fix=f"raise image_size to at least {side * patch_size}",
        )
    return side
