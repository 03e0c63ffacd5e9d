"""Packed attention: documents of one row never see one another.

A row holds documents one after another. A document is a *trunk* (an image and what stands before
it) followed by *branches* (one question with its answer each). A branch sees its trunk and itself,
never a sibling: training on many questions about one image is then exactly training on each alone,
at the cost of one image span. A document without shared image is a trunk with one branch or none.

Three backends compute the same numbers: a loop over documents (CPU), variable-length attention
(CUDA, in `attention_cuda`), and a dense mask over the whole row (the slow, obvious reference).
Cost of the loop: sum of squared document lengths instead of the squared row length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from infimed.model.attention_cpu import (
    DocumentBatch,
    batch_attention,
    batch_documents,
    bias_of,
    places_of,
)
from infimed.model.attention_cuda import HALF, Segments, attend_varlen, make_segments

PACKED = "infimed_packed"
"""Name under which the attention is registered with transformers."""


@dataclass(frozen=True)
class Document:
    """Token counts of one document: its trunk, then its branches in order."""

    trunk: int
    branches: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        """Tokens of the document in the row."""
        return self.trunk + sum(self.branches)

    def positions(self) -> list[int]:
        """Position ids: the trunk counts from 0, every branch goes on where the trunk ended."""
        ids = list(range(self.trunk))
        for branch in self.branches:
            ids.extend(range(self.trunk, self.trunk + branch))
        return ids

    def mask(self) -> Tensor:
        """Boolean [length, length]: True where the row's token may attend to the column's."""
        size = self.length
        allowed = torch.zeros(size, size, dtype=torch.bool)
        allowed[: self.trunk, : self.trunk] = True
        start = self.trunk
        for branch in self.branches:
            stop = start + branch
            allowed[start:stop, : self.trunk] = True
            allowed[start:stop, start:stop] = True
            start = stop
        return allowed.tril()


@dataclass(frozen=True)
class PackedLayout:
    """How a row's tokens divide into documents.

    Attributes:
        documents: in row order; their lengths sum to the row's token count.
    """

    documents: tuple[Document, ...]
    _biases: dict[torch.dtype, list[Tensor]] = field(
        default_factory=dict, compare=False, repr=False
    )
    _segments: dict[torch.device, Segments] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def tokens(self) -> int:
        """Tokens of the row."""
        return sum(document.length for document in self.documents)

    @property
    def doc_lengths(self) -> tuple[int, ...]:
        """Tokens of each document."""
        return tuple(document.length for document in self.documents)

    def position_ids(self) -> Tensor:
        """int64 [1, tokens], reset per document and per branch."""
        return torch.tensor([[p for document in self.documents for p in document.positions()]])

    @cached_property
    def batches(self) -> list[DocumentBatch]:
        """Documents of similar length together; made once for all layers."""
        return batch_documents([document.mask() for document in self.documents])

    @cached_property
    def places(self) -> Tensor:
        """int64 [tokens]: where each token of the row is among the batches' places."""
        return places_of(self.batches)

    def biases(self, dtype: torch.dtype) -> list[Tensor]:
        """The batches' masks as 0 and -inf; made once for all layers."""
        if dtype not in self._biases:
            self._biases[dtype] = [bias_of(batch, dtype) for batch in self.batches]
        return self._biases[dtype]

    def segments(self, device: torch.device) -> Segments:
        """What the CUDA kernel needs to know; made once for all layers."""
        if device not in self._segments:
            self._segments[device] = make_segments(self.documents, device)
        return self._segments[device]

    def dense_mask(self) -> Tensor:
        """Boolean [tokens, tokens] of the whole row; the reference for every backend."""
        return torch.block_diag(*(d.mask().float() for d in self.documents)).bool()


def attend_by_document(
    query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, scale: float
) -> Tensor:
    """Documents in batches of similar length; query [1, heads, tokens, d], key and value may have
    fewer heads."""
    dtype = value.dtype
    rows = [tensor[0].transpose(0, 1).to(dtype) for tensor in (query, key, value)]
    outputs = [
        batch_attention(rows[0], rows[1], rows[2], batch, bias, scale)
        for batch, bias in zip(layout.batches, layout.biases(dtype), strict=True)
    ]
    return torch.cat(outputs).index_select(0, layout.places).transpose(0, 1).unsqueeze(0)


def attend_reference(
    query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, scale: float
) -> Tensor:
    """One dense mask over the whole row: slow, obvious, and what the others must equal."""
    return scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=layout.dense_mask().to(query.device),
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )


Backend = Callable[[Tensor, Tensor, Tensor, PackedLayout, float], Tensor]


def backend_for(device: torch.device, dtype: torch.dtype) -> Backend:
    """The fastest exact backend of a device; fp32 on CUDA has only the reference."""
    if device.type == "cpu":
        return attend_by_document
    return attend_varlen if dtype in HALF else attend_reference


@torch.compiler.disable  # a layout is data: traced through, every row would be compiled anew
def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    dropout: float = 0.0,
    layout: PackedLayout | None = None,
    backend: Backend | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """The registered implementation; returns [batch, tokens, heads, d] as transformers expects.

    Raises:
        ValueError: a mask or no layout was given, or layout and row disagree. Each of these would
            let documents see one another without any sign of it.
    """
    if layout is None:
        raise ValueError(
            "packed attention needs layout=PackedLayout(...); without it documents would mix"
        )
    if attention_mask is not None:
        raise ValueError(
            "packed attention takes no attention_mask: the layout already says who sees whom"
        )
    if dropout:
        raise ValueError("packed attention has no dropout")
    if query.shape[0] != 1 or query.shape[2] != layout.tokens or key.shape[2] != layout.tokens:
        raise ValueError(
            f"layout holds {layout.tokens} tokens, the row {tuple(query.shape)} / {tuple(key.shape)}: "
            "one row per call and no key-value cache"
        )
    attend = backend or backend_for(query.device, value.dtype)
    return attend(query, key, value, layout, scaling).transpose(1, 2).contiguous(), None


AttentionInterface.register(PACKED, packed_attention)
