"""Verdicts by score reach the plan: what the score drops is never trained on."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from infimed.core.errors import DataError, RecipeError
from infimed.core.files import read_json
from infimed.core.recipe import Recipe, load_recipe
from infimed.curation import kept_rows
from infimed.curation.calibration import Isotonic, Logistic
from infimed.curation.deciding import read_decision, take_back
from infimed.curation.scoring import DimensionModel, Evaluator, default_evaluator, feature_names
from infimed.pipeline.packing import pack_recipe
from infimed.pipeline.report import shareable_recipe
from tests.curation.ledger_world import make_ledger


def distrusting() -> Evaluator:
    """An evaluator to which a note on a question that needs no image is a defect."""
    count = len(feature_names("relevance"))
    weights = (0.0, -9.0) + (0.0,) * (count - 2)
    logistic = Logistic((0.0,) * count, (1.0,) * count, weights, 4.0)
    return Evaluator(
        {"relevance": DimensionModel(logistic, Isotonic((0.1, 0.9), (0.001, 0.999)), 0.6)}
    )


def recipe(source: Path, **curation: object) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "scored",
            "data": {"root": str(source), "splits": {"train": 1.0}},
            "curation": {"workers": 1, **curation},
            "stages": [
                {
                    "name": "only", "image_size": 64, "visual_tokens": 4, "row_tokens": 512,
                    "learning_rate": {"language": 1e-3},
                }
            ],
        }
    )  # fmt: skip


def planned(run: Path) -> set[int]:
    return set(pq.read_table(run / "plan" / "only.parquet")["record"].to_pylist())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    make_ledger(root)
    return root / "source"


def test_what_the_score_drops_is_in_no_plan(source: Path, tmp_path: Path) -> None:
    distrusting().save(tmp_path / "e.json")
    plain, scored = tmp_path / "plain", tmp_path / "scored"
    list(pack_recipe(recipe(source), plain, stats=False))
    chosen = recipe(source, evaluator=str(tmp_path / "e.json"), target_precision=0.5)
    list(pack_recipe(chosen, scored, stats=False))
    ledger = scored / "ledger.parquet"
    decision = read_decision(ledger)
    assert decision is not None and decision.by_score > 0
    assert read_decision(plain / "ledger.parquet") is None
    assert planned(plain) == set(kept_rows(plain / "ledger.parquet").tolist())
    assert planned(scored) == set(kept_rows(ledger).tolist())
    assert len(planned(plain) - planned(scored)) == decision.by_score
    assert planned(scored) < planned(plain)
    assert read_json(scored / "data.json")["evaluator"] == distrusting().identity

    before = {file.name: file.read_bytes() for file in ledger.iterdir()}
    list(pack_recipe(chosen, scored, stats=False))
    assert {file.name: file.read_bytes() for file in ledger.iterdir()} == before, (
        "resumed as it was"
    )
    default_evaluator().save(tmp_path / "e.json")
    with pytest.raises(DataError, match="evaluator"):
        list(pack_recipe(chosen, scored, stats=False))


def test_what_is_decided_by_hand_in_a_run_folder_is_planned_too(
    source: Path, tmp_path: Path
) -> None:
    from infimed.curation.deciding import decide_ledger

    run = tmp_path / "run"
    list(pack_recipe(recipe(source), run, stats=False))
    whole = planned(run)
    decide_ledger(run / "ledger.parquet", distrusting(), target_precision=0.5)
    shutil.rmtree(run / "plan")
    list(pack_recipe(recipe(source), run, stats=False))
    assert planned(run) < whole
    take_back(run / "ledger.parquet")
    shutil.rmtree(run / "plan")
    list(pack_recipe(recipe(source), run, stats=False))
    assert planned(run) == whole


def test_the_shipped_evaluator_is_named_in_a_recipe(source: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    list(pack_recipe(recipe(source, evaluator="shipped"), run, stats=False))
    decision = read_decision(run / "ledger.parquet")
    assert decision is not None and decision.evaluator == default_evaluator().identity
    assert decision.target_precision == 0.9
    assert np.isfinite(
        pq.read_table(run / "ledger.parquet" / "scores.parquet")["p_ok"].to_numpy()
    ).all()


def test_recipes_refuse_what_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"curation\.enabled"):
        load_recipe("nano", ["curation.evaluator=shipped", "curation.enabled=false"])
    with pytest.raises(RecipeError, match="target_precision"):
        load_recipe("nano", ["curation.target_precision=0"])
    missing = load_recipe("nano", ["curation.evaluator=nothing.json"])
    with pytest.raises(DataError, match="file not found"):
        list(pack_recipe(missing, tmp_path / "run", stats=False))


def test_a_report_that_is_passed_on_names_no_folder_of_the_evaluator() -> None:
    made = load_recipe("nano", ["curation.evaluator=/home/anna/e.json"])
    assert "anna" not in shareable_recipe(made) and ".../e.json" in shareable_recipe(made)
    assert "evaluator: shipped" in shareable_recipe(
        load_recipe("nano", ["curation.evaluator=shipped"])
    )
