"""Adafactor: the second moment of a matrix kept as one number a row and one a column.

Shazeer and Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost" (2018), without first
moment and without its relative steps: `lr` means what it means to AdamW and the stage's schedule sets it.
(`torch.optim.Adafactor` multiplies it by the size of the parameters, which would make another learning
rate of every one in a recipe.) State of the 1.7-billion-parameter language model: 5 MB, where AdamW
keeps 14 GB. A step works in place on the gradient, so that it needs no memory of a matrix's size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.optim import Optimizer

from infimed.training.parallel import whole_tensor

SMALLEST = 1e-16
"""Added to squared gradients: AdamW's 1e-8, squared. The paper's 1e-30 turns the rounding of a gradient that
is zero by construction (a bias of keys) into steps of full size."""


class Adafactor(Optimizer):
    """Factored second moments, update clipping, decoupled weight decay; fp32 or bf16 parameters.

    Gradients are overwritten. Parameters may be sharded along their first dimension; the state is whole on
    every rank.

    Args:
        decay: the second moment of step t keeps a share ``1 - t**-decay`` of the one before (section 7.2).
        clip: largest root mean square of an update before the learning rate (section 6).
    """

    def __init__(self, params: Any, *, decay: float = 0.8, clip: float = 1.0) -> None:
        super().__init__(params, {"lr": 0.0, "weight_decay": 0.0, "decay": decay, "clip": clip})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
        state["step"] += 1
        keep = 1 - float(state["step"]) ** -group["decay"]
        gradient = parameter.grad
        assert gradient is not None
        update = gradient.flatten(1) if gradient.ndim > 1 else gradient
        if update.ndim == 2:
            row = _remember(state, "row", _mean_square(update, 1), keep)
            column = _remember(state, "column", _mean_square(update, 0), keep)
            update.mul_(_as(update, (row / row.mean()).rsqrt_(), 0))
            update.mul_(_as(update, column.rsqrt(), None))
        else:
            square = _remember(state, "variance", whole_tensor(update).float().square(), keep)
            update.mul_(_as(update, square.rsqrt(), 0))
        size = float(whole_tensor(torch.linalg.vector_norm(update, dtype=torch.float32)))
        shrink = max(1.0, size / update.numel() ** 0.5 / group["clip"])
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update.view(parameter.shape), alpha=-group["lr"] / shrink)


def _mean_square(matrix: Tensor, dim: int) -> Tensor:
    """Mean square along a dimension, which stays with length 1; fp32, whole. No squares are stored."""
    norm = torch.linalg.vector_norm(matrix, dim=dim, keepdim=True, dtype=torch.float32)
    return whole_tensor(norm).square_().div_(matrix.shape[dim])


def _remember(state: dict[str, Tensor], name: str, measured: Tensor, keep: float) -> Tensor:
    """The running mean of a moment with the newest measurement in it."""
    measured.add_(SMALLEST)
    if name in state:
        state[name].lerp_(measured, 1 - keep)
    else:
        state[name] = measured
    return state[name]


def _as(like: Tensor, factor: Tensor, sharded: int | None) -> Tensor:
    """A whole factor in the type and on the ranks of `like`; no rank asks another for it."""
    factor = factor.to(like.dtype)
    if not isinstance(like, DTensor):
        return factor
    placement = Replicate() if sharded is None else Shard(sharded)
    return distribute_tensor(factor, like.device_mesh, [placement], src_data_rank=None)
