"""Exports: what stock transformers computes from the folder is what this package computes, to the bit."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from tests.conftest import tiny_tokenizer_json
from tests.model.exports import (
    KINDS,
    ask_stock,
    built,
    exported,
    pictures,
    processor_of,
    requests,
    stock_order,
)
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaForConditionalGeneration

from infimed.core.errors import DataError, UsageError
from infimed.inference.local import LocalModel, prepare
from infimed.model.auto import InfiMedForConditionalGeneration, InfiMedProcessor
from infimed.model.export import bake_positions, write_export
from infimed.model.presets import build_config, preset
from infimed.model.processing import Processor

SIGLIP_LAYER = {
    f"{part}.{kind}"
    for part in (
        "layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2",
        "self_attn.k_proj", "self_attn.out_proj", "self_attn.q_proj", "self_attn.v_proj",
    )
    for kind in ("bias", "weight")
}  # fmt: skip
QWEN3_LAYER = {
    f"{part}.weight"
    for part in (
        "input_layernorm", "mlp.down_proj", "mlp.gate_proj", "mlp.up_proj", "post_attention_layernorm",
        "self_attn.k_norm", "self_attn.k_proj", "self_attn.o_proj", "self_attn.q_norm",
        "self_attn.q_proj", "self_attn.v_proj",
    )
}  # fmt: skip
FILES = {
    "README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
    "preprocessor_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip


def values(folder: Path, name: str) -> dict:
    return json.loads((folder / name).read_text())


def test_siglip_export_has_exactly_the_keys_that_the_hub_publishes(tmp_path):
    exported(tmp_path / "out", "siglip")
    tower = "vision_tower.vision_model"
    expected = {
        *(f"{tower}.encoder.layers.{n}.{name}" for n in range(2) for name in SIGLIP_LAYER),
        f"{tower}.embeddings.patch_embedding.bias",
        f"{tower}.embeddings.patch_embedding.weight",
        f"{tower}.embeddings.position_embedding.weight",
        f"{tower}.post_layernorm.bias",
        f"{tower}.post_layernorm.weight",
        *(
            f"multi_modal_projector.linear_{n}.{name}"
            for n in (1, 2)
            for name in ("bias", "weight")
        ),
        *(f"language_model.model.layers.{n}.{name}" for n in range(2) for name in QWEN3_LAYER),
        "language_model.model.embed_tokens.weight",
        "language_model.model.norm.weight",
    }
    assert set(load_file(tmp_path / "out" / "model.safetensors")) == expected


def test_dinov2_export_has_the_keys_that_transformers_writes(tmp_path):
    exported(tmp_path / "out", "dinov2")
    stock = LlavaForConditionalGeneration.from_pretrained(tmp_path / "out")
    stock.save_pretrained(tmp_path / "again")
    again = set(load_file(tmp_path / "again" / "model.safetensors"))
    assert set(load_file(tmp_path / "out" / "model.safetensors")) == again


@pytest.mark.parametrize("tokens", [16, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_no_file_names_custom_code_or_a_path(kind, tokens, tmp_path):
    exported(tmp_path / "out", kind, visual_tokens=tokens)
    assert {file.name for file in (tmp_path / "out").iterdir()} == FILES
    for file in (tmp_path / "out").glob("*.json"):
        assert "auto_map" not in file.read_text()
        assert "_name_or_path" not in file.read_text()


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """Both kinds of model as one process with stock transformers alone sees them."""
    folder = tmp_path_factory.mktemp("stock")
    files = pictures(folder, 32)
    asked = requests(files)
    orders = []
    for kind in KINDS:
        assert exported(folder / kind, kind).model_type == "llava"
        order = stock_order(folder / kind, asked, files)
        orders.append({**order, "tensors": str(folder / f"{kind}.tensors")})
    found = ask_stock(orders)
    return asked, {
        kind: (answered, load_file(folder / f"{kind}.tensors"))
        for kind, answered in zip(KINDS, found, strict=True)
    }


@pytest.mark.parametrize("kind", KINDS)
def test_stock_transformers_alone_gives_the_same_pixels_ids_and_logits(kind, stock):
    asked, by_kind = stock
    found, tensors = by_kind[kind]
    assert found["model"] == "LlavaForConditionalGeneration"
    model, processor = built(kind), processor_of(kind)
    for number, (request, answer) in enumerate(zip(asked, found["answers"], strict=True)):
        prepared = prepare(processor, request)
        ids = [*prepared.trunk, *prepared.branch]
        assert answer["input_ids"] == ids
        pixels = None
        if request.pictures:
            pixels = processor.pixels([picture.load() for picture in request.pictures])
            assert torch.equal(pixels, tensors[f"{number}.pixels"])
        with torch.no_grad():
            logits = model(
                input_ids=torch.tensor([ids]),
                pixel_values=pixels,
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            ).logits
        # To the bit on processors with AVX-512; 4e-7 on one without (AMD Zen 3).
        torch.testing.assert_close(logits, tensors[f"{number}.logits"], rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_stock_transformers_alone_writes_the_same_answers(kind, stock):
    asked, by_kind = stock
    local = LocalModel(built(kind), processor_of(kind), "tiny")
    ours = [response.text for response in local.respond(asked)]
    assert [answer["answer"] for answer in by_kind[kind][0]["answers"]] == ours
    assert len(set(ours)) > 1


@pytest.mark.parametrize("image_size", [24, 48])
@pytest.mark.parametrize("kind", KINDS)
def test_baked_positions_equal_those_interpolated_on_the_fly(kind, image_size):
    model, baked = built(kind), built(kind)
    bake_positions(baked, image_size)
    pixels = torch.randn(2, 3, image_size, image_size)
    side = image_size // 8
    with torch.no_grad():
        assert torch.equal(
            model.image_features(pixels, side * side), baked.image_features(pixels, side * side)
        )
    assert baked.config.vision_config.image_size == image_size


@pytest.mark.parametrize("kind", KINDS)
def test_export_at_another_size_opens_in_stock_with_equal_logits(kind, tmp_path):
    exported(tmp_path / "out", kind, image_size=48, visual_tokens=36)
    config = values(tmp_path / "out", "config.json")
    assert config["model_type"] == "llava"
    assert config["vision_config"]["image_size"] == 48
    stock = LlavaForConditionalGeneration.from_pretrained(tmp_path / "out").eval()
    model = built(kind)
    model.set_grid(36, 48)
    call = {
        "input_ids": torch.tensor([[5, *[3] * 36, 6, 7]]),
        "pixel_values": torch.randn(1, 3, 48, 48),
    }
    with torch.no_grad():
        assert torch.equal(model(**call).logits, stock(**call).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_pooled_export_opens_with_the_auto_classes_and_answers_alike(kind, tmp_path):
    written = exported(tmp_path / "out", kind, visual_tokens=4)
    assert written.model_type == "infimed_vl"
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    assert type(model) is InfiMedForConditionalGeneration
    assert type(processor) is InfiMedProcessor
    ours = built(kind)
    ours.set_grid(4, 32)
    image = Image.open(pictures(tmp_path, 32)[0])
    inputs = processor(text="<image>left<image>", images=[image, image], return_tensors="pt")
    assert int((inputs["input_ids"] == 3).sum()) == 8
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, ours(**inputs).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_pooled_export_generates_with_transformers_what_whole_forward_passes_say(kind, tmp_path):
    exported(tmp_path / "out", kind, visual_tokens=4)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    image = Image.open(pictures(tmp_path, 32)[0])
    inputs = processor(text="<image>left", images=[image], return_tensors="pt")
    ids, pixels = inputs["input_ids"], inputs["pixel_values"]
    said = model.generate(**inputs, max_new_tokens=4, min_new_tokens=4)
    suppressed = [*model.generation_config.suppress_tokens, *model.generation_config.eos_token_id]
    with torch.no_grad():
        for _ in range(4):
            logits = model(input_ids=ids, pixel_values=pixels, use_cache=False).logits[0, -1]
            logits[suppressed] = -torch.inf
            ids = torch.cat([ids, logits.argmax().view(1, 1)], dim=1)
    assert said.tolist() == ids.tolist()


@pytest.mark.parametrize("image_size", [32, 16])
@pytest.mark.parametrize("reducer", ["pixel_shuffle", "resampler", "query"])
def test_learned_reducer_is_exported_at_any_size_and_reloads_bit_equal(
    reducer, image_size, tmp_path
):
    written = exported(
        tmp_path / "out", "siglip", image_size=image_size, visual_tokens=4, reducer=reducer
    )
    assert written.model_type == "infimed_vl"
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
    ours = built("siglip", reducer)
    pixels = torch.randn(2, 3, image_size, image_size)
    with torch.no_grad():
        assert torch.equal(model.image_features(pixels, 4), ours.image_features(pixels, 4))


def test_model_that_tiles_is_not_exported(tmp_path):
    processor = processor_of("siglip").with_grid(32, 16, 4)
    with pytest.raises(DataError, match="tiles"):
        write_export(tmp_path, built("siglip"), processor, card="")


@pytest.mark.parametrize("tokens", [16, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_placeholders_equal_features_for_odd_images(kind, tokens, tmp_path):
    exported(tmp_path / "out", kind, visual_tokens=tokens)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    odd = [
        Image.new("RGB", (1, 1)), Image.new("RGB", (1, 3000)), Image.new("RGBA", (40, 30)),
        Image.new("L", (33, 31)), Image.fromarray(np.zeros((20, 20, 3), np.uint8)),
    ]  # fmt: skip
    for image in odd:
        inputs = processor(text="<image>side", images=[image], return_tensors="pt")
        features = model.get_image_features(inputs["pixel_values"]).pooler_output
        assert int((inputs["input_ids"] == 3).sum()) == sum(len(one) for one in features) == tokens
        counted = processor._get_num_multimodal_tokens(image_sizes=[(image.height, image.width)])
        assert counted["num_image_tokens"] == [tokens]


def test_small_shards_have_an_index_and_reload_bit_equal(tmp_path):
    written = exported(tmp_path / "out", "siglip", shard_size="50KB")
    assert len(written.weight_files) > 1
    index = values(tmp_path / "out", "model.safetensors.index.json")
    assert set(index["weight_map"].values()) == set(written.weight_files)
    again = LlavaForConditionalGeneration.from_pretrained(tmp_path / "out").state_dict()
    own = built("siglip").state_dict()
    assert all(torch.equal(own[name], again[name]) for name in own)


@pytest.mark.parametrize(("dtype", "stored"), [("bf16", "BF16"), ("fp16", "F16"), ("fp32", "F32")])
def test_every_tensor_is_stored_in_the_chosen_precision(dtype, stored, tmp_path):
    exported(tmp_path / "out", "siglip", dtype=dtype)
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {stored}  # noqa: SIM118
    config = values(tmp_path / "out", "config.json")
    assert config["dtype"] == config["text_config"]["dtype"] == config["vision_config"]["dtype"]
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype="auto")
    assert str(model.dtype) == f"torch.{config['dtype']}"


def test_value_beyond_half_precision_is_refused(tmp_path):
    model = built("siglip")
    with torch.no_grad():
        model.model.language_model.norm.weight[0] = 1e6
    with pytest.raises(DataError, match="--dtype bf16"):
        write_export(tmp_path, model, processor_of("siglip"), card="", dtype="fp16")


def test_shard_size_that_is_none_is_refused(tmp_path):
    with pytest.raises(UsageError, match="5GB"):
        write_export(tmp_path, built("siglip"), processor_of("siglip"), card="", shard_size="big")


def test_configuration_says_what_vllm_reads(tmp_path):
    exported(tmp_path / "out", "siglip")
    config = values(tmp_path / "out", "config.json")
    assert config["architectures"] == ["LlavaForConditionalGeneration"]
    assert config["text_config"]["architectures"] == ["Qwen3ForCausalLM"]
    assert config["vision_config"]["model_type"] == "siglip_vision_model"
    assert config["image_token_index"] == 3
    assert not {"visual_tokens", "reducer"} & config.keys()
    size = {"height": 32, "width": 32}
    assert values(tmp_path / "out", "preprocessor_config.json")["crop_size"] == size
    generation = values(tmp_path / "out", "generation_config.json")
    assert generation["eos_token_id"] == [2]
    assert generation["pad_token_id"] == 2


def test_template_shows_images_with_the_model_s_own_placeholder(tmp_path):
    processor = processor_of("siglip")
    processor = type(processor)(
        processor.tokenizer_json.replace("<image>", "<|image_pad|>"),
        32,
        16,
        image_token="<|image_pad|>",
    )
    write_export(tmp_path, built("siglip"), processor, card="")
    assert "<image>" not in (tmp_path / "chat_template.jinja").read_text()
    stock = AutoProcessor.from_pretrained(tmp_path)
    content = [{"type": "image"}, {"type": "text", "text": "left"}]
    text = stock.apply_chat_template([{"role": "user", "content": content}])
    image = Image.new("RGB", (32, 32))
    ids = stock(text=text, images=[image], return_tensors="pt")["input_ids"]
    assert int((ids == processor.image_token_id).sum()) == 16


@pytest.mark.slow
@pytest.mark.skipif(
    "INFIMED_PAPER_SIZE" not in os.environ, reason="6 GB and minutes: set INFIMED_PAPER_SIZE=1"
)
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["infimed-1.7b"])
def test_paper_sized_export_is_read_back_and_generates(name, tmp_path):
    chosen = preset(name)
    processor = Processor(
        tiny_tokenizer_json().replace("<image>", chosen.image_token),
        chosen.image_size,
        chosen.full_tokens,
        image_token=chosen.image_token,
    )
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)  # 4.3 GB instead of 8.6
    try:
        config = build_config(chosen, image_token_id=processor.image_token_id)
        model = InfiMedForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(usual)
    files = pictures(tmp_path, chosen.image_size)
    local = LocalModel(model, processor, name)
    (ours,) = local.respond(requests(files, 16)[:1])
    assert (ours.status, ours.new_tokens) == ("truncated", 16)
    model.set_attention("sdpa")
    (tmp_path / "out").mkdir()
    write_export(tmp_path / "out", model, processor, card="", dtype="bf16", shard_size="2GB")
    del model, local  # the other process needs as much memory
    (found,) = ask_stock([stock_order(tmp_path / "out", requests(files, 16)[:1], files)])
    assert found["model"] == "LlavaForConditionalGeneration"
    (answer,) = found["answers"]
    assert answer["input_ids"].count(processor.image_token_id) == chosen.full_tokens
    assert 1 <= answer["new_tokens"] <= 16
