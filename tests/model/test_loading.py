"""Checkpoints: complete or absent, in the published key layout, and never code."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.conftest import tiny_preset
from transformers import LlavaConfig, LlavaForConditionalGeneration

from infimed.core.errors import DataError
from infimed.model.loading import (
    MARKER,
    build_model,
    checkpoint_folders,
    find_checkpoint,
    load_checkpoint,
    prune_checkpoints,
    save_checkpoint,
    verify_checkpoint,
)
from infimed.model.presets import sub_config


@pytest.fixture
def saved(make_model, processor, tmp_path):
    model = make_model()
    folder = tmp_path / "run" / "checkpoints" / "step-3"
    save_checkpoint(folder, model, processor, about={"seed": 1})
    return model, folder


def edit(folder, name, change):
    file = folder / name
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


def test_reloaded_model_is_bit_equal(saved):
    model, folder = saved
    again, processor = load_checkpoint(folder)
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert again.config.visual_tokens == model.config.visual_tokens
    assert processor.visual_tokens == 16


def test_a_half_precision_model_keeps_its_table_of_rotations_in_float32(saved):
    model, _ = load_checkpoint(saved[1], torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    ours, whole = model.model.language_model.rotary_emb, saved[0].model.language_model.rotary_emb
    assert ours.inv_freq.dtype == torch.float32
    assert torch.equal(ours.inv_freq, whole.inv_freq)


def test_keys_are_those_the_hub_publishes_for_llava(saved):
    keys = set(load_file(saved[1] / "model.safetensors"))
    prefixes = {key.split(".layers.")[0].rsplit(".", 2)[0] for key in keys}
    assert all(
        key.startswith(
            ("vision_tower.vision_model.", "multi_modal_projector.linear_", "language_model.model.")
        )
        for key in keys
    )
    assert "language_model.model.embed_tokens.weight" in keys
    assert not any("lm_head" in key for key in keys)
    assert prefixes


def test_full_grid_checkpoint_opens_as_stock_llava_with_equal_logits(saved, tmp_path):
    model, folder = saved
    stock_folder = tmp_path / "stock"
    stock_folder.mkdir()
    save_file(
        load_file(folder / "model.safetensors"),
        stock_folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    values = json.loads((folder / "config.json").read_text())
    for key in ("visual_tokens", "reducer"):
        values.pop(key)
    values.update(model_type="llava", architectures=["LlavaForConditionalGeneration"])
    (stock_folder / "config.json").write_text(json.dumps(values))
    assert LlavaConfig.from_pretrained(stock_folder).image_token_index == 3
    stock = LlavaForConditionalGeneration.from_pretrained(stock_folder, dtype=torch.float32).eval()
    ids = torch.tensor([[5, *[3] * 16, 6, 7]])
    pixels = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        ours = model(input_ids=ids, pixel_values=pixels).logits
        assert torch.equal(ours, stock(input_ids=ids, pixel_values=pixels).logits)


def test_no_checkpoint_asks_for_custom_code(saved):
    assert "auto_map" not in (saved[1] / "config.json").read_text()


def test_checkpoint_that_asks_for_custom_code_is_refused(saved):
    edit(saved[1], "config.json", lambda v: v.update(auto_map={"AutoModel": "evil.py"}))
    with pytest.raises(DataError, match="custom code"):
        load_checkpoint(saved[1])


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "infimed_processor.json", "tokenizer.json"]
)
def test_damaged_file_makes_a_checkpoint_unverified(saved, name):
    folder = saved[1]
    assert verify_checkpoint(folder) is not None
    file = folder / name
    file.write_bytes(file.read_bytes()[:-1] + b"~")
    assert verify_checkpoint(folder) is None
    with pytest.raises(DataError, match="damaged: step-3"):
        find_checkpoint(folder.parents[1])


def test_missing_marker_makes_a_checkpoint_unverified(saved):
    (saved[1] / MARKER).unlink()
    assert verify_checkpoint(saved[1]) is None


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, (2**62).to_bytes(8, "little") + b"{}"])
def test_lying_or_truncated_weights_are_named(saved, content):
    (saved[1] / "model.safetensors").write_bytes(content)
    with pytest.raises(DataError, match=r"model\.safetensors"):
        load_checkpoint(saved[1])


def test_missing_unknown_and_misshapen_tensors_are_named(saved):
    file = saved[1] / "model.safetensors"
    state = load_file(file)
    whole = dict(state)
    state["surprise"] = torch.ones(1)
    save_file(state, file)
    with pytest.raises(DataError, match="surprise"):
        load_checkpoint(saved[1])
    key = "multi_modal_projector.linear_1.weight"
    save_file({**whole, key: torch.ones(2, 2)}, file)
    with pytest.raises(DataError, match="wrong shape"):
        load_checkpoint(saved[1])


def test_newest_step_wins_by_number_and_old_ones_are_pruned(saved, make_model, processor):
    checkpoints = saved[1].parent
    for step in (9, 10):
        save_checkpoint(checkpoints / f"step-{step}", make_model(), processor, about={})
    (checkpoints / ".step-11.partial").mkdir()
    assert [f.name for f in checkpoint_folders(checkpoints)] == ["step-10", "step-9", "step-3"]
    assert find_checkpoint(checkpoints.parent).name == "step-10"
    prune_checkpoints(checkpoints, 2)
    assert sorted(f.name for f in checkpoints.iterdir()) == ["step-10", "step-9"]


def test_folder_without_checkpoint_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match="infimed run nano"):
        find_checkpoint(tmp_path)


def test_model_starts_from_its_two_bases(make_model, processor, tmp_path):
    from transformers import AutoModelForCausalLM, SiglipVisionConfig, SiglipVisionModel

    tiny = tiny_preset()
    vision_config = {k: v for k, v in tiny.vision.items() if k != "model_type"}
    tower = SiglipVisionModel(SiglipVisionConfig(**vision_config))
    language = AutoModelForCausalLM.from_config(sub_config(tiny.text))
    tower.save_pretrained(tmp_path / "vision")
    language.save_pretrained(tmp_path / "language")
    (tmp_path / "language" / "tokenizer.json").write_text(processor.tokenizer_json)
    model, made = build_model(tiny, tmp_path / "vision", tmp_path / "language")
    for name, tensor in tower.state_dict().items():
        assert torch.equal(model.model.vision_tower.state_dict()[name], tensor), name
    for name, tensor in language.model.state_dict().items():
        assert torch.equal(model.model.language_model.state_dict()[name], tensor), name
    assert made.image_token_id == model.config.image_token_id == 3


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_weights_trained_in_float32_come_back_whole_whatever_type_the_bases_had(saved, key):
    model, folder = saved

    def as_the_bases_were(values):
        for part in ("vision_config", "text_config"):
            values[part].pop("dtype", None)
            values[part][key] = "bfloat16"

    edit(folder, "config.json", as_the_bases_were)
    again, _ = load_checkpoint(folder)
    before, after = model.state_dict(), again.state_dict()
    assert all(torch.equal(before[k], after[k]) and after[k].dtype == torch.float32 for k in before)


@pytest.mark.parametrize(
    "change",
    [{"image_size": 0}, {"image_size": 10**9}, {"image_token": "{{ x }}"}, {"mean": None}],
)
def test_processor_that_is_none_is_refused(saved, change):
    edit(saved[1], "infimed_processor.json", lambda values: values.update(change))
    with pytest.raises(DataError, match="is not a processor"):
        load_checkpoint(saved[1])
