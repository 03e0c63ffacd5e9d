"""The gate: promote a model or not, on the same locked questions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from infimed.core.errors import DataError
from infimed.data.record import question_record
from infimed.evaluation.columns import parse_breakdowns
from infimed.evaluation.gate import Gate, gate, gate_settings
from infimed.evaluation.judging.asking import judge_answers
from infimed.evaluation.judging.prompts import load_prompt
from infimed.evaluation.judging.verdicts import replies_path
from infimed.evaluation.leaks import Training, scan
from infimed.evaluation.runner import evaluate, score
from infimed.evaluation.session import Session, parse_controls
from infimed.inference.requests import Request
from infimed.inference.stubs import Scripted, constant
from tests.evaluation.fakes import FakeShards
from tests.evaluation.judging.stubs import judge, rubric_record
from tests.evaluation.planted import looker, planted, prior, tasks

PATIENTS = 200


def folder(
    out: Path,
    model: Scripted,
    shards: FakeShards,
    names: list[str],
    controls: str = "zeroed,swapped",
) -> Path:
    labels = Session(parse_controls(controls)).ask(model, shards, names, out)
    score(out, shards, names, labels, breakdowns=parse_breakdowns("facts.sex"))
    return out


@pytest.fixture
def shards() -> FakeShards:
    return planted(PATIENTS)[0]


@pytest.fixture
def names(tmp_path: Path) -> list[str]:
    return tasks(tmp_path)[:1]


def spoiled(share: float, only: str = "", text: str = "") -> Scripted:
    """The looker that answers wrongly (or `text`) on a share of the questions, of one sex if stated."""
    made, seen = planted(PATIENTS)
    right = looker(seen).answer
    tested = [r for r in made if r.split == "test" and r.task == "closed"]
    own = [r.id for r in tested if not only or r.facts["sex"] == only]
    bad = set(own[: round(share * len(own))])

    def answer(request: Request) -> str:
        said = right(request)
        if request.id in bad:
            return text or ("no" if said == "yes" else "yes")
        return said

    return Scripted(f"spoiled-{share}-{only}-{text}", answer)


def decided(tmp_path: Path, old: Scripted, new: Scripted, shards, names, **settings) -> Gate:
    one, other = (
        folder(tmp_path / "old", old, shards, names),
        folder(tmp_path / "new", new, shards, names),
    )
    return gate(one, other, gate_settings().model_copy(update=settings))


def test_the_same_model_is_promoted(tmp_path: Path, shards, names) -> None:
    seen = planted(PATIENTS)[1]
    result = decided(tmp_path, looker(seen), looker(seen), shards, names)
    assert result.promote and result.reasons == ()
    assert {c.name for c in result.checks} >= {"overall", "sex=f", "unparsed", "seeing, overall"}


def test_a_worse_model_is_not_promoted_and_the_margin_decides(
    tmp_path: Path, shards, names
) -> None:
    seen = planted(PATIENTS)[1]
    result = decided(tmp_path, looker(seen), spoiled(0.06), shards, names)
    assert not result.promote and any("overall" in reason for reason in result.reasons)
    wide = gate_settings().model_copy(update={"overall_margin": 0.15, "keep_seeing": False})
    assert gate(tmp_path / "old", tmp_path / "new", wide).promote


def test_a_lost_subgroup_stops_a_model_that_is_level_overall(tmp_path: Path, shards, names) -> None:
    result = decided(
        tmp_path, spoiled(0.2, "m"), spoiled(0.2, "f"), shards, names,
        overall_margin=0.2, keep_seeing=False,
    )  # fmt: skip
    by_name = {c.name: c for c in result.checks}
    assert by_name["overall"].passed and by_name["overall"].difference.mean == pytest.approx(0)
    assert by_name["sex=f"].passed is False and by_name["sex=m"].passed is True
    assert not result.promote


def test_a_subgroup_that_is_too_small_is_shown_and_decides_nothing(
    tmp_path: Path, shards, names
) -> None:
    seen = planted(PATIENTS)[1]
    result = decided(
        tmp_path, looker(seen), spoiled(0.3, "f"), shards, names,
        overall_margin=1.0, keep_seeing=False, min_questions=150,
    )  # fmt: skip
    assert {c.name: c.passed for c in result.checks}["sex=f"] is None and result.promote


def test_more_unreadable_answers_stop_a_model(tmp_path: Path, shards, names) -> None:
    seen = planted(PATIENTS)[1]
    result = decided(
        tmp_path, looker(seen), spoiled(0.05, text="hm"), shards, names,
        overall_margin=1.0, keep_seeing=False,
    )  # fmt: skip
    assert [r for r in result.reasons if "unparsed: 0.0 % before, 5.0 % now" in r]


def test_a_model_that_stops_looking_is_stopped(tmp_path: Path, shards, names) -> None:
    seen = planted(PATIENTS)[1]
    result = decided(
        tmp_path, looker(seen), prior(), shards, names, overall_margin=1.0, subgroup_margin=1.0
    )
    assert any("seeing, overall" in r and "not shown to see" in r for r in result.reasons)


def test_seeing_that_was_not_measured_again_counts_as_lost(tmp_path: Path, shards, names) -> None:
    seen = planted(PATIENTS)[1]
    old = folder(tmp_path / "old", looker(seen), shards, names)
    new = folder(tmp_path / "new", looker(seen), shards, names, "none")
    assert any("never asked without" in r for r in gate(old, new, gate_settings()).reasons)


def test_leaks_that_nobody_looked_for_again_are_told(tmp_path: Path, shards, names) -> None:
    seen = planted(PATIENTS)[1]
    old, new = (
        folder(tmp_path / name, looker(seen), shards, names, "none") for name in ("old", "new")
    )
    scan(Training("run", shards), shards, names, old)
    score(old, shards, names, ["model"], breakdowns=parse_breakdowns("facts.sex"))
    (check,) = [c for c in gate(old, new, gate_settings()).checks if c.name == "leakage"]
    assert check.passed is None and "not looked for" in check.words


def test_other_questions_are_no_comparison(tmp_path: Path, shards, names) -> None:
    seen = planted(PATIENTS)[1]
    old = folder(tmp_path / "old", looker(seen), shards, names)
    changed = FakeShards(
        replace(r, answer="yes" if r.answer == "no" else "no") if r.id == "film-0002-closed" else r
        for r in shards
    )
    new = folder(tmp_path / "new", looker(seen), changed, names)
    with pytest.raises(DataError, match="other questions") as caught:
        gate(old, new, gate_settings())
    assert caught.value.seen == "film-0002-closed"
    evaluate(looker(seen), shards, names, tmp_path / "few", label="model", limit=50)
    score(tmp_path / "few", shards, names, ["model"])
    with pytest.raises(DataError, match="other questions"):
        gate(old, tmp_path / "few", gate_settings())
    with pytest.raises(DataError, match="no scores here"):
        gate(old, tmp_path / "nowhere", gate_settings())


def test_other_tasks_are_no_comparison(tmp_path: Path, shards) -> None:
    seen, both = planted(PATIENTS)[1], tasks(tmp_path)
    old = folder(tmp_path / "old", looker(seen), shards, both)
    new = folder(tmp_path / "new", looker(seen), shards, both[:1])
    with pytest.raises(DataError, match="other tasks"):
        gate(old, new, gate_settings())


def consultations(count: int = 40) -> FakeShards:
    criteria = [("Asks for the age", 5.0), ("Names an emergency", 5.0)]
    return FakeShards(rubric_record(n, criteria) for n in range(count))


def judged(out: Path, text: str, by: str = "") -> Path:
    """An evaluation on HealthBench by a model that always says `text`, read by the judge `by`."""
    made = consultations()
    evaluate(constant(text), made, ["healthbench"], out, label="model")
    if by:
        judge_answers(judge(name=by), by, made, ["healthbench"], out, prompt=load_prompt())
    score(out, made, ["healthbench"], ["model"])
    return out


def test_scores_that_no_judge_gave_promote_nobody(tmp_path: Path) -> None:
    bare = [judged(tmp_path / name, "Asks for the age") for name in ("old", "new")]
    result = gate(*bare, gate_settings())
    assert not result.promote and "no score in the old and the new one" in result.reasons[0]
    read = judged(tmp_path / "read", "Asks for the age", "j")
    assert gate(read, read, gate_settings()).promote
    lost = gate(read, bare[1], gate_settings())
    assert not lost.promote and any("no score in the new one" in r for r in lost.reasons)


def test_two_judges_are_no_comparison_and_an_unread_answer_is_no_zero(tmp_path: Path) -> None:
    old = judged(tmp_path / "old", "Asks for the age", "j")
    new = judged(tmp_path / "new", "Asks for the age", "other")
    assert [r for r in gate(old, new, gate_settings()).reasons if "judge: j (" in r]
    store = replies_path(old, "healthbench")
    lines = store.read_text().splitlines(keepends=True)
    half = judged(tmp_path / "half", "Asks for the age", "j")
    replies_path(half, "healthbench").write_text(lines[0])  # one answer is judged on one criterion
    score(half, consultations(), ["healthbench"], ["model"])
    assert not gate(old, half, gate_settings()).promote


def test_the_difference_is_that_of_the_scores_where_answers_weigh_unequally(tmp_path: Path) -> None:
    """A micro F1 weighs an answer by its labels; the gate must not take the plain mean of answers."""
    made = FakeShards(
        question_record(
            id=f"q{n}", question=f"Which? {n}", answer="a" if n % 2 else "a, b, c, d", images=(),
            task="open", source="own", split="test", group=f"p{n}",
        )
        for n in range(40)
    )  # fmt: skip
    own = tmp_path / "sets.yaml"
    own.write_text(
        "name: sets\ntitle: T\nsource: {dataset: d}\nwhere: {task: [open]}\ncontrols: []\n"
        "metrics: {open: [label_f1]}\n"
    )
    scores = []
    for name, text in (("old", "a"), ("new", "a, b")):
        evaluate(constant(text), made, [str(own)], tmp_path / name, label="model")
        board = score(tmp_path / name, made, [str(own)], ["model"])
        scores.append(board.task("sets").cell("model", "overall", "score").estimate.mean)
    result = gate(tmp_path / "old", tmp_path / "new", gate_settings())
    (check,) = [c for c in result.checks if c.name == "overall"]
    assert check.difference is not None
    assert check.difference.mean == pytest.approx(scores[1] - scores[0])


@pytest.mark.parametrize(
    ("text", "message"),
    [("overal_margin: 0.1", "unknown key"), ("overall_margin: 3", "less than"), ("- a", "keys")],
)
def test_wrong_thresholds_are_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "gate.yaml"
    file.write_text(text)
    with pytest.raises(DataError, match=message):
        gate_settings(file)


def test_own_thresholds_take_the_place_of_those_named(tmp_path: Path) -> None:
    file = tmp_path / "gate.yaml"
    file.write_text("overall_margin: 0.1")
    own, shipped = gate_settings(file), gate_settings()
    assert own == shipped.model_copy(update={"overall_margin": 0.1})
