"""Benchmarks in a recipe: found before work begins, built once, asked apart from the run's own records."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infimed.core.errors import DataError, RecipeError
from infimed.core.recipe import Recipe, load_recipe
from infimed.core.run import RunFolder
from infimed.data.importing import import_data
from infimed.data.record import Record
from infimed.data.shards import open_shards
from infimed.evaluation.report import Scoreboard
from infimed.inference.requests import Request
from infimed.inference.stubs import Scripted
from infimed.pipeline import asking
from infimed.pipeline.asking import evaluate_step, units, ways
from infimed.pipeline.benchmarks import (
    check_benchmarks,
    evaluation_shards,
    keep_benchmarks,
    kept,
)
from infimed.pipeline.checks import check_recipe
from infimed.pipeline.headline import headline
from infimed.pipeline.report_results import task_results
from tests.evaluation.fakes import clinic
from tests.evaluation.rows import write_layout

TASKS = ["phantom_closed", "pubmedqa", "slake_en", "medxpertqa_mm"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data root with three benchmarks in their own layouts, a few questions each."""
    root = tmp_path / "benchmarks-in"
    for name in ("pubmedqa", "slake_en", "medxpertqa_mm"):
        write_layout(name, 0, root / name, copies=4)
    return root


def recipe(root: Path | None, *more: str) -> Recipe:
    given = [f"evaluation.data={root}"] if root is not None else []
    return load_recipe("nano", [f"evaluation.tasks=[{', '.join(TASKS)}]", *given, *more])


def lose_images(root: Path, task: str) -> None:
    for folder in (root / task).rglob("*"):
        if folder.is_file() and folder.suffix in (".png", ".jpg", ".jpeg"):
            folder.unlink()


# ---- before any work ---------------------------------------------------------------------------


def test_every_benchmark_is_found_before_work_begins(data: Path) -> None:
    lines = check_benchmarks(recipe(data))
    assert [line.partition(":")[0] for line in lines] == [f"benchmark {name}" for name in TASKS[1:]]
    assert set(lines) <= set(check_recipe(recipe(data)))


def test_a_benchmark_without_files_is_refused_with_the_key_that_mends_it(data: Path) -> None:
    shutil.rmtree(data / "pubmedqa")
    with pytest.raises(DataError, match="pubmedqa") as caught:
        check_recipe(recipe(data))
    assert "evaluation.data={pubmedqa: FOLDER}" in str(caught.value)


def test_wrong_places_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such folder"):
        check_benchmarks(recipe(tmp_path / "nowhere"))
    other = f"evaluation.data={{pubmedq: {data}}}"
    with pytest.raises(RecipeError, match="reads files of its own"):
        check_benchmarks(recipe(None, other))
    with pytest.raises(RecipeError, match="text_only names"):
        recipe(data, "evaluation.text_only=[medqa_usmle]")
    with pytest.raises(RecipeError, match="say where their files are"):
        recipe(None, "evaluation.text_only=[pubmedqa]")


def test_absent_images_are_told_before_work_begins_and_may_be_done_without(data: Path) -> None:
    lose_images(data, "medxpertqa_mm")
    with pytest.raises(DataError, match="images of this benchmark") as caught:
        check_benchmarks(recipe(data))
    assert "evaluation.text_only=[medxpertqa_mm]" in str(caught.value)
    lines = check_benchmarks(recipe(data, "evaluation.text_only=[medxpertqa_mm]"))
    assert any("a control, not a score" in line for line in lines)


def test_without_data_a_benchmark_asks_the_recipes_own_records_and_says_so() -> None:
    lines = check_benchmarks(recipe(None))
    assert len(lines) == 3 and all(line.startswith("note:") for line in lines)


# ---- building and asking -----------------------------------------------------------------------


def run_folder(tmp_path: Path, wanted: Recipe) -> RunFolder:
    """A run with the own records of a small clinic, one of which claims a benchmark's source."""
    run = RunFolder(tmp_path / "run")
    source = tmp_path / "own"
    source.mkdir(exist_ok=True)
    records: list[Record] = [replace(r, images=(), messages=_bare(r)) for r in clinic(20)]
    stray = replace(records[0], id="stray", source="slake_en")
    lines = "".join(record.to_json() + "\n" for record in [*records, stray])
    (source / "records.jsonl").write_text(lines, encoding="utf-8")
    run.path.mkdir(exist_ok=True)
    import_data(source, run / "shards", reader="records")
    run.adopt(wanted)
    return run


def _bare(record: Record):  # type: ignore[no-untyped-def]
    return tuple(
        replace(turn, content=tuple(part for part in turn.content if isinstance(part, str)))
        for turn in record.messages
    )


def test_benchmarks_are_built_once_and_their_hashes_are_the_runs(
    data: Path, tmp_path: Path
) -> None:
    wanted = recipe(data, "evaluation.text_only=[medxpertqa_mm]")
    run = run_folder(tmp_path, wanted)
    hashes = keep_benchmarks(wanted, run)
    assert set(hashes) == {f"benchmark {name}" for name in TASKS[1:]}
    run.check_data(hashes)
    shutil.rmtree(data)  # the run has its own copy
    assert keep_benchmarks(wanted, run) == hashes
    run.check_data(keep_benchmarks(wanted, run))
    assert {one.task: one.images for one in kept(run)} == {
        "pubmedqa": False, "slake_en": True, "medxpertqa_mm": False,
    }  # fmt: skip


def test_shards_that_changed_since_are_refused(data: Path, tmp_path: Path) -> None:
    wanted = recipe(data, "evaluation.tasks=[pubmedqa]")
    run = run_folder(tmp_path, wanted)
    keep_benchmarks(wanted, run)
    file = run / "benchmarks" / "benchmarks.json"
    value = json.loads(file.read_text())
    value[0]["data_sha256"] = "0" * 64
    file.write_text(json.dumps(value))
    with pytest.raises(DataError, match="changed since the run began"):
        evaluation_shards(run, open_shards(run / "shards"))
    file.write_text("[{}]")
    with pytest.raises(DataError, match="which benchmarks"):
        kept(run)


def test_a_task_without_images_is_asked_in_fewer_ways(data: Path, tmp_path: Path) -> None:
    wanted = recipe(data, "evaluation.text_only=[medxpertqa_mm]", "evaluation.trained_blind=true")
    run = run_folder(tmp_path, wanted)
    keep_benchmarks(wanted, run)
    asked = units(wanted, run)
    assert len(set(asked)) == len(asked)
    of = {task: [label for label, name in asked if name == task] for task in TASKS}
    assert of["phantom_closed"] == of["slake_en"] == ["model", "image-zeroed", "trained-blind", "low-grid"]  # fmt: skip
    assert of["pubmedqa"] == ["model", "trained-blind"]
    assert of["medxpertqa_mm"] == ["text-only", "trained-blind"]
    assert ways(wanted.evaluation, "slake_en") == of["slake_en"]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """Every checkpoint is a model that says A or yes; what it is asked is kept."""
    asked: list[Request] = []

    class Processor:
        def with_grid(self, *_: Any) -> Processor:
            return self

    class Model(Scripted):
        model = checkpoint = None
        processor = Processor()

    def answer(request: Request) -> str:
        asked.append(request)
        return "A" if request.choices else "yes"

    class Local:
        @staticmethod
        def open(folder: Any, batch_size: int = 1) -> Scripted:
            return Model(f"stub:{Path(folder).name}", answer)

        def __new__(cls, *_: Any) -> Scripted:  # type: ignore[misc]
            return Model("stub:low", answer)

    monkeypatch.setattr(asking, "LocalModel", Local)
    monkeypatch.setattr(asking, "find_checkpoint", lambda folder: folder)
    monkeypatch.setattr(asking, "set_threads", lambda threads: None)
    return asked


def test_a_run_asks_its_own_records_and_its_benchmarks_apart(
    data: Path, tmp_path: Path, scripted: list[Request]
) -> None:
    wanted = recipe(
        data, "evaluation.text_only=[medxpertqa_mm]", "evaluation.processes=1", "evaluation.limit=6"
    )
    run = run_folder(tmp_path, wanted)
    keep_benchmarks(wanted, run)
    shards = open_shards(run / "shards")
    board = evaluate_step(wanted, run, shards)
    assert [task.task for task in board.tasks] == TASKS
    first = {task.task: task.rows[0].name for task in board.tasks}
    assert first == {**dict.fromkeys(TASKS, "model"), "medxpertqa_mm": "text-only"}
    assert all(task.cells[0].estimate.n == 6 for task in board.tasks)
    assert not any(request.pictures for request in scripted if "medxpertqa" in request.id)
    assert not any("stray" in request.id for request in scripted)  # own, of a benchmark's source
    notes = {task.task: task.notes for task in board.tasks}
    assert any("not asked in this way" in note for note in notes["medxpertqa_mm"])
    assert (
        Scoreboard.from_dict(json.loads((run / "evaluation" / "scores.json").read_text())) == board
    )
    assert json.loads((run / "evaluation" / "slake_en" / "data.json").read_text())["questions"]
    task_results(board), headline(board)  # the report reads such a board
    asked = len(scripted)
    evaluate_step(wanted, run, shards)
    assert len(scripted) == asked  # resumed: nothing is asked twice


def test_the_report_shows_answers_with_the_images_of_benchmarks(
    data: Path, tmp_path: Path, scripted: list[Request]
) -> None:
    from infimed.pipeline.report_examples import answer_examples

    wanted = recipe(data, "evaluation.tasks=[slake_en]", "evaluation.processes=1")
    run = run_folder(tmp_path, wanted)
    keep_benchmarks(wanted, run)
    shards = open_shards(run / "shards")
    evaluate_step(wanted, run, shards)
    both = evaluation_shards(run, shards)
    made = answer_examples(both, run / "evaluation" / "samples.jsonl", "model", seed=1)
    assert made and all(
        picture.uri and not picture.problem for one in made for picture in one.images
    )
    assert any(one.images for one in made)
