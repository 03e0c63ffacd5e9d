"""Masked attention of packed documents on a CPU, forward and backward, in memory linear in the row.

torch's fused CPU kernel is slow at the short lengths and narrow heads of packed documents; plain
matrix products in the row's own precision are faster there and equal to it in fp32
(benchmarks/attention.py). Documents of similar length are padded into one batch, so that a row of
many short documents costs a few large operations instead of many small ones. Queries go in blocks
that only see keys up to their own end, so half of the causal square is never computed.
Probabilities of documents up to `KEPT_LENGTH` are kept for the backward pass, longer ones are
recomputed: the memory for them is at most that length for every token and head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

QUERY_BLOCK = 128
BATCH_TOKENS = 4096
"""Most padded tokens in one batch of documents."""
KEPT_LENGTH = 256
"""Longest document whose probabilities are kept for the backward pass."""
VECTOR = 16
"""Lengths are padded to multiples of this: softmax is three times slower in bf16 at 111 than at 112."""
LONGEST_RATIO = 1.3
"""Longest over shortest document of a batch: bounds the work on padding."""


@dataclass(frozen=True)
class DocumentBatch:
    """Documents of similar length, padded.

    Attributes:
        index: int64 [documents, length], the row's position of every token; padding points to the document's
            last: what is not finite in another document must not reach this one, not even times zero.
        valid: bool [documents, length], False on padding.
        allowed: bool [documents, length, length]; padding sees itself only, so that no softmax is empty.
    """

    index: Tensor
    valid: Tensor
    allowed: Tensor


def batch_documents(masks: Sequence[Tensor]) -> list[DocumentBatch]:
    """Batches of documents in row order of their starts, given each document's own mask."""
    starts, at = [], 0
    for mask in masks:
        starts.append(at)
        at += len(mask)
    groups: list[list[int]] = []
    for number in sorted(range(len(masks)), key=lambda i: len(masks[i])):
        length = len(masks[number])
        group = groups[-1] if groups else []
        if (
            group
            and length <= LONGEST_RATIO * len(masks[group[0]])
            and (len(group) + 1) * length <= BATCH_TOKENS
        ):
            group.append(number)
        else:
            groups.append([number])
    return [_padded([(starts[i], masks[i]) for i in group]) for group in groups]


def _padded(members: Sequence[tuple[int, Tensor]]) -> DocumentBatch:
    longest = -(-max(len(mask) for _, mask in members) // VECTOR) * VECTOR
    index = torch.empty(len(members), longest, dtype=torch.int64)
    valid = torch.zeros(len(members), longest, dtype=torch.bool)
    allowed = torch.eye(longest, dtype=torch.bool).repeat(len(members), 1, 1)
    for place, (start, mask) in enumerate(members):
        length = len(mask)
        index[place, :length] = torch.arange(start, start + length)
        index[place, length:] = start + length - 1
        valid[place, :length] = True
        allowed[place, :length, :length] = mask
    return DocumentBatch(index, valid, allowed)


def places_of(batches: Sequence[DocumentBatch]) -> Tensor:
    """int64 [tokens]: where each token of the row is among the batches' places, padding included."""
    valid = torch.cat([batch.valid.flatten() for batch in batches])
    row = torch.cat([batch.index.flatten() for batch in batches])
    places = torch.empty(int(valid.sum()), dtype=torch.int64)
    places[row[valid]] = torch.nonzero(valid).flatten()
    return places


def bias_of(batch: DocumentBatch, dtype: torch.dtype) -> Tensor:
    """0 where a query may see a key, -inf elsewhere: [documents, 1, 1, length, length]."""
    bias = torch.zeros(batch.allowed.shape, dtype=dtype)
    return bias.masked_fill_(~batch.allowed, float("-inf"))[:, None, None]


def _probabilities(query: Tensor, key: Tensor, bias: Tensor, start: int, stop: int) -> Tensor:
    """Softmax [..., stop - start, stop] of a block of queries over keys up to its end."""
    scores = torch.matmul(query[..., start:stop, :], key[..., :stop, :].transpose(-1, -2))
    scores.add_(bias[..., start:stop, :stop])
    return torch.softmax(scores, -1)


def _blocks(length: int) -> list[tuple[int, int]]:
    return [(at, min(length, at + QUERY_BLOCK)) for at in range(0, length, QUERY_BLOCK)]


class DocumentAttention(Function):
    """``softmax(scale q k^T + bias) v`` for a bias that forbids the future."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float
    ) -> Tensor:
        """query [n, groups, heads, length, d]; key, value [n, groups, 1, length, d]."""
        with torch.autocast(query.device.type, enabled=False):
            q = query * scale
            out = torch.empty_like(q)
            kept = []
            for start, stop in _blocks(q.shape[-2]):
                p = _probabilities(q, key, bias, start, stop)
                out[..., start:stop, :] = torch.matmul(p, value[..., :stop, :])
                if q.shape[-2] <= KEPT_LENGTH:
                    kept.append(p)
        ctx.save_for_backward(q, key, value, bias, *kept)
        ctx.scale = scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, bias, *kept = ctx.saved_tensors
        batch, groups, _, length, width = q.shape
        d_query = torch.empty_like(q)
        d_key = torch.zeros(batch, groups, length, width)
        d_value = torch.zeros_like(d_key)
        with torch.autocast(q.device.type, enabled=False):
            for number, (start, stop) in enumerate(_blocks(length)):
                p = kept[number] if kept else _probabilities(q, k, bias, start, stop)
                g = gradient[..., start:stop, :].contiguous()
                by_key = p.reshape(batch, groups, -1, stop).transpose(-1, -2)
                d_value[..., :stop, :] += torch.matmul(by_key, g.reshape(batch, groups, -1, width))
                d_p = torch.matmul(g, v[..., :stop, :].transpose(-1, -2))
                d_scores = torch.ops.aten._softmax_backward_data(d_p, p, -1, p.dtype)
                d_query[..., start:stop, :] = torch.matmul(d_scores, k[..., :stop, :])
                by_key = d_scores.reshape(batch, groups, -1, stop).transpose(-1, -2)
                rows = q[..., start:stop, :].reshape(batch, groups, -1, width)
                d_key[..., :stop, :] += torch.matmul(by_key, rows)
        d_key, d_value = d_key.to(k.dtype).unsqueeze(2), d_value.to(v.dtype).unsqueeze(2)
        return d_query.mul_(ctx.scale), d_key, d_value, None, None


def batch_attention(
    query: Tensor, key: Tensor, value: Tensor, batch: DocumentBatch, bias: Tensor, scale: float
) -> Tensor:
    """Attention of the batch's documents; returns [documents * length, heads, d], padding included.

    Args:
        query: [tokens, heads, d] of the whole row. key, value: [tokens, groups, d].
    """
    count, length = batch.index.shape
    heads, width, groups = query.shape[1], query.shape[2], key.shape[1]

    def padded(tensor: Tensor, inner: int) -> Tensor:
        chosen = tensor.index_select(0, batch.index.flatten())
        return chosen.view(count, length, groups, inner, width).permute(0, 2, 3, 1, 4).contiguous()

    out = DocumentAttention.apply(
        padded(query, heads // groups), padded(key, 1), padded(value, 1), bias, scale
    )
    assert isinstance(out, Tensor)
    return out.permute(0, 3, 1, 2, 4).reshape(count * length, heads, width)
