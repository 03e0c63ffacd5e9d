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
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.optim import Optimizer

from infimed.training.parallel import whole_tensor

SMALLEST = 1e-16
"""Added to squared gradients: AdamW's 1e-8, squared. The paper's 1e-30 turns the rounding of a gradient that
is zero by construction (a bias of keys) into steps of full size."""
STRIP = 256
"""Rows whose squares are summed together."""


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
            rows, columns = _square_sums(update)
            row = _remember(state, "row", rows.div_(update.shape[1])[:, None], keep)
            column = _remember(state, "column", columns.div_(update.shape[0])[None], keep)
            update.mul_(_as(update, (row / row.mean()).rsqrt_(), 0))
            update.mul_(_as(update, column.rsqrt(), None))
        else:
            square = _remember(state, "variance", whole_tensor(update).float().square(), keep)
            update.mul_(_as(update, square.rsqrt(), 0))
        size = float(_square_sums(update)[0].sum().sqrt())
        shrink = max(1.0, size / update.numel() ** 0.5 / group["clip"])
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update.view(parameter.shape), alpha=-group["lr"] / shrink)


def _square_sums(values: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the squares of every row [n] and column [m] of a matrix (a vector counts as one column); whole,
    in fp32. Strips stay in a core's cache: no squares are stored, and torch's norms along a dimension run at
    a tenth of the speed."""
    local = values.to_local() if isinstance(values, DTensor) else values
    local = local.view(len(local), -1)
    rows = torch.empty(len(local), device=local.device)
    columns = torch.zeros(local.shape[1], device=local.device)
    for start in range(0, len(local), STRIP):
        squares = local[start : start + STRIP].float().square()
        torch.sum(squares, 1, out=rows[start : start + STRIP])
        columns += squares.sum(0)
    if not isinstance(values, DTensor):
        return rows, columns
    mesh = values.device_mesh
    shape = torch.Size([values.shape[0]])
    row = DTensor.from_local(rows, mesh, [Shard(0)], run_check=False, shape=shape, stride=(1,))
    column = DTensor.from_local(columns, mesh, [Partial()], run_check=False)
    return row.full_tensor(), column.full_tensor()


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
