"""The network: pooling, stock equality, placeholder counts, parameter counts."""

from __future__ import annotations

import pytest
import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration

from infimed.core.errors import DataError, RecipeError
from infimed.model.configuration import token_side
from infimed.model.modeling import InfiMedForConditionalGeneration, count_parameters
from infimed.model.presets import build_config, preset
from infimed.model.reducers import pool_grid


def test_pooling_to_the_grid_is_the_identity():
    features = torch.randn(2, 16, 8)
    assert pool_grid(features, 4) is features


@pytest.mark.parametrize(("grid", "side"), [(27, 12), (27, 9), (12, 6), (16, 8), (5, 3)])
def test_pooling_equals_averaging_each_window_by_hand(grid, side):
    features = torch.randn(1, grid * grid, 3)
    planes = features.view(grid, grid, 3)
    expected = torch.stack(
        [
            planes[
                i * grid // side : -(-(i + 1) * grid // side),
                j * grid // side : -(-(j + 1) * grid // side),
            ]
            .reshape(-1, 3)
            .mean(0)
            for i in range(side)
            for j in range(side)
        ]
    )
    torch.testing.assert_close(pool_grid(features, side)[0], expected, atol=1e-5, rtol=1e-5)


def test_full_grid_is_bit_equal_to_stock_llava(make_model):
    ours = make_model()
    values = {
        k: v
        for k, v in ours.config.to_dict().items()
        if k not in ("visual_tokens", "reducer", "model_type")
    }
    stock = LlavaForConditionalGeneration(LlavaConfig(**values)).eval()
    stock.load_state_dict(ours.state_dict())
    ids = torch.tensor([[5, *[3] * 16, 6, 7, 8]])
    pixels = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(
            ours(input_ids=ids, pixel_values=pixels).logits,
            stock(input_ids=ids, pixel_values=pixels).logits,
        )


def test_changing_the_grid_changes_no_tensor(make_model):
    model = make_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.set_grid(4, 16)
    assert model.image_features(torch.randn(2, 3, 16, 16)).shape == (2, 4, 32)
    model.set_grid(16, 32)
    assert model.image_features(torch.randn(2, 3, 32, 32)).shape == (2, 16, 32)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("placeholders", [3, 5])
def test_placeholders_that_do_not_match_the_features_are_named(make_model, placeholders):
    model = make_model()
    with pytest.raises(DataError, match=f"{placeholders} image placeholders and 4"):
        model.embed(torch.tensor([[3] * placeholders]), torch.zeros(1, 4, 32))


@pytest.mark.parametrize(
    ("tokens", "message"), [(5, "square"), (0, "square"), (25, "more visual tokens")]
)
def test_impossible_token_counts_are_refused(tokens, message):
    with pytest.raises(RecipeError, match=message):
        token_side(tokens, 32, 8)


@pytest.mark.parametrize(
    ("name", "billions", "vision"), [("infimed-1.7b", 2.140, 0.413), ("infimed-4b", 4.445, 0.413)]
)
def test_paper_presets_have_the_published_sizes(name, billions, vision):
    with torch.device("meta"):
        model = InfiMedForConditionalGeneration(build_config(preset(name), image_token_id=151655))
    assert round(count_parameters(model) / 1e9, 3) == billions
    assert round(count_parameters(model.model.vision_tower) / 1e9, 3) == vision


def test_unknown_preset_suggests_the_nearest():
    with pytest.raises(RecipeError, match="did you mean: nano"):
        preset("nan0")
