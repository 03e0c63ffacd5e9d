"""The ONNX graph of the vision part equals PyTorch, for any batch."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from tests.model.exports import built, processor_of

from infimed.core.errors import UsageError
from infimed.model.export import bake_positions
from infimed.model.onnx_export import FEATURES, OPSET, PIXELS, export_onnx


@pytest.mark.parametrize(("kind", "tokens"), [("siglip", 9), ("dinov2", 16)])
def test_graph_equals_the_model_for_any_batch(kind, tokens, tmp_path):
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = built(kind)
    bake_positions(model, 32)
    export_onnx(tmp_path / "vision.onnx", model, processor_of(kind, 32, tokens))
    assert onnx.load(tmp_path / "vision.onnx").opset_import[0].version == OPSET
    session = runtime.InferenceSession(tmp_path / "vision.onnx", providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        pixels = torch.randn(batch, 3, 32, 32)
        with torch.no_grad():
            expected = model.image_features(pixels, tokens).numpy()
        (found,) = session.run([FEATURES], {PIXELS: pixels.numpy()})
        assert found.shape == expected.shape == (batch, tokens, 32)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_missing_package_names_the_extra(monkeypatch, tmp_path):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxscript" else real(name)
    )
    with pytest.raises(UsageError, match=r"infimed\[onnx\]"):
        export_onnx(tmp_path / "vision.onnx", built("siglip"), processor_of("siglip"))
    assert not list(tmp_path.iterdir())
