"""Packed attention inside what trainers wrap around a model: autocast, checkpointing, compilation."""

from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from infimed.model import attention
from infimed.model.attention import attend_by_document, attend_reference


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


def test_decoder_layers_are_traced_whole_and_compute_the_same(packed_model, row_gradients):
    """Tracing is what our code can break; the code generator behind it takes half a minute."""
    plain, expected = row_gradients()
    for layer in packed_model.model.language_model.layers:
        layer.compile(backend="aot_eager", fullgraph=True)
    loss, gradients = row_gradients()
    torch.testing.assert_close(loss, plain, atol=1e-5, rtol=1e-5)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-5, rtol=1e-4)
