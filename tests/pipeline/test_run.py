"""From the recipe to the model that is trained."""

from __future__ import annotations

import pytest

from infimed.core.recipe import load_recipe
from infimed.pipeline.checks import check_recipe
from infimed.pipeline.run import base_model


@pytest.mark.parametrize("reducer", ["average", "pixel_shuffle", "resampler", "query"])
def test_the_recipes_reducer_is_built_and_told_where_it_cannot_be_stock(reducer):
    recipe = load_recipe("nano", [f"model.reducer={reducer}"])
    model, _ = base_model(recipe)
    assert model.config.reducer == reducer
    assert any("infimed_vl" in line for line in check_recipe(recipe)) == (reducer != "average")
