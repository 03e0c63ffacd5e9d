"""One real cell, small, from patients to answers; and what is read of its files."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from infimed.studies.base import Base, Clinic, base_recipe
from infimed.studies.cells import Cell
from infimed.studies.data import bind
from infimed.studies.definition import Damage
from infimed.studies.work import (
    ANSWERS,
    cell_folder,
    do_cell,
    is_done,
    means,
    read_answers,
    read_result,
    spent,
)

CLINIC = Clinic(
    modality="chest_radiograph", patients=24, seed=3, size=96,
    splits={"train": 0.6, "dev": 0.2, "test": 0.2},
)  # fmt: skip
BASE = Base(name="nano", clinic=CLINIC, minutes=1, limit=12)
SHORT = {"stages.learn.epochs": 0.4, "stages.learn.row_tokens": 1024}


def cell(damage=None, blind=False, ways=("model", "image-zeroed", "image-swapped")):
    return Cell(
        base=BASE, recipe=base_recipe("nano", SHORT), damage=damage, damage_seed=1, blind=blind,
        ways=("trained-blind",) if blind else ways, tasks=("study_closed", "study_open"),
        split="dev", equal=None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("studies")


def test_a_cell_trains_and_is_asked_in_every_way(out):
    one = cell()
    do_cell(one, out)
    result = read_result(out, one)
    lines = pq.read_table(cell_folder(out, one) / ANSWERS).to_pylist()
    assert {line["way"] for line in lines} == {"model", "image-zeroed", "image-swapped"}
    assert {line["task"] for line in lines} == {"study_closed", "study_open"}
    assert result["spent"]["steps"] > 0 and result["spent"]["flops"] > 0
    assert result["scores"]["model"]["study_closed"]["overall"][1] == 12
    assert not (cell_folder(out, one) / "checkpoints").exists()
    before = (cell_folder(out, one) / "result.json").stat().st_mtime_ns
    do_cell(one, out)
    assert (cell_folder(out, one) / "result.json").stat().st_mtime_ns == before


def test_a_blind_twin_and_damaged_records_share_the_clinic(out):
    damage = Damage(share=0.4, operators=(15, 16, 20), tasks=("closed",), keep="rules")
    filtered = cell(damage, ways=("model",))
    do_cell(filtered, out)
    do_cell(cell(blind=True), out)
    counts = read_result(out, filtered)["data"]
    assert counts["damaged"] > 0 and 0 < counts["dropped_damaged"] <= counts["dropped"]
    assert is_done(out, cell(blind=True))
    assert len(list((out / "data").glob("clean-*"))) == 1


def test_facts_are_withheld_from_what_is_trained_on_and_not_from_what_is_asked(out):
    damage = Damage(share=0.2, operators=(16,), tasks=("closed",), facts=False)
    one = cell(damage)
    bound = bind(BASE, one.recipe, damage, 1, out / "data", None)
    told = {
        split: {
            "finding_present" in r.facts
            for r in bound.shards
            if r.split == split and r.task == "closed"
        }
        for split in ("train", "dev")
    }
    assert told["train"] == {False} and True in told["dev"]


def test_costs_are_sums_over_steps():
    step = {
        "samples": 10, "tokens": 100, "target_tokens": 20, "flops": 1e9, "cached_flops": 5.0,
        "seconds": 1.0, "wait_seconds": 0.5, "peak_flops_per_second": 4e9, "memory_gib": 0.5,
    }  # fmt: skip
    found = spent([step, {**step, "memory_gib": 0.7}])
    assert found["samples"] == 20 and found["seconds"] == 3.0 and found["saved_flops"] == 10.0
    assert found["mfu"] == pytest.approx(2e9 / 12e9) and found["memory_gib"] == 0.7


def test_answers_are_read_by_way_task_and_column(tmp_path):
    line = {
        "task": "study_closed_dev", "id": "q", "group": "p", "columns": ["overall", "type=presence"],
        "answers": {"model": {"score": 1.0}, "image-zeroed": {"score": 0.0}},
    }  # fmt: skip
    file = tmp_path / "samples.jsonl"
    file.write_text(json.dumps(line) + "\n" + json.dumps({**line, "id": "r"}) + "\n")
    lines = read_answers(file, {"study_closed_dev": "study_closed"})
    assert len(lines) == 4 and {one["task"] for one in lines} == {"study_closed"}
    assert means(lines)["model"]["study_closed"] == {"overall": [1.0, 2], "type=presence": [1.0, 2]}
