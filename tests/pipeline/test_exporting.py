"""`infimed export`: whole or not at all, never over other files, adapters merged."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from infimed.cli.main import app
from infimed.core.errors import DataError, RecipeError, UsageError
from infimed.core.files import read_json, sha256_file, write_text
from infimed.core.recipe import load_recipe
from infimed.model.adapters import Adapters
from infimed.model.loading import save_checkpoint, write_checkpoint
from infimed.pipeline import exporting
from infimed.pipeline.checks import check_export
from infimed.pipeline.exporting import ABOUT, export
from tests.conftest import tiny_model, tiny_processor


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "run" / "checkpoints" / "step-3"
    save_checkpoint(folder, tiny_model(), tiny_processor(), about={})
    return folder


def test_run_folder_exports_its_newest_checkpoint_with_card_and_origin(checkpoint, tmp_path):
    written = export(tmp_path / "run", tmp_path / "out")
    about = read_json(tmp_path / "out" / ABOUT)
    manifest = read_json(checkpoint / "manifest.json")
    assert about["checkpoint"] == manifest["fingerprint"]
    assert about["model_type"] == written.model_type == "llava"
    assert set(about["files"]) == {f.name for f in (tmp_path / "out").iterdir()} - {ABOUT}
    assert all(sha256_file(tmp_path / "out" / name) == sha for name, sha in about["files"].items())
    assert "not a medical device" in (tmp_path / "out" / "README.md").read_text()


def test_weights_can_be_read_by_others(checkpoint, tmp_path):
    export(checkpoint, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").stat().st_mode & 0o044 == 0o044


def test_folder_of_other_files_is_never_replaced(checkpoint, tmp_path):
    write_text(tmp_path / "out" / "thesis.txt", "years of work")
    for force in (False, True):
        with pytest.raises(UsageError, match="never replaced"):
            export(checkpoint, tmp_path / "out", force=force)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


def test_export_with_a_file_of_somebody_in_it_is_never_replaced(checkpoint, tmp_path):
    export(checkpoint, tmp_path / "out")
    write_text(tmp_path / "out" / "thesis.txt", "years of work")
    with pytest.raises(UsageError, match="never replaced"):
        export(checkpoint, tmp_path / "out", force=True)


def test_earlier_export_is_replaced_only_by_force(checkpoint, tmp_path):
    export(checkpoint, tmp_path / "out")
    with pytest.raises(UsageError, match="--force"):
        export(checkpoint, tmp_path / "out")
    export(checkpoint, tmp_path / "out", dtype="bf16", force=True)
    assert read_json(tmp_path / "out" / ABOUT)["dtype"] == "bf16"


def test_failed_export_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise DataError("no space")

    monkeypatch.setattr(exporting, "write_export", fail)
    with pytest.raises(DataError, match="no space"):
        export(checkpoint, tmp_path / "out")
    assert {file.name for file in tmp_path.iterdir()} == {"run"}


def test_damaged_checkpoint_is_refused(checkpoint, tmp_path):
    file = checkpoint / "tokenizer.json"
    file.write_text(file.read_text() + " ")
    with pytest.raises(DataError, match="damaged"):
        export(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_adapters_are_merged(tmp_path):
    model, layer = tiny_model(), "model.language_model.layers.0.mlp.up_proj"
    down, up = torch.randn(2, 32), torch.randn(64, 2)
    folder = tmp_path / "step-1"
    folder.mkdir()
    write_checkpoint(
        folder, model.state_dict(), model.config, tiny_processor(), about={},
        adapters=Adapters({f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}, 0.5),
    )  # fmt: skip
    export(folder, tmp_path / "out")
    state = load_file(tmp_path / "out" / "model.safetensors")
    merged = state["language_model.model.layers.0.mlp.up_proj.weight"]
    assert torch.equal(merged, model.state_dict()[f"{layer}.weight"] + 0.5 * (up @ down))
    assert not any("lora" in name for name in state)


def test_command_says_what_it_wrote(checkpoint, tmp_path):
    done = CliRunner().invoke(app, ["export", str(checkpoint), str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "llava" in done.output
    assert "16 tokens an image" in done.output


def test_command_prints_the_card(checkpoint):
    done = CliRunner().invoke(app, ["card", str(checkpoint)])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("---\n")


@pytest.mark.parametrize(
    ("wanted", "tokens", "fits"), [("llava", 36, "infimed_vl"), ("infimed_vl", 144, "llava")]
)
def test_recipe_that_ends_at_another_grid_than_its_export_is_refused(wanted, tokens, fits):
    recipe = load_recipe("nano", [f"export={wanted}", f"stages.sft-refine.visual_tokens={tokens}"])
    with pytest.raises(RecipeError, match=f"export={fits}"):
        check_export(recipe)


def test_full_grid_is_that_of_the_last_stage_s_own_image_size():
    grid = ["stages.sft-refine.image_size=48", "stages.sft-refine.visual_tokens=36"]
    check_export(load_recipe("nano", ["export=llava", *grid]))
    check_export(load_recipe("mini", ["data.root=somewhere"]))
