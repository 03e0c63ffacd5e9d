"""Asking and scoring end to end with stub models: oracle, empty, random, constant, blind."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from infimed.core.errors import DataError, UsageError
from infimed.core.statistics import (
    clustered_bootstrap,
    paired_clustered_bootstrap,
    resample_counts,
)
from infimed.evaluation.metrics.bleu import bleu_of_sums, ngram_counts
from infimed.evaluation.report import Scoreboard, percent
from infimed.evaluation.runner import evaluate, score
from infimed.evaluation.sample import make_samples
from infimed.evaluation.spec import load_task
from infimed.inference.requests import Request, Response
from infimed.inference.stubs import Scripted, blind, constant, oracle, random_answers
from tests.evaluation.fakes import FakeShards, clinic, image, radiology

PHANTOM = ["phantom_closed", "phantom_choice", "phantom_report"]


def knows_all(shards: FakeShards, tasks: list[str]) -> Scripted:
    answers = {}
    for name in tasks:
        spec = load_task(name)
        chosen = [r for r in shards if r.split == "test" and r.task in spec.where["task"]]
        answers |= {s.id: s.gold_letter or s.gold for s in make_samples(chosen, spec)}
    return oracle(answers)


def run(model, shards, tasks: list[str], out: Path, **options) -> Scoreboard:
    evaluate(model, shards, tasks, out, label="model", **options)
    return score(out, shards, tasks, ["model"])


def test_the_oracle_has_the_best_score_in_every_task(tmp_path: Path) -> None:
    shards = clinic()
    board = run(knows_all(shards, PHANTOM), shards, PHANTOM, tmp_path)
    for task in board.tasks:
        assert task.cell("model").estimate.mean == 1.0
        assert task.cell("model").unparsed == 0.0


def test_an_empty_answer_has_the_worst_score_and_is_unparsed(tmp_path: Path) -> None:
    board = run(constant(""), clinic(), PHANTOM, tmp_path)
    for task in board.tasks:
        assert task.cell("model").estimate.mean == 0.0
        assert task.cell("model").unparsed == 1.0


def test_random_letters_score_chance(tmp_path: Path) -> None:
    estimate = (
        run(random_answers(), clinic(600), ["phantom_choice"], tmp_path)
        .tasks[0]
        .cell("model")
        .estimate
    )
    assert estimate.low <= 0.25 <= estimate.high  # type: ignore[operator]


def test_a_constant_letter_scores_that_letters_share(tmp_path: Path) -> None:
    shards = clinic(200)
    samples = make_samples(
        [r for r in shards if r.task == "choice" and r.split == "test"], load_task("phantom_choice")
    )
    share = sum(s.gold_letter == "B" for s in samples) / len(samples)
    board = run(constant("B"), shards, ["phantom_choice"], tmp_path)
    assert board.tasks[0].cell("model").estimate.mean == pytest.approx(share)


def test_cells_equal_the_bootstrap_of_the_sample_scores(tmp_path: Path) -> None:
    shards = radiology()
    evaluate(
        random_answers(words=("yes", "no", "axial")),
        shards,
        ["vqa_rad_disjoint"],
        tmp_path,
        label="model",
    )
    evaluate(blind(), shards, ["vqa_rad_disjoint"], tmp_path, label="other", no_images=True)
    task = score(tmp_path, shards, ["vqa_rad_disjoint"], ["model", "other"]).tasks[0]
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    eyes = [line for line in lines if line["type"] in ("MODALITY", "PLANE", "ORGAN")]
    for column, chosen in (("overall", lines), ("subset=needs_eyes", eyes)):
        groups = [line["group"] for line in chosen]
        scores = {
            name: [line["answers"][name]["score"] for line in chosen] for name in ("model", "other")
        }
        assert task.cell("model", column).estimate == clustered_bootstrap(scores["model"], groups)
        assert task.difference("other", column).estimate == paired_clustered_bootstrap(
            scores["model"], scores["other"], groups
        )


def test_the_table_has_the_rows_and_columns_that_matter(tmp_path: Path) -> None:
    shards = radiology()
    board = run(constant("yes"), shards, ["vqa_rad_disjoint"], tmp_path)
    task = board.task("vqa_rad_disjoint")
    assert [row.name for row in task.rows] == [
        "model",
        "majority",
        "majority by type",
        "question-only linear",
    ]
    names = {column.name for column in task.columns}
    assert {"overall", "kind=closed", "kind=open", "subset=needs_eyes", "type=PLANE"} <= names
    assert task.difference("majority", "kind=closed").estimate.low is not None


def test_findings_are_cut_by_size(tmp_path: Path) -> None:
    task = run(constant("yes"), clinic(), ["phantom_closed"], tmp_path).tasks[0]
    small, large = (
        task.cell("model", "subset=small_findings"),
        task.cell("model", "subset=large_findings"),
    )
    assert small.estimate.n + large.estimate.n == task.cell("model").estimate.n
    bucket = task.cell("model", "finding size (image width)=<0.04")
    assert bucket.estimate == small.estimate


def test_a_question_without_yes_or_no_is_scored_by_its_words(tmp_path: Path) -> None:
    task = run(constant("ct"), radiology(), ["vqa_rad_disjoint"], tmp_path).tasks[0]
    cell = task.cell("model", "type=ABN")
    assert 0 < cell.estimate.mean < 1 and cell.unparsed == 0  # type: ignore[operator]
    assert task.cell("model", "type=PRES").unparsed == 1


def test_asking_again_asks_nothing_and_scoring_again_writes_the_same_bytes(tmp_path: Path) -> None:
    shards = clinic()
    asked: list[str] = []
    model = Scripted("counting", lambda request: asked.append(request.id) or "yes")
    for _ in range(2):
        evaluate(model, shards, ["phantom_closed"], tmp_path, label="model")
        score(tmp_path, shards, ["phantom_closed"], ["model"])
        files = {p.name: p.read_bytes() for p in tmp_path.glob("s*.*")}
    assert len(asked) == len(set(asked)) == 30
    assert set(files) == {"scores.json", "scores.csv", "samples.jsonl"}
    score(tmp_path, shards, ["phantom_closed"], ["model"])
    assert files == {p.name: p.read_bytes() for p in tmp_path.glob("s*.*")}


def test_a_killed_evaluation_ends_with_the_same_scores(tmp_path: Path) -> None:
    class Dying(Scripted):
        def respond(self, requests: Sequence[Request]) -> Iterator[Response]:
            for number, response in enumerate(super().respond(requests)):
                if requests[0].id.startswith("p8") and number == 3:
                    raise KeyboardInterrupt
                yield response

    shards = clinic()
    answer = random_answers(4).answer
    with pytest.raises(KeyboardInterrupt):
        evaluate(Dying("m", answer, 4), shards, ["phantom_closed"], tmp_path / "cut", label="model")
    run(Scripted("m", answer, 4), shards, ["phantom_closed"], tmp_path / "cut")
    run(Scripted("m", answer, 4), shards, ["phantom_closed"], tmp_path / "whole")
    for name in (
        "scores.json",
        "phantom_closed/model.responses.jsonl",
        "phantom_closed/model.run.json",
    ):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_failed_answers_count_as_wrong_and_their_share_is_shown(tmp_path: Path) -> None:
    class Half(Scripted):
        def respond(self, requests: Sequence[Request]) -> Iterator[Response]:
            for index, response in enumerate(super().respond(requests)):
                yield replace(response, status="error", error="gone") if index % 2 else response

    shards = clinic()
    always = Half("half", knows_all(shards, ["phantom_closed"]).answer, 1000)
    results = evaluate(always, shards, ["phantom_closed"], tmp_path, label="model")
    assert results[0].errors == 15
    cell = score(tmp_path, shards, ["phantom_closed"], ["model"]).tasks[0].cell("model")
    assert (cell.estimate.mean, cell.errors, cell.unparsed) == (0.5, 0.5, 0.0)


def test_answers_of_another_model_under_the_same_label_are_not_used(tmp_path: Path) -> None:
    shards = clinic()
    run(constant("yes"), shards, ["phantom_closed"], tmp_path)
    board = run(constant("nothing"), shards, ["phantom_closed"], tmp_path)
    assert board.tasks[0].cell("model").estimate.mean == 0.0


def test_missing_answers_count_as_failed(tmp_path: Path) -> None:
    shards = clinic()
    run(constant("yes"), shards, ["phantom_closed"], tmp_path)
    (tmp_path / "phantom_closed" / "model.responses.jsonl").unlink()
    assert (
        score(tmp_path, shards, ["phantom_closed"], ["model"]).tasks[0].cell("model").errors == 1.0
    )


@pytest.mark.parametrize(
    ("label", "tasks", "error"),
    [
        ("../up", ["phantom_closed"], UsageError),
        ("ok", ["phantom_clsed"], UsageError),
        ("ok", ["vqa_rad_disjoint"], DataError),
    ],
)
def test_bad_labels_and_tasks_are_refused_before_anything_is_asked(
    tmp_path: Path, label, tasks, error
) -> None:
    with pytest.raises(error):
        evaluate(constant("x"), clinic(4), tasks, tmp_path, label=label)
    assert list(tmp_path.iterdir()) == []


def test_scoring_what_was_not_asked_says_so(tmp_path: Path) -> None:
    run(constant("x"), clinic(4), ["phantom_closed"], tmp_path)
    with pytest.raises(DataError, match="'blind' was not asked"):
        score(tmp_path, clinic(4), ["phantom_closed"], ["model", "blind"])


def test_rows_that_were_asked_different_questions_are_not_compared(tmp_path: Path) -> None:
    shards = clinic()
    evaluate(constant("x"), shards, ["phantom_closed"], tmp_path, label="model")
    evaluate(constant("x"), shards, ["phantom_closed"], tmp_path, label="few", limit=5)
    with pytest.raises(DataError, match="other questions"):
        score(tmp_path, shards, ["phantom_closed"], ["model", "few"])


def test_other_shards_than_those_asked_are_refused(tmp_path: Path) -> None:
    run(constant("x"), clinic(8), ["phantom_closed"], tmp_path)
    with pytest.raises(DataError, match="do not hold the question"):
        score(tmp_path, clinic(4), ["phantom_closed"], ["model"])


def test_controls_without_training_records_are_left_out_with_a_note(tmp_path: Path) -> None:
    shards = FakeShards(r for r in clinic() if r.split == "test")
    task = run(constant("yes"), shards, ["phantom_closed"], tmp_path).tasks[0]
    assert [row.name for row in task.rows] == ["model"]
    assert any("majority" in note for note in task.notes)


def test_the_scoreboard_round_trips_through_json_and_fills_its_csv(tmp_path: Path) -> None:
    board = run(constant("yes"), clinic(), PHANTOM, tmp_path)
    assert Scoreboard.from_dict(json.loads((tmp_path / "scores.json").read_text())) == board
    rows = list(csv.DictReader(io.StringIO((tmp_path / "scores.csv").read_text())))
    assert len(rows) == sum(len(t.cells) + len(t.differences) for t in board.tasks)
    assert {row["row"] for row in rows} >= {"model", "majority"}


def test_the_rendered_tables_show_intervals_differences_and_unparsed(tmp_path: Path) -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(run(constant("yes"), clinic(), ["phantom_closed"], tmp_path).render())
    text = console.export_text()
    assert (
        "unparsed %" in text and "minus" in text and "[" in text and "question-only linear" in text
    )


def test_an_interval_that_excludes_zero_is_never_rounded_onto_it() -> None:
    estimate = clustered_bootstrap([0.1], ["a"])
    assert (
        percent(replace(estimate, mean=0.1, low=0.002, high=0.3), signed=True)
        == "+10.0 [+0.2, +30.0]"
    )


def test_an_unreadable_image_is_one_failed_answer(tmp_path: Path, make_model) -> None:
    import torch

    from infimed.inference.local import LocalModel
    from infimed.model.processing import Processor
    from tests.conftest import tiny_tokenizer_json

    torch.manual_seed(0)
    local = LocalModel(make_model(), Processor(tiny_tokenizer_json(), 32, 16), "tiny")
    shards = clinic(6)
    shards[0] = replace(shards[0], images=(image("broken"),))
    results = evaluate(local, shards, PHANTOM[:2], tmp_path, label="model", limit=4)
    assert [result.samples for result in results] == [4, 3]
    blank = evaluate(
        local, shards, PHANTOM[:2], tmp_path, label="zeroed", blank_images=True, limit=4
    )
    assert sum(result.errors for result in blank) == 0
    assert sum(result.errors for result in results) <= 1
    score(tmp_path, shards, PHANTOM[:2], ["model", "zeroed"])


def test_controls_learn_from_the_splits_that_were_trained_on(tmp_path: Path) -> None:
    shards = clinic()
    relabelled = FakeShards([replace(r, split="dev") if r.split == "train" else r for r in shards])
    task = ["phantom_closed"]
    evaluate(constant("yes"), relabelled, task, tmp_path, label="model")
    without = score(tmp_path, relabelled, task, ["model"]).tasks[0]
    with_dev = score(tmp_path, relabelled, task, ["model"], prior_splits=("train", "dev")).tasks[0]
    assert "majority" not in [row.name for row in without.rows]
    assert "majority" in [row.name for row in with_dev.rows]


def test_every_set_of_questions_has_both_scores(tmp_path: Path) -> None:
    board = run(constant(""), clinic(200), ["phantom_choice"], tmp_path)
    task = board.tasks[0]
    for column in task.columns:
        ours, theirs = (
            task.cell("model", column.name),
            task.cell("model", column.name, "medevalkit"),
        )
        assert ours.estimate.mean == 0.0 and theirs.estimate.n == ours.estimate.n
    overall = task.cell("model", metric="medevalkit").estimate
    assert overall.low is not None and overall.low <= 0.25 <= overall.high  # type: ignore[operator]
    console = Console(width=120, record=True)
    console.print(board.render())
    assert "medevalkit" in console.export_text()
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    scores = [line["answers"]["model"]["medevalkit"] for line in lines]
    assert sum(scores) / len(scores) == pytest.approx(overall.mean)


def test_a_task_without_medevalkits_rules_has_no_column_of_them(tmp_path: Path) -> None:
    shards = FakeShards(
        replace(record, task="caption") for record in clinic() if record.task == "report"
    )
    board = run(constant("x"), shards, ["caption"], tmp_path)
    assert board.tasks[0].cell("model", metric="medevalkit").estimate.mean is None
    console = Console(width=120, record=True)
    console.print(board.render())
    assert "medevalkit" not in console.export_text()


def test_the_bleu_of_a_set_is_resampled_by_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = load_task("phantom_report")
    wanted = spec.model_copy(update={"metrics": {"report": ("rouge_l", "bleu_4", "cider")}})
    monkeypatch.setattr("infimed.evaluation.scoring.load_task", lambda name: wanted)
    shards = clinic()
    said = next(r.response for r in shards if r.task == "report")
    task = run(constant(said), shards, ["phantom_report"], tmp_path).tasks[0]
    reports = [r for r in shards if r.task == "report" and r.split == "test"]
    counts = np.array([ngram_counts(said, r.response) for r in reports], dtype=float)
    found = task.cell("model", metric="bleu_4").estimate
    assert found.mean == pytest.approx(float(bleu_of_sums(counts.sum(axis=0), 4)))
    draws = np.concatenate(list(resample_counts(len(reports), 2000, 0))) @ counts
    low, high = np.quantile(bleu_of_sums(draws, 4), [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high))
    assert 0 < task.cell("model", metric="cider").estimate.mean < 10  # type: ignore[operator]


def test_a_chinese_decision_is_right_by_its_meaning(tmp_path: Path) -> None:
    shards = FakeShards(
        replace(record, answer="不是" if record.answer == "no" else "是的")
        for record in clinic()
        if record.task == "closed"
    )
    board = run(knows_all(shards, ["phantom_closed"]), shards, ["phantom_closed"], tmp_path / "own")
    assert board.tasks[0].cell("model").estimate.mean == 1.0
    task = run(constant("没有"), shards, ["phantom_closed"], tmp_path / "no").tasks[0]
    share = sum(r.answer == "不是" for r in shards if r.split == "test") / 30
    assert task.cell("model").estimate.mean == pytest.approx(share)
