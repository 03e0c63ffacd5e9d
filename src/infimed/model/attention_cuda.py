"""Packed attention on CUDA through `torch.nn.attention.varlen`. Not run on a GPU yet.

The one file of the CUDA path. A branch becomes a query segment whose keys are its trunk followed by
itself, so trunk keys are gathered once per branch; causal masking of unequal segments is aligned to
their ends, which is exactly "see the trunk and your own past". bf16 or fp16 only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from infimed.model.attention import PackedLayout


def segments(layout: PackedLayout) -> tuple[list[int], list[int], list[int]]:
    """Query lengths, key lengths and the flat gather index of keys, per segment in row order."""
    query_lengths: list[int] = []
    key_lengths: list[int] = []
    gather: list[int] = []
    start = 0
    for document in layout.documents:
        trunk = range(start, start + document.trunk)
        if document.trunk:
            query_lengths.append(document.trunk)
            key_lengths.append(document.trunk)
            gather.extend(trunk)
        at = start + document.trunk
        for branch in document.branches:
            query_lengths.append(branch)
            key_lengths.append(document.trunk + branch)
            gather.extend(trunk)
            gather.extend(range(at, at + branch))
            at += branch
        start = at
    return query_lengths, key_lengths, gather


def attend_varlen(
    query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, scale: float
) -> Tensor:
    """Same contract as `attention.attend_by_document`."""
    from torch.nn.attention.varlen import varlen_attn

    query_lengths, key_lengths, gather = segments(layout)
    device = query.device
    index = torch.tensor(gather, device=device)

    def offsets(lengths: list[int]) -> Tensor:
        return torch.tensor([0, *lengths], device=device).cumsum(0).to(torch.int32)

    out = varlen_attn(
        query[0].transpose(0, 1).contiguous(),
        key[0].transpose(0, 1)[index],
        value[0].transpose(0, 1)[index],
        offsets(query_lengths),
        offsets(key_lengths),
        max(query_lengths),
        max(key_lengths),
        scale=scale,
        window_size=(-1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(out, Tensor)
    return out.transpose(0, 1).unsqueeze(0)
