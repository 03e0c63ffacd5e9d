"""Adapters: they alone learn of the language model, merge into its weights, and resume to the bit."""

from __future__ import annotations

import sys

import pytest
import torch
from safetensors.torch import load_file

from infimed.core.errors import DataError, RecipeError, UsageError
from infimed.core.files import sha256_file
from infimed.core.recipe import LearningRate, Lora, Train
from infimed.model.adapters import ADAPTERS, is_adapter, split_adapters
from infimed.model.attention import PACKED, Document, PackedLayout
from infimed.model.loading import checkpoint_folders, load_checkpoint, to_hub_state
from infimed.training.lora import add_adapters
from infimed.training.optimizer import freeze, module_of
from tests.training.test_loop import Killed, die_at, without_times
from tests.training.test_ranks import assert_same_training, steps, train
from tests.training.toy import low_and_high

RATE = LearningRate(projector=1e-3, language=1e-2)
DROPPING = Lora(rank=4, alpha=6.0, dropout=0.3)


def stages(lora):
    """Adapters in both stages; the second begins with the first's merged."""
    return low_and_high(lora=lora, learning_rate=RATE)


def hidden_of(model):
    model.set_attention(PACKED)
    layout = PackedLayout((Document(5, (4, 3)), Document(6)))
    ids = torch.arange(10, 10 + layout.tokens)
    with torch.no_grad():
        return model.eval().forward_row(ids, layout)


@pytest.fixture
def adapted(make_model):
    """A model whose adapters are not zero."""
    model = make_model()
    add_adapters(model, Lora(rank=4), seed=3)
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return model


def test_merged_equals_unmerged_and_has_the_keys_of_the_base(adapted, make_model):
    base, adapters = split_adapters(adapted.state_dict(), Lora(rank=4).scale)
    merged = make_model(seed=1)
    merged.load_state_dict(adapters.merged_into(base), strict=True)
    ours, plain = hidden_of(adapted), hidden_of(make_model())
    assert (ours - plain).abs().max() > 0.01
    torch.testing.assert_close(hidden_of(merged), ours, atol=1e-5, rtol=1e-5)


def test_merging_is_that_of_peft(adapted):
    base, adapters = split_adapters(adapted.state_dict(), Lora(rank=4).scale)
    ours = adapters.merged_into({name: tensor.clone() for name, tensor in base.items()})
    for name, layer in adapted.named_modules():
        if hasattr(layer, "lora_A"):
            layer.merge()
            torch.testing.assert_close(ours[f"{name}.weight"], layer.base_layer.weight)


def test_new_adapters_change_nothing_and_are_drawn_from_their_seed(make_model):
    drawn = []
    for noise in (0, 1):
        model = make_model()
        torch.manual_seed(noise)
        add_adapters(model, Lora(rank=4), seed=3)
        drawn.append({n: p for n, p in model.named_parameters() if is_adapter(n)})
    assert len(drawn[0]) == 2 * 7 * 2  # two layers of seven, two matrices each
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])
    assert torch.equal(hidden_of(model), hidden_of(make_model()))


def test_adapters_and_projector_learn_and_nothing_else(make_model):
    model = make_model()
    add_adapters(model, Lora(rank=4, targets=["q_proj", "v_proj"]), seed=3)
    freeze(model, RATE)
    learns = {n for n, p in model.named_parameters() if p.requires_grad}
    assert {module_of(name) for name in learns} == {"projector", "language"}
    language = {name for name in learns if module_of(name) == "language"}
    assert all(is_adapter(name) for name in language)
    assert {name.split(".")[5] for name in language} == {"q_proj", "v_proj"}


@pytest.fixture
def whole(make_trainer):
    trainer = make_trainer(
        "whole",
        stages=stages(DROPPING),
        train=Train(precision="fp32", checkpoint_seconds=1e-9, keep_checkpoints=99),
    )
    return trainer, trainer.run()


def test_last_checkpoint_is_a_plain_model_whose_linear_layers_have_learned(whole, make_model):
    _, final = whole
    before, after = to_hub_state(make_model()), load_file(final / "model.safetensors")
    assert before.keys() == after.keys()
    assert not (final / ADAPTERS).exists()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    linear = {n for n in before if "layers" in n and n.endswith("_proj.weight")}
    linear = {n for n in linear if n.startswith("language_model")}
    projector = {n for n in before if n.startswith("multi_modal_projector")}
    assert changed == linear | projector


def test_checkpoint_in_the_middle_of_a_stage_loads_as_the_model_that_trains(
    make_trainer, make_model
):
    trainer = make_trainer(
        "part",
        stages=stages(DROPPING),
        train=Train(precision="fp32", checkpoint_seconds=1e-9, keep_checkpoints=99),
    )
    die_at(trainer, 3)
    with pytest.raises(Killed):
        trainer.run()
    newest = checkpoint_folders(trainer.checkpoints)[0]
    assert (newest / ADAPTERS).is_file()
    loaded, _ = load_checkpoint(newest)
    assert loaded.state_dict().keys() == make_model().state_dict().keys()
    torch.testing.assert_close(hidden_of(loaded), hidden_of(trainer.model), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kill", ["first", "mid-stage", "at the switch", "after the switch"])
@pytest.mark.parametrize("every", [1e-9, 1e9])
def test_killed_run_with_dropout_continues_to_the_same_bits(whole, make_trainer, kill, every):
    trainer, final = whole
    low = trainer.jobs[0].steps
    step = {"first": 1, "mid-stage": 2, "at the switch": low, "after the switch": low + 2}[kill]
    train = Train(precision="fp32", checkpoint_seconds=every, keep_checkpoints=99)
    first = make_trainer("killed", stages=stages(DROPPING), train=train)
    die_at(first, step)
    with pytest.raises(Killed):
        first.run()
    second = make_trainer("killed", stages=stages(DROPPING), train=train)
    ended = second.run()
    assert sha256_file(ended / "model.safetensors") == sha256_file(final / "model.safetensors")
    assert without_times(second.folder) == without_times(trainer.folder)


def test_two_ranks_go_on_where_one_stopped_and_the_other_way_round(shards, tmp_path):
    settings = {"stage": {"lora": {"rank": 4}, "learning_rate": RATE.model_dump()}}
    often = {"train": {"checkpoint_seconds": 1e-9, "keep_checkpoints": 99}, **settings}
    one, split = tmp_path / "one", tmp_path / "split"
    train(shards, one, 1, **settings)
    count = len(steps(one))
    assert train(shards, split, 1, kill_at=2, **often) == [9]
    assert all(train(shards, split, 2, kill_at=count - 1, **often))
    train(shards, split, 1, **often)
    assert_same_training(one, split)


@pytest.mark.parametrize("other", [None, Lora(rank=2), Lora(rank=4, alpha=1.0)])
def test_other_adapters_than_the_checkpoint_has_are_refused(make_trainer, other):
    often = Train(precision="fp32", checkpoint_seconds=1e-9)
    first = make_trainer("a", stages=stages(DROPPING), train=often)
    die_at(first, 3)
    with pytest.raises(Killed):
        first.run()
    with pytest.raises(DataError, match="adapters are not those of the recipe"):
        make_trainer("a", stages=stages(other), train=often).run()


def test_target_that_is_no_linear_layer_is_refused_with_the_nearest(make_model):
    with pytest.raises(RecipeError, match="did you mean: q_proj"):
        add_adapters(make_model(), Lora(targets=["q_pro"]), seed=1)


def test_without_peft_the_extra_is_named_before_anything_is_trained(make_trainer, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    plain, adapted = low_and_high()[0], stages(Lora())[1]
    trainer = make_trainer("none", stages=[plain, adapted])
    with pytest.raises(UsageError, match=r"infimed\[lora\]"):
        trainer.run()
    assert trainer.position.step == 0


def test_adapters_of_a_frozen_language_model_are_refused():
    with pytest.raises(ValueError, match=r"learning_rate\.language above 0"):
        low_and_high(lora=Lora(), learning_rate=LearningRate(projector=1e-3))
