"""The scoreboard in the terminal: whole words at 80 columns."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from infimed.core.files import read_json
from infimed.evaluation.report import Scoreboard
from infimed.pipeline.headline import headline
from tests.pipeline.fake_run import make_run


def test_scores_fit_a_terminal_of_80_columns_without_broken_words(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    board = Scoreboard.from_dict(read_json(run / "evaluation" / "scores.json"))
    console = Console(width=80, record=True, highlight=False, file=(tmp_path / "o").open("w"))
    console.print(headline(board))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    for task in board.tasks:
        assert task.title in text
        for name in ("overall", "type=presence", "type=laterality"):
            if any(column.name == name for column in task.columns):
                mean = task.cell("model", name).estimate.mean
                (line,) = [
                    one
                    for one in text.split(task.title)[1].splitlines()[:20]
                    if one.strip().startswith(name.removeprefix("type="))
                ][:1]
                assert f"{100 * mean:.1f}" in line
    assert "model minus image-zeroed:" in text


def test_a_score_that_needs_a_judge_says_so(tmp_path: Path) -> None:
    from infimed.evaluation.runner import evaluate, score
    from infimed.inference.stubs import constant
    from tests.evaluation.fakes import FakeShards
    from tests.evaluation.judging.stubs import rubric_record

    shards = FakeShards(rubric_record(n, [("alpha", 1.0)]) for n in range(3))
    for label in ("model", "trained-blind"):
        evaluate(constant("alpha"), shards, ["healthbench"], tmp_path, label=label)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(headline(score(tmp_path, shards, ["healthbench"], ["model", "trained-blind"])))
    text = console.export_text()
    assert "judge?" in text and "infimed judge" in text and "[, ]" not in text
