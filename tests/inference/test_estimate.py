"""What answering needs, against real tensors and files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from infimed.core.errors import DataError
from infimed.inference.branches import Row, fill, new_cache
from infimed.inference.cache import CACHED
from infimed.inference.estimate import Load, estimate_inference
from infimed.model.presets import PRESETS, preset
from infimed.model.weights import ensure_weights
from tests.conftest import tiny_preset


def test_the_cache_of_a_request_is_that_of_the_real_tensors(make_model):
    model = make_model()
    model.set_attention(CACHED)
    cache = new_cache(model, 3)
    prompt = [5] * 48
    with torch.no_grad():
        fill(model, [Row((), [prompt]), Row((), [prompt]), Row((), [prompt])], cache)
    load = Load(3, images=0, new_tokens=0, text_tokens=48, dtype="fp32")
    assert 3 * estimate_inference(tiny_preset(), load).cache_request == cache.nbytes


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_weights_are_those_of_a_saved_model_within_a_percent(make_model, tmp_path, dtype):
    from infimed.inference.estimate import DTYPES

    model = make_model().to(DTYPES[dtype])
    model.save_pretrained(tmp_path)
    stored = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    header = 8 * 2**10
    found = estimate_inference(tiny_preset(), Load(dtype=dtype)).weights
    assert stored - header - 2**12 <= found <= stored


@pytest.mark.parametrize("name", ["nano", "mini"])
def test_weights_of_a_preset_are_those_of_its_files_within_a_percent(name):
    try:
        folders = ensure_weights(name, offline=True)
    except DataError as error:
        pytest.skip(f"the base weights of {name} are not here: {error}")
    numbers = 0
    for folder in (folders.vision, folders.language):
        for file in Path(folder).glob("*.safetensors"):
            with safe_open(file, "pt") as opened:
                shapes = [opened.get_slice(key).get_shape() for key in opened.keys()]  # noqa: SIM118
            numbers += sum(torch.Size(shape).numel() for shape in shapes)
    chosen = preset(name)
    projector = (chosen.vision["hidden_size"] + chosen.text["hidden_size"] + 2) * chosen.text[
        "hidden_size"
    ]
    found = estimate_inference(chosen, Load(dtype="fp32")).weights
    assert found == pytest.approx(4 * (numbers + projector), rel=0.01)


def test_grouped_heads_make_the_cache_of_the_paper_sizes():
    sizes = {name: estimate_inference(chosen, Load()) for name, chosen in PRESETS.items()}
    assert {name: size.cache_token for name, size in sizes.items()} == {
        "nano": 2 * 6 * 5 * 32 * 2,
        "mini": 2 * 30 * 3 * 64 * 2,
        "infimed-1.7b": 2 * 28 * 8 * 128 * 2,
        "infimed-4b": 2 * 36 * 8 * 128 * 2,
    }


def test_prefill_operations_are_those_that_torch_counts(make_model):
    from torch.utils.flop_counter import FlopCounterMode

    model = make_model()
    for part in (model.model.vision_tower, model.model.language_model):
        part.config._attn_implementation = "eager"  # torch counts products, and no fused CPU kernel
    pixels, ids = torch.zeros(1, 3, 32, 32), torch.tensor([[5] * 4 + [3] * 16 + [5] * 12])
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        features = model.image_features(pixels, 16)
        hidden = model.model.language_model(
            inputs_embeds=model.embed(ids, features), use_cache=False
        ).last_hidden_state
        model.lm_head(hidden[:, -1])
    found = estimate_inference(tiny_preset(), Load(text_tokens=16, visual_tokens=16)).prefill_flops
    # torch counts the whole square of the attention, of which the causal half is computed.
    half = 4 * 2 * 4 * 8 * (32 * 32 - 32 * 33 / 2)
    assert found == pytest.approx(counter.get_total_flops() - half, rel=0.01)


def test_as_many_requests_fit_as_memory_has_room_for():
    need = estimate_inference(preset("infimed-4b"), Load(1, new_tokens=100))
    room = need.fixed + 10.5 * need.cache_request
    assert need.fitting(room) == 10
    assert need.fitting(need.weights) == 0
