"""Linear layers for training in bf16 on a CPU: the weights' gradient at the speed of the forward product.

The gradient ``g^T x`` multiplies by a transposed left factor. oneDNN runs that at half the speed of the
two other products of a layer (0.5 against 1.1 TFLOP/s on a core of a Xeon with AMX, at widths from 160
to 6,144), so a third of the work takes half of the time. Transposing a factor first, in
strips that fit a core's cache, costs a fraction of what it saves. The results are the stock ones.
Without autocast, without gradients and on other devices the stock code runs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

STRIP = 64
"""Rows that are transposed together where a matrix is larger than a cache."""
CACHED = 2**21
"""Elements up to which one pass transposes best."""


def transposed(matrix: Tensor) -> Tensor:
    """A contiguous copy [m, n] of the transpose of [n, m]."""
    if matrix.numel() <= CACHED:
        return matrix.t().contiguous()
    made = matrix.new_empty(matrix.shape[1], matrix.shape[0])
    for start in range(0, len(matrix), STRIP):
        made[:, start : start + STRIP] = matrix[start : start + STRIP].t()
    return made


@torch.library.custom_op("infimed::weight_gradient", mutates_args=())
def weight_gradient(gradient: Tensor, x: Tensor) -> Tensor:
    """``gradient^T x`` [outputs, inputs] of gradient [n, outputs] and x [n, inputs]."""
    tokens, outputs, inputs = len(x), gradient.shape[1], x.shape[1]
    if tokens * outputs <= tokens * inputs + outputs * inputs:
        return transposed(gradient) @ x
    return transposed(transposed(x) @ gradient)


@weight_gradient.register_fake
def _(gradient: Tensor, x: Tensor) -> Tensor:
    return x.new_empty(gradient.shape[1], x.shape[1])


class RoundedLinear(Function):
    """``x W^T + b`` with every factor rounded to `dtype`, as autocast does it."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        """x [..., inputs], weight [outputs, inputs]; returns `dtype` [..., outputs]."""
        rounded, w = x.to(dtype), weight.to(dtype)
        ctx.save_for_backward(rounded, w)
        ctx.types = x.dtype, weight.dtype, None if bias is None else bias.dtype
        with torch.autocast(x.device.type, enabled=False):
            return nn.functional.linear(rounded, w, None if bias is None else bias.to(dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, None]:
        x, w = ctx.saved_tensors
        x_type, weight_type, bias_type = ctx.types
        flat = gradient.reshape(-1, gradient.shape[-1])
        with torch.autocast(x.device.type, enabled=False):
            d_x = (flat @ w).view(x.shape).to(x_type) if ctx.needs_input_grad[0] else None
            d_w = weight_gradient(flat, x.reshape(-1, x.shape[-1])).to(weight_type)
            d_b = None if bias_type is None else flat.sum(0).to(bias_type)
        return d_x, d_w, d_b, None


class FastLinear(nn.Linear):
    """A linear layer whose weights learn at full speed under autocast on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """input [..., inputs]."""
        learns = torch.is_grad_enabled() and self.weight.requires_grad
        if not (learns and input.device.type == "cpu" and torch.is_autocast_enabled("cpu")):
            return super().forward(input)
        made = RoundedLinear.apply(input, self.weight, self.bias, torch.get_autocast_dtype("cpu"))
        assert isinstance(made, Tensor)
        return made


def use_fast_linears(model: nn.Module) -> None:
    """Let every stock linear layer of a model be a fast one; names and weights stay."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = FastLinear
