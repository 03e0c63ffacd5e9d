"""Checkpoints of other projects give the logits of the stock class; what does not match is refused."""

from __future__ import annotations

import json
import re

import pytest
import torch
import typer
from tests.conftest import tiny_tokenizer_json
from tests.model import foreign
from tokenizers import Tokenizer
from typer.testing import CliRunner

from infimed.cli.import_ import import_
from infimed.core.errors import DataError
from infimed.model.import_layouts import KNOWN_TOWERS, _pooled_to
from infimed.model.loading import find_checkpoint, load_checkpoint
from infimed.model.reducers import pool_grid


def run(*arguments: object) -> str:
    """The command as a user types it; its error is raised."""
    app = typer.Typer()
    app.command("import")(import_)
    done = CliRunner().invoke(app, [str(one) for one in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def pixels():
    torch.manual_seed(5)
    return torch.randn(1, 3, 32, 32)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("layout", [foreign.llava_hub, foreign.llava_new, foreign.llava_flat])
def test_stock_llava_gives_its_own_logits(tmp_path, pixels, layout, tied):
    model = foreign.stock(tied=tied)
    folder = foreign.write(tmp_path / "theirs", layout(model), model.config.to_dict())
    said = run(folder, "--out", tmp_path / "ours")
    assert "llava ->" in said
    ours, processor = load_checkpoint(find_checkpoint(tmp_path / "ours"))
    assert torch.equal(foreign.logits(ours, pixels), foreign.logits(model, pixels))
    assert (processor.image_token, processor.visual_tokens, processor.image_size) == (
        "<image>",
        16,
        32,
    )


def test_what_transformers_itself_saves_is_imported(tmp_path, pixels):
    model = foreign.stock()
    model.save_pretrained(tmp_path / "theirs", max_shard_size="40KB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").exists()
    (tmp_path / "theirs" / "tokenizer.json").write_text(tiny_tokenizer_json())
    run(tmp_path / "theirs", "--out", tmp_path / "ours")
    ours, _ = load_checkpoint(tmp_path / "ours")
    assert torch.equal(foreign.logits(ours, pixels), foreign.logits(model, pixels))


def test_llava_next_gives_the_logits_of_stock_llava_and_says_what_is_left_out(tmp_path, pixels):
    model = foreign.stock()
    vision, _ = foreign.base_folders(tmp_path, model)
    folder = foreign.write(tmp_path / "theirs", foreign.llava_qwen(model), foreign.LLAVA_QWEN)
    said = run(folder, "--out", tmp_path / "ours", "--vision", vision)
    assert "model.image_newline (1 tensors)" in said
    assert "anyres_max_9" in said
    ours, _ = load_checkpoint(tmp_path / "ours")
    assert ours.config.vision_config.num_hidden_layers == 2
    assert torch.equal(foreign.logits(ours, pixels), foreign.logits(model, pixels))


def test_llava_next_takes_a_frozen_tower_from_its_folder(tmp_path, pixels):
    model = foreign.stock()
    vision, _ = foreign.base_folders(tmp_path, model)
    tensors = {k: v for k, v in foreign.llava_qwen(model).items() if "vision_tower" not in k}
    folder = foreign.write(tmp_path / "theirs", tensors, foreign.LLAVA_QWEN)
    with pytest.raises(DataError, match="--vision DIR"):
        run(folder, "--out", tmp_path / "ours")
    run(folder, "--out", tmp_path / "ours", "--vision", vision)
    ours, _ = load_checkpoint(tmp_path / "ours")
    assert torch.equal(foreign.logits(ours, pixels), foreign.logits(model, pixels))


def flat_prismatic(model):
    modules = foreign.prismatic(model)
    return {f"{m}.{k}": tensor for m, own in modules.items() for k, tensor in own.items()}


@pytest.mark.parametrize("pickled", [True, False])
def test_prismatic_gives_the_logits_of_stock_llava(tmp_path, pixels, pickled):
    model = foreign.stock(hidden_act="gelu")
    vision, language = foreign.base_folders(tmp_path, model)
    folder = foreign.write(tmp_path / "theirs", flat_prismatic(model), foreign.PRISMATIC)
    extra = ["--vision", vision, "--language", language]
    if pickled:
        (folder / "model.safetensors").unlink()
        (folder / "checkpoints").mkdir()
        modules = {"model": foreign.prismatic(model), "optimizer": {"step": 3}}
        torch.save(modules, folder / "checkpoints" / "latest-checkpoint.pt")
        with pytest.raises(DataError, match="allow-pickle"):
            run(folder, "--out", tmp_path / "ours", *extra)
        extra.append("--allow-pickle")
    said = run(folder, "--out", tmp_path / "ours", *extra)
    assert "letterbox" in said
    ours, _ = load_checkpoint(tmp_path / "ours")
    assert ours.config.visual_tokens == 4
    ours.config.visual_tokens = 16
    assert torch.equal(foreign.logits(ours, pixels), foreign.logits(model, pixels))
    with torch.no_grad():
        towered = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2]
        expected = model.model.multi_modal_projector(pool_grid(towered, 2))
        assert torch.equal(ours.image_features(pixels, 4), expected)


def test_a_second_type_of_numbers_is_kept(tmp_path, pixels):
    model = foreign.stock().to(torch.bfloat16)
    folder = foreign.write(tmp_path / "theirs", foreign.llava_hub(model), model.config.to_dict())
    assert "bfloat16" in run(folder, "--out", tmp_path / "ours")
    ours, _ = load_checkpoint(tmp_path / "ours", torch.bfloat16)
    theirs = dict(model.named_parameters())
    assert all(torch.equal(p, theirs[name]) for name, p in ours.named_parameters())
    assert load_checkpoint(tmp_path / "ours")[0].dtype == torch.float32


def test_mixed_types_become_the_one_that_holds_all_of_them(tmp_path):
    model = foreign.stock()
    tensors = {
        name: tensor.half() if "vision" in name else tensor.bfloat16()
        for name, tensor in foreign.llava_hub(model).items()
    }
    large = "language_model.model.embed_tokens.weight"
    tensors[large][0, 0] = 1e5
    folder = foreign.write(tmp_path / "theirs", tensors, model.config.to_dict())
    assert "float32" in run(folder, "--out", tmp_path / "ours")
    ours, _ = load_checkpoint(tmp_path / "ours")
    assert float(ours.get_input_embeddings().weight[0, 0]) == float(tensors[large][0, 0])


def test_the_manifest_says_where_every_file_came_from(tmp_path):
    model = foreign.stock()
    folder = foreign.write(tmp_path / "theirs", foreign.llava_hub(model), model.config.to_dict())
    run(folder, "--out", tmp_path / "ours")
    origin = json.loads((tmp_path / "ours" / "manifest.json").read_text())["imported"]
    assert origin["layout"] == "llava"
    assert set(origin["files"]) == {
        "checkpoint/config.json",
        "checkpoint/model.safetensors",
        "checkpoint/tokenizer.json",
    }
    assert str(tmp_path) not in json.dumps(origin)


def edited(tensors, change):
    change(tensors)
    return tensors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update({"language_model.model.adapter": torch.ones(2)}), "1 unknown.*adapter"),
        (lambda t: t.pop("multi_modal_projector.linear_2.bias"), "1 missing.*linear_2.bias"),
        (
            lambda t: t.update({"multi_modal_projector.linear_1.weight": torch.ones(32, 31)}),
            r"1 of the wrong shape.*\[32, 31\] instead of \[32, 32\] \(model.safetensors\)",
        ),
    ],
)
def test_what_does_not_match_is_refused_and_named(tmp_path, change, message):
    model = foreign.stock()
    tensors = edited(foreign.llava_hub(model), change)
    folder = foreign.write(tmp_path / "theirs", tensors, model.config.to_dict())
    with pytest.raises(DataError) as caught:
        run(folder, "--out", tmp_path / "ours")
    text = str(caught.value).replace("\n", " ")
    assert re.search(message, text), text
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "llava_next"}, "no layout"),
        ({"vision_feature_layer": [-2, -1]}, "several layers"),
        ({"vision_config": {"model_type": "clip_vision_model"}}, "not supported"),
        ({"text_config": {"model_type": "nobody"}}, "language model is not supported"),
        ({"text_config": {"model_type": "gpt2", "n_layer": 10**8}}, "not supported"),
        ({"vision_feature_select_strategy": "default"}, "cannot be chosen so"),
        ({"vision_feature_layer": -9}, "no such layer"),
        ({"text_config": None}, "has no text_config"),
        ({"image_token_index": 4000}, "no token for image_token_index"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantised"),
    ],
)
def test_an_unsupported_detail_is_refused_with_its_name(tmp_path, values, message):
    model = foreign.stock()
    config = {**model.config.to_dict(), **values}
    folder = foreign.write(tmp_path / "theirs", foreign.llava_hub(model), config)
    with pytest.raises(DataError, match=message):
        run(folder, "--out", tmp_path / "ours")


def test_a_tokenizer_without_chatml_is_refused(tmp_path):
    model = foreign.stock()
    folder = foreign.write(tmp_path / "theirs", foreign.llava_hub(model), model.config.to_dict())
    text = tiny_tokenizer_json().replace("<|im_start|>", "<|begin|>")
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(DataError, match="ChatML"):
        run(folder, "--out", tmp_path / "ours")


def test_a_tokenizer_without_placeholder_gets_it_in_an_unused_row(tmp_path, pixels):
    model = foreign.stock()
    vision, _ = foreign.base_folders(tmp_path, model)
    folder = foreign.write(tmp_path / "theirs", foreign.llava_qwen(model), foreign.LLAVA_QWEN)
    text = tiny_tokenizer_json().replace("<image>", "<other>")
    (folder / "tokenizer.json").write_text(text)
    run(folder, "--out", tmp_path / "ours", "--vision", vision)
    ours, processor = load_checkpoint(tmp_path / "ours")
    used = Tokenizer.from_str(text).get_vocab_size()
    assert ours.config.image_token_index == processor.image_token_id == used < 320


def test_an_existing_folder_is_not_overwritten(tmp_path):
    model = foreign.stock()
    folder = foreign.write(tmp_path / "theirs", foreign.llava_hub(model), model.config.to_dict())
    with pytest.raises(DataError, match="is there already"):
        run(folder, "--out", folder)


@pytest.mark.parametrize(
    ("specifier", "tokens"),
    [("gelu-mlp", None), ("full-align+729-avgpool", 729), ("full-align+avgpool", 144)],
)
def test_the_pooling_of_prismatic_is_read_from_its_specifier(specifier, tokens):
    assert _pooled_to(specifier, "config.json") == tokens
    with pytest.raises(DataError, match="two-layer MLP"):
        _pooled_to("no-align+fused-gelu-mlp", "config.json")


def test_named_towers_are_those_the_presets_start_from():
    assert KNOWN_TOWERS["siglip-so400m-patch14-384"]["hidden_size"] == 1152
