"""Folders with tables, Parquet and VOC."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infimed.data import imaging
from infimed.data.locators import ImageFetcher
from infimed.data.record import Record
from tests.data.readers.test_jsonforms import read
from tests.data.samples import encoded, noise, write_image, write_lines


def table(root: Path, text: str, name: str = "captions.csv") -> Path:
    write_image(root / "images" / "a.png")
    write_image(root / "images" / "b.png", seed=1)
    (root / name).write_text(text, encoding="utf-8")
    return root


def texts(records: list[Record]) -> list[str]:
    return [record.response for record in records if record.response]


def test_a_caption_table_gives_captions(tmp_path: Path) -> None:
    found, problems = read(
        table(tmp_path, "image,caption\nimages/a.png,A nodule.\nimages/b.png,Clear.\n")
    )
    assert texts(found) == ["A nodule.", "Clear."] and not problems
    assert found[0].task == "caption" and found[0].images[0].locator == "images/a.png"


def test_images_are_found_by_their_unique_name(tmp_path: Path) -> None:
    found, _ = read(table(tmp_path, "file_name,text\na.png,One.\nb.png,Two.\n"))
    assert [record.images[0].locator for record in found] == ["images/a.png", "images/b.png"]


def test_a_name_that_several_files_bear_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "other" / "a.png")
    _, problems = read(table(tmp_path, "image,caption\na.png,One.\n"))
    assert "several files" in problems[0].what


def test_a_csv_with_byte_order_mark_and_semicolons_is_read(tmp_path: Path) -> None:
    root = table(tmp_path, "\ufeffimage;caption\nimages/a.png;Fein, sagt er.\n")
    assert texts(read(root)[0]) == ["Fein, sagt er."]


def test_questions_become_closed_open_and_choice(tmp_path: Path) -> None:
    write_lines(
        tmp_path / "qa.jsonl",
        [
            {"image": "a.png", "question": "Is it?", "answer": "Yes"},
            {"image": "a.png", "question": "What?", "answer": "Lung"},
            {"image": "a.png", "question": "Side?", "answer": "left", "choices": ["left", "right"]},
            {"image": "a.png", "question": "Side?", "answer": "left", "options": "left|right"},
            {"image": "a.png", "findings": "Clear lungs.", "impression": "Normal."},
        ],
    )
    found, problems = read(tmp_path)
    assert [record.task for record in found] == [
        "closed",
        "open",
        "choice",
        "choice",
        "report",
    ] and not problems
    assert found[4].response == "Findings: Clear lungs.\nImpression: Normal."
    assert all(record.problem() is None for record in found)


def test_bad_rows_are_named_by_line(tmp_path: Path) -> None:
    text = "image,caption,question,answer,split\nimages/a.png,Fine.,,,\n,No image.,,,\nimages/a.png,,,,\n"
    text += "images/a.png,,What?,,\nimages/a.png,x,,,elsewhere\nimages/a.png,a,b\n../up.png,x,,,\n"
    found, problems = read(table(tmp_path, text))
    assert texts(found) == ["Fine."]
    assert [problem.where.split(":")[1] for problem in problems] == ["3", "4", "5", "6", "7", "8"]


def test_images_without_a_row_come_as_images_without_text(tmp_path: Path) -> None:
    found, _ = read(table(tmp_path, "image,caption\nimages/a.png,One.\n"))
    assert [record.id for record in found if not record.response] == ["images/b.png"]


def test_a_folder_without_a_table_shows_its_images(tmp_path: Path) -> None:
    write_image(tmp_path / "x" / "a.png")
    (tmp_path / "notes.md").write_text("hello")
    found, problems = read(tmp_path)
    assert [record.id for record in found] == ["x/a.png"] and problems[0].where == "notes.md"


def test_patients_are_hashed_and_ages_become_bands(tmp_path: Path) -> None:
    found, _ = read(
        table(
            tmp_path,
            "image,caption,patient_id,age,sex\na.png,x,Smith^J,67,F\nb.png,y,Smith^J,93,F\n",
        )
    )
    assert found[0].group == found[1].group and "Smith" not in repr(found)
    assert [record.facts["age_band"] for record in found] == ["60-69", "90+"]


def test_validation_is_dev(tmp_path: Path) -> None:
    found, _ = read(table(tmp_path, "image,caption,split\na.png,x,validation\nb.png,y,test\n"))
    assert [record.split for record in found] == ["dev", "test"]


def hub_folder(root: Path, **columns: list[object]) -> Path:
    (root / "data").mkdir(parents=True)
    cells = [{"bytes": encoded(noise(seed=seed)), "path": f"{seed}.png"} for seed in range(3)]
    content = {"image": cells, **columns}
    pq.write_table(
        pa.table(content), root / "data" / "validation-00000-of-00001.parquet", row_group_size=2
    )
    return root


def test_parquet_rows_become_questions_with_their_own_image(tmp_path: Path) -> None:
    root = hub_folder(tmp_path, question=["a?", "b?", "c?"], answer=["yes", "no", "left lung"])
    found, problems = read(root)
    assert [record.task for record in found] == ["closed", "closed", "open"] and not problems
    assert {record.split for record in found} == {"dev"}
    for seed, record in enumerate(found):
        stored = ImageFetcher(root).stored(record.images[0].locator)
        assert (imaging.decode(stored.data) == noise(seed=seed)).all()


def test_parquet_with_a_list_of_images_keeps_their_number(tmp_path: Path) -> None:
    cell = {"bytes": encoded(noise()), "path": "p"}
    content = pa.table(
        {
            "images": [[cell, cell], [cell], []],
            "question": ["a", "b", "c"],
            "answer": ["x", "y", "z"],
        }
    )
    pq.write_table(content, tmp_path / "train.parquet")
    found, _ = read(tmp_path)
    assert [len(record.images) for record in found] == [2, 1, 0]
    assert ImageFetcher(tmp_path).stored(found[0].images[1].locator).width == 32


def test_parquet_conversations_are_read(tmp_path: Path) -> None:
    talk = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "That."}]
    found, problems = read(hub_folder(tmp_path, conversations=[talk] * 3))
    assert [record.response for record in found] == ["That."] * 3 and not problems


def test_bad_parquet_rows_and_files_are_named(tmp_path: Path) -> None:
    root = hub_folder(tmp_path, question=["a?", None, "c?"], answer=["yes", "no", None])
    (root / "data" / "z.parquet").write_bytes(b"PAR1 broken")
    found, problems = read(root)
    assert len(found) == 1
    assert [problem.where.rsplit("/", 1)[1] for problem in problems] == [
        "validation-00000-of-00001.parquet row 1",
        "validation-00000-of-00001.parquet row 2",
        "z.parquet",
    ]


BOX = "<object><name>{}</name><bndbox><xmin>1</xmin></bndbox></object>"


def voc_folder(root: Path) -> Path:
    for stem, labels in (("one", ["RBC", "RBC", "WBC"]), ("two", ["RBC"]), ("three", [])):
        write_image(root / "JPEGImages" / f"{stem}.jpg", form="JPEG")
        boxes = "".join(BOX.format(label) for label in labels)
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{stem}.xml").write_text(
            f"<annotation><filename>{stem}.jpg</filename>{boxes}</annotation>"
        )
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "test.txt").write_text("two\n")
    write_image(root / "JPEGImages" / "bare.jpg", form="JPEG")
    return root


def test_voc_boxes_become_counts(tmp_path: Path) -> None:
    found, problems = read(voc_folder(tmp_path))
    by_id = {record.id: record for record in found}
    assert (
        by_id["one-caption"].response == "The image shows 2 red blood cells and 1 white blood cell."
    )
    assert by_id["two-presence-WBC"].answer == "no" and by_id["two-presence-WBC"].split == "test"
    assert by_id["one-count-RBC"].answer == "2" and "two-count-WBC" not in by_id
    assert by_id["three-caption"].response == "The image shows no labelled object."
    assert by_id["JPEGImages/bare.jpg"].response == "" and not problems


@pytest.mark.parametrize(
    "content",
    [
        "<annotation><object>",
        '<!DOCTYPE a [<!ENTITY x "y">]><annotation>&x;</annotation>',
        "",
        "not xml",
        '<?xml version="1.0" encoding="none-such"?><annotation/>',
    ],
)
def test_broken_annotations_are_named_and_never_expanded(tmp_path: Path, content: str) -> None:
    root = voc_folder(tmp_path)
    (root / "Annotations" / "bad.xml").write_text(content)
    found, problems = read(root)
    assert [problem.where for problem in problems] == ["Annotations/bad.xml"] and len(found) > 5


def test_voc_names_cannot_point_outside(tmp_path: Path) -> None:
    root = voc_folder(tmp_path)
    (root / "Annotations" / "evil.xml").write_text(
        "<annotation><filename>../../../etc/passwd</filename></annotation>"
    )
    found, _ = read(root)
    assert all(".." not in ref.locator for record in found for ref in record.images)
