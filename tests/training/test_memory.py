"""Blocks computed again, compiled blocks and a tower in bf16 train as the plain ones do."""

from __future__ import annotations

import pytest
import torch

from infimed.core.errors import RecipeError
from infimed.core.recipe import LearningRate, Train, load_recipe
from infimed.model.attention import PACKED, Document, PackedLayout
from infimed.model.loading import load_checkpoint
from infimed.training.compiling import compile_blocks
from infimed.training.memory import blocks, checkpoint_blocks, save_memory
from infimed.training.optimizer import freeze
from tests.training.toy import low_and_high

RATES = LearningRate(vision=1e-3, projector=1e-3, language=1e-3)
IMAGE = 3
"""The tiny tokenizer's placeholder."""


def gradients(model, layout=None, *, precision="fp32"):
    """Final states and every gradient of one packed row with two images."""
    layout = layout or PackedLayout((Document(20, (5, 7)), Document(18, (4,)), Document(9)))
    torch.manual_seed(0)
    ids = torch.randint(5, 300, (layout.tokens,))
    for start in (1, layout.documents[0].length + 1):
        ids[start : start + 16] = IMAGE
    pixels = torch.randn(2, 3, 32, 32)
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        hidden = model.forward_row(ids, layout, pixels=pixels)
    (hidden.float() * torch.randn(hidden.shape)).sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"hidden": hidden.detach(), **found}


def ready(model, train=None, rates=RATES):
    model.train()
    model.set_attention(PACKED)
    freeze(model, rates)
    save_memory(model, train or Train())
    return model


def assert_equal(found, wanted, tolerance):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_blocks_computed_again_give_the_same_gradients(make_model, precision):
    wanted = gradients(ready(make_model()), precision=precision)
    again = ready(make_model(), Train(activation_checkpointing=True))
    assert_equal(gradients(again, precision=precision), wanted, 1e-6)


def test_only_blocks_that_pass_gradients_on_are_computed_again(make_model):
    model = ready(make_model(), Train(activation_checkpointing=True), LearningRate(projector=1e-3))
    assert all(block.gradient_checkpointing for block in blocks(model.model.language_model))
    assert not any(block.gradient_checkpointing for block in blocks(model.model.vision_tower))
    save_memory(model, Train())
    assert not any(block.gradient_checkpointing for block in blocks(model))


def test_fewer_activations_are_kept(make_model):
    def kept(on):
        model = ready(make_model())
        checkpoint_blocks(model, on)
        total = 0

        def count(tensor):
            nonlocal total
            total += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            gradients(model)
        return total

    assert kept(True) < 0.5 * kept(False)


def test_a_run_with_blocks_computed_again_writes_the_same_losses(make_trainer):
    losses = []
    for on in (False, True):
        trainer = make_trainer(str(on), train=Train(precision="fp32", activation_checkpointing=on))
        trainer.run()
        losses.append((trainer.folder / "metrics.jsonl").read_text().count("\n"))
        losses.append(load_checkpoint(next((trainer.folder / "checkpoints").iterdir()))[0])
    assert losses[0] == losses[2]
    for ours, theirs in zip(losses[1].parameters(), losses[3].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_compiled_blocks_give_the_same_gradients_for_rows_of_any_shape(make_model):
    plain, compiled = ready(make_model()), ready(make_model())
    compile_blocks(compiled)
    for branches in ((5, 7), (3,), (2, 9, 4)):
        layout = PackedLayout((Document(20, branches), Document(18, (4,))))
        found, wanted = gradients(compiled, layout), gradients(plain, layout)
        for name, value in wanted.items():
            assert (found[name] - value).norm() <= 1e-5 * (1 + value.norm()), name


def test_compiling_without_a_compiler_names_what_is_missing(make_model, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RecipeError, match="C\\+\\+ compiler") as caught:
        compile_blocks(make_model())
    assert "no-such-compiler" in str(caught.value)


def test_a_frozen_tower_in_bf16_changes_nothing_under_autocast(make_model):
    rates = LearningRate(projector=1e-3, language=1e-3)
    wanted = gradients(ready(make_model(), rates=rates), precision="bf16")
    halved = ready(make_model(), Train(frozen_dtype="bf16"), rates)
    tower = halved.model.vision_tower
    assert tower.encoder.layers[0].mlp.fc1.weight.dtype == torch.bfloat16
    assert tower.encoder.layers[0].layer_norm1.weight.dtype == torch.float32
    assert_equal(gradients(halved, precision="bf16"), wanted, 0)


def test_a_run_with_a_tower_in_bf16_resumes_from_its_checkpoint(make_trainer):
    stages = low_and_high(learning_rate=LearningRate(projector=1e-3, language=1e-3))
    train = Train(frozen_dtype="bf16", checkpoint_seconds=1e-9, keep_checkpoints=99)
    trainer = make_trainer("run", train=train, stages=stages)
    final = trainer.run()
    loaded, _ = load_checkpoint(final)
    name = "model.vision_tower.encoder.layers.0.mlp.fc1.weight"
    weight = dict(loaded.named_parameters())[name]
    assert weight.dtype == torch.float32
    assert torch.equal(weight.bfloat16(), dict(trainer.model.named_parameters())[name])


def test_a_tower_that_learns_is_refused_in_bf16():
    with pytest.raises(RecipeError, match="the tower learns in sft-task"):
        load_recipe("infimed-1.7b", ["data.root=x", "train.frozen_dtype=bf16"])
