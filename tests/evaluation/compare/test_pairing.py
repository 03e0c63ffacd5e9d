"""Paired differences: equal to the bootstrap of single scores, and only on equal questions."""

from __future__ import annotations

import json
from itertools import product
from math import comb
from pathlib import Path

import pytest

from infimed.core.errors import DataError, UsageError
from infimed.core.files import read_json, write_json
from infimed.core.statistics import mcnemar_p, paired_clustered_bootstrap
from infimed.evaluation.compare.loading import name_of, read_model, read_models
from infimed.evaluation.compare.pairing import pair
from infimed.evaluation.compare.table import compare
from infimed.evaluation.compare.words import headline, warnings
from infimed.evaluation.judging.asking import judge_answers
from infimed.evaluation.judging.prompts import load_prompt
from infimed.evaluation.runner import evaluate, score
from infimed.inference.stubs import constant, random_answers
from tests.evaluation.compare.folders import TASKS, benchmarks, evaluated, knows_all, mostly_right
from tests.evaluation.fakes import FakeShards
from tests.evaluation.judging.stubs import judge, rubric_record


@pytest.fixture
def shards(tmp_path: Path):
    return benchmarks(tmp_path)


@pytest.fixture
def pairable(shards, tmp_path: Path) -> tuple[Path, Path]:
    return (
        evaluated(mostly_right(shards, 3), shards, tmp_path / "a"),
        evaluated(constant("A"), shards, tmp_path / "b"),
    )


def lines(folder: Path, task: str) -> list[dict]:
    read = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    return [line for line in read if line["task"] == task]


@pytest.mark.parametrize("task", TASKS)
def test_a_difference_is_the_paired_bootstrap_of_the_single_scores(pairable, task: str) -> None:
    a, b = (read_model(folder, name) for folder, name in zip(pairable, "ab", strict=True))
    found = pair(task, a, b)[0]
    first, second = (lines(folder, task) for folder in pairable)
    scores = [[line["answers"]["model"]["score"] for line in side] for side in (first, second)]
    groups = [line["group"] for line in first]
    assert found.estimate == paired_clustered_bootstrap(scores[0], scores[1], groups)
    assert found.reason == "" and found.model == "a" and found.reference == "b"
    alone = sum(x == 1 > y for x, y in zip(*scores, strict=True))
    assert found.only_model == alone > 0


def test_kinds_of_a_mixed_task_are_paired_apart(pairable) -> None:
    a, b = (read_model(folder, name) for folder, name in zip(pairable, "ab", strict=True))
    columns = [found.column for found in pair("slake_en", a, b)]
    assert columns == ["overall", "kind=closed", "kind=open"]
    assert [found.column for found in pair("pubmedqa", a, b)] == ["overall"]


def test_weighted_scores_are_paired_with_their_weights(tmp_path: Path) -> None:
    shards = benchmarks(tmp_path, tasks=["rad_restruct"])
    folders = [
        evaluated(model, shards, tmp_path / name, ["rad_restruct"])
        for name, model in (("a", constant("yes")), ("b", constant("no")))
    ]
    a, b = (read_model(folder, folder.name) for folder in folders)
    means = [m.tasks["rad_restruct"].scores.cell("model").estimate.mean for m in (a, b)]
    estimate = pair("rad_restruct", a, b)[0].estimate
    assert estimate is not None
    assert estimate.mean == pytest.approx(means[0] - means[1], abs=1e-9)


def slow_mid_p(first: int, second: int) -> float:
    """Every way in which the discordant questions could have fallen."""
    total = first + second
    seen = min(first, second)
    more = same = 0
    for ways in product((0, 1), repeat=total):
        count = min(sum(ways), total - sum(ways))
        more += count < seen
        same += count == seen
    return (more + same / 2) / 2**total if total else 1.0


@pytest.mark.parametrize(("first", "second"), [(a, b) for a in range(6) for b in range(6)])
def test_mcnemar_equals_counting_every_outcome(first: int, second: int) -> None:
    assert mcnemar_p(first, second)[1] == pytest.approx(slow_mid_p(first, second), abs=1e-12)


def test_mcnemar_of_large_counts_is_the_binomial_tail() -> None:
    tail = sum(comb(500, k) for k in range(211)) - comb(500, 210) / 2
    assert mcnemar_p(210, 290)[1] == pytest.approx(2 * tail / 2**500, rel=1e-9)
    assert 0 <= mcnemar_p(0, 4000)[1] < 1e-300
    with pytest.raises(ValueError, match="counts"):
        mcnemar_p(-1, 3)


def reason(*folders: Path, task: str = "pubmedqa") -> str:
    a, b = (read_model(folder, str(number)) for number, folder in enumerate(folders))
    found = pair(task, a, b)
    assert len(found) == 1 and found[0].estimate is None and found[0].verdict == ""
    return found[0].reason


def consulted(out: Path, text: str, by: str, criteria: list[tuple[str, float]]) -> Path:
    """HealthBench answered by `text`, read by the judge `by`."""
    made = FakeShards(rubric_record(n, criteria) for n in range(12))
    evaluate(constant(text), made, ["healthbench"], out, label="model")
    judge_answers(judge(name=by), by, made, ["healthbench"], out, prompt=load_prompt())
    score(out, made, ["healthbench"], ["model"])
    return out


def test_scores_of_two_judges_are_not_paired_and_a_clipped_mean_agrees(tmp_path: Path) -> None:
    criteria = [("Asks for the age", 5.0), ("Names a dose", -8.0)]
    good = consulted(tmp_path / "good", "Asks for the age", "j", criteria)
    bad = consulted(tmp_path / "bad", "Names a dose", "j", criteria)  # -1.6, stated as 0
    other = consulted(tmp_path / "other", "Asks for the age", "k", criteria)
    assert "two judges or prompts: j (" in reason(good, other, task="healthbench")
    a, b = (read_model(folder, folder.name) for folder in (good, bad))
    (found,) = pair("healthbench", a, b)
    assert found.reason == "" and found.estimate is not None and found.verdict == "better"


def test_other_questions_are_not_paired(shards, tmp_path: Path, pairable) -> None:
    less = evaluated(constant("A"), shards, tmp_path / "less", limit=5)
    assert "other questions were asked (12 and 5, 5 of them in both)" in reason(pairable[0], less)


def test_another_form_of_the_task_is_not_paired(pairable) -> None:
    path = pairable[1] / "pubmedqa" / "model.run.json"
    write_json(path, {**read_json(path), "asked_sha256": "0" * 64})
    assert "the task differs" in reason(*pairable)
    path.unlink()
    assert "run.json is missing" in reason(*pairable)


def test_changed_gold_answers_are_not_paired(pairable) -> None:
    path = pairable[1] / "samples.jsonl"
    path.write_text(path.read_text().replace('"gold": "yes"', '"gold": "maybe"'))
    assert "the data differ" in reason(*pairable)


def test_scores_that_are_not_of_these_answers_are_not_paired(pairable) -> None:
    path = pairable[1] / "samples.jsonl"
    path.write_text(path.read_text().replace('"score": 0.0', '"score": 1.0'))
    assert "disagree" in reason(*pairable)


def test_a_task_that_one_was_not_asked_is_said(shards, tmp_path: Path, pairable) -> None:
    one = evaluated(constant("A"), shards, tmp_path / "one", ["slake_en"])
    assert reason(pairable[0], one) == "1 was not asked this task"
    found = compare([read_model(pairable[0], "a"), read_model(one, "one")])
    assert found.tasks[1].overall[1] is None
    assert any("no difference, because one was not asked this task" in w for w in warnings(found))


def test_the_headline_counts_by_intervals(shards, tmp_path: Path, pairable) -> None:
    best = evaluated(knows_all(shards), shards, tmp_path / "best")
    models = [read_model(folder, folder.name) for folder in (pairable[1], best)]
    (said,) = headline(compare(models))
    assert said.startswith("best against b: better on ") and "pubmedqa" in said
    (back,) = headline(compare(models, reference="best"))
    assert back.startswith("b against best: worse on ")


def test_a_score_over_errors_says_so(shards, tmp_path: Path) -> None:
    folder = evaluated(constant("A"), shards, tmp_path / "a", ["pubmedqa"])
    store = folder / "pubmedqa" / "model.responses.jsonl"
    kept = store.read_text().splitlines(keepends=True)[3:]
    store.write_text("".join(kept))
    from infimed.evaluation.scoring import score

    score(folder, shards, ["pubmedqa"], ["model"])
    (said, *_) = warnings(compare([read_model(folder, "a")]))
    assert said.startswith("a, pubmedqa: ") and "failed or are missing" in said


def test_names_come_from_runs_and_folders_or_are_given(pairable, tmp_path: Path) -> None:
    run = tmp_path / "mine" / "evaluation-eval"
    run.mkdir(parents=True)
    assert name_of(run) == "evaluation-eval"
    (tmp_path / "mine" / "recipe.yaml").write_text("")
    assert name_of(run) == "mine"
    models = read_models([str(pairable[0]), f"other={pairable[0]}"])
    assert [model.name for model in models] == ["a", "other"]
    with pytest.raises(UsageError, match="same name"):
        read_models([str(pairable[0]), str(pairable[0])])


def test_folders_that_are_not_scored_or_damaged_are_named(pairable) -> None:
    scores = pairable[0] / "scores.json"
    held = scores.read_text()
    scores.write_text('{"tasks": [{"task": 1}]}')
    with pytest.raises(DataError, match="cannot be read as scores"):
        read_models([str(pairable[0])])
    scores.unlink()
    with pytest.raises(DataError, match=r"not scored yet[\s\S]*infimed score"):
        read_models([str(pairable[0])])
    scores.write_text(held)
    with (pairable[0] / "samples.jsonl").open("a") as handle:
        handle.write("{torn")
    with pytest.raises(DataError, match="cannot be read"):
        read_models([str(pairable[0])])


def test_unknown_reference_and_task_are_named(shards, tmp_path: Path) -> None:
    model = read_model(evaluated(random_answers(), shards, tmp_path / "r"), "r")
    with pytest.raises(UsageError, match="no such model"):
        compare([model], reference="x")
    with pytest.raises(UsageError, match="did you mean: pubmedqa"):
        compare([model], tasks=["pubmedq"])
    with pytest.raises(UsageError, match="at least one"):
        compare([])
