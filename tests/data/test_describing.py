"""Describing: only what is stated, nothing that contradicts, nothing that is asked about later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from infimed.data.describing import descriptions, sentence
from infimed.data.importing import import_data
from infimed.data.record import ImageRef, Record, question_record
from infimed.data.shards import open_shards
from tests.data.samples import write_image, write_lines


def question(number: int, image: str, facts: dict[str, Any], **more: Any) -> Record:
    fields: dict[str, Any] = {
        "question": "What?", "answer": "That.", "task": "open", "source": "s", **more,
    }  # fmt: skip
    return question_record(id=f"q{number}", images=(ImageRef(image),), facts=facts, **fields)


def imported(tmp_path: Path, records: list[Record], **options: Any) -> list[Record]:
    for at, image in enumerate(sorted({r.images[0].locator for r in records})):
        write_image(tmp_path / "data" / image, seed=at)
    write_lines(tmp_path / "data" / "records.jsonl", [record.to_json() for record in records])
    import_data(tmp_path / "data", tmp_path / "out", describe=True, **options)
    return [record for record in open_shards(tmp_path / "out") if record.facts.get("described")]


def said(records: list[Record]) -> list[tuple[str, str]]:
    return [(record.question, record.response) for record in records]


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (
            {"modality": "MRI", "plane": "axial", "anatomy": "head"},
            "An axial MRI image of the head.",
        ),
        ({"modality": "XR"}, "An X-ray image."),
        ({"anatomy": "chest"}, "An image of the chest."),
        ({"modality": "OT", "plane": "oblique"}, ""),
        ({"view": "PA"}, ""),
    ],
)
def test_a_sentence_says_only_what_is_stated(facts: dict[str, Any], words: str) -> None:
    assert sentence(facts) == words


def test_each_image_gets_a_caption_and_questions_answered_both_ways(tmp_path: Path) -> None:
    made = imported(
        tmp_path,
        [
            question(1, "a.png", {"modality": "CT", "anatomy": "head"}),
            question(2, "a.png", {"modality": "CT"}),
            question(3, "b.png", {"modality": "MRI"}),
        ],
    )
    plain = [record for record in open_shards(tmp_path / "out") if record not in made]
    foreseen = descriptions(plain)  # in memory, as a dry run does
    assert [(r.task, r.response) for r in foreseen] == [(r.task, r.response) for r in made]
    captions = [record.response for record in made if record.task == "caption"]
    assert captions == ["A CT image of the head.", "An MRI image."]
    closed = [record for record in made if record.task == "closed"]
    assert sorted(record.answer or "" for record in closed) == ["no", "no", "yes", "yes"]
    for record in closed:
        named = "CT" if "CT" in record.question else "MRI"
        assert (record.facts["modality"] == named) == (record.answer == "yes")
    assert {record.answer for record in made if record.task == "open"} == {"CT", "MRI", "head"}
    assert {record.source for record in made} == {"s:described"}


def test_a_fact_stated_in_two_ways_is_left_out(tmp_path: Path) -> None:
    made = imported(
        tmp_path,
        [
            question(1, "a.png", {"modality": "CT", "anatomy": "head"}),
            question(2, "a.png", {"modality": "MRI"}),
            question(3, "a.png", {"modality": "CT"}),
        ],
    )
    assert said(made)[0][1] == "An image of the head."
    assert not any("CT" in text for pair in said(made) for text in pair)


def test_a_captioned_image_gets_no_second_caption(tmp_path: Path) -> None:
    made = imported(
        tmp_path,
        [
            question(1, "a.png", {"modality": "CT"}, task="caption"),
            question(2, "b.png", {"modality": "CT"}),
        ],
    )
    assert [record.task for record in made].count("caption") == 1


def test_images_that_are_asked_about_are_not_described(tmp_path: Path) -> None:
    made = imported(
        tmp_path,
        [
            question(1, "a.png", {"modality": "CT"}, split="test"),
            question(2, "b.png", {"modality": "MRI"}, split="calibration"),
            question(3, "c.png", {"modality": "XR"}, split="dev"),
        ],
    )
    assert {record.split for record in made} == {"dev"}


def test_facts_of_a_record_with_two_images_hold_for_neither(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write_image(tmp_path / "data" / name, seed=len(name) + ord(name[0]))
    pair = question_record(
        id="pair", question="Which?", answer="Both.", task="open",
        images=(ImageRef("a.png"), ImageRef("b.png")), facts={"modality": "CT"},
    )  # fmt: skip
    write_lines(tmp_path / "data" / "records.jsonl", [pair.to_json()])
    import_data(tmp_path / "data", tmp_path / "out", describe=True)
    assert len(open_shards(tmp_path / "out")) == 1


@pytest.mark.parametrize("stop_at", [3, 9, 14, 30])
def test_an_interrupted_import_describes_the_same(tmp_path: Path, stop_at: int) -> None:
    records = [
        question(n, f"{n % 5}.png", {"modality": ("CT", "MRI", "XR")[n % 5 % 3]}) for n in range(12)
    ]
    whole = imported(tmp_path / "whole", records, records_per_shard=4)
    assert len(whole) == 20

    def stop(items: int, problems: int) -> None:
        if items == stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        imported(tmp_path / "cut", records, records_per_shard=4, progress=stop)
    made = imported(tmp_path / "cut", records, records_per_shard=4)
    assert [record.to_dict() for record in made] == [record.to_dict() for record in whole]
