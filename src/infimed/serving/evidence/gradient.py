"""Which part of an image an answer rests on, by integrated gradients of its log-probability.

Sundararajan, Taly & Yan, *Axiomatic Attribution for Deep Networks* (2017): the gradient by the pixels, averaged
on the way from an image with nothing to see to the image, times the difference of both. Summed over all
pixels it is how much likelier the image makes the answer (their completeness; tests). The mean of the middles of
`STEPS` equal parts stands for the integral. Pixels are summed over cells and smoothed, since single pixels are noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from infimed.inference.local import LocalModel
from infimed.model.tiling import NO_TILES
from infimed.serving.evidence.hiding import Hideable, per_cell
from infimed.serving.evidence.scoring import Said, logprob_of_pixels

STEPS: Final = 16
"""Gradients that are averaged. On the phantoms 64 point no better."""
_SMOOTH: Final = np.array([0.25, 0.5, 0.25])


def middles(steps: int = STEPS) -> list[float]:
    """Where the gradient is taken: 0 is nothing to see, 1 the image."""
    return [(step + 0.5) / steps for step in range(steps)]


def gradients(
    local: LocalModel, what: Said, image: Hideable, places: Sequence[float]
) -> NDArray[np.float64]:
    """The sum of the gradients at these places of the way, times the whole way: [views, S, S].

    One pass forward and one backward for each place.
    """
    weight = next(local.model.parameters())
    shown, blank = (
        local.processor.pixels(list(views)).to(weight.device, weight.dtype)
        for views in (image.views, image.blank)
    )
    total = torch.zeros_like(shown)
    with torch.enable_grad(), weights_fixed(local.model):
        for place in places:
            pixels = (blank + place * (shown - blank)).requires_grad_()
            (gradient,) = torch.autograd.grad(logprob_of_pixels(local, what, pixels), pixels)
            total += gradient
    made = (total * (shown - blank)).double().sum(dim=1)
    return np.asarray(made.cpu().numpy(), np.float64)


def attribution(image: Hideable, summed: NDArray[np.float64], steps: int, grid: int) -> NDArray[np.float64]:  # fmt: skip
    """What each cell adds to the log-probability in nats [grid, grid], of `gradients` summed over all places.

    The view of the whole image and the tiles show the same parts, so both add to one map.
    """
    mean = summed / steps
    made = per_cell(mean[0], grid)
    if image.grid != NO_TILES:
        rows, columns = image.grid
        side = mean.shape[1]
        tiles = mean[1:].reshape(rows, columns, side, side).swapaxes(1, 2)
        made += per_cell(tiles.reshape(rows * side, columns * side), grid)
    return made


def smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each cell's mean with its neighbours, nearer ones counting more; the border is repeated."""
    wide = np.pad(values, 1, mode="edge")
    wide = _SMOOTH[0] * wide[:-2] + _SMOOTH[1] * wide[1:-1] + _SMOOTH[2] * wide[2:]
    made = _SMOOTH[0] * wide[:, :-2] + _SMOOTH[1] * wide[:, 1:-1] + _SMOOTH[2] * wide[:, 2:]
    return np.asarray(made)


@contextmanager
def weights_fixed(model: torch.nn.Module) -> Iterator[None]:
    """No gradient by weights within the block: it would take as long and as much memory again."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
