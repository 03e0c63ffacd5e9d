"""Packed attention on CUDA through `torch.nn.attention.varlen`. It awaits a GPU: not run on one yet.

The one file of the CUDA path. Tests run it on a CPU with an emulated kernel of the same signature.
A trunk with its first branch is one causal segment. Every other branch becomes a segment whose queries are
its own and whose keys are the trunk followed by itself; causal masking of unequal segments is aligned to
their ends, which is exactly "see the trunk and your own past". Trunk keys are copied once for each of them.
Segments are made once a row: no layer waits for the host.

The kernel takes bf16 and fp16 only, heads that share keys, and head widths that are multiples of 8 up to
256. Its backward pass adds in no fixed order, so a resumed run on a GPU is close, not equal to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from infimed.model.attention import Document, PackedLayout

HALF = (torch.bfloat16, torch.float16)
"""What the kernel computes in."""


@dataclass(frozen=True)
class Segments:
    """What the kernel needs to know of a row, on its device.

    Attributes:
        query_offsets, key_offsets: int32 [segments + 1], first token of every segment and the end.
        longest_query, longest_key: tokens.
        gather: int64 [keys], the row's token of every key; None where that is the row as it stands.
    """

    query_offsets: Tensor
    key_offsets: Tensor
    longest_query: int
    longest_key: int
    gather: Tensor | None


def segment_lengths(documents: Sequence[Document]) -> tuple[list[int], list[int], list[int]]:
    """Query lengths, key lengths and the row's token of every key, per segment in row order."""
    queries: list[int] = []
    keys: list[int] = []
    gather: list[int] = []
    start = 0
    for document in documents:
        stop = start + document.trunk
        first, *others = document.branches or (0,)
        begun = document.trunk + first
        if begun:
            queries.append(begun)
            keys.append(begun)
            gather.extend(range(start, start + begun))
        at = start + begun
        for branch in others:
            queries.append(branch)
            keys.append(document.trunk + branch)
            gather.extend(range(start, stop))
            gather.extend(range(at, at + branch))
            at += branch
        start = at
    return queries, keys, gather


def make_segments(documents: Sequence[Document], device: torch.device) -> Segments:
    """The segments of a row of documents."""
    queries, keys, gather = segment_lengths(documents)

    def offsets(lengths: list[int]) -> Tensor:
        return torch.tensor([0, *lengths]).cumsum(0).to(device, torch.int32)

    shared = len(gather) > sum(queries)
    return Segments(
        offsets(queries),
        offsets(keys),
        max(queries),
        max(keys),
        torch.tensor(gather, device=device) if shared else None,
    )


def attend_varlen(
    query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, scale: float
) -> Tensor:
    """Same contract as `attention.attend_by_document`."""
    from torch.nn.attention.varlen import varlen_attn

    made = layout.segments(query.device)
    # Norms of queries and keys leave autocast's fp32 behind; the values say in what to compute.
    q, k, v = (tensor[0].transpose(0, 1).to(value.dtype) for tensor in (query, key, value))
    if made.gather is not None:
        # Indexing, not index_select: its backward pass sums the branches' shares of a trunk in fp32.
        k, v = k[made.gather], v[made.gather]
    out = varlen_attn(
        q.contiguous(),
        k.contiguous(),
        v.contiguous(),
        made.query_offsets,
        made.key_offsets,
        made.longest_query,
        made.longest_key,
        scale=scale,
        window_size=(-1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(out, Tensor)
    return out.transpose(0, 1).unsqueeze(0)
