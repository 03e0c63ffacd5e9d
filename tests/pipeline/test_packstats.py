"""Figures of a pack plan agree with its rows, one by one; `infimed pack` stops before training."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infimed.core.files import read_json
from infimed.core.recipe import load_recipe
from infimed.packing.planner import Limits, Samples, plan_stage
from infimed.pipeline.packing import pack_recipe
from infimed.pipeline.packstats import stage_stats, write_stats
from infimed.training.loop import StageJob

STAGE = load_recipe("nano").stages[0].model_copy(update={"row_tokens": 128, "visual_tokens": 9})
LIMITS = Limits(128, 6, 9, 64)


def job(longest: int = 60) -> tuple[StageJob, np.ndarray]:
    random = np.random.default_rng(3)
    key = random.integers(-1, 30, 120)
    samples = Samples(
        row=np.arange(120),
        trunk_tokens=np.where(key >= 0, 4, 0),
        branch_tokens=random.integers(3, longest, 120),
        target_tokens=random.integers(1, 3, 120),
        images=(key >= 0).astype(np.int64),
        image_key=key,
        weight=np.ones(120),
    )
    source = np.array(["a", "b", "c"])[random.integers(0, 3, 120)]
    return StageJob(STAGE, plan_stage(samples, LIMITS, seed=1, epochs=1)), source


def test_figures_are_those_of_the_rows() -> None:
    made, source = job()
    found = stage_stats(made, source)
    rows = list(made.plan.rows)
    assert found.rows == len(rows)
    assert found.documents == sum(len(row.documents) for row in rows)
    assert found.documents_per_row[2] == np.median([len(row.documents) for row in rows])
    assert found.images_per_row[4] == max(row.images for row in rows)
    assert found.tokens_per_row[0] == min(row.tokens for row in rows)
    records = Counter(source[r] for row in rows for d in row.documents for r in d.records)
    assert {s.source: s.records for s in found.sources} == records
    assert sum(s.tokens for s in found.sources) == pytest.approx(made.plan.tokens, abs=2)
    tokens = Counter[str]()
    for row in rows:
        for document in row.documents:
            for record in document.records:
                tokens[source[record]] += document.tokens / len(document.records)
    assert {s.source: s.tokens for s in found.sources} == pytest.approx(tokens, abs=0.51)


def test_over_long_records_are_counted_by_source() -> None:
    made, source = job(longest=200)
    found = stage_stats(made, source)
    expected = Counter(source[made.plan.over_long].tolist())
    assert len(made.plan.over_long) > 5
    assert {s.source: s.over_long for s in found.sources if s.over_long} == expected


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    made, source = job()
    stats = [stage_stats(made, source)]
    path = write_stats([made], stats, tmp_path)
    with Image.open(path) as picture:
        assert min(picture.size) > 200
    assert read_json(tmp_path / "stats.json")["stages"][0]["fill"] == made.plan.fill


def test_packing_a_recipe_writes_plans_and_trains_nothing(tmp_path: Path) -> None:
    recipe = load_recipe("nano", ["data.phantom.patients=30", "curation.workers=1"])
    lines = list(pack_recipe(recipe, tmp_path / "run", stats=True))
    plan = tmp_path / "run" / "plan"
    assert {f"{stage.name}.parquet" for stage in recipe.stages} <= {p.name for p in plan.iterdir()}
    assert (plan / "stats.png").is_file()
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert any("stats.png" in str(line) for line in lines)
