"""VQA-RAD, DICOM folders and NIfTI folders."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from infimed.core.errors import DataError, UsageError
from infimed.data.readers import dicom, nifti, vqa_rad
from tests.data.readers.test_jsonforms import read
from tests.data.samples import dicom_bytes, noise, write_image

ROW = {
    "qid": 1,
    "phrase_type": "freeform",
    "image_case_url": "case-a",
    "image_name": "one.jpg",
    "image_organ": "CHEST",
    "question": "Is  there a mass?",
    "question_type": "PRES",
    "answer": "Yes",
    "answer_type": "CLOSED ",
}


def vqa_folder(root: Path, rows: list[Any]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "VQA_RAD Dataset Public.json").write_text(json.dumps(rows))
    return root


def test_the_slips_of_vqa_rad_are_normalised_and_kept(tmp_path: Path) -> None:
    rows = [
        ROW,
        {**ROW, "qid": 2, "question_type": "POS, atrib", "answer_type": "OPEN", "answer": 3},
        {**ROW, "qid": "3", "question_type": "Other", "answer": " Left "},
    ]
    found, problems = read(vqa_folder(tmp_path / "v", rows))
    assert not problems and [record.task for record in found] == ["closed", "open", "closed"]
    assert [record.answer for record in found] == ["yes", "3", "Left"]
    assert found[1].facts["question_types"] == ["POS", "ATTRIB"]
    assert found[1].facts["question_type_raw"] == "POS, atrib"
    assert found[2].facts["question_type"] == "OTHER" and found[0].facts["anatomy"] == "chest"
    assert found[0].question == "Is there a mass?"
    linked = [{**ROW, "qid_linked_id": "x"}, {**ROW, "qid": 2, "qid_linked_id": "NULL"}]
    found, _ = read(vqa_folder(tmp_path / "w", linked))
    assert found[0].facts["rephrasing"] == "x" and "rephrasing" not in found[1].facts


def test_duplicated_questions_are_kept(tmp_path: Path) -> None:
    found, _ = read(vqa_folder(tmp_path / "v", [ROW, {**ROW, "qid": 2}]))
    assert len(found) == 2 and found[0].id != found[1].id


def test_images_that_share_a_case_share_a_group(tmp_path: Path) -> None:
    rows = [
        ROW,
        {**ROW, "qid": 2, "image_name": "two.jpg"},
        {**ROW, "qid": 3, "image_name": "two.jpg", "image_case_url": "case-b"},
        {**ROW, "qid": 4, "image_name": "three.jpg", "image_case_url": "case-b"},
        {**ROW, "qid": 5, "image_name": "four.jpg", "image_case_url": "case-c"},
    ]
    found, _ = read(vqa_folder(tmp_path / "v", rows))
    assert [record.group for record in found] == ["one.jpg"] * 4 + ["four.jpg"]


def test_the_split_file_decides_and_names_what_it_misses(tmp_path: Path) -> None:
    rows = [ROW, {**ROW, "qid": 2, "image_name": "lost.jpg", "image_case_url": "z"}]
    (tmp_path / "split.json").write_text(json.dumps({"parts": {"test": ["one.jpg"]}}))
    found, problems = read(vqa_folder(tmp_path / "v", rows), split_file="../split.json")
    assert [record.split for record in found] == ["test"]
    assert "no part" in problems[0].what and "lost.jpg" in problems[0].what


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"parts": {"train": "x"}}', '{"parts": {"a": ["x"], "b": ["x"]}}']
)
def test_a_broken_split_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "split.json").write_text(content)
    with pytest.raises(DataError):
        read(vqa_folder(tmp_path / "v", [ROW]), split_file="../split.json")


def test_an_image_in_two_parts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps({"parts": {"train": ["x"], "test": ["x"]}}))
    with pytest.raises(DataError, match="two parts"):
        vqa_rad.split_parts(tmp_path / "s.json")


@pytest.mark.parametrize(
    "change",
    [
        {"image_name": None},
        {"image_name": "NULL"},
        {"question": ""},
        {"answer": None},
        {"answer_type": "MAYBE"},
        {"answer": ["x"]},
    ],
)
def test_broken_questions_are_named(tmp_path: Path, change: dict[str, Any]) -> None:
    found, problems = read(
        vqa_folder(tmp_path / "v", [ROW, {**ROW, "qid": 9, **change}, 5]), "vqa_rad"
    )
    assert len(found) == 1 and [problem.where[-3:] for problem in problems] == ["[1]", "[2]"]


def dicom_folder(root: Path) -> Path:
    common = {"PatientID": "4711", "PatientName": "Canary^Jane", "Modality": "CT"}
    root.mkdir(parents=True, exist_ok=True)
    grey = noise(channels=1).astype(np.int16)
    (root / "Canary_Jane").mkdir()
    (root / "Canary_Jane" / "a.dcm").write_bytes(
        dicom_bytes(grey, BodyPartExamined="CHEST", **common)
    )
    (root / "Canary_Jane" / "b").write_bytes(dicom_bytes(grey + 1, **common))
    frames = np.stack([noise(channels=1, seed=seed) for seed in range(20)])
    (root / "cine.dcm").write_bytes(dicom_bytes(frames, Modality="US"))
    (root / "other.dcm").write_bytes(dicom_bytes(grey, Modality="OT"))
    (root / "plan.dcm").write_bytes(dicom_bytes(grey, Modality="RTDOSE"))
    (root / "empty.dcm").write_bytes(b"")
    (root / "text.txt").write_text("not an image")
    return root


def test_a_dicom_folder_gives_a_sentence_a_frame(tmp_path: Path) -> None:
    found, problems = read(dicom_folder(tmp_path / "d"), frames="4")
    said = [record.response for record in found]
    assert said == ["A CT image of the chest.", "A CT image."] + ["An ultrasound image."] * 4 + [""]
    assert [problem.where for problem in problems] == ["empty.dcm", "plan.dcm", "text.txt"]
    assert [problem.code for problem in problems] == ["empty", "not-image", "not-data"]


def test_dicom_records_hold_no_identifier(tmp_path: Path) -> None:
    found, _ = read(dicom_folder(tmp_path / "d"))
    ct = [record for record in found if record.facts.get("modality") == "CT"]
    assert ct[0].group == ct[1].group and len({record.id for record in found}) == len(found)
    shown = [(record.id, record.group, record.facts, record.messages) for record in found]
    assert "canary" not in repr(shown).lower() and "4711" not in repr(shown)


def test_a_salt_changes_ids_and_groups(tmp_path: Path) -> None:
    root = dicom_folder(tmp_path / "d")
    one, two = read(root, salt="a")[0][0], read(root, salt="b")[0][0]
    assert one.id != two.id and one.group != two.group


def test_a_dicom_folder_with_a_table_is_read_by_the_table(tmp_path: Path) -> None:
    root = dicom_folder(tmp_path / "d")
    (root / "reports.csv").write_text("image,report\ncine.dcm,Normal heart.\n")
    found, _ = read(root)
    assert found[0].task == "report" and found[0].response == "Normal heart."


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"modality": "DX", "view": "PA", "anatomy": "chest"}, "A PA radiograph of the chest."),
        (
            {"modality": "CR", "view": "AP", "side": "left", "anatomy": "knee"},
            "An AP radiograph of the left knee.",
        ),
        ({"modality": "MR", "anatomy": "brain"}, "An MR image of the brain."),
        ({"modality": "OT"}, ""),
        ({}, ""),
    ],
)
def test_header_sentences_say_only_what_is_stated(facts: dict[str, Any], sentence: str) -> None:
    assert dicom.header_sentence(facts) == sentence


def nifti_folder(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(0).integers(0, 99, (12, 14, 10)).astype(np.int16)
    data = bytes(nib.Nifti1Image(array, np.eye(4)).to_bytes())
    (root / "study_T1w.nii.gz").write_bytes(gzip.compress(data))
    (root / "study_FLAIR.nii").write_bytes(data)
    (root / "thing.nii").write_bytes(data)
    (root / "broken.nii.gz").write_bytes(gzip.compress(data)[:100])
    (root / "README.md").write_text("hello")
    return root


def test_a_nifti_folder_gives_a_montage_a_volume(tmp_path: Path) -> None:
    found, problems = read(nifti_folder(tmp_path / "n"))
    by_id = {record.id: record for record in found}
    assert by_id["study_T1w.nii.gz"].response == "9 axial slices of a T1-weighted MR volume."
    assert by_id["thing.nii"].response == "" and [problem.where for problem in problems] == [
        "README.md"
    ]
    assert by_id["study_T1w.nii.gz"].group == by_id["study_FLAIR.nii"].group


def test_nifti_slices_are_one_record_each(tmp_path: Path) -> None:
    found, problems = read(nifti_folder(tmp_path / "n"), mode="slices", slices="3", plane="coronal")
    t1 = [record for record in found if record.id.startswith("study_T1w")]
    assert [record.images[0].locator.split("#")[1] for record in t1] == [
        "axis=1,slice=1",
        "axis=1,slice=7",
        "axis=1,slice=12",
    ]
    assert t1[0].response == "A coronal T1-weighted MR image."
    assert "broken.nii.gz" in [problem.where for problem in problems]


@pytest.mark.parametrize(
    "options", [{"mode": "movie"}, {"plane": "oblique"}, {"slices": "0"}, {"slices": "x"}]
)
def test_bad_nifti_options_are_refused(tmp_path: Path, options: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        read(nifti_folder(tmp_path / "n"), **options)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("sub-01/anat/sub-01_T1w.nii.gz", "sub-01"),
        ("x/study2_FLAIR.nii.gz", "x/study2"),
        ("plain.nii", "plain"),
    ],
)
def test_volumes_of_one_subject_share_a_group(name: str, group: str) -> None:
    assert nifti.subject_of(name) == group


def test_an_image_beside_dicom_files_is_listed(tmp_path: Path) -> None:
    root = dicom_folder(tmp_path / "d")
    write_image(root / "x.png")
    assert "x.png" in [problem.where for problem in read(root)[1]]


def test_answers_to_questions_of_kind_and_plane_become_facts_of_the_image(tmp_path: Path) -> None:
    def asked(number: int, question: str, answer: str, kind: str, image: str = "one.jpg") -> Any:
        texts = {"question": question, "answer": answer, "question_type": kind}
        return {**ROW, **texts, "qid": number, "image_name": image, "answer_type": "OPEN"}

    rows = [
        asked(1, "What scan is this?", "FLAIR MRI", "MODALITY"),
        asked(2, "Is this a CT?", "No", "MODALITY"),
        asked(3, "Is this an axial image?", "Yes", "PLANE"),
        asked(4, "Where is the CT finding?", "left", "POS"),
        asked(5, "What is this?", "CT", "MODALITY", "two.jpg"),
        asked(6, "Is this an MRI?", "yes", "MODALITY", "two.jpg"),
    ]
    found, _ = read(vqa_folder(tmp_path / "v", rows))
    assert all(r.facts["modality"] == "MRI" and r.facts["plane"] == "axial" for r in found[:4])
    assert not {"modality", "plane"} & found[4].facts.keys()
