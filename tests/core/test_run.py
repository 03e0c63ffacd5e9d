"""The run folder: one writer, one recipe, data that does not change under it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml

from infimed.core.errors import DataError, RecipeError
from infimed.core.recipe import load_recipe
from infimed.core.run import MetricsLog, RunFolder, environment


@pytest.fixture
def recipe():
    return load_recipe("nano")


def test_same_recipe_resumes(tmp_path, recipe):
    run = RunFolder(tmp_path)
    assert run.adopt(recipe) is False
    assert run.adopt(load_recipe("nano")) is True


def test_changed_recipe_is_refused_with_the_difference(tmp_path, recipe):
    run = RunFolder(tmp_path)
    run.adopt(recipe)
    with pytest.raises(RecipeError) as caught:
        run.adopt(load_recipe("nano", ["train.seed=77"]))
    assert "+  seed: 77" in str(caught.value)
    assert "name=OTHER" in str(caught.value)


def test_second_writer_is_refused(tmp_path):
    with RunFolder(tmp_path).locked():
        code = f"""
from pathlib import Path
from infimed.core.run import RunFolder
with RunFolder(Path({str(tmp_path)!r})).locked():
    pass
"""
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "another process is writing" in other.stderr


def test_lock_of_a_dead_process_does_not_block(tmp_path):
    with RunFolder(tmp_path).locked():
        pass
    with RunFolder(tmp_path).locked():
        assert (tmp_path / ".lock").exists()


def test_changed_data_is_refused_by_name(tmp_path):
    run = RunFolder(tmp_path)
    run.check_data({"shards": "a", "split": "b"})
    run.check_data({"shards": "a", "split": "b"})
    with pytest.raises(DataError, match="split"):
        run.check_data({"shards": "a", "split": "c"})


def test_torn_last_line_of_a_killed_run_is_forgotten(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3):
        log.append({"step": step})
    with log.path.open("a") as handle:
        handle.write('{"step": 4, "lo')
    assert [row["step"] for row in log.read()] == [1, 2, 3]
    log.rewind(2)
    assert [row["step"] for row in log.read()] == [1, 2]


def test_environment_names_no_host_user_or_path(monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "canary-value")
    text = json.dumps(environment())
    assert "canary-value" not in text
    assert "/" not in text.replace("n/a", "")


def test_a_run_made_before_a_key_existed_goes_on_while_the_key_has_its_default(tmp_path) -> None:
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    recipe = load_recipe("nano")
    run.adopt(recipe)
    file = run / "recipe.yaml"
    old = yaml.safe_load(file.read_text())
    del old["data"]["redact"]
    file.write_text(yaml.safe_dump(old))
    assert run.adopt(recipe)
    with pytest.raises(RecipeError, match="redact"):
        run.adopt(load_recipe("nano", ["data.redact=true"]))
