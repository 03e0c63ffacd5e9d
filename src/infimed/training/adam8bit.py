"""AdamW whose two moments take one byte a parameter each instead of four.

Dettmers et al., "8-bit Optimizers via Block-wise Quantization" (2022): values are divided by the
largest of their block of 256 and rounded to a map whose steps grow with the value ("dynamic tree").
Two things differ. What is stored of the second moment is its root, so that both moments span the same
seven decades: in a map of the squares, a gradient 3,000 times below its block's largest would be
divided by zero. And the map of roots has no zero. Tensors below `SMALL` keep fp32 moments.

Blocks run through a tensor in memory order, which shards would cut: one process only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor
from torch.optim import Optimizer

BLOCK: Final = 256
SMALL: Final = 4096
"""Tensors with fewer elements keep fp32 moments: norms and biases, which gain nothing from bytes."""
CHUNK: Final = 4096 * BLOCK
"""Elements that are updated together; bounds the fp32 copies."""


@cache
def dynamic_map(signed: bool) -> Tensor:
    """fp32 [256], ascending in [-1, 1] or (0, 1]: seven decades, each with twice the steps of the last.

    Section 1.3 and appendix F.1 of the paper; the unsigned one has 1e-7 where theirs has 0.
    """
    values = [1.0, 0.0 if signed else 1e-7]
    for decade in range(7):
        steps = 2**decade if signed else 2 ** (decade + 1)
        edges = torch.linspace(0.1, 1, steps + 1, dtype=torch.float64)
        middles = (edges[1:] + edges[:-1]) / 2 * 10.0 ** (decade - 6)
        values += middles.tolist() + ((-middles).tolist() if signed else [])
    return torch.tensor(sorted(values), dtype=torch.float32)


@cache
def _edges(signed: bool) -> Tensor:
    values = dynamic_map(signed)
    return (values[1:] + values[:-1]) / 2


def quantise(values: Tensor, signed: bool) -> tuple[Tensor, Tensor]:
    """Codes, uint8 [n], and the largest magnitude of every block, fp32 [ceil(n / BLOCK)], of fp32 [n]."""
    padded = torch.nn.functional.pad(values, (0, -len(values) % BLOCK)).view(-1, BLOCK)
    largest = padded.abs().amax(1)
    share = padded / largest.clamp(min=1e-38).unsqueeze(1)
    codes = torch.bucketize(share, _edges(signed), out_int32=True).to(torch.uint8)
    return codes.flatten()[: len(values)], largest


def restore(codes: Tensor, largest: Tensor, signed: bool) -> Tensor:
    """Inverse of `quantise` up to rounding; fp32 [n]."""
    values = dynamic_map(signed)[codes.int()]
    return values * largest.repeat_interleave(BLOCK)[: len(codes)]


class AdamW8bit(Optimizer):
    """AdamW (decoupled weight decay) with block-wise 8-bit moments; see the module."""

    def __init__(self, params: Any, *, betas: tuple[float, float], eps: float = 1e-8) -> None:
        super().__init__(params, {"lr": 0.0, "weight_decay": 0.0, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state.update(_first_state(parameter))
                state["step"] += 1
                for start in range(0, parameter.numel(), CHUNK):
                    _update(parameter, state, group, slice(start, start + CHUNK))


def _first_state(parameter: Tensor) -> dict[str, Tensor]:
    state = {"step": torch.tensor(0.0)}
    small = parameter.numel() < SMALL
    for name in ("mean", "root"):
        state[name] = torch.zeros_like(parameter, dtype=torch.float32 if small else torch.uint8)
        if not small:
            state[f"{name}_largest"] = torch.zeros(-(-parameter.numel() // BLOCK))
    return state


def _update(
    parameter: Tensor, state: dict[str, Tensor], group: dict[str, Any], part: slice
) -> None:
    """AdamW on some elements, which begin at a block."""
    step, (beta1, beta2) = float(state["step"]), group["betas"]
    assert parameter.grad is not None
    gradient = parameter.grad.reshape(-1)[part].float()
    values = parameter.view(-1)[part]
    mean = _load(state, "mean", part).lerp_(gradient, 1 - beta1)
    root = _load(state, "root", part)
    root.square_().mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2).sqrt_()
    _store(state, "mean", part, mean)
    _store(state, "root", part, root)
    size = root.div_((1 - beta2**step) ** 0.5).add_(group["eps"])
    values.mul_(1 - group["lr"] * group["weight_decay"])
    values.sub_(mean.div_(size).mul_(group["lr"] / (1 - beta1**step)))


def _blocks(part: slice) -> slice:
    return slice(part.start // BLOCK, part.stop // BLOCK)


def _load(state: dict[str, Tensor], name: str, part: slice) -> Tensor:
    held = state[name].view(-1)[part]
    if held.dtype != torch.uint8:
        return held.clone()
    return restore(held, state[f"{name}_largest"][_blocks(part)], name == "mean")


def _store(state: dict[str, Tensor], name: str, part: slice, values: Tensor) -> None:
    held = state[name].view(-1)[part]
    if held.dtype != torch.uint8:
        held.copy_(values)
        return
    codes, largest = quantise(values, name == "mean")
    held.copy_(codes)
    state[f"{name}_largest"][_blocks(part)] = largest
