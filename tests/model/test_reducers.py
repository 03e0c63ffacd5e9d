"""Token reducers: shapes, gradients, equality with slow obvious references, names in checkpoints."""

from __future__ import annotations

import math
import typing

import pytest
import torch
from safetensors.torch import load_file

from infimed.core.errors import DataError, RecipeError
from infimed.core.recipe import Model
from infimed.model.configuration import REDUCERS, is_stock
from infimed.model.loading import load_checkpoint, save_checkpoint
from infimed.model.reducers import (
    PixelShuffle,
    QueryReducer,
    Resampler,
    grid_positions,
    make_reducer,
    pool_grid,
)

LEARNED = REDUCERS[1:]


def made(name: str, width: int = 16, heads: int = 2, grid: int = 6, seed: int = 0):
    """A reducer in which no weight is what it was at the start."""
    torch.manual_seed(seed)
    kinds = {"resampler": Resampler, "query": QueryReducer}
    reducer = kinds[name](width, heads, grid) if name in kinds else PixelShuffle(width)
    with torch.no_grad():
        for parameter in reducer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return reducer


def test_recipe_accepts_the_reducers_that_there_are():
    assert typing.get_args(Model.model_fields["reducer"].annotation) == REDUCERS


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize(("grid", "side"), [(6, 6), (6, 3), (6, 2), (6, 1), (27, 12), (5, 4)])
def test_any_square_number_of_tokens_up_to_the_grid(name, grid, side):
    reducer = made(name)
    assert reducer(torch.randn(2, grid * grid, 16), side).shape == (2, side * side, 16)


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize("tokens", [4, 16])
def test_fresh_reducer_gives_the_average_to_the_bit(make_model, name, tokens):
    model, average = make_model(reducer=name), make_model()
    pixels = torch.randn(2, 3, 32, 32)
    assert torch.equal(
        model.pooled_features(pixels, tokens),
        pool_grid(average.tower_features(pixels), math.isqrt(tokens)),
    )


def test_average_has_no_weights_and_no_names_in_a_checkpoint(make_model):
    model = make_model()
    assert not list(model.model.multi_modal_reducer.parameters())
    assert not any("reducer" in name for name in model.state_dict())


@pytest.mark.parametrize("name", LEARNED)
def test_every_weight_learns_once_the_last_layer_has_moved(name):
    reducer = made(name)
    (reducer(torch.randn(2, 36, 16), 3) ** 2).mean().backward()
    idle = [n for n, p in reducer.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-7]
    assert not idle


@pytest.mark.parametrize("name", LEARNED)
def test_the_last_layer_learns_first(name):
    reducer = made(name)
    torch.nn.init.zeros_(reducer.out.weight)
    (reducer(torch.randn(2, 36, 16), 3) ** 2).mean().backward()
    moved = {n for n, p in reducer.named_parameters() if p.grad.abs().max() > 0}
    assert moved == {"out.weight", "out.bias"}


@pytest.mark.parametrize("name", LEARNED)
def test_same_seed_same_weights_and_same_features_twice(name):
    one, other = made(name), made(name)
    features = torch.randn(2, 36, 16)
    assert torch.equal(one(features, 3), other(features, 3))
    assert torch.equal(one(features, 3), one(features, 3))


@pytest.mark.parametrize("name", LEARNED)
def test_images_do_not_see_one_another(name):
    reducer, features = made(name), torch.randn(3, 36, 16)
    together = reducer(features, 3)
    for number in range(3):
        alone = reducer(features[number : number + 1], 3)[0]
        torch.testing.assert_close(together[number], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", LEARNED)
def test_bf16_autocast_and_bf16_weights_stay_near_fp32(name):
    reducer, features = made(name), torch.randn(2, 36, 16)
    exact = reducer(features, 3)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = reducer(features, 3)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, atol=0.08, rtol=0.05)
    halved = reducer.bfloat16()(features.bfloat16(), 3)
    assert halved.dtype == torch.bfloat16
    torch.testing.assert_close(halved.float(), exact, atol=0.15, rtol=0.1)


# References: plain loops over images, tokens and heads.


def norm(layer, x):
    centred = x - x.mean()
    return centred / (x.var(unbiased=False) + layer.eps).sqrt() * layer.weight + layer.bias


def position(cell: int, side: int, width: int) -> torch.Tensor:
    values = []
    for index in (cell // side, cell % side):
        angles = [
            (index + 0.5) * 32 / side / 10000 ** (k / (width // 4)) for k in range(width // 4)
        ]
        values += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
    return torch.tensor(values)


def attend(layer, tokens, context):
    width = len(tokens[0])
    size = width // layer.heads
    found = []
    for token in tokens:
        mixed = []
        for head in range(layer.heads):
            part = slice(head * size, (head + 1) * size)
            query = layer.query(token)[part]
            scores = torch.stack([query @ layer.key(c)[part] / size**0.5 for c in context])
            shares = scores.exp() / scores.exp().sum()
            mixed.append(
                sum(s * layer.value(c)[part] for s, c in zip(shares, context, strict=True))
            )
        found.append(layer.out(torch.cat(mixed)))
    return found


def through_mlp(mlp, x):
    return x + mlp[3](torch.nn.functional.gelu(mlp[1](norm(mlp[0], x))))


def latents_of(reducer, side, width):
    pooled = pool_grid(reducer.latents[None], side)[0]
    return [pooled[t] + position(t, side, width) for t in range(side * side)]


def finished(reducer, average, x):
    return average + reducer.out((x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt())


@torch.no_grad()
def test_pixel_shuffle_equals_picking_the_window_by_hand():
    reducer, features = made("pixel_shuffle"), torch.randn(1, 36, 16)
    found = reducer(features, 3)[0]
    for row in range(3):
        for column in range(3):
            window = [
                features[0, 6 * (2 * row + i) + 2 * column + j] for i in (0, 1) for j in (0, 1)
            ]
            stacked = torch.cat([norm(reducer.norm, one) for one in window])
            expected = torch.stack(window).mean(0) + reducer.out(stacked)
            torch.testing.assert_close(found[3 * row + column], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_pixel_shuffle_averages_to_twice_the_side_where_the_grid_is_another():
    reducer, features = made("pixel_shuffle"), torch.randn(1, 81, 16)
    found = reducer.found(features, 3)
    torch.testing.assert_close(found, reducer.found(pool_grid(features, 6), 3))


@torch.no_grad()
def test_resampler_equals_attention_by_hand():
    reducer, features = made("resampler"), torch.randn(1, 16, 16)
    seen = [norm(reducer.norm, features[0, p]) + position(p, 4, 16) for p in range(16)]
    latents = latents_of(reducer, 2, 16)
    for layer in reducer.layers:
        own = [norm(layer.norm, x) for x in latents]
        change = attend(layer.attention, own, seen + own)
        latents = [through_mlp(layer.mlp, x + c) for x, c in zip(latents, change, strict=True)]
    average = pool_grid(features, 2)[0]
    expected = [finished(reducer, a, x) for a, x in zip(average, latents, strict=True)]
    torch.testing.assert_close(reducer(features, 2)[0], torch.stack(expected), atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_query_reducer_equals_attention_by_hand():
    reducer, features = made("query"), torch.randn(1, 16, 16)
    seen = [norm(reducer.norm, features[0, p]) + position(p, 4, 16) for p in range(16)]
    queries = latents_of(reducer, 2, 16)
    for layer in reducer.layers:
        own = [norm(layer.norm, x) for x in queries]
        change = attend(layer.attention, own, own)
        queries = [x + c for x, c in zip(queries, change, strict=True)]
        crossed = [norm(layer.cross_norm, x) for x in queries]
        change = attend(layer.cross_attention, crossed, seen)
        queries = [through_mlp(layer.mlp, x + c) for x, c in zip(queries, change, strict=True)]
    average = pool_grid(features, 2)[0]
    expected = [finished(reducer, a, x) for a, x in zip(average, queries, strict=True)]
    torch.testing.assert_close(reducer(features, 2)[0], torch.stack(expected), atol=2e-5, rtol=1e-4)


def test_the_same_place_has_the_same_position_in_every_grid():
    like = torch.zeros(1)
    middle = grid_positions(1, 8, like)[0]
    assert torch.equal(grid_positions(3, 8, like)[4], middle)
    assert torch.equal(grid_positions(9, 8, like)[40], middle)


# In a model.


@pytest.mark.parametrize("name", LEARNED)
def test_a_switch_from_few_tokens_to_many_changes_no_tensor(make_model, name):
    model = make_model(reducer=name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    for tokens, image_size in ((1, 32), (4, 32), (16, 32), (4, 16)):
        model.set_grid(tokens, image_size)
        assert model.image_features(torch.randn(2, 3, image_size, image_size)).shape[1] == tokens
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_latents_of_few_tokens_are_the_averages_of_those_of_many():
    reducer = made("query", grid=4)
    grid = reducer.latents.view(4, 4, 16)
    few = pool_grid(reducer.latents[None], 2)[0].view(2, 2, 16)
    torch.testing.assert_close(few[1, 0], grid[2:, :2].mean((0, 1)))


@pytest.mark.parametrize("name", LEARNED)
def test_images_with_their_own_numbers_of_tokens_are_reduced_each_as_if_alone(make_model, name):
    model = make_model(reducer=name)
    torch.nn.init.normal_(model.model.multi_modal_reducer.out.weight)
    pixels, counts = torch.randn(3, 3, 32, 32), (16, 4, 16)
    together = model.pooled_each(pixels, counts)
    alone = [model.pooled_features(p[None], n)[0] for p, n in zip(pixels, counts, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


PRODUCTS = ("query", "key", "value", "out")
NAMES = {
    "pixel_shuffle": {"norm.weight", "norm.bias", "out.weight", "out.bias"},
    "resampler": {"latents", "norm.weight", "norm.bias", "out.weight", "out.bias"}
    | {
        f"layers.{layer}.{part}.{end}"
        for layer in (0, 1)
        for part in ("norm", *(f"attention.{p}" for p in PRODUCTS), "mlp.0", "mlp.1", "mlp.3")
        for end in ("weight", "bias")
        if (part, end) != ("attention.key", "bias")
    },
}
NAMES["query"] = NAMES["resampler"] | {
    name.replace("norm.", "cross_norm.").replace("attention.", "cross_attention.")
    for name in NAMES["resampler"]
    if ".norm." in name or ".attention." in name
}


@pytest.mark.parametrize("name", LEARNED)
def test_checkpoint_holds_the_reducer_under_frozen_names_and_reloads_to_the_bit(
    make_model, processor, tmp_path, name
):
    model = make_model(reducer=name)
    model.set_grid(4, 32)
    torch.nn.init.normal_(model.model.multi_modal_reducer.out.weight)
    save_checkpoint(tmp_path / "step-1", model, processor.with_grid(32, 4), about={})
    keys = load_file(tmp_path / "step-1" / "model.safetensors").keys()
    prefix = "multi_modal_reducer."
    assert {k.removeprefix(prefix) for k in keys if k.startswith(prefix)} == NAMES[name]
    again, _ = load_checkpoint(tmp_path / "step-1")
    assert again.config.reducer == name
    ids, pixels = torch.tensor([[5, *[3] * 4, 6, 7]]), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        model.set_attention("sdpa")
        assert torch.equal(
            again(input_ids=ids, pixel_values=pixels).logits,
            model(input_ids=ids, pixel_values=pixels).logits,
        )


def test_checkpoint_of_another_reducer_is_refused(make_model, processor, tmp_path):
    folder = tmp_path / "step-1"
    save_checkpoint(folder, make_model(reducer="query"), processor, about={})
    file = folder / "config.json"
    file.write_text(file.read_text().replace('"query"', '"resampler"'))
    with pytest.raises(DataError, match="unknown"):
        load_checkpoint(folder)


def test_only_the_average_at_the_full_grid_is_stock(make_model):
    model = make_model()
    assert is_stock(model.config) and is_stock(model.config, image_size=32)
    model.set_grid(4, 16)
    assert is_stock(model.config, image_size=16) and not is_stock(model.config)
    assert not any(is_stock(make_model(reducer=name).config) for name in LEARNED)


def test_unknown_reducer_is_answered_with_the_nearest(make_model):
    with pytest.raises(RecipeError, match="did you mean: resampler"):
        make_model(reducer="resample")


def test_width_that_positions_cannot_fill_is_refused(make_model):
    config = make_model().config
    config.vision_config.hidden_size, config.reducer = 34, "query"
    with pytest.raises(RecipeError, match="multiple of 4"):
        make_reducer(config)
