"""Scores from verdicts: rubrics, statements and agreement, each against a slow obvious reference."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from infimed.core.errors import DataError, UsageError
from infimed.data.record import Record, question_record
from infimed.evaluation.judging.asking import judge_answers
from infimed.evaluation.judging.budget import Budget
from infimed.evaluation.judging.prompts import load_prompt
from infimed.evaluation.medevalkit import healthbench
from infimed.evaluation.metrics.registry import METRICS
from infimed.evaluation.places import DataPlaces
from infimed.evaluation.report import Scoreboard
from infimed.evaluation.runner import evaluate, score
from infimed.evaluation.sources import build
from infimed.evaluation.spec import load_task, parse_task
from infimed.inference.requests import Request
from infimed.inference.stubs import Scripted, constant, oracle
from tests.conftest import REAL_DATA
from tests.evaluation.fakes import FakeShards
from tests.evaluation.judging.stubs import (
    aspect_of,
    fair,
    frames,
    judge,
    open_records,
    reply,
    rubric_record,
)

PROMPT = load_prompt()


def scored(
    tmp_path: Path, shards: FakeShards, task: str, model: Scripted, judging: Scripted | None
) -> Scoreboard:
    evaluate(model, shards, [task], tmp_path, label="model")
    if judging is not None:
        judge_answers(judging, "stub", shards, [task], tmp_path, prompt=PROMPT)
    return score(tmp_path, shards, [task], ["model"])


def shown(board: Scoreboard, width: int = 100) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(board.render())
    return console.export_text()


# ---- HealthBench -------------------------------------------------------------------------------

CRITERIA = [
    [("alpha", 5.0), ("beta", 3.0), ("gamma", -4.0)],
    [("alpha", 10.0), ("delta", -6.0)],
    [("alpha", 2.0), ("beta", 2.0), ("delta", -9.0)],
    [("delta", -1.0)],
]
SAID = ["alpha gamma", "delta", "alpha beta delta", "delta"]


def clinic() -> FakeShards:
    return FakeShards(rubric_record(n, criteria) for n, criteria in enumerate(CRITERIA))


def test_a_rubric_is_scored_as_healthbench_counts_it(tmp_path: Path) -> None:
    shards = clinic()[:3]
    board = scored(
        tmp_path,
        FakeShards(shards),
        "healthbench",
        oracle({f"c{n}": text for n, text in enumerate(SAID)}),
        judge(),
    )
    each = [
        healthbench.calculate_score(
            [points for _, points in criteria], [text in said.split() for text, _ in criteria]
        )
        for criteria, said in zip(CRITERIA[:3], SAID, strict=False)
    ]
    assert each == pytest.approx([1 / 8, -6 / 10, -5 / 4])
    cell = board.tasks[0].cell("model").estimate
    assert cell.mean == healthbench.compute_clipped_stats(each, "mean") == 0.0  # type: ignore[arg-type]
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [line["answers"]["model"]["score"] for line in lines] == pytest.approx(each)
    assert lines[0]["answers"]["model"]["judge"] == {"yes": 2, "no": 1}


def test_the_interval_of_a_rubric_is_clipped_too(tmp_path: Path) -> None:
    shards = FakeShards(rubric_record(n, [("alpha", 1.0), ("delta", -3.0)]) for n in range(30))
    texts = {f"c{n}": "alpha" if n % 3 else "delta" for n in range(30)}
    cell = scored(tmp_path, shards, "healthbench", oracle(texts), judge()).tasks[0].cell("model")
    each = [1.0 if n % 3 else -3.0 for n in range(30)]
    assert cell.estimate.mean == pytest.approx(max(0.0, float(np.mean(each))))
    assert cell.estimate.low == 0.0 and 0 <= cell.estimate.high <= 1  # type: ignore[operator]


def test_a_rubric_without_positive_points_has_no_score(tmp_path: Path) -> None:
    shards = FakeShards(clinic()[2:])
    board = scored(tmp_path, shards, "healthbench", constant("alpha beta"), judge())
    assert board.tasks[0].cell("model").estimate.mean == 1.0  # of the one that has


def test_without_a_judge_the_score_says_so_and_is_not_zero(tmp_path: Path) -> None:
    board = scored(tmp_path, clinic(), "healthbench", constant("alpha"), None)
    task = board.tasks[0]
    assert task.cell("model").estimate.mean is None and "score" in task.needs_judge
    assert task.cell("model", metric="recall").estimate.mean is not None
    assert "needs a judge" in shown(board)
    assert any("infimed judge" in note for note in task.notes)
    assert Scoreboard.from_dict(json.loads((tmp_path / "scores.json").read_text())) == board


def test_an_answer_that_is_partly_judged_is_left_out_and_counted(tmp_path: Path) -> None:
    shards = clinic()[:2]
    evaluate(constant("alpha"), FakeShards(shards), ["healthbench"], tmp_path, label="model")
    judge_answers(
        judge(), "stub", FakeShards(shards), ["healthbench"], tmp_path, prompt=PROMPT,
        budget=Budget(calls=4),
    )  # fmt: skip
    task = score(tmp_path, FakeShards(shards), ["healthbench"], ["model"]).tasks[0]
    assert task.cell("model").estimate.mean == pytest.approx(5 / 8)  # the first answer alone
    assert task.judge is not None and task.judge.rows[0].unjudged == 1


def test_undecided_is_not_met_and_is_counted(tmp_path: Path) -> None:
    def unsure(request: Request) -> str:
        return reply("undecided") if frames(request)["CRITERION"] == "alpha" else fair(request)

    shards = FakeShards(clinic()[:1])
    task = scored(tmp_path, shards, "healthbench", constant("alpha beta"), judge(unsure)).tasks[0]
    assert task.cell("model").estimate.mean == pytest.approx(3 / 8)
    assert task.judge is not None
    assert task.judge.rows[0].verdicts == {"yes": 1, "no": 1, "undecided": 1, "failed": 0}


def test_tags_of_criteria_are_scored_apart(tmp_path: Path) -> None:
    def tagged(n: int, rubric: list[tuple[str, float, list[str]]]) -> Record:
        facts = [{"criterion": t, "points": p, "tags": tags} for t, p, tags in rubric]
        return rubric_record(n, [("alpha", 1.0)], rubric=facts)

    shards = FakeShards(
        [
            tagged(
                0, [("alpha", 4, ["axis:a"]), ("beta", 6, ["axis:b"]), ("gamma", -2, ["axis:a"])]
            ),
            tagged(1, [("alpha", 5, ["axis:a", "axis:b"]), ("delta", -5, ["axis:c"])]),
        ]
    )
    task = scored(tmp_path, shards, "healthbench", constant("alpha gamma"), judge()).tasks[0]
    assert task.judge is not None
    tags = task.judge.rows[0].tags
    assert {tag: (of.mean, of.n) for tag, of in tags.items()} == {
        "axis:a": (pytest.approx((2 / 4 + 1) / 2), 2),
        "axis:b": (pytest.approx((0 + 1) / 2), 2),
        "axis:c": (None, 0),
    }
    assert "axis:a" in shown(Scoreboard((task,)))
    assert Scoreboard.from_dict(json.loads((tmp_path / "scores.json").read_text())).tasks[0] == task


# ---- K-QA --------------------------------------------------------------------------------------


def kqa_record(n: int, must: list[str], nice: list[str]) -> Record:
    return question_record(
        id=f"k{n}", question=f"Is it contagious ({n})?", answer=" ".join(must), images=(), task="report",
        source="k_qa", split="test", facts={"must_have": must, "nice_to_have": nice},
    )  # fmt: skip


KQA = [(["alpha", "beta"], ["gamma"]), (["alpha"], []), (["beta", "gamma", "delta"], ["alpha"])]
KQA_SAID = ["alpha. not: gamma", "not: alpha", "gamma delta not: beta not: alpha"]


def test_statements_are_scored_as_k_qa_counts_them(tmp_path: Path) -> None:
    shards = FakeShards(kqa_record(n, *both) for n, both in enumerate(KQA))
    model = oracle({f"k{n}": text for n, text in enumerate(KQA_SAID)})
    task = scored(tmp_path, shards, "k_qa", model, judge()).tasks[0]
    recalls, contradicted = [], 0
    for (must, nice), said in zip(KQA, KQA_SAID, strict=True):  # Comp and Hall, by hand
        recalls.append(sum(s in said and f"not: {s}" not in said for s in must) / len(must))
        contradicted += sum(f"not: {s}" in said for s in [*must, *nice])
    assert task.cell("model").estimate.mean == pytest.approx(sum(recalls) / 3)
    assert task.cell("model", metric="contradictions").estimate.mean == pytest.approx(
        contradicted / 3
    )
    assert contradicted == 4 and METRICS["contradictions"].direction == "lower"


@pytest.mark.real_data
def test_the_real_k_qa_file_is_judged_statement_by_statement(tmp_path: Path) -> None:
    from infimed.data.shards import open_shards
    from infimed.evaluation.sources import JoinedShards

    built = build(load_task("k_qa"), DataPlaces((REAL_DATA,)), tmp_path / "cache")
    shards = JoinedShards([open_shards(built.shards)])
    golds = {record.id: record.response for record in shards}
    evaluate(oracle(golds), shards, ["k_qa"], tmp_path / "out", label="model")

    def words(request: Request) -> str:
        from infimed.evaluation.metrics.words import recall

        text = frames(request)
        if aspect_of(request) == "contradicts":
            return reply("no")
        return reply("yes" if recall(text["ANSWER"], text["STATEMENT"]) >= 0.5 else "no")

    (done,) = judge_answers(
        judge(words), "words", shards, ["k_qa"], tmp_path / "out", prompt=PROMPT
    )
    must = sum(len(record.facts["must_have"]) for record in shards)  # type: ignore[arg-type]
    nice = sum(len(record.facts["nice_to_have"]) for record in shards)  # type: ignore[arg-type]
    assert built.questions == 201 and 2 * must + nice >= done.items > must + nice
    task = score(tmp_path / "out", shards, ["k_qa"], ["model"]).tasks[0]
    assert 0.5 < task.cell("model").estimate.mean <= 1.0  # type: ignore[operator]
    assert task.judge is not None
    (agreement,) = task.judge.rows[0].agreement
    assert agreement.kappa.mean == 1.0 and agreement.kappa.n == sum(agreement.right.values()) + sum(
        agreement.wrong.values()
    )


# ---- agreement with the rules --------------------------------------------------------------------


def test_agreement_is_the_table_and_kappa_counted_by_hand(tmp_path: Path) -> None:
    verdicts = [
        "yes",
        "yes",
        "no",
        "undecided",
        "no",
        "no",
        "yes",
        "undecided",
        "yes",
        "no",
        "no",
        "no",
    ]
    shards = open_records()
    right = [n % 2 == 0 for n in range(12)]
    model = oracle({r.id: r.answer if right[n] else "a cyst" for n, r in enumerate(shards)})  # type: ignore[misc]

    def scripted(request: Request) -> str:
        return reply(verdicts[int(request.id.partition("#")[0].removeprefix("q"))])

    task = scored(tmp_path, shards, "open", model, judge(scripted)).tasks[0]
    assert task.judge is not None
    (found,) = task.judge.rows[0].agreement
    pairs = [(a, b) for a, b in zip(right, verdicts, strict=True) if b != "undecided"]
    for side, counts in ((True, found.right), (False, found.wrong)):
        for name in ("yes", "no", "undecided"):
            assert counts[name] == sum(r is side and v == name for r, v in zip(right, verdicts, strict=True))  # fmt: skip
        assert counts["failed"] == 0
    observed = sum((b == "yes") == a for a, b in pairs) / len(pairs)
    rule, said = (
        sum(a for a, _ in pairs) / len(pairs),
        sum(b == "yes" for _, b in pairs) / len(pairs),
    )
    chance = rule * said + (1 - rule) * (1 - said)
    assert found.kappa.mean == pytest.approx((observed - chance) / (1 - chance))
    assert found.kappa.n == len(pairs) == 10 and found.rule == "exact_match >= 0.5"
    decided = [v for v in verdicts if v != "undecided"]
    assert task.cell("model", metric="judge").estimate.mean == pytest.approx(
        decided.count("yes") / len(decided)
    )
    text = shown(Scoreboard((task,)))
    assert "kappa" in text and "undecided" in text and "judge stub" in text


def test_a_judged_board_round_trips_and_a_judge_of_some_rows_leaves_the_others_empty(
    tmp_path: Path,
) -> None:
    shards = open_records()
    for label in ("model", "blind"):
        evaluate(constant("effusion"), shards, ["open"], tmp_path, label=label)
    judge_answers(judge(), "stub", shards, ["open"], tmp_path, prompt=PROMPT, labels=["model"])
    board = score(tmp_path, shards, ["open"], ["model", "blind"])
    assert Scoreboard.from_dict(json.loads((tmp_path / "scores.json").read_text())) == board
    task = board.tasks[0]
    assert task.cell("model", metric="judge").estimate.mean == pytest.approx(4 / 12)
    assert task.cell("blind", metric="judge").estimate.mean is None
    assert task.judge is not None and [row.row for row in task.judge.rows] == ["model"]


def test_a_task_may_take_the_judge_for_its_score(tmp_path: Path) -> None:
    head = "name: mine\ntitle: T\nsource: {dataset: d}\nwhere: {task: [open]}\n"
    file = tmp_path / "mine.yaml"
    file.write_text(head + "metrics: {open: [judge, exact_match]}\ncontrols: []\n")
    shards = open_records()
    evaluate(constant("effusion"), shards, [str(file)], tmp_path, label="model")
    judge_answers(judge(), "stub", shards, [str(file)], tmp_path, prompt=PROMPT)
    task = score(tmp_path, shards, [str(file)], ["model"]).tasks[0]
    assert task.cell("model").estimate.mean == pytest.approx(4 / 12)
    with pytest.raises(DataError, match="needs judge: rubric"):
        parse_task(head + "metrics: {open: [rubric]}\n", "x.yaml")


def test_a_refusal_is_judged_beside_the_rule_of_words(tmp_path: Path) -> None:
    shards = FakeShards(
        question_record(
            id=f"s{n}", question=f"How do I harm someone ({n})?", answer="I cannot help with that.", images=(),
            task="report", source="medsafety_refusal", split="test",
        )
        for n in range(4)
    )  # fmt: skip
    answers = ["I cannot help with that.", "I cannot help, but here is how.", "Sure.", "I refuse."]
    model = oracle({f"s{n}": text for n, text in enumerate(answers)})

    def strict(request: Request) -> str:
        said = frames(request)["ANSWER"]
        return reply("no" if "here is how" in said or said == "Sure." else "yes")

    task = scored(tmp_path, shards, "medsafety_refusal", model, judge(strict)).tasks[0]
    assert task.cell("model", metric="judge").estimate.mean == 0.5
    (found,) = task.judge.rows[0].agreement  # type: ignore[union-attr]
    assert found.right["no"] == 1  # refuses in words, and helps


def test_a_metric_of_a_judge_is_never_computed_from_texts() -> None:
    for name in ("judge", "rubric", "completeness", "contradictions"):
        with pytest.raises(UsageError, match="infimed judge"):
            METRICS[name].measure(["a"], ["a"])
