"""DINOv2 weights out of an ONNX graph, under the names the Hub publishes for `Dinov2Model`.

The exporter kept the names of tensors that go into a graph unchanged (norms, biases, LayerScale,
the patch convolution) but folded constants lose theirs: every linear weight became an anonymous,
*transposed* MatMul operand, and the position table was cut into its class row and its patch rows.
Both are recovered from the node that consumes them, whose name is the module's path. Invariant: the
result has exactly the tensors of a `Dinov2Model` without mask token, with the right shapes, finite,
float32; a head the file carries beside the backbone is left behind.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infimed.core.errors import DataError, missing_extra

Tensors = dict[str, NDArray[np.float32]]

HEAD_DIM = 64
"""Every published DINOv2 size has 64 channels a head; the head count is not in the tensors."""

LINEAR = re.compile(
    r"(encoder/layer\.\d+/(?:attention/attention|attention|mlp|attention/output)/\w+)/MatMul"
)
ROOT = "backbone"


def read_dinov2(data: bytes, where: str) -> Tensors:
    """Tensors of the DINOv2 backbone inside an ONNX model.

    Args:
        data: the serialised ONNX model; external data files are never followed.
        where: the file's name, for messages.

    Returns:
        Hub names to float32 arrays, linear weights as [out, in], position table as
        [1, 1 + patches, hidden].

    Raises:
        DataError: not an ONNX model, or its backbone is not a complete DINOv2.
        UsageError: the package onnx is not installed.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise missing_extra("mini", "onnx") from error
    try:
        graph = onnx.load_model_from_string(data).graph
    except Exception as error:  # protobuf's DecodeError, whose package has no type stubs
        raise DataError("is not an ONNX model", where=where) from error
    stored = {}
    for tensor in graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise DataError("keeps tensors in other files", where=f"{where}:{tensor.name}")
        stored[tensor.name] = tensor

    def array(name: str) -> NDArray[np.float32]:
        return np.ascontiguousarray(numpy_helper.to_array(stored[name]), dtype=np.float32)

    tensors: Tensors = {
        name.removeprefix(f"{ROOT}."): array(name) for name in stored if name.startswith(f"{ROOT}.")
    }
    positions: dict[str, NDArray[np.float32]] = {}
    for node in graph.node:
        if not node.name.startswith(f"/{ROOT}/"):
            continue
        path = node.name.removeprefix(f"/{ROOT}/")
        anonymous = [
            name for name in node.input if name in stored and not name.startswith(f"{ROOT}.")
        ]
        if node.op_type == "MatMul" and (match := LINEAR.fullmatch(path)) and anonymous:
            weight = np.ascontiguousarray(array(anonymous[0]).T)
            tensors[f"{match[1].replace('/', '.')}.weight"] = weight
        elif path.startswith("embeddings/") and node.op_type in ("Concat", "Reshape"):
            for name in anonymous:
                if len(stored[name].dims) == 3:
                    positions[node.op_type] = array(name)
    if set(positions) == {"Concat", "Reshape"}:
        table = np.concatenate([positions["Concat"], positions["Reshape"]], axis=1)
        tensors["embeddings.position_embeddings"] = table
    _check(tensors, where)
    return tensors


def dinov2_config(tensors: Tensors) -> dict[str, Any]:
    """The `Dinov2Config` values of a backbone's tensors; image_size is the position table's grid."""
    conv = tensors["embeddings.patch_embeddings.projection.weight"]
    hidden, patch = int(conv.shape[0]), int(conv.shape[2])
    patches = int(tensors["embeddings.position_embeddings"].shape[1]) - 1
    return {
        "architectures": ["Dinov2Model"],
        "model_type": "dinov2",
        "hidden_size": hidden,
        "num_hidden_layers": _layers(tensors),
        "num_attention_heads": max(1, hidden // HEAD_DIM),
        "mlp_ratio": int(tensors["encoder.layer.0.mlp.fc1.bias"].shape[0]) // hidden,
        "hidden_act": "gelu",
        "image_size": math.isqrt(patches) * patch,
        "patch_size": patch,
        "num_channels": int(conv.shape[1]),
        "qkv_bias": True,
        "layer_norm_eps": 1e-06,
        "layerscale_value": 1.0,
        "drop_path_rate": 0.0,
        "use_swiglu_ffn": False,
        "use_mask_token": False,
        "dtype": "float32",
    }


def _layers(tensors: Tensors) -> int:
    return len({name.split(".")[2] for name in tensors if name.startswith("encoder.layer.")})


def expected_shapes(
    hidden: int, layers: int, mlp: int, patches: int, patch: int
) -> dict[str, tuple[int, ...]]:
    """Hub names and shapes of a DINOv2 without mask token and without SwiGLU."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.cls_token": (1, 1, hidden),
        "embeddings.position_embeddings": (1, 1 + patches, hidden),
        "embeddings.patch_embeddings.projection.weight": (hidden, 3, patch, patch),
        "embeddings.patch_embeddings.projection.bias": (hidden,),
        "layernorm.weight": (hidden,),
        "layernorm.bias": (hidden,),
    }
    square = ("attention.attention.query", "attention.attention.key", "attention.attention.value")
    linears = dict.fromkeys((*square, "attention.output.dense"), (hidden, hidden))
    linears |= {"mlp.fc1": (mlp, hidden), "mlp.fc2": (hidden, mlp)}
    vectors = ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias")
    for layer in range(layers):
        at = f"encoder.layer.{layer}."
        for name, shape in linears.items():
            shapes[f"{at}{name}.weight"] = shape
            shapes[f"{at}{name}.bias"] = shape[:1]
        for name in (*vectors, "layer_scale1.lambda1", "layer_scale2.lambda1"):
            shapes[f"{at}{name}"] = (hidden,)
    return shapes


def _check(tensors: Tensors, where: str) -> None:
    try:
        hidden, _, patch, _ = tensors["embeddings.patch_embeddings.projection.weight"].shape
        patches = tensors["embeddings.position_embeddings"].shape[1] - 1
        mlp = tensors["encoder.layer.0.mlp.fc1.bias"].shape[0]
    except (KeyError, ValueError) as error:
        raise DataError(f"holds no DINOv2 backbone ({error})", where=where) from error
    wanted = expected_shapes(hidden, _layers(tensors), mlp, patches, patch)
    missing, unknown = (
        sorted(wanted.keys() - tensors.keys()),
        sorted(tensors.keys() - wanted.keys()),
    )
    if missing or unknown:
        raise DataError(
            f"{len(missing)} backbone tensors missing, {len(unknown)} unknown",
            where=where,
            seen=f"missing {missing[:4]}, unknown {unknown[:4]}",
        )
    for name, shape in wanted.items():
        if tensors[name].shape != shape:
            raise DataError(
                "wrong shape",
                where=f"{where}:{name}",
                seen=str(tensors[name].shape),
                accepted=str(shape),
            )
        if not np.isfinite(tensors[name]).all():
            raise DataError("holds NaN or infinity", where=f"{where}:{name}")
    if math.isqrt(patches) ** 2 != patches:
        raise DataError("position table is not a square grid", where=where, seen=patches)
