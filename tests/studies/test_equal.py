"""Arms are given as much of a unit as the reference arm has."""

from __future__ import annotations

import pytest

from infimed.core.errors import DataError
from infimed.core.stage import NO_TILING
from infimed.model.loading import base_processor
from infimed.model.presets import preset
from infimed.pipeline.index import index_of
from infimed.pipeline.run import base_folders
from infimed.studies.base import Clinic, base_recipe
from infimed.studies.clinic import clinic_records
from infimed.studies.equal import TOLERANCE, equalised, totals

CLINIC = Clinic(modality="chest_radiograph", patients=120, seed=3, size=96, splits={"train": 1.0})
HIGH = {"stages.learn.visual_tokens": 144}


@pytest.fixture(scope="module")
def indexes():
    recipe = base_recipe("nano", {})
    processor = base_processor(preset("nano"), base_folders(recipe)[1])
    return {NO_TILING: index_of(clinic_records(CLINIC), processor, recipe.data)}


@pytest.mark.parametrize("unit", ["samples", "target_tokens", "flops"])
def test_an_arm_holds_as_much_as_its_reference(indexes, unit):
    wanted = totals(base_recipe("nano", {}), indexes).of(unit)
    arm = base_recipe("nano", {**HIGH, "stages.learn.epochs": 3})
    made = equalised(arm, indexes, unit, wanted)
    assert totals(made, indexes).of(unit) == pytest.approx(wanted, rel=TOLERANCE)
    assert made.stages[0].visual_tokens == 144


def test_equal_operations_buy_fewer_samples_at_more_tokens(indexes):
    base = totals(base_recipe("nano", {}), indexes)
    made = totals(equalised(base_recipe("nano", HIGH), indexes, "flops", base.flops), indexes)
    assert made.samples < 0.9 * base.samples


def test_stages_keep_their_shares(indexes):
    stage = base_recipe("nano", {}).stages[0].model_dump(mode="json")
    both = [{**stage, "name": "one", "epochs": 2.0}, {**stage, "name": "two", "epochs": 4.0}]
    recipe = base_recipe("nano", {"stages": both})
    made = equalised(recipe, indexes, "samples", 0.5 * totals(recipe, indexes).samples)
    assert made.stages[1].epochs == pytest.approx(2 * made.stages[0].epochs, rel=1e-3)


def test_nothing_held_equal_leaves_the_recipe(indexes):
    recipe = base_recipe("nano", {})
    assert equalised(recipe, indexes, "nothing", 1.0) is recipe


def test_what_cannot_be_made_equal_is_refused(indexes):
    with pytest.raises(DataError, match="cannot be given as many samples"):
        equalised(base_recipe("nano", {}), indexes, "samples", 3.0)


@pytest.mark.parametrize("share", [0.92, 0.96, 0.99, 1.03, 1.08])
def test_long_rows_do_not_swing_around_what_is_wanted(indexes, share):
    long = base_recipe("nano", {"stages.learn.row_tokens": 2048, "stages.learn.epochs": 2})
    wanted = share * totals(long, indexes).target_tokens
    made = equalised(long, indexes, "target_tokens", wanted)
    assert totals(made, indexes).target_tokens == pytest.approx(wanted, rel=TOLERANCE)
