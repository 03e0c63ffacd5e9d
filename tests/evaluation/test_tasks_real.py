"""The tasks whose real files lie beside the checkout: they build, and count what they state."""

from __future__ import annotations

from pathlib import Path

import pytest

from infimed.data.shards import open_shards
from infimed.evaluation.places import DataPlaces
from infimed.evaluation.sources import build
from infimed.evaluation.spec import load_task
from tests.conftest import REAL_DATA

pytestmark = pytest.mark.real_data

COUNTS = {
    "slake_en": 1061,
    "slake_zh": 1033,
    "medqa_usmle": 1273,
    "medmcqa": 4183,
    "mmlu_medical": 1089,
    "pubmedqa": 500,
    "medxpertqa_mm": 2000,
    "mts_dialog": 400,
    "k_qa": 201,
}
LEFT_OUT = {"slake_en": 1}
"""Rows that say nothing: one question of SLAKE's training part has no answer."""


@pytest.mark.parametrize("name", COUNTS)
def test_the_published_files_hold_the_number_of_questions_that_is_stated(
    name: str, tmp_path: Path
) -> None:
    spec = load_task(name)
    built = build(spec, DataPlaces((REAL_DATA,)), tmp_path, images=False)
    assert (built.questions, built.expected, built.left_out) == (
        COUNTS[name],
        COUNTS[name],
        LEFT_OUT.get(name, 0),
    )
    record = next(iter(open_shards(built.shards)))
    assert set(spec.kinds) >= {record.task}


def test_the_official_part_of_vqa_rad_is_built_from_its_own_layout(tmp_path: Path) -> None:
    built = build(load_task("vqa_rad"), DataPlaces((REAL_DATA,)), tmp_path)
    records = list(open_shards(built.shards))
    assert built.left_out == 0
    assert len(records) == built.questions < 451  # images kept out of development are missing
    assert {record.task for record in records} == {"closed", "open"}
    assert all(len(record.images) == 1 for record in records)
