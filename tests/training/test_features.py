"""Features of a frozen tower kept on disk: the same training, the tower run once an image."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from infimed.core.errors import DataError
from infimed.core.recipe import LearningRate, Train
from infimed.core.run import MetricsLog
from infimed.training.features import GROUP, tower_hash
from tests.training.test_loop import Killed, die_at, without_times
from tests.training.test_ranks import assert_same_training, train
from tests.training.toy import low_and_high

FROZEN = {"learning_rate": LearningRate(projector=1e-3, language=1e-3), "augment": 0.0}
CACHED = Train(precision="fp32", checkpoint_seconds=1e-9, keep_checkpoints=99, feature_cache=True)


def counted(trainer):
    """Images that go through the tower from now on."""
    seen = []
    trainer.model.model.vision_tower.register_forward_pre_hook(
        lambda _, given: seen.append(len(given[0]))
    )
    return seen


@pytest.fixture
def cached(make_trainer):
    trainer = make_trainer("cached", train=CACHED, stages=low_and_high(**FROZEN))
    return trainer, counted(trainer), trainer.run()


def test_cached_features_train_what_the_tower_does(make_trainer, cached):
    plain = make_trainer(
        "plain", train=Train(precision="fp32"), stages=low_and_high(**FROZEN)
    ).run()
    expected, found = (load_file(path / "model.safetensors") for path in (plain, cached[2]))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=2e-6, rtol=1e-5)


def test_tower_runs_once_an_image_and_the_cache_goes_with_the_run(cached):
    trainer, seen, _ = cached
    distinct = trainer.shards.images.num_rows
    shown = sum(row["images"] for row in MetricsLog(trainer.folder / "metrics.jsonl").read())
    assert sum(seen) == len(trainer.jobs) * distinct < shown
    assert max(seen) <= GROUP
    assert not (trainer.folder / "features").exists()


def test_what_the_cache_saves_is_in_the_metrics(cached):
    trainer, _, _ = cached
    distinct = trainer.shards.images.num_rows
    lines = MetricsLog(trainer.folder / "metrics.jsonl").read()
    for job in trainer.jobs:
        own = [line for line in lines if line["stage"] == job.stage.name]
        shown = sum(line["images"] for line in own)
        (filled,) = [line for line in own if "feature_seconds" in line]
        assert filled is own[0] and filled["feature_seconds"] > 0
        one = filled["feature_flops"] / distinct
        assert sum(line["cached_flops"] for line in own) == pytest.approx(shown * one)


@pytest.mark.parametrize("step", [1, 3])
def test_killed_run_with_a_cache_resumes_to_the_same_bits(make_trainer, cached, step):
    stages = low_and_high(**FROZEN)
    first = make_trainer("killed", train=CACHED, stages=stages)
    die_at(first, step)
    with pytest.raises(Killed):
        first.run()
    second = make_trainer("killed", train=CACHED, stages=stages)
    seen = counted(second)
    ended = second.run()
    assert (ended / "model.safetensors").read_bytes() == (
        cached[2] / "model.safetensors"
    ).read_bytes()
    assert without_times(second.folder) == without_times(cached[0].folder)
    if step == 1:  # no checkpoint replaced the watched model; the first stage's features were there
        assert sum(seen) == second.shards.images.num_rows


def test_learning_tower_or_augmented_images_are_never_cached(make_trainer):
    trainer = make_trainer("learns", train=CACHED)
    trainer._begin(trainer.jobs[0])
    assert trainer._features is None and not (trainer.folder / "features").exists()


def test_tower_hash_follows_the_weights(make_model):
    model = make_model()
    before = tower_hash(model)
    with torch.no_grad():
        next(model.model.vision_tower.parameters()).view(-1)[0] += 1e-3
    assert tower_hash(model) != before


def test_damaged_or_partial_cache_is_never_used(make_trainer):
    trainer = make_trainer("harm", train=CACHED, stages=low_and_high(**FROZEN))
    trainer._begin(trainer.jobs[0])
    cache = trainer._features
    image = next(record.images[0] for record in trainer.shards if record.images)
    whole = cache.read(image)
    place = cache._place[image.sha256]
    cache._entries[place].view()[0, 0] ^= 1
    with pytest.raises(DataError, match="damaged"):
        cache.read(image)
    cache._sums[place] = 0  # as a rank that was killed leaves it
    again = make_trainer("harm", train=CACHED, stages=low_and_high(**FROZEN))
    again._begin(again.jobs[0])
    assert torch.equal(again._features.read(image), whole)


def test_two_ranks_share_a_cache(shards, tmp_path):
    settings = {
        "train": {"feature_cache": True},
        "stage": {"learning_rate": {"projector": 1e-3, "language": 1e-3}, "augment": 0.0},
    }
    train(shards, tmp_path / "one", 1, **settings)
    train(shards, tmp_path / "two", 2, **settings)
    assert_same_training(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("reducer", ["pixel_shuffle", "resampler", "query"])
def test_reducer_that_learns_trains_on_the_whole_grid_from_the_cache(make_trainer, reducer):
    """16 tokens of 16 patches in the second stage, 4 of 16 in a first one at the same size."""
    first, second = low_and_high(**FROZEN)
    stages = [first.model_copy(update={"image_size": 32}), second]
    plain = make_trainer("plain", reducer, train=Train(precision="fp32"), stages=stages).run()
    cached = make_trainer("cached", reducer, train=CACHED, stages=stages)
    cached._begin(cached.jobs[0])
    assert cached._features._entries.shape[1:] == (16, 32)
    expected, found = (load_file(p / "model.safetensors") for p in (plain, cached.run()))
    assert expected["multi_modal_reducer.out.weight"].abs().max() > 0
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=5e-6, rtol=1e-4)
