"""DINOv2 out of an ONNX graph whose linear weights are anonymous and transposed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from infimed.core.errors import DataError
from infimed.core.files import write_json
from infimed.model.dinov2_onnx import dinov2_config, read_dinov2

onnx = pytest.importorskip("onnx", reason="needs the extra mini")

HIDDEN, LAYERS, PATCHES = 64, 2, 9


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    """A tiny random Dinov2Model and its tensors under the Hub's names."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=1,
        mlp_ratio=2,
        image_size=42,
        patch_size=14,
        use_mask_token=False,
    )
    model = Dinov2Model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    folder = tmp_path_factory.mktemp("tower")
    model.save_pretrained(folder)
    return model, load_file(folder / "model.safetensors")


def as_onnx(tensors: dict[str, np.ndarray], *, external: bool = False) -> bytes:
    """The layout of the real file: folded weights lose their names, MatMul operands are transposed."""
    from onnx import TensorProto, helper, numpy_helper

    stored, nodes = [], []

    def put(name: str, array: np.ndarray) -> str:
        stored.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    for name, array in tensors.items():
        if name == "embeddings.position_embeddings":
            first = put("onnx::Concat_1", array[:, :1])
            rest = put("onnx::Reshape_2", array[:, 1:])
            at = "/backbone/embeddings"
            nodes.append(helper.make_node("Reshape", [rest, "shape"], ["a"], f"{at}/Reshape_1"))
            nodes.append(helper.make_node("Concat", [first, "a"], ["b"], f"{at}/Concat_6", axis=1))
        elif name.endswith("weight") and array.ndim == 2:
            anonymous = put(f"onnx::MatMul_{len(stored)}", array.T)
            module = name.removesuffix(".weight").replace(".", "/").replace("layer/", "layer.")
            nodes.append(
                helper.make_node("MatMul", ["x", anonymous], [module], f"/backbone/{module}/MatMul")
            )
        else:
            put(f"backbone.{name}", array)
    put("decoder.final_conv.weight", np.zeros((1, 64, 1, 1), np.float32))
    if external:
        stored[0].data_location = TensorProto.EXTERNAL
        entry = stored[0].external_data.add()
        entry.key, entry.value = "location", "../../secret"
    graph = helper.make_graph(nodes, "g", [], [], stored)
    return bytes(helper.make_model(graph).SerializeToString())


def test_every_tensor_comes_back_exactly_under_its_hub_name(tower):
    _, tensors = tower
    read = read_dinov2(as_onnx(tensors), "tiny.onnx")
    assert read.keys() == tensors.keys()
    assert all(np.array_equal(read[name], tensors[name]) for name in tensors)


def test_the_written_folder_opens_as_a_stock_tower_with_equal_output(tower, tmp_path: Path):
    from transformers import AutoModel

    model, tensors = tower
    read = read_dinov2(as_onnx(tensors), "tiny.onnx")
    save_file(read, tmp_path / "model.safetensors", metadata={"format": "pt"})
    write_json(tmp_path / "config.json", dinov2_config(read))
    again = AutoModel.from_pretrained(tmp_path, use_safetensors=True).eval()
    pixels = torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        wanted, got = (m(pixels).last_hidden_state for m in (model, again))
    assert torch.equal(wanted, got)


def test_the_head_beside_the_backbone_is_left_behind(tower):
    assert not any("final_conv" in name for name in read_dinov2(as_onnx(tower[1]), "tiny.onnx"))


def test_the_configuration_is_read_off_the_tensors(tower):
    config = dinov2_config(read_dinov2(as_onnx(tower[1]), "tiny.onnx"))
    assert config["hidden_size"] == HIDDEN
    assert config["num_hidden_layers"] == LAYERS
    assert config["mlp_ratio"] == 2
    assert config["image_size"] == 42
    assert config["patch_size"] == 14
    assert config["use_mask_token"] is False


@pytest.mark.parametrize(
    "lost",
    [
        "encoder.layer.1.mlp.fc2.weight",
        "layernorm.bias",
        "embeddings.position_embeddings",
        "embeddings.cls_token",
    ],
)
def test_a_missing_tensor_is_refused_by_name(tower, lost):
    tensors = {name: array for name, array in tower[1].items() if name != lost}
    with pytest.raises(DataError, match=lost.rsplit(".", 1)[0]):
        read_dinov2(as_onnx(tensors), "tiny.onnx")


def test_a_wrong_shape_is_refused(tower):
    tensors = dict(tower[1]) | {"layernorm.bias": np.zeros(7, np.float32)}
    with pytest.raises(DataError, match="wrong shape"):
        read_dinov2(as_onnx(tensors), "tiny.onnx")


def test_a_position_table_that_is_no_square_is_refused(tower):
    name = "embeddings.position_embeddings"
    tensors = dict(tower[1]) | {name: tower[1][name][:, :-1]}
    with pytest.raises(DataError, match="square"):
        read_dinov2(as_onnx(tensors), "tiny.onnx")


def test_nan_is_refused(tower):
    tensors = dict(tower[1]) | {"layernorm.bias": np.full(HIDDEN, np.nan, np.float32)}
    with pytest.raises(DataError, match="NaN"):
        read_dinov2(as_onnx(tensors), "tiny.onnx")


@pytest.mark.parametrize("data", [b"", b"\xff" * 200, b"PK\x03\x04 not a graph"])
def test_bytes_that_are_no_onnx_model_are_refused(data):
    with pytest.raises(DataError, match=r"tiny\.onnx"):
        read_dinov2(data, "tiny.onnx")


def test_tensors_kept_in_other_files_are_never_followed(tower):
    with pytest.raises(DataError, match="other files"):
        read_dinov2(as_onnx(tower[1], external=True), "tiny.onnx")
