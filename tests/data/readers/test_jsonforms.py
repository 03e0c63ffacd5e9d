"""LLaVA, ShareGPT, messages and canonical records: what they give, and what broken ones give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from infimed.core.errors import DataError, UsageError
from infimed.data import readers
from infimed.data.readers.base import ReadProblem
from infimed.data.record import ImageRef, Record, question_record
from tests.data.samples import llava_folder, write_lines


def read(
    path: Path, reader: str = "auto", **options: str
) -> tuple[list[Record], list[ReadProblem]]:
    items = list(readers.read(path, reader, options))
    return (
        [item for item in items if isinstance(item, Record)],
        [item for item in items if isinstance(item, ReadProblem)],
    )


def turn(speaker: str, value: Any) -> dict[str, Any]:
    return {"from": speaker, "value": value}


TALK = [turn("human", "<image>\nWhat is this?"), turn("gpt", "A chest radiograph.")]


def test_records_round_trip_through_their_file(tmp_path: Path) -> None:
    made = [
        question_record(
            id=f"é{n}",
            question="Side?",
            answer="left",
            images=(ImageRef("a.png", facts={"modality": "CR", "pixel_spacing_mm": [0.1, 0.2]}),),
            task="choice",
            choices=("left", "right"),
            source="s",
            split="test",
            group="g",
            facts={"finding": None, "n": 1, "x": 0.5},
        )
        for n in range(3)
    ]
    write_lines(tmp_path / "records.jsonl", [record.to_json() for record in made])
    found, problems = read(tmp_path)
    assert found == made and problems == []


def test_a_broken_line_in_the_middle_costs_only_itself(tmp_path: Path) -> None:
    good = question_record(id="a", question="q", answer="b", images=(), task="open").to_json()
    write_lines(
        tmp_path / "records.jsonl",
        [good, '{"id": "b", ', good.replace('"a"', '"c"', 1), "[1]", "{}"],
    )
    found, problems = read(tmp_path)
    assert len(found) == 2 and [problem.where.split(":")[1] for problem in problems] == [
        "2",
        "4",
        "5",
    ]


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    good = question_record(id="a", question="q", answer="b", images=(), task="open").to_json()
    (tmp_path / "records.jsonl").write_bytes(b"\xef\xbb\xbf" + good.encode())
    assert len(read(tmp_path)[0]) == 1


def test_a_line_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    good = question_record(id="a", question="q", answer="b", images=(), task="open").to_json()
    (tmp_path / "records.jsonl").write_bytes(
        good.encode() + b"\n\xff\xfe\n" + good.encode() + b"\n"
    )
    found, problems = read(tmp_path)
    assert len(found) == 2 and problems[0].code == "encoding"


def test_an_empty_file_gives_no_records(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_text("")
    assert read(tmp_path) == ([], [])


def test_llava_places_the_image_where_the_text_says(tmp_path: Path) -> None:
    found, problems = read(llava_folder(tmp_path / "d", count=2))
    assert not problems and found[0].messages[0].content == (0, "What is in picture 0?")
    assert (
        found[0].task == "open" and found[0].group == "images/0.png" and found[0].problem() is None
    )


def test_llava_with_many_turns_is_a_dialogue(tmp_path: Path) -> None:
    value = [
        {
            "id": 7,
            "image": "a.png",
            "conversations": [*TALK, turn("human", "Sure?"), turn("gpt", "Yes.")],
        }
    ]
    (tmp_path / "d.json").write_text(json.dumps(value))
    (record,), _ = read(tmp_path)
    assert record.task == "dialogue" and record.id == "7"


def test_an_image_without_placeholder_leads_the_first_question(tmp_path: Path) -> None:
    value = [{"image": "a.png", "conversations": [turn("human", "What?"), turn("gpt", "That.")]}]
    (tmp_path / "d.json").write_text(json.dumps(value))
    (record,), _ = read(tmp_path)
    assert record.messages[0].content == (0, "What?")


BROKEN: list[Any] = [
    {
        "id": "two",
        "image": "a.png",
        "conversations": [turn("human", "<image><image> x"), turn("gpt", "y")],
    },
    {"id": "who", "image": "a.png", "conversations": [turn("robot", "x")]},
    {"id": "none", "image": "a.png"},
    {"id": "type", "image": {"x": 1}, "conversations": TALK},
    {"id": "text", "image": "a.png", "conversations": [turn("human", 5)]},
    {"id": "split", "image": "a.png", "conversations": TALK, "split": "holdout"},
    {"id": "list", "image": "a.png", "conversations": ["x"]},
    "just text",
    None,
    17,
]


def test_every_broken_llava_record_is_one_named_problem(tmp_path: Path) -> None:
    good = {"id": "good", "image": "a.png", "conversations": TALK}
    (tmp_path / "d.json").write_text(json.dumps([good, *BROKEN, {**good, "id": "good2"}]))
    found, problems = read(tmp_path)
    assert [record.id for record in found] == ["good", "good2"]
    assert [problem.where.split(":")[0] for problem in problems] == [
        f"d.json[{n + 1}]" for n in range(len(BROKEN))
    ]


def test_a_json_array_that_breaks_off_keeps_what_came_before(tmp_path: Path) -> None:
    whole = json.dumps([{"image": "a.png", "conversations": TALK} for _ in range(5)])
    (tmp_path / "d.json").write_text(whole[: int(len(whole) * 0.7)])
    found, problems = read(tmp_path)
    assert len(found) == 3 and len(problems) == 1 and problems[0].where == "d.json[3]"


def test_a_large_array_is_read_across_chunks(tmp_path: Path) -> None:
    value = [
        {"id": n, "image": "a.png", "conversations": [*TALK, turn("gpt", "é" * 997)]}
        for n in range(1500)
    ]
    (tmp_path / "d.json").write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    found, problems = read(tmp_path)
    assert len(found) == 1500 and not problems


def test_ids_by_position_lift_repeated_ids(tmp_path: Path) -> None:
    value = [{"id": "same", "image": "a.png", "conversations": TALK}] * 3
    (tmp_path / "d.json").write_text(json.dumps(value))
    assert len({record.id for record in read(tmp_path, ids="position")[0]}) == 3


def test_sharegpt_takes_a_list_of_images_and_a_system_turn(tmp_path: Path) -> None:
    value = [
        {
            "conversations": [turn("human", "<image><image>\nChange?"), turn("gpt", "None.")],
            "images": ["a.png", "b.png"],
            "system": "Be brief.",
        }
    ]
    (tmp_path / "d.json").write_text(json.dumps(value))
    (record,), _ = read(tmp_path)
    assert [message.role for message in record.messages] == ["system", "user", "assistant"]
    assert record.messages[1].content == (0, 1, "Change?") and len(record.images) == 2


def test_sharegpt_without_images_is_text(tmp_path: Path) -> None:
    value = [{"conversations": [turn("human", "Hello"), turn("gpt", "Good day.")]}]
    (tmp_path / "d.json").write_text(json.dumps(value))
    assert read(tmp_path)[0][0].task == "text"


@pytest.mark.parametrize("names", [["a.png"], ["a.png"] * 3, [""], [5]])
def test_sharegpt_with_other_counts_of_images_is_refused(tmp_path: Path, names: list[Any]) -> None:
    value = [
        {"conversations": [turn("human", "<image><image> x"), turn("gpt", "y")], "images": names}
    ]
    (tmp_path / "d.json").write_text(json.dumps(value))
    assert [len(part) for part in read(tmp_path, "sharegpt")] == [0, 1]


def part(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def message(*content: Any, answer: str = "A.") -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": list(content)},
            {"role": "assistant", "content": answer},
        ]
    }


def test_messages_keep_the_order_of_parts(tmp_path: Path) -> None:
    value = message(
        {"type": "text", "text": "Before "},
        part("a.png"),
        {"type": "text", "text": " after"},
        part("b.png"),
    )
    write_lines(tmp_path / "m.jsonl", [value])
    (record,), problems = read(tmp_path)
    assert not problems and record.messages[0].content == ("Before ", 0, " after", 1)
    assert [ref.locator for ref in record.images] == ["a.png", "b.png"]


def test_messages_take_data_urls_and_do_not_put_them_into_groups(tmp_path: Path) -> None:
    write_lines(tmp_path / "m.jsonl", [message(part("data:image/png;base64,AAAA"))])
    (record,), _ = read(tmp_path)
    assert record.images[0].locator.startswith("data:") and not record.group.startswith("data:")


@pytest.mark.parametrize(
    "url", ["http://x/a.png", "https://x/a.png", "file:///etc/passwd", "s3://b/k"]
)
def test_messages_never_fetch_an_address(tmp_path: Path, url: str) -> None:
    write_lines(tmp_path / "m.jsonl", [message(part(url))])
    found, problems = read(tmp_path)
    assert not found and "never fetched" in problems[0].what


@pytest.mark.parametrize(
    "value",
    [
        {"messages": []},
        {"messages": "x"},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": [{"role": "user", "content": 5}]},
        {"messages": [{"role": "user", "content": [{"type": "audio"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        {"messages": [{"role": "user", "content": ["x"]}]},
        {"messages": ["x"]},
        {"messages": [{"role": "user", "content": "x"}], "split": "mine"},
    ],
)
def test_broken_messages_are_named(tmp_path: Path, value: Any) -> None:
    write_lines(
        tmp_path / "m.jsonl", [message("x") | value, message({"type": "text", "text": "fine"})]
    )
    found, problems = read(tmp_path, "messages")
    assert len(found) == 1 and problems[0].where.startswith("m.jsonl:1")


def test_an_unknown_reader_suggests_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean: llava"):
        read(tmp_path, "lava")


def test_an_unknown_option_suggests_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean: licen"):
        read(llava_folder(tmp_path / "d"), licence="x")


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "absent")


def test_an_unknown_form_lists_the_readers(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"\0")
    with pytest.raises(DataError, match="no reader knows"):
        read(tmp_path)
