"""A packed model and a row for it: a shared image with three questions, text, one question, one token."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from infimed.model.attention import PACKED, Document, PackedLayout


@pytest.fixture
def packed_model(make_model):  # type: ignore[no-untyped-def]
    model = make_model().train()
    model.set_grid(4, 32)
    model.set_attention(PACKED)
    return model


@pytest.fixture
def row_gradients(packed_model) -> Callable[..., tuple[Tensor, dict[str, Tensor]]]:  # type: ignore[no-untyped-def]
    """Computes a loss of the row, divided into these documents, and the gradients of all parameters."""
    torch.manual_seed(1)
    documents = (Document(9, (5, 3, 4)), Document(6), Document(7, (4,)), Document(1))
    tokens = sum(document.length for document in documents)
    ids = torch.randint(4, 300, (tokens,))
    ids[1:5] = ids[28:32] = 3
    pixels = torch.randn(2, 3, 32, 32)
    weight = torch.randn(tokens, 32)

    def compute(
        documents: tuple[Document, ...] = documents,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        packed_model.zero_grad()
        layout = PackedLayout(documents)  # nothing kept from a row before
        hidden = packed_model.forward_row(ids, layout, pixels=pixels)
        loss = (hidden.float() * weight).mean()
        loss.backward()
        return loss.detach(), {
            name: parameter.grad.clone()
            for name, parameter in packed_model.named_parameters()
            if parameter.grad is not None
        }

    return compute
