"""The clinic as files: complete, resumable, the same however made."""

import hashlib
import json
from pathlib import Path

import cv2
import pytest

from infimed.core.errors import UsageError
from infimed.data.phantom import clinic, write_clinic
from infimed.data.phantom.truth import ImageTruth
from infimed.data.record import Record

SPLITS = {"train": 0.5, "dev": 0.25, "test": 0.25}


def digest(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clinic") / "a"
    return write_clinic(folder, patients=130, seed=9, size=64, splits=SPLITS, dicom=True)


def test_records_truth_and_images_belong_together(made):
    records = [
        Record.from_json(line) for line in (made.folder / "records.jsonl").open(encoding="utf-8")
    ]
    rows = [json.loads(line) for line in (made.folder / "truth.jsonl").open(encoding="utf-8")]
    assert len(records) == made.records and len(rows) == made.images
    assert sum(made.by_split.values()) == sum(made.by_question.values()) == made.records
    named = {image.locator for record in records for image in record.images}
    assert named == {row["locator"] for row in rows}
    for row in rows[::20]:
        assert ImageTruth.from_dict(row).image_id in row["locator"]
        assert cv2.imread(str(made.folder / row["locator"])).shape[:2] == (64, 64)


def test_a_patient_is_in_one_split(made):
    split_of: dict[str, str] = {}
    for line in (made.folder / "records.jsonl").open(encoding="utf-8"):
        record = Record.from_json(line)
        assert split_of.setdefault(record.group, record.split) == record.split
    assert set(split_of.values()) == set(SPLITS)


def test_every_split_has_every_modality(made):
    seen = {
        (record.split, record.facts["modality"])
        for record in map(Record.from_json, (made.folder / "records.jsonl").open(encoding="utf-8"))
    }
    assert len(seen) == 3 * 6


def test_the_number_of_processes_does_not_matter(made, tmp_path):
    again = write_clinic(
        tmp_path / "b", patients=130, seed=9, size=64, splits=SPLITS, workers=2, dicom=True
    )
    assert digest(again.folder) == digest(made.folder)


def test_an_interrupted_clinic_is_continued_and_ends_the_same(made, tmp_path, monkeypatch):
    folder = tmp_path / "c"
    finished = clinic._make_chunk
    done: list[int] = []

    def killed(job):
        if done:
            raise KeyboardInterrupt
        done.append(job.chunk)
        return finished(job)

    monkeypatch.setattr(clinic, "_make_chunk", killed)
    with pytest.raises(KeyboardInterrupt):
        write_clinic(folder, patients=130, seed=9, size=64, splits=SPLITS, dicom=True)
    assert not (folder / "clinic.json").exists()
    resumed: list[int] = []

    def noted(job):
        resumed.append(job.chunk)
        return finished(job)

    monkeypatch.setattr(clinic, "_make_chunk", noted)
    write_clinic(folder, patients=130, seed=9, size=64, splits=SPLITS, dicom=True)
    assert done[0] not in resumed
    assert digest(folder) == digest(made.folder)


def test_a_complete_clinic_is_left_as_it_is(made):
    before = digest(made.folder)
    again = write_clinic(made.folder, patients=130, seed=9, size=64, splits=SPLITS, dicom=True)
    assert again.reused and (again.images, again.records) == (made.images, made.records)
    assert digest(made.folder) == before


def test_other_arguments_replace_the_clinic(tmp_path):
    write_clinic(tmp_path, patients=7, seed=1, size=64, splits={"train": 1.0}, dicom=True)
    second = write_clinic(tmp_path, patients=6, seed=2, size=64, splits={"train": 1.0})
    assert not second.reused and not (tmp_path / "dicom").exists()
    assert len(list((tmp_path / "images").iterdir())) == second.images


def test_bad_splits_are_refused(tmp_path):
    with pytest.raises(UsageError, match="did you mean: train"):
        write_clinic(tmp_path, patients=2, seed=1, splits={"trian": 1.0})
    with pytest.raises(UsageError, match="sum to 1"):
        write_clinic(tmp_path, patients=2, seed=1, splits={"train": 0.5})
    with pytest.raises(UsageError, match="at least 1"):
        write_clinic(tmp_path, patients=0, seed=1, splits={"train": 1.0})
