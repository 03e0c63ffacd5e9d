"""Base weights in the layouts of the Hub: only what is needed is read, and it gives what stock classes give."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.conftest import tiny_preset, tiny_tokenizer_json
from tokenizers import Tokenizer
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    SiglipConfig,
    SiglipModel,
    SiglipTextConfig,
    SiglipVisionConfig,
)

from infimed.core.errors import DataError
from infimed.model import presets
from infimed.model.loading import build_model
from infimed.model.parts import language_part, vision_part
from infimed.model.placeholder import with_placeholder
from infimed.model.presets import sub_config

TINY = tiny_preset()
SIZES = {k: v for k, v in TINY.vision.items() if k not in ("model_type", "vision_use_head")}


def shaken(model):
    """The model with values that differ everywhere, so that none can be mistaken for another."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture
def siglip(tmp_path):
    """A whole SigLIP as the Hub has it, and its folder."""
    text = SiglipTextConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    config = SiglipConfig(
        text_config=text.to_dict(), vision_config=SiglipVisionConfig(**SIZES).to_dict()
    )
    model = shaken(SiglipModel(config))
    model.save_pretrained(tmp_path / "vision")
    return model, tmp_path / "vision"


@pytest.fixture
def qwen(tmp_path):
    """A Qwen3 in shards, and its folder."""
    model = shaken(AutoModelForCausalLM.from_config(sub_config(TINY.text)))
    model.save_pretrained(tmp_path / "language", max_shard_size="50KB")
    (tmp_path / "language" / "tokenizer.json").write_text(tiny_tokenizer_json())
    return model, tmp_path / "language"


def test_a_whole_siglip_and_a_sharded_qwen_give_what_the_stock_classes_give(siglip, qwen):
    stored = vision_part(siglip[1]).stored
    assert not any("text_model" in k or "head" in k or "logit" in k for k in stored)
    assert (qwen[1] / "model.safetensors.index.json").exists()
    model, _ = build_model(TINY, siglip[1], qwen[1])
    pixels, ids = torch.randn(2, 3, 32, 32), torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        theirs = siglip[0].vision_model(pixels, output_hidden_states=True).hidden_states[-1]
        assert torch.equal(model.eval().tower_features(pixels), theirs)
        assert torch.equal(model(input_ids=ids).logits, qwen[0](input_ids=ids).logits)


@pytest.mark.parametrize("prefix", ["vision_model.", ""])
def test_a_bare_tower_is_read_with_and_without_its_prefix(siglip, qwen, tmp_path, prefix):
    own = siglip[0].vision_model.state_dict()
    (tmp_path / "bare").mkdir()
    save_file({prefix + k: v for k, v in own.items()}, tmp_path / "bare" / "model.safetensors")
    config = {"model_type": "siglip_vision_model", **SIZES}
    (tmp_path / "bare" / "config.json").write_text(json.dumps(config))
    model, _ = build_model(TINY, tmp_path / "bare", qwen[1])
    for name, tensor in model.model.vision_tower.state_dict().items():
        assert torch.equal(tensor, own[name]), name


@pytest.mark.parametrize("names", ["as transformers has them", "as the Hub publishes them"])
def test_a_dinov2_is_read_under_old_and_new_names(qwen, tmp_path, names):
    vision = {k: v for k, v in TINY.vision.items() if k not in ("intermediate_size",)}
    vision = {**vision, "model_type": "dinov2"}
    vision.pop("vision_use_head")
    tower = shaken(AutoModel.from_config(sub_config(vision)))
    folder = tmp_path / "dino"
    if names == "as the Hub publishes them":
        tower.save_pretrained(folder)
    else:
        folder.mkdir()
        save_file(tower.state_dict(), folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(vision))
    chosen = replace(TINY, vision=vision, feature_strategy="default")
    model, _ = build_model(chosen, folder, qwen[1])
    for name, tensor in model.model.vision_tower.state_dict().items():
        assert torch.equal(tensor, tower.state_dict()[name]), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_files_keep_their_values_in_float32(siglip, qwen, tmp_path, dtype):
    for part, (model, _) in (("v", siglip), ("l", qwen)):
        model.to(dtype).save_pretrained(tmp_path / part)
    shutil.copy(qwen[1] / "tokenizer.json", tmp_path / "l")
    model, _ = build_model(TINY, tmp_path / "v", tmp_path / "l")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    own = model.model.language_model.state_dict()
    for name, tensor in qwen[0].model.state_dict().items():
        assert torch.equal(own[name], tensor.float()), name


def stored_as(folder, change):
    """The folder of a language model in one file, its tensors changed."""
    found = {}
    for file in folder.glob("*.safetensors"):
        found |= load_file(file)
        file.unlink()
    (folder / "model.safetensors.index.json").unlink()
    change(found)
    save_file(found, folder / "model.safetensors")


def test_a_stored_copy_of_a_tied_output_layer_changes_nothing(siglip, qwen):
    stored_as(
        qwen[1], lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()})
    )
    part = language_part(qwen[1])
    assert "lm_head.weight" not in part.stored
    assert part.config.tie_word_embeddings


def test_an_output_layer_of_its_own_is_kept_although_the_config_says_tied(siglip, qwen):
    head = torch.randn(320, 32)
    stored_as(qwen[1], lambda t: t.update({"lm_head.weight": head}))
    model, _ = build_model(TINY, siglip[1], qwen[1])
    assert not model.config.tie_word_embeddings
    assert torch.equal(model.lm_head.weight, head)


def test_missing_unknown_and_misshapen_tensors_are_named_with_their_file(siglip, qwen):
    def change(tensors):
        tensors.pop("model.norm.weight")
        tensors["model.layers.0.extra"] = torch.ones(1)
        tensors["model.layers.1.mlp.up_proj.weight"] = torch.ones(3, 3)

    stored_as(qwen[1], change)
    with pytest.raises(DataError, match="1 missing, 1 unknown, 1 of the wrong shape") as caught:
        build_model(TINY, siglip[1], qwen[1])
    for named in (
        "model.norm.weight",
        "model.layers.0.extra (model.safetensors)",
        "up_proj.weight [3, 3] instead of [64, 32]",
    ):
        assert named in str(caught.value)


def test_another_model_than_the_presets_is_refused(siglip, qwen):
    larger = replace(TINY, text={**TINY.text, "hidden_size": 64})
    with pytest.raises(DataError, match="hidden_size 32 instead of 64"):
        build_model(larger, siglip[1], qwen[1])
    with pytest.raises(DataError, match=r"not supported.*\n.*qwen3"):
        build_model(TINY, qwen[1], qwen[1])


def test_a_config_that_promises_more_than_the_file_holds_costs_no_memory(siglip, qwen):
    file = qwen[1] / "config.json"
    for change in ({"num_hidden_layers": 10**9}, {"hidden_size": 10**9}):
        file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
        chosen = replace(TINY, text={**TINY.text, **change})
        with pytest.raises(DataError, match=r"promises more|no model|do not match"):
            build_model(chosen, siglip[1], qwen[1])


# --- the placeholder -----------------------------------------------------------------------------


def test_a_tokenizer_with_the_placeholder_is_left_byte_for_byte():
    text = tiny_tokenizer_json()
    assert with_placeholder(text, "<image>", 320, "") == text


def test_a_placeholder_takes_the_first_unused_row_and_users_cannot_type_it(siglip, qwen):
    chosen = replace(TINY, image_token="<|image_pad|>")
    used = Tokenizer.from_str(tiny_tokenizer_json()).get_vocab_size()
    model, processor = build_model(chosen, siglip[1], qwen[1])
    assert processor.image_token_id == model.config.image_token_index == used
    assert used not in processor.text_ids("what does <|image_pad|> mean")


def test_a_placeholder_known_as_plain_token_becomes_special():
    values = json.loads(tiny_tokenizer_json())
    for token in values["added_tokens"]:
        token["special"] = token["special"] and token["content"] != "<image>"
    made = Tokenizer.from_str(with_placeholder(json.dumps(values), "<image>", 320, ""))
    made.encode_special_tokens = True
    assert made.token_to_id("<image>") == 3
    assert 3 not in made.encode("an <image> here").ids


@pytest.mark.parametrize(
    ("token", "rows", "message"),
    [("<|pad|>", 100, "no row"), ("<image>", 2, "no row"), ("{{x}}", 320, "braces")],
)
def test_a_placeholder_without_room_or_with_template_code_is_refused(token, rows, message):
    with pytest.raises(DataError, match=message):
        with_placeholder(tiny_tokenizer_json(), token, rows, "tokenizer.json")


def test_the_saved_template_shows_images_by_the_placeholder_of_the_tokenizer(
    siglip, qwen, tmp_path
):
    _, processor = build_model(replace(TINY, image_token="<|image_pad|>"), siglip[1], qwen[1])
    processor.save(tmp_path)
    text = (tmp_path / "chat_template.jinja").read_text()
    assert "<|image_pad|>" in text
    assert "<image>" not in text


# --- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "billions"), [("infimed-1.7b", 2.140), ("infimed-4b", 4.445)])
def test_paper_sized_presets_count_as_published(name, billions):
    from infimed.training.estimate import meta_model
    from infimed.training.optimizer import parameters_by_module

    counts = parameters_by_module(meta_model(presets.preset(name)))
    assert round(sum(counts.values()) / 1e9, 3) == billions
    assert counts["vision"] == 412_987_248
