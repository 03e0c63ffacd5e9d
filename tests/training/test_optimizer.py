"""Schedules, parameter groups and the loss at target positions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from infimed.core.errors import RecipeError
from infimed.core.recipe import LearningRate, Stage, Train
from infimed.model.modeling import InfiMedForConditionalGeneration
from infimed.model.presets import build_config
from infimed.training import loss as loss_module
from infimed.training.loss import target_losses
from infimed.training.optimizer import (
    check_ranks,
    factor,
    freeze,
    idle_note,
    make_optimizer,
    never_trained,
)
from tests.conftest import tiny_preset


def stage(**changes):
    values = {"name": "s", "image_size": 32, "visual_tokens": 16, "row_tokens": 64}
    return Stage(
        **{
            **values,
            "learning_rate": LearningRate(vision=1e-3, projector=1e-2, language=1e-4),
            **changes,
        }
    )


def test_cosine_rises_to_the_peak_and_falls_to_a_twentieth():
    shares = [factor(step, 100, stage(warmup=0.1)) for step in range(100)]
    assert shares[9] == 1.0
    assert shares[:10] == sorted(shares[:10])
    assert shares[10:] == sorted(shares[10:], reverse=True)
    assert shares[-1] == pytest.approx(0.05, abs=0.01)


def test_warmup_stable_decay_holds_then_falls_linearly():
    shares = [
        factor(s, 100, stage(warmup=0.1, schedule="warmup-stable-decay", decay=0.2))
        for s in range(100)
    ]
    assert set(shares[10:80]) == {1.0}
    assert shares[90] == pytest.approx(0.5)


def test_decay_acts_on_matrices_only_and_groups_carry_their_rate(make_model):
    model = make_model()
    freeze(model, stage().learning_rate)
    optimizer = make_optimizer(model, stage(), Train(weight_decay=0.3))
    for group in optimizer.param_groups:
        matrices = {p.ndim >= 2 for p in group["params"]}
        assert len(matrices) == 1
        assert group["weight_decay"] == (0.3 if matrices.pop() else 0.0)
        assert group["peak"] == getattr(stage().learning_rate, group["module"])


def idle_after_backward(model):
    model.model.vision_tower.train()
    freeze(model, stage().learning_rate)
    model.image_features(torch.randn(1, 3, 32, 32)).sum().backward()
    return {
        n
        for n, p in model.named_parameters()
        if n.startswith("model.vision_tower.") and p.grad is None
    }


def test_parameters_without_gradient_by_construction_are_frozen(make_model):
    model = make_model()
    assert idle_after_backward(model) == never_trained(model) != set()


def test_layers_behind_those_whose_features_are_read_are_frozen_too(make_model):
    model = make_model()
    model.config.vision_feature_layer = -2
    idle = idle_after_backward(model)
    assert any("encoder.layers.1." in name for name in idle)
    assert idle == never_trained(model)
    groups = make_optimizer(model, stage(), Train()).param_groups
    trained = {id(p) for group in groups for p in group["params"]}
    assert not trained & {id(p) for name, p in model.named_parameters() if name in idle}


def test_mask_token_and_last_norm_of_dinov2_are_frozen_and_named():
    vision = {**tiny_preset().vision, "model_type": "dinov2"}
    vision.pop("vision_use_head")
    tiny = replace(tiny_preset(), vision=vision, feature_strategy="default")
    model = InfiMedForConditionalGeneration(build_config(tiny, image_token_id=3))
    assert idle_after_backward(model) == never_trained(model)
    note = idle_note(model)
    assert "embeddings.mask_token, vision_tower.layernorm (96 parameters)" in note


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_target_loss_equals_the_full_logits_reference(chunk, monkeypatch):
    monkeypatch.setattr(loss_module, "CHUNK", chunk)
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 50, bias=False)
    hidden = torch.randn(20, 8, requires_grad=True)
    targets = torch.where(torch.rand(20) < 0.5, torch.randint(0, 50, (20,)), -100)
    ours = target_losses(head, hidden, targets).sum()
    slow = torch.nn.functional.cross_entropy(
        head(hidden), targets, ignore_index=-100, reduction="sum"
    )
    torch.testing.assert_close(ours, slow)
    (ours_gradient,) = torch.autograd.grad(ours, hidden)
    (slow_gradient,) = torch.autograd.grad(slow, hidden)
    torch.testing.assert_close(ours_gradient, slow_gradient)


def test_moments_in_blocks_are_refused_on_several_ranks():
    with pytest.raises(RecipeError, match="blocks that 2 ranks would cut"):
        check_ranks(Train(optimizer="adamw8bit"), 2)
    check_ranks(Train(optimizer="adamw8bit"), 1)
    check_ranks(Train(optimizer="adafactor"), 2)


def test_reducer_learns_at_the_projectors_rate_and_is_frozen_with_it(make_model):
    model = make_model(reducer="query")
    rates = LearningRate(projector=1e-2)
    freeze(model, rates)
    optimizer = make_optimizer(model, stage(learning_rate=rates), Train())
    assert {(g["module"], g["peak"]) for g in optimizer.param_groups} == {("projector", 1e-2)}
    learning = {id(p) for group in optimizer.param_groups for p in group["params"]}
    reducer = model.model.multi_modal_reducer
    assert {id(p) for p in reducer.parameters()} < learning
    freeze(model, LearningRate(language=1e-4))
    assert not any(p.requires_grad for p in reducer.parameters())
