"""Who measures does not matter: threads, processes, Ray, a killed worker, another rubric."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from infimed.core.errors import DataError, UsageError
from infimed.curation import curate, default_rubric, judging, ledger, workers
from infimed.curation.engine import engine_named
from infimed.curation.rubric import Rubric
from infimed.data.importing import import_data
from infimed.data.record import ImageRef, question_record
from infimed.data.shards import ShardSet, open_shards
from tests.curation.clinic import clinic, picture
from tests.curation.test_engine import contents

CHUNK = 8


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "CHUNK_ROWS", CHUNK)
    monkeypatch.setattr(ledger, "CHUNKS_PER_ROW_GROUP", 3)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Sixty records about twenty images on disk, duplicates and a blurred image among them."""
    folder = tmp_path_factory.mktemp("source")
    lines = []
    for number in range(60):
        image = folder / f"{number % 20}.jpg"
        if not image.exists():
            pixels = picture(number % 20, 96)
            if number == 7:
                pixels = cv2.GaussianBlur(pixels, (0, 0), 8)
            cv2.imwrite(str(image), pixels if number % 2 else pixels[:, :, 0])
        answer = "yes" if number % 3 else "no"
        question = "Is there an effusion?" if number < 50 else f"Is there a fracture {number % 4}?"
        lines.append(
            question_record(
                id=f"r{number}", question=question, answer=answer, task="closed",
                images=(ImageRef(image.name),), source="disk", facts={"modality": "CT"},
            ).to_json()
        )  # fmt: skip
    (folder / "records.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    out = tmp_path_factory.mktemp("imported") / "shards"
    import_data(folder, out)
    return open_shards(out)


@pytest.fixture(scope="module")
def whole(shards: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "CHUNK_ROWS", CHUNK)
        patch.setattr(ledger, "CHUNKS_PER_ROW_GROUP", 3)
        out = tmp_path_factory.mktemp("whole")
        curate(shards, out)
        return contents(out)


def test_processes_write_the_ledger_of_one_thread(
    shards: ShardSet, whole: dict[str, bytes], tmp_path: Path
) -> None:
    counted: list[int] = []
    curate(shards, tmp_path, workers=2, engine="processes", on_progress=counted.append)
    assert contents(tmp_path) == whole
    assert sum(counted) == 60


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Twelve images, then a brighter copy of each; three questions in all."""
    folder = tmp_path_factory.mktemp("copied")
    lines = []
    for number in range(24):
        pixels = cv2.add(picture(number % 12, 96), np.full((96, 96, 3), number // 12 * 6, np.uint8))
        cv2.imwrite(str(folder / f"{number}.png"), pixels)
        record = question_record(
            id=f"r{number}", question=f"Is there a {('mass', 'cyst', 'stone')[number % 3]}?", answer="no",
            images=(ImageRef(f"{number}.png"),), task="closed", source="disk",
        )  # fmt: skip
        lines.append(record.to_json())
    (folder / "records.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    out = tmp_path_factory.mktemp("imported") / "shards"
    import_data(folder, out)
    return open_shards(out)


def test_near_images_are_found_by_the_processes_that_measured(
    copied: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    ask = workers.Processes.ask

    def noted(
        self: workers.Processes, questions: Sequence[Mapping[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        asked.extend("rule" if "rule" in question else "chunk" for question in questions)
        return ask(self, questions)

    monkeypatch.setattr(judging, "WORTH_SHARING", 20)
    monkeypatch.setattr(workers.Processes, "ask", noted)
    curate(copied, tmp_path / "alone")
    assert not asked
    curate(copied, tmp_path / "shared", workers=2, engine="processes")
    assert contents(tmp_path / "alone") == contents(tmp_path / "shared")
    assert (asked.count("chunk"), asked.count("rule")) == (3, 3)
    found = ledger.read_ledger(tmp_path / "shared", ledger.FINDINGS)
    near = [r for r, rule in zip(found["row"].to_pylist(), found["rule"].to_pylist(), strict=True)
            if rule == "duplication.near_image"]  # fmt: skip
    assert near == list(range(12, 24))


def test_a_process_that_dies_over_near_images_ends_the_run(
    copied: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(process: subprocess.Popen[str], question: Mapping[str, Any]) -> dict[str, Any]:
        if "rule" in question:
            process.kill()
        return ask(process, question)

    ask = workers._ask
    monkeypatch.setattr(judging, "WORTH_SHARING", 20)
    monkeypatch.setattr(workers, "_ask", dies)
    with pytest.raises(DataError, match="ended unexpectedly"):
        curate(copied, tmp_path, workers=2, engine="processes")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_ray_writes_the_ledger_of_one_thread(
    shards: ShardSet, whole: dict[str, bytes], tmp_path: Path
) -> None:
    curate(shards, tmp_path, workers=1, engine="ray")
    assert contents(tmp_path) == whole


def test_a_process_that_dies_ends_the_run_and_the_next_run_finishes_it(
    shards: ShardSet, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies() -> subprocess.Popen[str]:
        code = "import sys; sys.stdin.readline(); sys.exit(9)"
        return subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    with monkeypatch.context() as patch:
        patch.setattr(workers, "_start", dies)
        with pytest.raises(DataError, match="ended unexpectedly"):
            curate(shards, tmp_path, workers=2, engine="processes")
    curate(shards, tmp_path)
    assert contents(tmp_path) == whole


def test_what_a_process_refuses_reaches_the_user(shards: ShardSet, tmp_path: Path) -> None:
    job = {
        "shards": str(shards.path), "out": str(tmp_path), "key": {}, "chunk_rows": CHUNK,
        "rubric": default_rubric().to_dict(), "reuse": True, "old_rubric": None,
    }  # fmt: skip
    ledger.Parts(tmp_path, {})
    with (
        workers.Processes(job, 1) as processes,
        pytest.raises(DataError, match="ended unexpectedly"),
    ):
        list(processes.measure([0]))  # there is no signal table to judge again


def test_sources_in_memory_and_foreign_rules_stay_in_this_process(
    shards: ShardSet, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="needs shards on disk"):
        curate(clinic(), tmp_path, engine="processes")
    rule = default_rubric().rules[0]
    foreign = Rubric((replace(rule, check=lambda record, signals, limits: None),), ())
    assert default_rubric().is_catalogue and not foreign.is_catalogue
    with pytest.raises(UsageError, match="rules of the catalogue"):
        curate(shards, tmp_path, engine="processes", rubric=foreign)


def test_an_unknown_engine_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean: threads"):
        engine_named("thread")


SETTINGS: list[dict[str, str | float]] = [
    {"readability.small_image.min_side": 200},
    {"readability.blurred_image": "note", "duplication.exact": "off"},
    {"completeness.cut_text": "off", "readability.small_image.min_side": 2},
    {},
]


def test_deciding_again_equals_a_curation_from_scratch_whatever_changed(tmp_path: Path) -> None:
    again = tmp_path / "again"
    memory = clinic()
    curate(memory, again, rubric=default_rubric().with_settings({"duplication.exact": "note"}))
    seen = memory.decoded
    for number, settings in enumerate(SETTINGS):
        rubric = default_rubric().with_settings(settings)
        curate(memory, again, rubric=rubric)
        assert memory.decoded == seen
        curate(clinic(), tmp_path / str(number), rubric=rubric)
        assert contents(again) == contents(tmp_path / str(number))


def test_deciding_again_needs_no_summary_and_works_in_processes(
    shards: ShardSet, tmp_path: Path
) -> None:
    rubric = default_rubric().with_settings({"readability.small_image.min_side": 200})
    curate(shards, tmp_path / "fresh", rubric=rubric)
    curate(shards, tmp_path / "again")
    (tmp_path / "again" / ledger.SUMMARY_FILE).unlink()
    before = ledger.path_of(tmp_path / "again", ledger.SIGNALS).stat().st_mtime_ns
    curate(shards, tmp_path / "again", rubric=rubric, workers=2, engine="processes")
    assert contents(tmp_path / "again") == contents(tmp_path / "fresh")
    assert ledger.path_of(tmp_path / "again", ledger.SIGNALS).stat().st_mtime_ns == before


def test_signals_of_other_data_are_never_taken_over(tmp_path: Path) -> None:
    curate(clinic(3), tmp_path)
    curate(clinic(4), tmp_path)
    curate(clinic(4), tmp_path / "fresh")
    assert contents(tmp_path) == contents(tmp_path / "fresh")
