"""Curation end to end, on a data set in memory."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from infimed.core.errors import DataError
from infimed.curation import (
    curate,
    default_rubric,
    engine,
    explain,
    kept_rows,
    ledger,
    read_summary,
    read_verdicts,
)
from tests.curation.clinic import Memory, clinic, picture

TABLES = ("signals", "findings", "verdicts")


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / f"{name}.parquet").read_bytes() for name in TABLES}


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "CHUNK_ROWS", 8)


def test_defects_are_dropped_and_clean_records_kept(tmp_path: Path) -> None:
    memory = clinic()
    summary = curate(memory, tmp_path)
    assert (summary.records, summary.dropped, summary.images) == (39, 3, 14)
    reasons = {
        row["record_id"]: row["reasons"]
        for row in read_verdicts(tmp_path).to_pylist()
        if not row["keep"]
    }
    assert reasons == {
        "r36": ["relevance.blank_image", "readability.under_exposed"],
        "r37": ["completeness.unreadable_image"],
        "r38": ["completeness.cut_text"],
    }
    assert kept_rows(tmp_path).tolist() == list(range(36))


def test_an_explanation_names_value_limit_and_evidence(tmp_path: Path) -> None:
    curate(clinic(), tmp_path)
    told = explain(tmp_path, "r36")
    assert not told.verdict.keep
    blank = next(f for f in told.findings if f.rule == "relevance.blank_image")
    assert (blank.value, blank.threshold, blank.where) == (0.0, 3.0, "image 0")
    assert told.signals["images"][0]["std"] == 0.0
    with pytest.raises(DataError, match="no such record"):
        explain(tmp_path, "r999")


def test_the_tables_are_the_same_bytes_with_any_number_of_workers(
    tmp_path: Path, small_chunks: None
) -> None:
    for workers in (1, 2, 3):
        curate(clinic(), tmp_path / str(workers), workers=workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "2") == contents(tmp_path / "3")


def test_a_killed_run_resumes_and_ends_with_the_same_bytes(
    tmp_path: Path, small_chunks: None
) -> None:
    curate(clinic(), tmp_path / "whole")
    memory = clinic()
    record, memory.decoded = memory.record, 0

    def dies(number: int):  # type: ignore[no-untyped-def]
        if number >= 20:
            raise KeyboardInterrupt
        return record(number)

    memory.record = dies  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        curate(memory, tmp_path / "cut")
    assert not (tmp_path / "cut" / "verdicts.parquet").exists()
    before, memory.record = memory.decoded, record  # type: ignore[method-assign]
    curate(memory, tmp_path / "cut")
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert memory.decoded < before + 14
    assert not (tmp_path / "cut" / ledger.PARTS).exists()


def test_a_run_killed_between_the_tables_is_finished_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curate(clinic(), tmp_path / "whole")
    write = ledger.write_table

    def dies(path: Path, name: str, tables) -> None:  # type: ignore[no-untyped-def]
        if name == "verdicts":
            raise KeyboardInterrupt
        write(path, name, tables)

    monkeypatch.setattr(ledger, "write_table", dies)
    with pytest.raises(KeyboardInterrupt):
        curate(clinic(), tmp_path / "cut")
    monkeypatch.setattr(ledger, "write_table", write)
    curate(clinic(), tmp_path / "cut")
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_the_same_run_again_measures_nothing(tmp_path: Path) -> None:
    memory = clinic()
    first = curate(memory, tmp_path)
    seen = memory.decoded
    assert curate(memory, tmp_path) == first == read_summary(tmp_path)
    assert memory.decoded == seen


def test_a_changed_threshold_is_decided_again_without_opening_an_image(tmp_path: Path) -> None:
    memory = clinic()
    curate(memory, tmp_path / "again")
    seen = memory.decoded
    rubric = default_rubric().with_settings({"readability.small_image.min_side": 200})
    summary = curate(memory, tmp_path / "again", rubric=rubric)
    assert memory.decoded == seen
    assert summary.kept == 0
    curate(clinic(), tmp_path / "fresh", rubric=rubric)
    assert contents(tmp_path / "again") == contents(tmp_path / "fresh")


def test_exact_copies_are_dropped_whatever_file_they_come_from(tmp_path: Path) -> None:
    memory = Memory()
    for label in ("png", "jpg"):
        memory.ask((memory.image(picture(1), label),), "Is there an effusion?", "yes")
    memory.ask((memory.image(picture(1), "jpg"),), "Is there a fracture?", "yes")
    curate(memory, tmp_path)
    assert kept_rows(tmp_path).tolist() == [0, 2]
    assert explain(tmp_path, "r1").verdict.reasons == ("duplication.exact",)


def test_a_re_encoded_copy_is_a_duplicate_and_another_question_about_it_is_not(
    tmp_path: Path,
) -> None:
    memory = Memory()
    pixels = picture(5, 256)
    coded = cv2.imdecode(cv2.imencode(".jpg", cv2.resize(pixels, (200, 200)), [1, 60])[1], 1)
    original, copy = memory.image(pixels), memory.image(coded)
    memory.ask((original,), "Is there an effusion?", "yes")
    memory.ask((copy,), "is there an effusion", "Yes.")
    memory.ask((copy,), "Is there a fracture?", "no")
    curate(memory, tmp_path)
    assert explain(tmp_path, "r1").verdict.reasons == ("duplication.near_image",)
    assert kept_rows(tmp_path).tolist() == [0, 2]


def test_two_studies_shown_side_by_side_are_never_merged(tmp_path: Path) -> None:
    memory = Memory()
    pixels = picture(6, 256)
    later = np.clip(pixels.astype(int) + 3, 0, 255).astype(np.uint8)
    prior, current = memory.image(pixels), memory.image(later)
    memory.ask((prior,), "Is there an effusion?", "yes")
    memory.ask((current,), "Is there an effusion?", "yes")
    memory.ask((prior, current), "How has the effusion changed?", "unchanged", "open")
    assert curate(memory, tmp_path).dropped == 0


def test_contradicting_answers_to_one_question_are_all_dropped(tmp_path: Path) -> None:
    memory = Memory()
    ref = memory.image(picture(7))
    memory.ask((ref,), "Is there an effusion?", "yes")
    memory.ask((ref,), "Is there an effusion ?", "No")
    memory.ask((ref,), "What is in the lung?", "a mass", "open")
    memory.ask((ref,), "What is in the lung?", "Mass.", "open")
    curate(memory, tmp_path)
    assert kept_rows(tmp_path).tolist() == [2]
    assert explain(tmp_path, "r0").verdict.reasons == ("consistency.conflicting_answers",)
    assert explain(tmp_path, "r3").verdict.reasons == ("duplication.exact",)


def test_near_texts_are_merged_but_not_across_a_side_or_an_image(tmp_path: Path) -> None:
    memory = Memory()
    one, two = memory.image(picture(8)), memory.image(picture(9))
    text = "Axial CT of the chest showing a spiculated mass in the {} upper lobe of the lung with {} hilum."
    memory.ask((one,), "Describe.", text.format("left", "enlarged"), "caption")
    memory.ask((one,), "Describe.", text.format("left", "an enlarged"), "caption")
    memory.ask((one,), "Describe.", text.format("right", "enlarged"), "caption")
    memory.ask((two,), "Describe.", text.format("left", "enlarged"), "caption")
    curate(memory, tmp_path)
    assert kept_rows(tmp_path).tolist() == [0, 2, 3]


def test_a_duplicate_of_a_dropped_record_is_kept(tmp_path: Path) -> None:
    memory = Memory()
    sharp = picture(10, 256)
    dull = memory.image(cv2.GaussianBlur(sharp, (0, 0), 12))
    memory.ask((dull,), "Is there an effusion?", "yes")
    memory.ask((memory.image(sharp),), "Is there an effusion?", "yes")
    curate(memory, tmp_path)
    assert kept_rows(tmp_path).tolist() == [1]


def test_a_caption_without_the_stop_that_its_source_always_writes_is_dropped(
    tmp_path: Path,
) -> None:
    memory = Memory()
    for number in range(60):
        ref = memory.image(picture(number, 96))
        stop = "" if number == 17 else "."
        memory.ask(
            (ref,),
            "Describe.",
            f"Axial CT with lesion number {number} of the liver{stop}",
            "caption",
        )
    curate(memory, tmp_path)
    assert explain(tmp_path, "r17").verdict.reasons == ("completeness.missing_stop",)
    assert len(kept_rows(tmp_path)) == 59


def test_nothing_to_curate_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no record"):
        curate(Memory(), tmp_path)


def test_a_damaged_ledger_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no curation ledger"):
        read_verdicts(tmp_path)
    curate(clinic(), tmp_path)
    (tmp_path / "verdicts.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(DataError, match="cannot be read"):
        read_verdicts(tmp_path)


def test_progress_adds_up_to_every_record(tmp_path: Path, small_chunks: None) -> None:
    counted: list[int] = []
    curate(clinic(), tmp_path, workers=2, on_progress=counted.append)
    assert sum(counted) == 39
    assert engine.read_summary(tmp_path).measured == 39
