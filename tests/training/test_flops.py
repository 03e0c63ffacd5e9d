"""Operations counted from the structure are those that torch counts while it computes."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from infimed.core.recipe import LearningRate, Lora
from infimed.model.attention import PACKED, Document, PackedLayout
from infimed.model.processing import IGNORE
from infimed.training.flops import Flops, attended
from infimed.training.lora import add_adapters
from infimed.training.optimizer import freeze
from infimed.training.rows import Row
from infimed.training.step import RowLoss, row_weights

DOCUMENTS = (Document(20, (7, 9)), Document(30), Document(20, (5,)))
FREEZING = [rates for rates in product((0.0, 1.0), repeat=3) if any(rates)]
PRODUCTS = ("mm", "addmm", "bmm", "convolution", "convolution_backward")


def made_row(images: int = 2, tokens: int = 16, **changes) -> Row:
    layout = PackedLayout(DOCUMENTS)
    ids = torch.randint(10, 300, (layout.tokens,))
    ids[: images * tokens] = 3
    targets = ids.clone()
    targets[: layout.tokens // 2] = IGNORE
    pixels = torch.randn(images, 3, 32, 32) if images else None
    row = Row(ids, targets, torch.full_like(ids, IGNORE), layout, pixels, ("a", "b", "c", "d"))
    return replace(row, **changes)


@pytest.fixture
def model(make_model, monkeypatch):
    """A model whose tower computes attention with plain products, and whose language model with none.

    torch does not count its fused attention on a CPU, and ours pads documents: what is counted for the
    language model's attention is checked on its own below.
    """
    made = make_model().train()
    made.model.vision_tower.config._attn_implementation = "eager"
    made.set_attention(PACKED)

    def without_products(query, key, value, layout, scale):
        groups = query.shape[1] // key.shape[1]
        return query + (key + value).repeat_interleave(groups, 1)

    monkeypatch.setattr("infimed.model.attention.backend_for", lambda *_: without_products)
    return made


def counted(model, row: Row, question_weight: float = 0.0) -> float:
    """What torch counts in one forward and backward of a row."""
    weights = row_weights(row, "token")
    with FlopCounterMode(display=False) as counter:
        loss, _, _ = RowLoss(model, question_weight=question_weight)(row, weights.weights, 1.0, 1.0)
        if loss.requires_grad:
            loss.backward()
    found = counter.get_flop_counts()["Global"]
    assert {str(op).removeprefix("aten.") for op in found} <= set(PRODUCTS)
    return float(sum(found.values()))


def expected(model, row: Row, *, questions: bool = False) -> float:
    flops = Flops(model, 32, questions=questions)
    flops.attention = 0
    return flops.row(row).total


@pytest.mark.parametrize("rates", FREEZING)
@pytest.mark.parametrize("images", [0, 2])
def test_every_freezing_pattern_costs_what_torch_counts(model, rates, images):
    freeze(
        model, LearningRate(**dict(zip(("vision", "projector", "language"), rates, strict=True)))
    )
    row = made_row(images)
    assert expected(model, row) == pytest.approx(counted(model, row), rel=1e-9)


@pytest.mark.parametrize("rates", FREEZING)
def test_the_projector_works_on_pooled_tokens_only(model, rates):
    freeze(
        model, LearningRate(**dict(zip(("vision", "projector", "language"), rates, strict=True)))
    )
    model.set_grid(4, 32)
    row = made_row(tokens=4)
    assert expected(model, row) == pytest.approx(counted(model, row), rel=1e-9)


def test_images_with_their_own_numbers_of_tokens(model):
    row = made_row(tokens=10, visual_tokens=(16, 4))
    assert expected(model, row) == pytest.approx(counted(model, row), rel=1e-9)


def test_cached_features_cost_the_projector_but_no_tower(model):
    freeze(model, LearningRate(projector=1.0, language=1.0))
    model.set_grid(4, 32)
    row = made_row(tokens=4, pixels=None, pooled=torch.randn(2, 4, 32))
    cost = Flops(model, 32).row(row)
    assert expected(model, row) == pytest.approx(counted(model, row), rel=1e-9)
    assert cost.vision == 2 * 2 * 4 * (2 * 32 * 32 + 3 * 32 * 32)
    computed = Flops(model, 32).row(made_row(tokens=4))
    assert computed.vision == cost.vision + cost.cached > cost.vision


def test_predicted_questions_cost_the_head(model):
    row = made_row()
    questions = row.input_ids.clone()
    questions[40:] = IGNORE
    row = replace(row, questions=questions)
    assert expected(model, row, questions=True) == pytest.approx(counted(model, row, 1.0), rel=1e-9)


def test_a_class_token_passes_the_blocks_but_not_the_convolution():
    from infimed.model.modeling import InfiMedForConditionalGeneration
    from infimed.model.presets import build_config
    from tests.conftest import tiny_preset

    vision = {"model_type": "dinov2", "hidden_size": 32, "num_hidden_layers": 2}
    vision |= {"num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    preset = replace(tiny_preset(), vision=vision, feature_strategy="default")
    model = InfiMedForConditionalGeneration(build_config(preset, image_token_id=3))
    model.model.vision_tower.config._attn_implementation = "eager"
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.pooled_features(torch.randn(2, 3, 32, 32))
    model.requires_grad_(False)
    cost = Flops(model, 32).row(made_row())
    projector = 2 * 2 * 16 * Flops(model, 32).projector.all
    assert cost.vision - projector == counter.get_total_flops()


@pytest.mark.parametrize("isolated", [True, False])
def test_attention_counts_the_pairs_that_see_each_other(make_model, isolated):
    layout = PackedLayout(DOCUMENTS)
    if not isolated:
        layout = PackedLayout((Document(layout.tokens),))
    pairs = int(layout.dense_mask().sum())
    assert pairs == attended(layout.documents)
    model = make_model()
    flops = Flops(model, 32, isolated=isolated)
    with_it = flops.row(made_row()).language
    flops.attention = 0
    # Two products of width 8 in each of 4 heads and 2 layers; backward, four.
    assert with_it - flops.row(made_row()).language == 3 * 2 * 2 * 8 * 4 * 2 * pairs


def test_adapters_cost_their_own_products_and_spare_those_of_frozen_weights(model):
    add_adapters(model, Lora(rank=4), seed=1)
    freeze(model, LearningRate(projector=1.0, language=1.0))
    row = made_row()
    assert expected(model, row) == pytest.approx(counted(model, row), rel=1e-9)


@pytest.fixture
def reduced(model, make_model):
    """Makes the model above with a reducer, 4 tokens an image."""

    def make(reducer):
        made = make_model(reducer=reducer).train()
        made.model.vision_tower.config._attn_implementation = "eager"
        made.set_attention(PACKED)
        made.set_grid(4, 32)
        return made

    return make


@pytest.mark.parametrize("rates", FREEZING)
@pytest.mark.parametrize("reducer", ["pixel_shuffle", "resampler", "query"])
def test_reducers_cost_what_torch_counts(reduced, reducer, rates):
    model = reduced(reducer)
    freeze(
        model, LearningRate(**dict(zip(("vision", "projector", "language"), rates, strict=True)))
    )
    row = made_row(tokens=4)
    with sdpa_kernel(SDPBackend.MATH):
        assert expected(model, row) == pytest.approx(counted(model, row), rel=1e-9)


@pytest.mark.parametrize("reducer", ["pixel_shuffle", "resampler", "query"])
def test_reducers_cost_by_the_images_own_tokens_and_with_cached_features(reduced, reducer):
    model = reduced(reducer)
    freeze(model, LearningRate(projector=1.0, language=1.0))
    with sdpa_kernel(SDPBackend.MATH):
        row = made_row(tokens=10, visual_tokens=(16, 4))
        assert expected(model, row) == pytest.approx(counted(model, row), rel=1e-9)
        row = made_row(tokens=4, pixels=None, pooled=torch.randn(2, 16, 32))
        assert expected(model, row) == pytest.approx(counted(model, row), rel=1e-9)


def test_operations_of_each_reducer_by_hand(reduced):
    width, patches, tokens, layers = 32, 16, 4, 2

    def forward(reducer):
        return Flops(reduced(reducer).requires_grad_(False), 32).reducing(tokens)

    square, mlp = 2 * width * width, 2 * 2 * 4 * width * width
    assert forward("average") == 0
    assert forward("pixel_shuffle") == 2 * tokens * 4 * width * width
    seen = patches + tokens
    resampler = tokens * (2 * square + mlp) + seen * 2 * square + 4 * width * tokens * seen
    assert forward("resampler") == layers * resampler + tokens * square
    among = tokens * 4 * square + 4 * width * tokens * tokens
    across = tokens * (2 * square + mlp) + patches * 2 * square + 4 * width * tokens * patches
    assert forward("query") == layers * (among + across) + tokens * square
