"""The reader of benchmark files: forms, joins, gathering, and bad input that does not stop it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from infimed.core.errors import UsageError
from infimed.data import readers
from infimed.data.readers import ReadProblem
from infimed.data.record import Record

BASE = {"question": "q", "answer": "a", "id": "id"}


def read(folder: Path, **layout: Any) -> tuple[list[Record], list[ReadProblem]]:
    options = {"map": json.dumps({**BASE, **layout}), "source": "bench"}
    items = list(readers.read(folder, "mapped", options))
    good = [item for item in items if isinstance(item, Record)]
    return good, [item for item in items if isinstance(item, ReadProblem)]


def write(folder: Path, name: str, text: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")


ROWS = [{"id": 1, "q": "one?", "a": "yes"}, {"id": 2, "q": "two?", "a": "lung"}]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.json", json.dumps(ROWS)),
        ("t.json", json.dumps(ROWS, indent=1)),
        ("t.json", "\n".join(json.dumps(row) for row in ROWS)),
        ("t.jsonl", "\ufeff" + "\n\n".join(json.dumps(row) for row in ROWS)),
        ("t.csv", "id,q,a\n1,one?,yes\n2,two?,lung\n"),
        ("t.tsv", "id\tq\ta\n1\tone?\tyes\n2\ttwo?\tlung\n"),
    ],
)
def test_every_form_of_text_gives_the_same_records(tmp_path: Path, name: str, text: str) -> None:
    write(tmp_path, name, text)
    good, bad = read(tmp_path, files={"test": [name]})
    assert not bad
    assert [(r.id, r.task, r.question, r.answer, r.split) for r in good] == [
        ("bench-1", "closed", "one?", "yes", "test"),
        ("bench-2", "open", "two?", "lung", "test"),
    ]


def test_an_object_by_key_and_rows_inside_a_file_are_read(tmp_path: Path) -> None:
    write(tmp_path, "by_key.json", json.dumps({"x": {"q": "one?", "a": "yes"}}))
    write(tmp_path, "inside.json", json.dumps({"test": ROWS, "train": ROWS[:1]}))
    assert read(tmp_path, files={"test": ["by_key.json"]}, id="_key")[0][0].id == "bench-x"
    assert len(read(tmp_path, files={"test": ["inside.json#test"]})[0]) == 2


def test_the_first_pattern_that_matches_counts(tmp_path: Path) -> None:
    write(tmp_path, "old/t.json", json.dumps(ROWS[:1]))
    assert len(read(tmp_path, files={"test": ["new/*.json", "**/t.json"]})[0]) == 1
    write(tmp_path, "new/t.json", json.dumps(ROWS))
    assert len(read(tmp_path, files={"test": ["new/*.json", "**/t.json"]})[0]) == 2


def test_splits_come_from_the_files(tmp_path: Path) -> None:
    write(tmp_path, "test.json", json.dumps(ROWS))
    write(tmp_path, "train.json", json.dumps(ROWS[:1]))
    good, _ = read(tmp_path, files={"test": ["test.json"], "train": ["train.json"]}, id="")
    assert [(r.id, r.split) for r in good] == [
        ("bench-test-0", "test"),
        ("bench-test-1", "test"),
        ("bench-train-0", "train"),
    ]


def test_a_row_that_a_joined_file_lacks_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, "t.json", json.dumps(ROWS))
    write(tmp_path, "gold.json", json.dumps([{"key": 2, "gold": "heart"}]))
    join = {"other": {"file": "gold.json", "key": "{id}", "by": "key"}}
    good, bad = read(tmp_path, files={"test": ["t.json"]}, join=join, answer="other.gold")
    assert [r.answer for r in good] == ["heart"] and not bad


def test_images_of_a_study_are_gathered_and_their_folder_is_found(tmp_path: Path) -> None:
    rows = [
        {"study": s, "q": "?", "a": "x", "img": i}
        for s, i in ((1, "a.png"), (1, "b.png"), (2, "c.png"))
    ]
    write(tmp_path, "t.json", json.dumps(rows))
    write(tmp_path, "more/b.png", "")
    good, _ = read(
        tmp_path,
        files={"test": ["t.json"]},
        gather="{study}",
        images=["img"],
        image_folders=["imgs", "more"],
    )
    assert [[i.locator for i in r.images] for r in good] == [
        ["imgs/a.png", "more/b.png"],
        ["imgs/c.png"],
    ]
    assert good[0].group and good[0].group != good[1].group


def test_without_images_the_group_stays_that_of_the_image(tmp_path: Path) -> None:
    write(tmp_path, "t.json", json.dumps([{**row, "img": "a.png"} for row in ROWS]))
    options = {"map": json.dumps({**BASE, "files": {"test": ["t.json"]}, "images": ["img"]})}
    shown = list(readers.read(tmp_path, "mapped", options))
    blind = list(readers.read(tmp_path, "mapped", {**options, "images": "none"}))
    assert [r.group for r in blind] == [r.group for r in shown]
    assert not any(r.images for r in blind)


@pytest.mark.parametrize(
    "row",
    [
        {"id": 3, "q": "", "a": "yes"},
        {"id": 3, "q": "x?", "a": ""},
        {"id": 3, "q": "x?"},
        {"id": 3, "q": "x?", "a": {"not": "text"}},
        "no row",
        17,
        None,
    ],
)
def test_a_bad_row_is_one_problem_and_reading_goes_on(tmp_path: Path, row: Any) -> None:
    write(tmp_path, "t.json", json.dumps([row, *ROWS]))
    good, bad = read(tmp_path, files={"test": ["t.json"]})
    assert len(good) == 2 and len(bad) == 1


@pytest.mark.parametrize("text", ["", "[", "{", '{"a": 1', "[1, 2", "\x00", "null", "3"])
def test_a_broken_file_never_raises(tmp_path: Path, text: str) -> None:
    write(tmp_path, "t.json", text)
    good, _ = read(tmp_path, files={"test": ["t.json"]})
    assert not good


def test_a_broken_parquet_file_is_a_problem(tmp_path: Path) -> None:
    write(tmp_path, "t.parquet", "not parquet")
    assert len(read(tmp_path, files={"test": ["t.parquet"]})[1]) == 1


def test_no_file_is_a_problem_and_a_wrong_map_an_error(tmp_path: Path) -> None:
    assert "no file matches" in read(tmp_path, files={"test": ["t.json"]})[1][0].what
    with pytest.raises(UsageError, match="colour"):
        read(tmp_path, files={"test": ["t.json"]}, colour="red")


def test_ages_become_bands_and_patients_hashes(tmp_path: Path) -> None:
    write(tmp_path, "t.json", json.dumps([{**ROWS[0], "age": 64.0, "who": "patient-7"}]))
    (record,), _ = read(
        tmp_path, files={"test": ["t.json"]}, facts={"age_band": "age"}, group="who"
    )
    assert record.facts == {"age_band": "60-69"} and "patient" not in record.group
