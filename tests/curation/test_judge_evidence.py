"""Judgements and grounding gaps reach scoring and explanation as they were stored."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from infimed.cli.curate import app
from infimed.core.errors import DataError
from infimed.curation import curate
from infimed.curation.findings import QUALITY
from infimed.curation.grounding_table import GROUNDING_FILE, SCHEMA
from infimed.curation.judge import Band, plan, run_judge
from infimed.curation.judge_evidence import evidence_lines, judged_evidence
from infimed.curation.judge_rubric import JudgeRubric
from infimed.inference.stubs import Scripted
from tests.curation.clinic import Memory, clinic


@pytest.fixture
def judged(tmp_path: Path) -> tuple[Memory, Path]:
    memory = clinic(3)
    curate(memory, tmp_path)
    levels: dict[str, object] = dict.fromkeys(QUALITY, 2)
    levels["accuracy"] = {"level": 0, "evidence": "the left lung"}
    levels["relevance"] = "U"

    def answer(request: object) -> str:
        return json.dumps(levels) if "fracture" in str(request) else "I'm sorry, I cannot."

    rubric = JudgeRubric.load()
    run_judge(
        tmp_path,
        memory,
        Scripted("scripted", answer),
        plan(tmp_path, memory, rubric, band=Band(0, 1), limit=8),
        rubric,
    )
    return memory, tmp_path


def ground(folder: Path, row: int, record_id: str) -> None:
    value = {
        "row": row, "record_id": record_id, "status": "ok", "target_tokens": 3, "loss": 1.5,
        "loss_without": 2.0, "loss_swapped": 1.25, "swaps": 1, "gap_without": 0.5, "gap_swapped": -0.25,
    }  # fmt: skip
    pq.write_table(pa.Table.from_pylist([value], schema=SCHEMA), folder / GROUNDING_FILE)


def test_arrays_are_aligned_and_missing_stays_missing(judged: tuple[Memory, Path]) -> None:
    memory, folder = judged
    rows = judged_evidence(folder).rows
    ground(folder, int(rows[2]), memory.records[rows[2]].id)
    made = judged_evidence(folder)
    assert made.record_ids == [memory.records[row].id for row in made.rows]
    for at, row in enumerate(made.rows):
        record = memory.records[row]
        seen = [2, 0, 2, 3, 2] if "fracture" in record.question else [-1] * 5
        assert made.codes[at].tolist() == seen
        assert made.log_length[at] == pytest.approx(np.log1p(sum(len(m.text) for m in record.messages)), abs=0.2)  # fmt: skip
        assert made.strata[at].startswith("test / ")
    assert np.isnan(made.gap_without).sum() == len(made.rows) - 1
    assert (made.gap_without[2], made.gap_swapped[2]) == (0.5, -0.25)


def test_explain_shows_levels_evidence_and_gap(judged: tuple[Memory, Path]) -> None:
    memory, folder = judged
    rows = judged_evidence(folder).rows
    row = next(int(r) for r in rows if "fracture" in memory.records[r].question)
    ground(folder, row, memory.records[row].id)
    done = CliRunner().invoke(app, ["explain", str(folder), memory.records[row].id])
    assert done.exit_code == 0
    assert "accuracy      0  the left lung  (not found word by word in the text)" in done.output
    assert "relevance     U" in done.output
    assert "without images +0.500, foreign images -0.250" in done.output


def test_a_refusal_is_explained_as_one(judged: tuple[Memory, Path]) -> None:
    _, folder = judged
    made = judged_evidence(folder)
    at = int(np.flatnonzero((made.codes == -1).all(axis=1))[0])
    assert any("refused" in line for line in evidence_lines(folder, made.record_ids[at]))


def test_without_judgements_there_is_no_evidence_and_explain_still_works(tmp_path: Path) -> None:
    memory = clinic(2)
    curate(memory, tmp_path)
    with pytest.raises(DataError, match="nothing was judged"):
        judged_evidence(tmp_path)
    assert list(evidence_lines(tmp_path, "r0")) == []
