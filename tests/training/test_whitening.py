"""The projector starts from whitened features, at the scale of the words, and depends on the seed alone."""

from __future__ import annotations

import pytest
import torch

from infimed.training.whitening import tower_features, training_images, whiten_projector


def skewed(tokens=4000, width=32):
    """Features whose directions differ in variance by four orders of magnitude."""
    torch.manual_seed(0)
    scales = torch.logspace(-2, 2, width).sqrt()
    mixing = torch.linalg.qr(torch.randn(width, width)).Q
    return torch.randn(tokens, width) * scales @ mixing + 3.0


def test_every_direction_of_the_features_reaches_the_hidden_layer_alike(make_model):
    model, features = make_model(), skewed()
    whiten_projector(model, features, seed=1)
    layer = model.model.multi_modal_projector.linear_1
    hidden = layer(features)
    torch.testing.assert_close(hidden.mean(0), torch.zeros(32), atol=1e-2, rtol=0)
    rotation_only = torch.linalg.svdvals(
        layer.weight.double() @ torch.linalg.cholesky(torch.cov(features.double().T))
    )
    fresh = torch.linalg.svdvals(torch.randn(32, 32, dtype=torch.float64))
    assert rotation_only.max() / rotation_only.median() < 3 * fresh.max() / fresh.median()


def test_projected_tokens_have_twice_the_spread_of_words(make_model):
    model, features = make_model(), skewed()
    whiten_projector(model, features, seed=1)
    spread = (
        model.model.multi_modal_projector(features).std()
        / model.get_input_embeddings().weight.std()
    )
    assert 1.8 < spread.item() < 2.2


def test_same_seed_same_projector(make_model):
    weights = []
    for seed in (1, 1, 2):
        model = make_model()
        whiten_projector(model, skewed(), seed=seed)
        weights.append(model.model.multi_modal_projector.linear_1.weight.clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_features_come_from_distinct_training_images(make_model, processor, shards):
    images = training_images(shards, list(range(len(shards))), seed=0)
    assert len({image.sha256 for image in images}) == len(images) == 6
    found = tower_features(make_model(), processor.with_grid(16, 4), shards, images)
    assert found.shape == (6 * 4, 32)


@pytest.mark.parametrize("reducer", ["pixel_shuffle", "resampler", "query"])
def test_fresh_reducer_starts_the_projector_where_the_average_does(
    make_model, processor, shards, reducer
):
    images = training_images(shards, list(range(len(shards))), seed=0)
    at = processor.with_grid(32, 4)
    average = tower_features(make_model(), at, shards, images)
    assert torch.equal(tower_features(make_model(reducer=reducer), at, shards, images), average)
