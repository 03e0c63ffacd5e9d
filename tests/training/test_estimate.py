"""The estimate's arithmetic against torch's own counts."""

from __future__ import annotations

import pytest
import torch

from infimed.core.errors import UsageError
from infimed.core.recipe import LearningRate, Lora, Stage, Train, load_recipe
from infimed.model.attention import PACKED, Document, PackedLayout
from infimed.model.presets import preset
from infimed.training.estimate import (
    decoder_block_bytes,
    estimate_stages,
    meta_model,
    optimizer_bytes,
    reducer_bytes,
    saved_bytes,
    stage_memory,
    typical_row,
    vision_block_bytes,
)
from infimed.training.hardware import Hardware, hardware
from infimed.training.memory import blocks
from infimed.training.optimizer import freeze, make_optimizer
from tests.conftest import tiny_preset
from tests.training.toy import low_and_high

ALL = LearningRate(vision=1e-3, projector=1e-3, language=1e-3)
ONE = Hardware("cpu", 1, 1e12, 1e10, 16, 0.4, "a test")


def stage(**changes):
    values = {"name": "s", "image_size": 32, "visual_tokens": 16, "row_tokens": 400}
    return Stage(**{**values, "learning_rate": ALL, **changes})


def test_a_typical_row_fills_the_row_with_images_and_captions():
    layout = typical_row(stage(row_tokens=400, max_images=3))
    assert layout.documents[:3] == (Document(16, (60,)),) * 3
    assert 400 - 76 < layout.tokens <= 400


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_bytes_of_a_block_are_those_that_a_real_one_keeps(make_model, precision):
    layout = PackedLayout((Document(16, (5, 9)), Document(20)))
    counted = decoder_block_bytes(meta_model(tiny_preset()), layout, precision)
    model = make_model().train()
    model.set_attention(PACKED)
    block = blocks(model.model.language_model)[0]
    x = torch.randn(1, layout.tokens, 32, requires_grad=True)
    turns = tuple(torch.randn(1, layout.tokens, 8) for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        kept = saved_bytes(block, lambda: block(x, position_embeddings=turns, layout=layout))
    assert counted == kept


def test_a_block_of_the_tower_keeps_as_much_as_counted(make_model):
    counted = vision_block_bytes(meta_model(tiny_preset()), 3, 16, "fp32")
    block = blocks(make_model().train().model.vision_tower)[0]
    x = torch.randn(3, 16, 32, requires_grad=True)
    assert saved_bytes(block, lambda: block(x, attention_mask=None)) == counted


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "adamw8bit"])
def test_optimizer_bytes_are_those_of_its_state(make_model, optimizer):
    model = make_model()
    freeze(model, ALL)
    made = make_optimizer(model, stage(), Train(optimizer=optimizer))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    made.step()
    held = sum(
        tensor.numel() * tensor.element_size()
        for state in made.state.values()
        for name, tensor in state.items()
        if name != "step"
    )
    assert optimizer_bytes(model, optimizer) == held


def test_parameters_and_gradients_are_counted_and_sharded():
    model = meta_model(tiny_preset())
    count = sum(parameter.numel() for parameter in model.parameters())
    memory = stage_memory(model, stage(), Train(precision="fp32"), ONE, typical_row(stage()))
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert memory.parameters == 4 * count
    assert memory.gradients == 4 * learned
    assert memory.optimizer == 8 * learned
    four = Hardware("h100", 4, 1e12, 1e12, 16, 0.4, "a test")
    spread = stage_memory(model, stage(), Train(precision="fp32"), four, typical_row(stage()))
    assert spread.gradients == learned
    assert spread.optimizer == 2 * learned


def test_each_way_to_save_memory_saves_what_it_says():
    model = meta_model(preset("infimed-1.7b"))
    frozen = stage(
        image_size=384,
        visual_tokens=144,
        row_tokens=2048,
        learning_rate=LearningRate(projector=1e-3, language=1e-4),
    )
    layout = typical_row(frozen)
    plain = stage_memory(model, frozen, Train(), ONE, layout)
    again = stage_memory(model, frozen, Train(activation_checkpointing=True), ONE, layout)
    small = stage_memory(model, frozen, Train(optimizer="adafactor"), ONE, layout)
    halved = stage_memory(model, frozen, Train(frozen_dtype="bf16"), ONE, layout)
    assert again.activations < 0.15 * plain.activations
    assert small.optimizer < 0.01 * plain.optimizer
    tower = sum(p.numel() for p in model.model.vision_tower.parameters())
    assert plain.parameters - halved.parameters == pytest.approx(2 * tower, rel=0.01)


def test_adapters_spare_gradients_and_moments():
    model = meta_model(tiny_preset())
    whole = low_and_high()[1]
    adapted = whole.model_copy(update={"lora": Lora(rank=2)})
    layout = typical_row(whole)
    plain = stage_memory(model, whole, Train(), ONE, layout)
    small = stage_memory(model, adapted, Train(), ONE, layout)
    assert small.gradients < plain.gradients
    assert small.optimizer < plain.optimizer
    assert small.parameters > plain.parameters
    names = [name for name, _ in model.named_parameters()]
    assert not any("lora" in name for name in names), "the model of the other stages was changed"


def test_seconds_shrink_with_devices_and_peak():
    recipe = load_recipe("infimed-1.7b", ["data.root=x"])
    slow = estimate_stages(
        recipe, preset("infimed-1.7b"), Hardware("h100", 1, 1e15, 1e12, 80, 0.4, "")
    )
    fast = estimate_stages(
        recipe, preset("infimed-1.7b"), Hardware("h100", 8, 2e15, 2e12, 80, 0.4, "")
    )
    for one, eight in zip(slow, fast, strict=True):
        assert one.flops == eight.flops
        assert one.seconds == pytest.approx(16 * eight.seconds)


def test_hardware_is_a_name_with_a_count_and_a_wrong_one_is_answered_with_the_nearest():
    machine = hardware("h100x8")
    assert (machine.name, machine.devices, machine.gib) == ("h100", 8, 80)
    with pytest.raises(UsageError, match="h100") as caught:
        hardware("h10x8")
    assert "h100" in str(caught.value)


@pytest.mark.parametrize("reducer", ["average", "pixel_shuffle", "resampler", "query"])
def test_bytes_of_a_reducer_are_those_that_a_real_one_keeps(make_model, reducer):
    counted = reducer_bytes(meta_model(tiny_preset(), reducer), 3, 16, 2, "fp32")
    module = make_model(reducer=reducer).train().model.multi_modal_reducer
    x = torch.randn(3, 16, 32, requires_grad=True)
    assert saved_bytes(module, lambda: module(x, 2)) == counted
