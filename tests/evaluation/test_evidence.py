"""What stands beside a score: a planted language prior is exposed, a model that looks is not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from infimed.core.errors import DataError, UsageError
from infimed.core.statistics import clustered_bootstrap, mcnemar
from infimed.data.record import Message
from infimed.evaluation.columns import parse_breakdowns
from infimed.evaluation.consistency import letter_bias, rephrased_sets
from infimed.evaluation.leaks import Training, scan
from infimed.evaluation.report import Scoreboard, TaskScores
from infimed.evaluation.runner import evaluate, score
from infimed.evaluation.sample import make_samples
from infimed.evaluation.session import Session, parse_controls
from infimed.evaluation.spec import load_task, parse_task
from infimed.inference.requests import Request
from infimed.inference.stubs import Scripted, constant
from tests.evaluation.fakes import FakeShards, clinic, radiology
from tests.evaluation.planted import looker, planted, prior, tasks


def board_of(
    model: Scripted, shards: FakeShards, names: list[str], out: Path, **more
) -> Scoreboard:
    labels = Session(parse_controls("all")).ask(model, shards, names, out)
    return score(out, shards, names, labels, **more)


@pytest.fixture
def boards(tmp_path: Path) -> dict[str, Scoreboard]:
    shards, seen = planted()
    names = tasks(tmp_path)
    return {
        name: board_of(model, shards, names, tmp_path / name)
        for name, model in (("looker", looker(seen)), ("prior", prior()))
    }


def test_a_language_prior_is_exposed_by_blinded_images_and_a_model_that_looks_is_not(
    boards: dict[str, Scoreboard],
) -> None:
    guessing, looking = (boards[name].task("planted_closed") for name in ("prior", "looker"))
    assert guessing.cell("model").estimate.mean > 0.75  # type: ignore[operator]
    (said,) = guessing.evidence.seeing
    assert said.verdict == "not shown to see" and "not shown to see" in said.words
    assert guessing.difference("image-zeroed").estimate.mean == 0.0
    assert guessing.difference("image-swapped").estimate.mean == 0.0
    (told,) = looking.evidence.seeing
    assert told.verdict == "better with its images"
    assert looking.cell("model").estimate.mean == 1.0
    assert looking.difference("image-swapped").estimate.low > 0  # type: ignore[operator]
    assert told.best in told.compared and "question-only linear" in told.compared


def test_a_letter_prior_is_exposed_by_rotated_options_and_a_model_that_looks_is_not(
    boards: dict[str, Scoreboard],
) -> None:
    guessing, looking = (boards[name].task("planted_choice") for name in ("prior", "looker"))
    assert guessing.cell("model").estimate.mean > 0.75  # type: ignore[operator]
    turned = guessing.evidence.rotations
    assert turned is not None
    assert turned.mean.mean == pytest.approx(0.25)  # each option stands at A once
    assert turned.same.mean == 0.0 and turned.all_right.mean == 0.0
    assert {one.letter: one.said for one in turned.letters} == {"A": 1.0, "B": 0, "C": 0, "D": 0}
    assert [one.gold for one in turned.letters] == [0.25] * 4
    assert turned.bias.mean == pytest.approx(0.75)
    assert guessing.evidence.seeing[0].verdict == "not shown to see"
    steady = looking.evidence.rotations
    assert steady is not None
    assert steady.same.mean == steady.all_right.mean == steady.mean.mean == 1.0
    assert steady.bias.mean == 0.0
    assert looking.evidence.seeing[0].verdict == "better with its images"


def test_the_table_shows_both(boards: dict[str, Scoreboard]) -> None:
    texts = {}
    for name, board in boards.items():
        console = Console(width=80, record=True)
        console.print(board.render())
        texts[name] = " ".join(console.export_text().split())
    assert "how much of it is seeing" in texts["prior"]
    assert "planted_closed: not shown to see" in texts["prior"]
    assert "planted_closed: better with its images" in texts["looker"]
    assert "same option in all orders 0.0" in texts["prior"]
    assert "same option in all orders 100.0" in texts["looker"]
    for row in ("image-swapped", "options-rotated", "prior-only"):
        assert row in texts["prior"]


def test_a_planted_leak_is_found_and_the_score_is_shown_without_it(tmp_path: Path) -> None:
    shards, seen = planted(60)
    names = tasks(tmp_path)
    tested = [r for r in shards if r.split == "test" and r.task == "closed"]
    stolen = [
        replace(r, id=f"stolen-{at}", split="train", group=f"other-{at}")
        for at, r in enumerate(tested[:7])
    ]
    clean = [r for r in shards if r.split == "train"]
    for taught, found in ((clean, 0), ([*clean, *stolen], 7)):
        out = tmp_path / f"found-{found}"
        evaluate(looker(seen), shards, names, out, label="model")
        made = scan(Training("hospital", FakeShards(taught)), shards, names, out)
        leaked = made["planted_closed"]
        assert leaked.found == found and leaked.questions == len(tested)
        task = score(out, shards, names, ["model"]).task("planted_closed")
        assert task.evidence.leakage == leaked
        lines = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
        flagged = {line["id"] for line in lines if "leak" in line and line["kind"] == "closed"}
        assert flagged == {r.id for r in tested[:found]}
    assert leaked.both == 7 and leaked.training_records == len(clean) + 7
    assert task.cell("model", "leak=found").estimate.n == 7
    assert task.cell("model", "leak=not found").estimate.n == len(tested) - 7
    console = Console(width=100, record=True)
    console.print(Scoreboard((task,)).render())
    assert f"7 of {len(tested)} questions found in hospital" in console.export_text()


def test_a_scan_is_done_once_and_never_used_for_other_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, seen = planted(20)
    names = tasks(tmp_path)[:1]
    training = Training("t", FakeShards(r for r in shards if r.split == "train"))
    evaluate(looker(seen), shards, names, tmp_path, label="model")
    first = scan(training, shards, names, tmp_path)
    monkeypatch.setattr("infimed.matching.leakage.read_side", lambda *a, **k: pytest.fail("again"))
    assert scan(training, shards, names, tmp_path) == first
    evaluate(looker(seen), shards, names, tmp_path, label="model", limit=5)
    task = score(tmp_path, shards, names, ["model"]).tasks[0]
    assert task.evidence.leakage is None
    assert any("scan again" in note for note in task.notes)


def test_training_data_without_a_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no training record"):
        scan(Training("t", FakeShards(), ("train",)), clinic(), ["phantom_closed"], tmp_path)


def test_a_damaged_scan_is_named(tmp_path: Path) -> None:
    evaluate(constant("yes"), clinic(), ["phantom_closed"], tmp_path, label="model")
    (tmp_path / "phantom_closed" / "leakage.json").write_text("{}")
    with pytest.raises(DataError, match="leakage scan cannot be read"):
        score(tmp_path, clinic(), ["phantom_closed"], ["model"])


def test_evidence_round_trips_through_json(boards: dict[str, Scoreboard], tmp_path: Path) -> None:
    for name, board in boards.items():
        stored = json.loads((tmp_path / name / "scores.json").read_text())
        assert Scoreboard.from_dict(stored) == board
        for task in stored["tasks"]:
            assert {"seeing", "mcnemar", "rotations", "rephrasings", "calibration", "risk_coverage",
                    "leakage", "few"} <= set(task)  # fmt: skip
        for task in stored["tasks"]:  # a file from before has none of them
            for key in ("seeing", "mcnemar", "rotations", "calibration", "few"):
                task.pop(key)
        assert Scoreboard.from_dict(stored).tasks[0].evidence.seeing == ()


def test_consistency_stands_in_the_csv(boards: dict[str, Scoreboard], tmp_path: Path) -> None:
    text = (tmp_path / "prior" / "scores.csv").read_text()
    assert "planted_choice,options-rotated,,overall,all_right,0.0,0.0,0.0,120,120" in text
    assert "planted_choice,image-swapped,,overall,score," in text


def test_a_task_whose_images_were_never_taken_away_has_no_verdict(tmp_path: Path) -> None:
    shards, seen = planted(40)
    names = tasks(tmp_path)[:1]
    evaluate(looker(seen), shards, names, tmp_path, label="model")
    (said,) = score(tmp_path, shards, names, ["model"]).tasks[0].evidence.seeing
    assert said.verdict == "not asked" and "--controls" in said.words


def test_few_questions_carry_no_verdict_and_are_marked(tmp_path: Path) -> None:
    shards, seen = planted(20)
    task = board_of(looker(seen), shards, tasks(tmp_path)[:1], tmp_path).tasks[0]
    assert task.evidence.seeing[0].verdict == "too few"
    assert "overall" in task.evidence.few


def test_questions_without_an_image_have_no_verdict(tmp_path: Path) -> None:
    shards = FakeShards(
        replace(
            r, images=(), messages=(replace(r.messages[0], content=(r.question,)), r.messages[1])
        )
        for r in planted(40)[0]
    )
    task = board_of(prior(), shards, tasks(tmp_path)[:1], tmp_path).tasks[0]
    assert task.evidence.seeing == ()
    assert "image-swapped" not in [row.name for row in task.rows]


def test_mcnemar_is_that_of_the_sample_scores(
    boards: dict[str, Scoreboard], tmp_path: Path
) -> None:
    lines = [
        json.loads(line)
        for line in (tmp_path / "looker" / "samples.jsonl").read_text().splitlines()
    ]
    own = [line["answers"] for line in lines if line["task"] == "planted_closed"]
    task = boards["looker"].task("planted_closed")
    tests = {one.control: one for one in task.evidence.mcnemar}
    assert set(tests) == {row.name for row in task.rows[1:]}
    for name, test in tests.items():
        expected = mcnemar([a["model"]["score"] for a in own], [a[name]["score"] for a in own])
        assert (test.n, test.only_row, test.only_control, test.mid_p) == (
            expected.n, expected.only_first, expected.only_second, expected.mid_p,
        )  # fmt: skip


def test_rotations_equal_a_slow_count(tmp_path: Path) -> None:
    """A model that is sometimes swayed by the letter, counted by hand from its answers."""
    shards, seen = planted(50)
    names = tasks(tmp_path)[1:]
    right = looker(seen).answer

    def swayed(request: Request) -> str:
        return "B" if sum(map(ord, request.id)) % 3 == 0 else right(request)

    board = board_of(Scripted("swayed", swayed), shards, names, tmp_path)
    turned = board.tasks[0].evidence.rotations
    spec = load_task(names[0])
    samples = make_samples([r for r in shards if r.split == "test" and r.task == "choice"], spec)
    mean, whole, same, said = [], [], [], dict.fromkeys("ABCD", 0)
    for sample in samples:
        texts, hits = set(), []
        for by in range(4):
            name = sample.id if by == 0 else f"{sample.id}@{by}"
            options = (*sample.options[by:], *sample.options[:by])
            letter = "B" if sum(map(ord, name)) % 3 == 0 else "ABCD"[options.index(sample.gold)]
            said[letter] += 1
            texts.add(options["ABCD".index(letter)])
            hits.append(options["ABCD".index(letter)] == sample.gold)
        mean.append(sum(hits) / 4)
        whole.append(float(all(hits)))
        same.append(float(len(texts) == 1))
    groups = [sample.group for sample in samples]
    assert turned is not None and 0 < turned.same.mean < 1  # type: ignore[operator]
    assert turned.mean == clustered_bootstrap(mean, groups)
    assert turned.all_right == clustered_bootstrap(whole, groups)
    assert turned.same == clustered_bootstrap(same, groups)
    assert {one.letter: one.said for one in turned.letters} == pytest.approx(
        {letter: count / 200 for letter, count in said.items()}
    )
    assert board.tasks[0].cell("options-rotated").estimate.mean == pytest.approx(np.mean(mean))
    sure = board.tasks[0].evidence.calibration
    assert sure is not None and "orders" in sure.source and sure.row == "model"


def test_the_bias_of_letters_is_half_the_distance_of_shares() -> None:
    assert letter_bias(np.array([3.0, 1.0, 2.0, 2.0])) == pytest.approx(0.25)
    assert letter_bias(np.array([4.0, 0.0, 0.0, 4.0])) == pytest.approx(1.0)
    assert np.isnan(letter_bias(np.array([0.0, 0.0, 1.0, 1.0])))


def rephrased() -> FakeShards:
    """Radiology in which every closed question has a twin in other words; one twin contradicts."""
    shards = FakeShards()
    for at, record in enumerate(radiology()):
        if record.task != "closed":
            continue
        facts = {**record.facts, "rephrasing": f"set-{at}", "question_relation": "strict agreement"}
        shards.append(replace(record, facts=facts))
        words = Message("user", (0, f"Please say: {record.question}"))
        twin = replace(
            record, id=f"{record.id}-para", facts=facts, messages=(words, record.messages[1])
        )
        shards.append(replace(twin, answer="perhaps") if at == 0 else twin)
    return shards


def test_rephrasings_say_how_often_the_same_question_gets_the_same_answer(tmp_path: Path) -> None:
    shards = rephrased()
    unsteady = Scripted(
        "u", lambda r: "yes" if "para" in r.id and "2" in r.id.split("-")[0] else "no"
    )
    evaluate(unsteady, shards, ["vqa_rad_disjoint"], tmp_path, label="model")
    task = score(tmp_path, shards, ["vqa_rad_disjoint"], ["model"]).tasks[0]
    (found,) = task.evidence.rephrasings
    tested = [r for r in shards if r.split == "test" and "para" not in r.id]
    steady = ["2" not in r.id.split("-")[0] for r in tested if r.id != "i0-0"]
    assert (found.sets, found.left_out) == (len(tested) - 1, 1)
    assert found.questions == 2 * found.sets
    assert found.same.mean == pytest.approx(np.mean(steady))


def test_only_what_the_data_set_calls_the_same_is_a_rephrasing() -> None:
    spec = load_task("vqa_rad_disjoint")
    loose = [
        replace(r, facts={**r.facts, "question_relation": "Subsumed"})
        for r in rephrased()
        if r.split == "test"
    ]
    assert rephrased_sets(make_samples(loose, spec), spec) == ([], 0)
    assert rephrased_sets(make_samples(radiology(), spec), spec) == ([], 0)


def test_every_table_can_be_cut_by_what_records_state(tmp_path: Path) -> None:
    shards, seen = planted(90)
    names = tasks(tmp_path)[:1]
    evaluate(looker(seen), shards, names, tmp_path, label="model")
    cuts = parse_breakdowns("facts.sex, facts.age:40:60")
    task: TaskScores = score(tmp_path, shards, names, ["model"], breakdowns=cuts).tasks[0]
    tested = [r for r in shards if r.split == "test" and r.task == "closed"]
    for name, own in (
        ("sex=f", [r for r in tested if r.facts["sex"] == "f"]),
        ("age=<40", [r for r in tested if r.facts.get("age", 99) < 40]),
        ("age=40-60", [r for r in tested if 40 <= r.facts.get("age", 99) < 60]),
        ("age=>=60", [r for r in tested if r.facts.get("age", -1) >= 60]),
    ):
        cell = task.cell("model", name)
        assert cell.estimate.n == len(own) > 0
        assert cell.estimate.low is not None
        assert (name in task.evidence.few) == (len(own) < 30)
    stated = sum("age" in r.facts for r in tested)
    assert f"facts.age is stated for {stated} of 90 questions" in task.notes


def test_a_cut_that_the_task_makes_itself_is_not_made_twice(tmp_path: Path) -> None:
    evaluate(constant("yes"), clinic(), ["phantom_closed"], tmp_path, label="model")
    cuts = parse_breakdowns("facts.question_type,facts.anatomy,image.anatomy")
    task = score(tmp_path, clinic(), ["phantom_closed"], ["model"], breakdowns=cuts).tasks[0]
    names = [column.name for column in task.columns]
    assert len(names) == len(set(names))
    assert "type=presence" in names and "question_type=presence" not in names


@pytest.mark.parametrize("text", ["sex", "facts.age:65:18", "facts.age:x", "facts.age:nan"])
def test_cuts_that_cannot_be_made_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_breakdowns(text)


def test_a_task_says_what_a_rephrasing_is_and_that_options_are_scored() -> None:
    text = (
        "name: mine\ntitle: t\nsource: {dataset: d}\nwhere: {source: [d]}\n"
        "rephrasings: {field: facts.twin, where: {facts.same: [true]}}\noption_scoring: letter\n"
    )
    spec = parse_task(text, "mine.yaml")
    assert spec.rephrasings.field == "facts.twin" and spec.option_scoring == "letter"
    assert Session(()).scored(["phantom_closed"]) == {}
    with pytest.raises(DataError, match="unknown field"):
        parse_task(text.replace("facts.twin", "twin"), "mine.yaml")
