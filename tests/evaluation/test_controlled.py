"""The controls that ask the model itself: which questions, and how they are put."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infimed.core.errors import DataError, UsageError
from infimed.core.files import read_json
from infimed.data.record import question_record
from infimed.evaluation.controlled import offsets, rotate, swap_partners, variants, why_none
from infimed.evaluation.runner import evaluate, questions_of, score
from infimed.evaluation.sample import Sample, make_samples
from infimed.evaluation.session import Session, parse_controls
from infimed.evaluation.spec import load_task
from infimed.inference.requests import BLANK_SHA256, ChoiceScores, OptionScore, Request
from infimed.inference.stubs import Scripted, constant
from tests.evaluation.fakes import OPTIONS, FakeShards, clinic, image


def samples_of(name: str, patients: int = 40) -> list[Sample]:
    spec = load_task(name)
    records = [r for r in clinic(patients) if r.split == "test" and r.task in spec.where["task"]]
    return make_samples(records, spec)


@given(st.lists(st.integers(1, 6), min_size=2, max_size=12))
def test_swapping_is_a_derangement_between_groups_whenever_no_group_has_over_half(
    sizes: list[int],
) -> None:
    shown = [
        ((f"g{group}-{number}",), f"g{group}")
        for group, size in enumerate(sizes)
        for number in range(size)
    ]
    found = swap_partners(shown)
    assert all(one[1] != other[1] for one, other in found.items())
    assert set(found) == set(shown)
    if 2 * max(sizes) <= len(shown):
        assert sorted(found.values()) == sorted(shown)


def test_no_image_is_swapped_for_itself_under_another_group() -> None:
    shown = [(("a",), "p"), (("a",), "q"), (("b",), "r")]
    found = swap_partners(shown)
    assert found[("a",), "p"] == found[("a",), "q"] == (("b",), "r")


def test_as_many_images_stand_in_and_what_has_no_partner_is_left_out() -> None:
    shown = [(("a", "b"), "p"), (("c",), "q"), (("d",), "r"), (("e",), "r")]
    found = swap_partners(shown)
    assert (("a", "b"), "p") not in found
    assert found[("c",), "q"][1] == "r" and found[("d",), "r"] == (("c",), "q")


def test_swapped_questions_keep_their_text_and_share_their_new_image() -> None:
    plain = samples_of("phantom_closed")
    found = variants("image-swapped", plain)
    assert [one.of for one in found] == list(range(len(plain)))
    donors: dict[str, set[str]] = {}
    for one in found:
        old = plain[one.of]
        assert one.sample.id == old.id and one.sample.record.messages == old.record.messages
        assert one.sample.group == old.group and one.sample.gold == old.gold
        new = one.sample.record.images[0].sha256
        assert new != old.record.images[0].sha256
        donors.setdefault(old.record.images[0].sha256, set()).add(new)
    assert all(len(own) == 1 for own in donors.values())


def test_one_patient_alone_cannot_be_swapped_and_the_note_says_so() -> None:
    alone = samples_of("phantom_closed", 1)
    assert variants("image-swapped", alone) == []
    assert "could take the place" in why_none("image-swapped", alone)
    bare = [replace(s, record=replace(s.record, images=())) for s in alone]
    assert why_none("image-swapped", bare) == "the questions show no image"


def test_over_all_rotations_every_option_stands_once_at_every_letter() -> None:
    plain = samples_of("phantom_choice")
    places: dict[int, Counter[tuple[str, int]]] = {}
    for one in [*variants("options-rotated", plain)]:
        own = places.setdefault(one.of, Counter())
        own.update((option, at) for at, option in enumerate(one.sample.options))
        assert one.sample.order == rotate(plain[one.of].order, one.rotation)
        assert one.sample.gold == plain[one.of].gold
    for of, sample in enumerate(plain):
        places[of].update((option, at) for at, option in enumerate(sample.options))
        assert len(places[of]) == len(OPTIONS) ** 2 and set(places[of].values()) == {1}


@pytest.mark.parametrize(
    ("options", "rotations", "expected"),
    [(4, None, [0, 1, 2, 3]), (4, 2, [0, 2]), (5, 3, [0, 1, 3]), (2, 9, [0, 1]), (0, None, [0])],
)
def test_fewer_rotations_are_evenly_spread(options, rotations, expected) -> None:
    assert offsets(options, rotations) == expected


def test_the_prior_is_asked_without_the_question() -> None:
    for one in variants("prior-only", samples_of("phantom_closed")):
        assert one.sample.record.question == "Yes or no?"
    for one in variants("prior-only", samples_of("phantom_choice")):
        assert one.sample.record.question == "" and one.sample.options
    report = samples_of("phantom_report")
    assert variants("prior-only", report) == []
    assert "options" in why_none("prior-only", report)


def test_the_prior_is_shown_a_grey_picture_and_a_constant_question_is_asked_once(
    tmp_path: Path,
) -> None:
    asked: list[Request] = []
    model = Scripted("m", lambda request: asked.append(request) or "yes")
    shards = clinic()
    evaluate(model, shards, ["phantom_closed"], tmp_path, label="prior-only", control="prior-only")
    assert len(asked) == 1
    assert [picture.sha256 for picture in asked[0].pictures] == [BLANK_SHA256]


def test_a_decision_in_chinese_is_scored_in_chinese() -> None:
    record = question_record(
        id="z", question="有积液吗？", answer="没有", images=(), task="closed"
    )  # fmt: skip
    sample = make_samples([record], load_task("closed"))
    assert variants("option-scoring", sample)[0].choices == ("是", "否")
    assert variants("prior-only", sample)[0].sample.record.question == "是或否？"


def test_what_is_answered_in_other_words_is_not_scored_by_options() -> None:
    record = question_record(id="c", question="CT or MR?", answer="CT", images=(), task="closed")
    assert variants("option-scoring", make_samples([record], load_task("closed"))) == []


class Probable(Scripted):
    """Scores options by a function of their text."""

    def score_choices(self, requests):
        return [
            ChoiceScores(r.id, tuple(OptionScore(-float(len(c)), 1) for c in r.choices))
            for r in requests
        ]


def test_option_scoring_goes_through_the_store_and_is_asked_once(tmp_path: Path) -> None:
    model, shards = Probable("p", lambda request: "A"), clinic()
    for _ in range(2):
        evaluate(model, shards, ["phantom_choice"], tmp_path, label="model")
        evaluate(
            model, shards, ["phantom_choice"], tmp_path, label="option-scoring",
            control="option-scoring",
        )  # fmt: skip
        stored = (tmp_path / "phantom_choice" / "option-scoring.responses.jsonl").read_bytes()
    assert stored.count(b"\n") == 15 and b'"options": [[' in stored
    task = score(tmp_path, shards, ["phantom_choice"], ["model", "option-scoring"]).tasks[0]
    shortest = sum(
        r.answer == "pneumothorax" for r in shards if r.task == "choice" and r.split == "test"
    )
    assert task.cell("option-scoring").estimate.mean == pytest.approx(shortest / 15)
    sure = task.evidence.calibration
    assert sure is not None and sure.row == "option-scoring" and sure.n == 15
    assert "softmax" in sure.source and task.evidence.risk_coverage


def test_a_written_answer_is_never_taken_for_a_score(tmp_path: Path) -> None:
    request = Request("a", (), choices=("yes", "no"))
    scored = replace(request, scored=True)
    assert request.key("m") != scored.key("m")
    assert scored.key("m") != replace(scored, choices=("no", "yes")).key("m")


def test_a_model_without_probabilities_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    session = Session((), option_scoring="text")
    with pytest.raises(UsageError, match="no probabilities"):
        session.ask(constant("A"), clinic(), ["phantom_choice"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_probability_that_is_no_number_is_a_failed_answer(tmp_path: Path) -> None:
    class Broken(Probable):
        def score_choices(self, requests):
            return [ChoiceScores(r.id, (OptionScore(float("nan"), 1),) * 4) for r in requests]

    result = evaluate(
        Broken("b", lambda request: "A"), clinic(), ["phantom_choice"], tmp_path,
        label="option-scoring", control="option-scoring",
    )  # fmt: skip
    assert result[0].errors == 15


def test_what_a_control_would_ask_is_what_it_asks(tmp_path: Path) -> None:
    shards, tasks = clinic(), ["phantom_closed", "phantom_choice", "phantom_report"]
    session = Session(parse_controls("all"))
    counts = questions_of(shards, tasks, session.ways)
    labels = session.ask(constant("yes"), shards, tasks, tmp_path)
    assert labels == ["model", *session.ways]
    for label in labels:
        files = tmp_path.glob(f"*/{label}.run.json")
        assert sum(len(read_json(file)["requests"]) for file in files) == counts[label]
    assert "60 questions, and" in session.cost(shards, tasks)
    board = score(tmp_path, shards, tasks, labels)
    notes = " ".join(board.task("phantom_report").notes)
    assert "no 'options-rotated' row" in notes and "no 'prior-only' row" in notes


def test_without_images_only_the_controls_of_the_text_are_asked() -> None:
    session = Session(parse_controls("all"), text_only=True)
    assert session.ways == ("options-rotated", "prior-only") and session.label == "text-only"


@pytest.mark.parametrize("text", ["zeroed,swaped", "all,none"])
def test_an_unknown_control_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no such control"):
        parse_controls(text)


def test_a_control_of_other_questions_than_the_models_is_refused(tmp_path: Path) -> None:
    shards = clinic()
    evaluate(constant("A"), shards, ["phantom_choice"], tmp_path, label="model")
    evaluate(
        constant("A"), shards, ["phantom_choice"], tmp_path, label="options-rotated",
        control="options-rotated", limit=3,
    )  # fmt: skip
    with pytest.raises(DataError, match="other questions"):
        score(tmp_path, shards, ["phantom_choice"], ["model", "options-rotated"])


def test_a_row_of_some_questions_is_compared_with_the_model_on_those(tmp_path: Path) -> None:
    """Questions without an image have none to swap; they take no part on either side."""
    shards = FakeShards(
        replace(
            r, images=(), messages=(replace(r.messages[0], content=(r.question,)), r.messages[1])
        )
        if r.task == "closed" and r.group in ("patient-0", "patient-2")
        else r
        for r in clinic()
    )
    answers = {r.id: "yes" if at % 3 else "no" for at, r in enumerate(shards)}
    model = Scripted("m", lambda request: answers[request.id])
    evaluate(model, shards, ["phantom_closed"], tmp_path, label="model")
    evaluate(
        model, shards, ["phantom_closed"], tmp_path, label="image-swapped", control="image-swapped"
    )
    task = score(tmp_path, shards, ["phantom_closed"], ["model", "image-swapped"]).tasks[0]
    cell, whole = task.cell("image-swapped"), task.cell("model")
    assert (cell.estimate.n, whole.estimate.n) == (26, 30)
    assert task.difference("image-swapped").estimate.mean == 0.0  # the same answers
    kept = [r for r in shards if r.task == "closed" and r.split == "test" and r.images]
    expected = np.mean([answers[r.id] == r.answer for r in kept])
    assert cell.estimate.mean == pytest.approx(expected)


def test_an_image_that_two_records_share_is_not_swapped_between_them() -> None:
    records = [
        question_record(
            id=f"r{at}",
            question="?",
            answer="yes",
            images=(image(name),),
            task="closed",
            group=f"g{at}",
        )
        for at, name in enumerate(["same", "same", "other"])
    ]
    found = variants("image-swapped", make_samples(records, load_task("closed")))
    shown = [one.sample.record.images[0].sha256 for one in found]
    assert shown == ["other", "other", "same"]


def test_a_control_that_asked_another_model_is_refused(tmp_path: Path) -> None:
    shards, task = clinic(), ["phantom_choice"]
    evaluate(constant("A"), shards, task, tmp_path, label="model")
    evaluate(constant("B"), shards, task, tmp_path, label="image-swapped", control="image-swapped")
    with pytest.raises(DataError, match="another model"):
        score(tmp_path, shards, task, ["model", "image-swapped"])


@pytest.mark.parametrize("label", ["image-zeroed", "options-rotated"])
def test_rows_of_an_earlier_evaluation_are_left_out_with_a_note(tmp_path: Path, label: str) -> None:
    """`infimed judge` scores all that a folder holds: also controls that another model left there."""
    shards, task = clinic(), ["phantom_choice"]
    first, second = constant("A"), constant("B")
    evaluate(second, shards, task, tmp_path, label="model")
    control = "options-rotated" if label == "options-rotated" else None
    evaluate(
        first, shards, task, tmp_path, label=label, control=control, blank_images=control is None
    )
    with pytest.raises(DataError, match="another model"):
        score(tmp_path, shards, task, ["model", label])
    found = score(tmp_path, shards, task, ["model", label], partial=True).tasks[0]
    assert label not in [row.name for row in found.rows]
    assert f"left out: '{label}' asked another model than the first row" in found.notes


def test_a_control_without_images_does_not_stand_beside_a_model_that_saw_them(
    tmp_path: Path,
) -> None:
    shards, task, model = clinic(), ["phantom_choice"], constant("A")
    evaluate(model, shards, task, tmp_path, label="model")
    evaluate(
        model, shards, task, tmp_path, label="options-rotated", control="options-rotated",
        no_images=True,
    )  # fmt: skip
    with pytest.raises(DataError, match="without images, unlike the first row"):
        score(tmp_path, shards, task, ["model", "options-rotated"])
