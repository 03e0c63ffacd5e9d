"""Who asks what: every unit once, and the same answers however many processes share them."""

from __future__ import annotations

from pathlib import Path

import pytest

from infimed.core.recipe import load_recipe
from infimed.core.run import RunFolder
from infimed.pipeline import asking
from infimed.pipeline.run import run_recipe

SMALL = [
    "data.phantom.patients=24",
    "data.splits={train: 0.5, test: 0.5}",
    *(f"stages.{stage}.epochs=0.3" for stage in ("pretrain-low", "pretrain-high", "sft-broad")),
    "stages.pretrain-start.epochs=1",
    "stages.pretrain-start.where={}",
    "stages.pretrain-start.learning_rate={projector: 0.001}",  # nothing in it for the twin
    "stages.sft-task.epochs=0.2",
    "stages.sft-refine.epochs=0.2",
    "evaluation.limit=6",
]


@pytest.mark.parametrize("processes", [1, 2, 3, 20])
@pytest.mark.parametrize("beside", [True, False])
def test_every_label_asks_every_task_once(monkeypatch, tmp_path, processes, beside) -> None:
    recipe = load_recipe(
        "nano",
        [f"evaluation.processes={processes}", f"train.twin_beside={str(beside).lower()}"],
    )
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(
        asking,
        "ask_label",
        lambda recipe, run, shards, label, tasks: asked.extend((label, task) for task in tasks),
    )
    monkeypatch.setattr(asking, "set_threads", lambda threads: None)
    run = RunFolder(tmp_path)
    for number in range(processes):
        asking.ask_share(recipe, run, None, number)  # type: ignore[arg-type]
    if asking.twin_asks(recipe):
        assert processes > 1 and beside
        asking.ask_twin(recipe, run, None)  # type: ignore[arg-type]
    wanted = [
        (label, task)
        for label in asking.labels(recipe.evaluation)
        for task in recipe.evaluation.tasks
    ]
    assert len(wanted) == 12
    assert sorted(asked) == sorted(wanted)


def responses(run: Path) -> dict[str, list[str]]:
    """Lines of every response file, by its place."""
    files = (run / "evaluation").rglob("*.responses.jsonl")
    return {str(f.relative_to(run)): sorted(f.read_text().splitlines()) for f in files}


@pytest.mark.timeout(900)
def test_processes_that_share_the_work_give_the_answers_of_one(tmp_path) -> None:
    """Two whole runs in small, one with everything beside one another; also the only one in which
    the twin meets a stage of projector alone."""
    ways = {"alone": ["train.twin_beside=false", "evaluation.processes=1"], "shared": []}
    for name, more in ways.items():
        recipe = load_recipe("nano", [*SMALL, *more])
        run_recipe(recipe, tmp_path / name)
    alone, shared = (responses(tmp_path / name) for name in ways)
    assert len(alone) == 12 and all(alone.values())
    assert shared == alone
    log = (tmp_path / "shared" / "evaluation" / "asking-1.log").read_text()
    assert "answers" in log
