"""Packed attention inside what trainers wrap around a model: autocast, checkpointing, compilation."""

from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from infimed.model import attention
from infimed.model.attention import Document, attend_by_document, attend_reference


@pytest.mark.parametrize("backend", [attend_by_document, attend_reference])
def test_under_autocast_the_row_stays_near_fp32(row_gradients, monkeypatch, backend):
    exact, expected = row_gradients()
    monkeypatch.setattr(attention, "backend_for", lambda device, dtype: backend)
    with torch.autocast("cpu", torch.bfloat16):
        loss, gradients = row_gradients()
    torch.testing.assert_close(loss, exact, atol=0.01, rtol=0)
    flat = [
        torch.cat([g.flatten() for n, g in some.items() if "language_model" in n])
        for some in (gradients, expected)
    ]
    assert (flat[0] - flat[1]).norm() < 0.05 * flat[1].norm()


def test_activation_checkpointing_changes_no_gradient(packed_model, row_gradients, monkeypatch):
    plain, expected = row_gradients()
    for layer in packed_model.model.language_model.layers:
        real = layer.forward
        monkeypatch.setattr(
            layer, "forward",
            lambda *a, real=real, **k: checkpoint(real, *a, use_reentrant=False, **k),
        )  # fmt: skip
    loss, gradients = row_gradients()
    assert torch.equal(loss, plain)
    assert gradients.keys() == expected.keys()
    assert all(torch.equal(gradients[name], expected[name]) for name in expected)


def test_compiled_layers_compute_the_same_and_are_not_compiled_again_for_another_row(
    packed_model, row_gradients
):
    """The code generator behind tracing takes half a minute and knows nothing of attention: left out."""
    layouts = ((Document(20, (6, 5)), Document(8)), (Document(9, (5, 3, 4)), Document(18)))
    expected = [row_gradients(documents) for documents in layouts]
    for layer in packed_model.model.language_model.layers:
        layer.compile(backend="aot_eager")
    row_gradients(layouts[0])
    with torch._dynamo.config.patch(error_on_recompile=True):
        found = [row_gradients(documents) for documents in layouts]
    for (loss, gradients), (plain, wanted) in zip(found, expected, strict=True):
        torch.testing.assert_close(loss, plain, atol=1e-5, rtol=1e-5)
        for name, gradient in wanted.items():
            torch.testing.assert_close(gradients[name], gradient, atol=1e-5, rtol=1e-4)
