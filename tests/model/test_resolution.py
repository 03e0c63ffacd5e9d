"""Resolution is a way of calling the model: the position table stays at the largest grid, for both towers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.conftest import tiny_preset, tiny_processor
from torch.nn.functional import interpolate
from transformers import AutoModel

from infimed.inference.local import encode_pictures
from infimed.inference.requests import Picture
from infimed.model.loading import load_checkpoint, save_checkpoint
from infimed.model.modeling import InfiMedForConditionalGeneration
from infimed.model.presets import Preset, build_config

SIGLIP = tiny_preset()
DINOV2 = Preset(
    name="tiny-dinov2",
    vision={
        "model_type": "dinov2", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "mlp_ratio": 2, "image_size": 56, "patch_size": 14,
    },
    text=SIGLIP.text,
    image_size=56,
    feature_strategy="default",
)  # fmt: skip


@pytest.fixture(params=[SIGLIP, DINOV2], ids=["siglip", "dinov2"])
def chosen(request: pytest.FixtureRequest) -> Preset:
    return request.param


def built(chosen: Preset) -> InfiMedForConditionalGeneration:
    """A model with a table that is far from flat."""
    torch.manual_seed(0)
    model = InfiMedForConditionalGeneration(build_config(chosen, image_token_id=3)).float().eval()
    with torch.no_grad():
        table_of(model).normal_()
    return model


def table_of(model: InfiMedForConditionalGeneration) -> torch.Tensor:
    """The position table, of one cell a patch of the largest grid, with a class token's or without."""
    found = [p for n, p in model.model.vision_tower.named_parameters() if "position_embedding" in n]
    return found[0]


def baked(model: InfiMedForConditionalGeneration, side: int) -> torch.nn.Module:
    """The tower as if it had been made for a grid of this side: its table resized beforehand."""
    tower = model.model.vision_tower
    config = type(tower.config)(**{**tower.config.to_dict(), "image_size": side * model.patch_size})
    state = {name: tensor.clone() for name, tensor in tower.state_dict().items()}
    (name,) = (n for n in state if "position_embedding" in n)
    table = state[name].reshape(-1, state[name].shape[-1])
    extra = len(table) - 16
    square = table[extra:].T.reshape(1, -1, 4, 4)
    small = interpolate(square, size=(side, side), mode="bicubic", align_corners=False)
    table = torch.cat([table[:extra], small.flatten(2)[0].T])
    state[name] = table if state[name].ndim == 2 else table[None]
    made = AutoModel.from_config(config).eval()
    made.load_state_dict(state)
    return made


@pytest.mark.parametrize("side", [2, 3, 4])
def test_features_are_those_of_a_tower_made_for_the_size(chosen, side):
    model = built(chosen)
    pixels = torch.randn(2, 3, *(2 * [side * model.patch_size]))
    with torch.no_grad():
        states = baked(model, side)(pixels, output_hidden_states=True).hidden_states[-1]
        wanted = states[:, states.shape[1] - side * side :]
        torch.testing.assert_close(model.tower_features(pixels), wanted, atol=1e-5, rtol=1e-5)


def test_training_and_inference_see_the_same_at_a_low_resolution(chosen):
    model = built(chosen)
    side = 2 * model.patch_size
    processor = tiny_processor().with_grid(side, 4)
    image = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    with torch.no_grad():
        shown, _ = encode_pictures(model, processor, [Picture("a", lambda: image, (70, 90))])
        trained = model.train().project(model.pooled_features(processor.pixels([image]), 4))
    assert torch.equal(shown["a"], trained[0])


def test_a_checkpoint_of_a_low_stage_keeps_the_table_of_the_largest_grid(chosen, tmp_path):
    model = built(chosen)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    high = torch.randn(1, 3, chosen.image_size, chosen.image_size)
    wanted = model.image_features(high)
    side = 2 * model.patch_size
    model.set_grid(4, side)
    save_checkpoint(tmp_path / "low", model, tiny_processor().with_grid(side, 4), about={})
    loaded, processor = load_checkpoint(tmp_path / "low")
    assert (processor.image_size, loaded.config.visual_tokens) == (side, 4)
    assert all(torch.equal(before[name], tensor) for name, tensor in loaded.state_dict().items())
    loaded.set_grid(16, chosen.image_size)
    assert torch.equal(loaded.image_features(high), wanted)


def test_low_to_high_to_low_gives_the_same_numbers_and_changes_no_tensor(chosen):
    model = built(chosen)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    grids = [(4, 2 * model.patch_size), (16, chosen.image_size)]
    pixels = {size: torch.randn(1, 3, size, size) for _, size in grids}
    found = []
    for tokens, size in (*grids, grids[0]):
        model.set_grid(tokens, size)
        found.append(model.image_features(pixels[size]))
    assert torch.equal(found[0], found[2])
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
