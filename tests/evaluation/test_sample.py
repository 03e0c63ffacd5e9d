"""Samples: option order, image limit, blinding, groups and limits."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from infimed.data.record import ImageRef, Message, Record, question_record
from infimed.evaluation.sample import limited, make_request, make_samples
from infimed.evaluation.spec import load_task
from infimed.inference.requests import BLANK_SHA256
from infimed.inference.stubs import constant
from tests.evaluation.fakes import clinic, image

CHOICE = load_task("phantom_choice")


def choices(count: int = 400) -> list[Record]:
    return [
        question_record(
            id=f"q{i}",
            question="Which?",
            answer="b",
            choices=("a", "b", "c", "d"),
            images=(image("x"),),
            task="choice",
        )
        for i in range(count)
    ]


def test_options_are_shuffled_by_record_and_the_same_every_time() -> None:
    first, second = make_samples(choices(), CHOICE), make_samples(choices(), CHOICE)
    assert [s.order for s in first] == [s.order for s in second]
    letters = Counter(s.gold_letter for s in first)
    assert set(letters) == set("ABCD") and min(letters.values()) > 70


def test_the_order_does_not_depend_on_other_records() -> None:
    assert make_samples(choices()[5:6], CHOICE)[0].order == make_samples(choices(), CHOICE)[5].order


def test_the_gold_letter_is_where_the_request_shows_the_answer() -> None:
    model = constant("A")
    for sample in make_samples(choices(20), CHOICE):
        request = make_request(sample, CHOICE, model, clinic(1))
        assert f"{sample.gold_letter}. b" in request.messages[-1].text
        assert request.choices[ord(sample.gold_letter) - 65] == "b"


def test_images_past_the_limit_are_dropped_and_counted() -> None:
    record = Record(
        id="many",
        images=tuple(ImageRef(f"{i}.png", sha256=str(i)) for i in range(6)),
        messages=(Message("user", (0, 1, 2, "and", 3, 4, 5, "?")), Message("assistant", ("yes",))),
        task="closed",
        answer="yes",
    )
    (sample,) = make_samples([record], load_task("closed"))
    assert sample.images_dropped == 2
    assert sample.record.problem() is None
    assert sample.record.messages[0].content == (0, 1, 2, "and", 3, "?")


def test_a_blinded_request_shows_one_grey_picture_and_a_bare_one_none() -> None:
    shards = clinic(1)
    (sample,) = make_samples(shards[:1], load_task("phantom_closed"))
    spec, model = load_task("phantom_closed"), constant("no")
    seen = make_request(sample, spec, model, shards)
    blank = make_request(sample, spec, model, shards, "blank")
    bare = make_request(sample, spec, model, shards, "none")
    assert [p.sha256 for p in seen.pictures] == ["p0"]
    assert [p.size for p in seen.pictures] == [image.size for image in sample.record.images]
    assert [p.sha256 for p in blank.pictures] == [BLANK_SHA256]
    assert blank.messages == seen.messages
    assert bare.pictures == () and bare.messages[0].content == (sample.record.question,)
    assert len({r.key("m") for r in (seen, blank, bare)}) == 3


def test_repeated_record_ids_stay_apart() -> None:
    assert [s.id for s in make_samples([*choices(1), *choices(1)], CHOICE)] == ["q0", "q0#2"]


def test_the_group_falls_back_to_the_image_and_then_the_record() -> None:
    record = choices(1)[0]
    bare = replace(
        record, images=(), messages=(Message("user", ("Which?",)), Message("assistant", ("b",)))
    )
    assert make_samples([record], CHOICE)[0].group == "x"
    assert make_samples([bare], CHOICE)[0].group == "q0"


def test_a_limit_draws_the_same_records_in_their_order() -> None:
    records = choices(100)
    drawn = limited(records, "task", 10)
    assert drawn == limited(records, "task", 10)
    assert [r.id for r in drawn] == sorted((r.id for r in drawn), key=lambda name: int(name[1:]))
    assert len(limited(records, "task", None)) == 100


def test_yes_no_questions_are_known_by_their_answer() -> None:
    def sample(answer: str) -> bool:
        record = question_record(id="q", question="?", answer=answer, images=(), task="closed")
        return make_samples([record], load_task("closed"))[0].yes_no

    assert sample("Yes") and sample("no.") and not sample("FLAIR")
