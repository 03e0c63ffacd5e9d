"""Masked attention of one document on a CPU, forward and backward, without storing probabilities.

torch's fused CPU kernel is slow at the short lengths and narrow heads of packed documents; plain
matrix products in the row's own precision are two to three times faster there and equal to it in
fp32 (benchmarks/attention.py). Probabilities are recomputed in the backward pass, and queries go in
blocks that only see keys up to their own end, so memory stays linear in the block and half of the
causal square is never computed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

QUERY_BLOCK = 128


def _probabilities(query: Tensor, key: Tensor, bias: Tensor, start: int, stop: int) -> Tensor:
    """Softmax [groups, heads, stop - start, stop] of a block of queries over keys up to its end."""
    scores = torch.matmul(query[:, :, start:stop], key[:, :, :stop].transpose(-1, -2))
    scores.add_(bias[start:stop, :stop])
    return torch.softmax(scores, -1)


def _blocks(length: int) -> list[tuple[int, int]]:
    return [(at, min(length, at + QUERY_BLOCK)) for at in range(0, length, QUERY_BLOCK)]


class DocumentAttention(Function):
    """``softmax(scale q k^T + bias) v`` for a bias that forbids the future."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float
    ) -> Tensor:
        """query [heads, length, d]; key, value [groups, length, d]; bias [length, length]."""
        heads, length, width = query.shape
        groups = key.shape[0]
        with torch.autocast(query.device.type, enabled=False):
            q = (query * scale).view(groups, heads // groups, length, width)
            k, v = key.unsqueeze(1), value.unsqueeze(1)
            out = torch.empty_like(q)
            for start, stop in _blocks(length):
                out[:, :, start:stop] = torch.matmul(
                    _probabilities(q, k, bias, start, stop), v[:, :, :stop]
                )
        ctx.save_for_backward(q, k, v, bias)
        ctx.scale = scale
        return out.view(heads, length, width)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, bias = ctx.saved_tensors
        groups, _, length, width = q.shape
        gradient = gradient.contiguous().view(q.shape)
        d_query = torch.empty_like(q)
        d_key = q.new_zeros((groups, length, width), dtype=torch.float32)
        d_value = torch.zeros_like(d_key)
        with torch.autocast(q.device.type, enabled=False):
            for start, stop in _blocks(length):
                p = _probabilities(q, k, bias, start, stop)
                g = gradient[:, :, start:stop]
                by_key = p.reshape(groups, -1, stop).transpose(-1, -2)
                d_value[:, :stop] += torch.matmul(by_key, g.reshape(groups, -1, width))
                d_p = torch.matmul(g, v[:, :, :stop].transpose(-1, -2))
                d_scores = torch.ops.aten._softmax_backward_data(d_p, p, -1, p.dtype)
                d_query[:, :, start:stop] = torch.matmul(d_scores, k[:, :, :stop])
                by_key = d_scores.reshape(groups, -1, stop).transpose(-1, -2)
                d_key[:, :stop] += torch.matmul(
                    by_key, q[:, :, start:stop].reshape(groups, -1, width)
                )
        d_query = d_query.mul_(ctx.scale).view(-1, length, width)
        return d_query, d_key.to(k.dtype), d_value.to(v.dtype), None, None


def document_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float
) -> Tensor:
    """Attention of one document.

    Args:
        query: [heads, length, d]. key, value: [groups, length, d], groups dividing heads.
        bias: [length, length], 0 where a query may see a key and -inf elsewhere; lower triangular.
        scale: factor of the scores.
    """
    dtype = value.dtype
    out = DocumentAttention.apply(query.to(dtype), key.to(dtype), value, bias.to(dtype), scale)
    assert isinstance(out, Tensor)
    return out
