"""An evaluation folder says what it is about, and is scored again from itself alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from infimed.core.errors import DataError, UsageError
from infimed.evaluation.folder import (
    FILE,
    find_evaluation,
    open_evaluated,
    read_evaluation,
)
from infimed.evaluation.places import DataPlaces
from infimed.evaluation.runner import evaluate, score
from infimed.inference.stubs import constant
from tests.evaluation.compare.folders import TASKS, benchmarks, evaluated, mostly_right

WRITTEN = ("scores.json", "scores.csv", "samples.jsonl", FILE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shards = benchmarks(tmp_path)
    return evaluated(mostly_right(shards, 3), shards, tmp_path / "out")


def again(folder: Path, **options) -> list[str]:
    found = read_evaluation(folder)
    records, notes = open_evaluated(found, **options)
    score(folder, records, found.tasks, found.labels, prior_splits=found.prior_splits)
    return notes


def test_scoring_again_from_the_folder_alone_writes_the_same_bytes(folder: Path) -> None:
    before = {name: (folder / name).read_bytes() for name in WRITTEN}
    for name in WRITTEN[:3]:
        (folder / name).unlink()
    assert again(folder) == []
    assert {name: (folder / name).read_bytes() for name in WRITTEN} == before


def test_a_folder_and_its_data_can_be_moved_together(folder: Path, tmp_path: Path) -> None:
    before = (folder / "scores.json").read_bytes()
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.move(folder, moved / "out")
    shutil.move(tmp_path / "cache", moved / "cache")
    again(moved / "out")
    assert (moved / "out" / "scores.json").read_bytes() == before


def test_tasks_and_labels_are_found_where_no_file_names_them(folder: Path) -> None:
    stored = read_evaluation(folder)
    (folder / FILE).unlink()
    found = read_evaluation(folder)
    assert sorted(found.tasks) == sorted(stored.tasks) == sorted(TASKS)
    assert found.labels == ("model",) and found.places == ()
    with pytest.raises(DataError, match="does not say where its records are"):
        open_evaluated(found)


def test_the_model_comes_first_among_labels_that_are_found(tmp_path: Path) -> None:
    shards = benchmarks(tmp_path, tasks=["slake_en"])
    out = tmp_path / "out"
    for label in ("image-zeroed", "another", "model", "trained-blind"):
        evaluate(constant("yes"), shards, ["slake_en"], out, label=label)
    assert read_evaluation(out).labels == ("model", "another", "image-zeroed", "trained-blind")


def test_an_emptied_cache_is_named_and_built_again_where_the_files_are(
    folder: Path, tmp_path: Path
) -> None:
    before = (folder / "scores.json").read_bytes()
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(DataError, match=r"no longer there[\s\S]*--data DIR"):
        open_evaluated(read_evaluation(folder))
    places = DataPlaces.parse([str(tmp_path / "benchmarks")])
    notes = again(folder, data=places, cache=tmp_path / "cache")
    assert (folder / "scores.json").read_bytes() == before
    assert not any("not the data that was asked" in note for note in notes)


def test_other_records_are_refused_by_their_hash(folder: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "cache")
    benchmarks(tmp_path, copies=5)
    with pytest.raises(DataError, match="not the records that were asked"):
        open_evaluated(read_evaluation(folder))
    places = DataPlaces.parse([str(tmp_path / "benchmarks")])
    notes = again(folder, data=places, cache=tmp_path / "cache")
    assert sum("not the data that was asked" in note for note in notes) == len(TASKS)


def test_a_task_of_the_users_own_is_kept_beside_its_answers(tmp_path: Path) -> None:
    shards = benchmarks(tmp_path, tasks=["slake_en"])
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "name: mine\ntitle: Own\nsource: {dataset: ours}\nwhere: {task: [closed], source: [ours]}\n"
    )
    mine.write_text(mine.read_text().replace("source: [ours]", "facts.none: [x]"))
    evaluate(constant("yes"), shards, ["slake_en"], tmp_path / "out", label="model")
    from infimed.evaluation.folder import note_evaluation

    note_evaluation(tmp_path / "out", shards, [str(mine)], ["model"], ["train"])
    mine.unlink()
    (task,) = read_evaluation(tmp_path / "out").tasks
    assert task == str(tmp_path / "out" / "mine" / "task.yaml") and Path(task).is_file()


def test_a_run_folder_stands_for_its_one_evaluation(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(folder, run / "evaluation")
    assert find_evaluation(run) == run / "evaluation"
    assert find_evaluation(folder) == folder
    shutil.copytree(folder, run / "evaluation-eval")
    with pytest.raises(UsageError, match="more than once"):
        find_evaluation(run)


@pytest.mark.parametrize("made", [True, False])
def test_a_folder_without_an_evaluation_is_named(tmp_path: Path, made: bool) -> None:
    path = tmp_path / "nothing"
    if made:
        path.mkdir()
    with pytest.raises(DataError, match="no evaluation here" if made else "no such folder"):
        find_evaluation(path)


@pytest.mark.parametrize("text", ["{}", "[]", '{"format": 1, "tasks": 3}', '{"format": 9}', "{"])
def test_a_damaged_file_is_named(folder: Path, text: str) -> None:
    (folder / FILE).write_text(text)
    with pytest.raises(DataError, match=FILE):
        read_evaluation(folder)


def test_only_weights_other_than_one_are_stored(tmp_path: Path) -> None:
    shards = benchmarks(tmp_path, tasks=["slake_en", "rad_restruct"])
    folder = evaluated(constant("yes"), shards, tmp_path / "out", ["slake_en", "rad_restruct"])
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    weights = {
        task: {
            line["answers"]["model"].get("weight", 1.0) for line in lines if line["task"] == task
        }
        for task in ("slake_en", "rad_restruct")
    }
    assert weights["slake_en"] == {1.0}
    assert max(weights["rad_restruct"]) > 1


def test_scoring_imports_no_torch(folder: Path) -> None:
    code = (
        f"import sys; sys.argv=['infimed','score',{str(folder)!r}]\n"
        "from infimed.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as stop: assert not stop.code, stop.code\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "slake_en" in done.stdout
