"""Integrated gradients are those of the answer's log-probability, and add up to what the image adds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from infimed.inference.local import LocalModel
from infimed.serving.evidence.gradient import (
    attribution,
    gradients,
    middles,
    smoothed,
    weights_fixed,
)
from infimed.serving.evidence.hiding import Hideable, per_cell
from infimed.serving.evidence.scoring import Said, logprob_of_pixels, logprobs, said
from tests.serving.evidence.pictures import ANSWER, QUESTION, local_of, look, slow_logprob, smooth


def ready(tiles: bool, seed: int = 0, faint: bool = False) -> tuple[LocalModel, Said, Hideable, np.ndarray]:  # fmt: skip
    local = local_of(tiles)
    pixels = smooth(64, 64, seed) if tiles else smooth(32, 32, seed)
    if faint:
        pixels = (pixels // 32 + 100).astype(np.uint8)
    size = pixels.shape[1], pixels.shape[0]
    processor = local.processor
    what = said(processor, QUESTION, ANSWER, size, 512)
    image = Hideable.of(processor.views(pixels, size), processor.tiles_of(size), "mean")
    return local, what, image, pixels


@pytest.mark.parametrize("tiles", [False, True])
def test_the_log_probability_is_that_of_an_evaluation(tiles):
    local, what, image, pixels = ready(tiles)
    slow = slow_logprob(local, pixels)
    assert logprobs(local, what, [image.views, image.blank])[0] == pytest.approx(slow, abs=1e-4)
    shown = local.processor.pixels(list(image.views))
    assert float(logprob_of_pixels(local, what, shown)) == pytest.approx(slow, abs=1e-4)


@pytest.mark.parametrize("tiles", [False, True])
def test_the_gradient_equals_differences_of_the_log_probability(tiles):
    local, what, image, _ = ready(tiles)
    local.model.double()
    shown, blank = (local.processor.pixels(list(v)).double() for v in (image.views, image.blank))
    way = shown - blank
    found = gradients(local, what, image, [0.5])
    rng = np.random.default_rng(0)
    compared = 0
    for _ in range(12):
        view, y, x = (int(rng.integers(side)) for side in found.shape)
        slow = 0.0
        for channel in range(3):
            step = torch.zeros_like(shown)
            step[view, channel, y, x] = 1e-3
            with torch.no_grad():
                up, down = (
                    float(logprob_of_pixels(local, what, blank + 0.5 * way + sign * step))
                    for sign in (1, -1)
                )
            slow += (up - down) / 2e-3 * float(way[view, channel, y, x])
        assert found[view, y, x] == pytest.approx(slow, abs=1e-3, rel=2e-2)
        compared += abs(slow) > 1e-3
    assert compared > 4


@pytest.mark.parametrize("tiles", [False, True])
def test_cells_add_up_to_what_the_image_adds(tiles):
    """Completeness, proposition 1 of the paper; of a faint image, since random weights are wild on a long way."""
    local, what, image, _ = ready(tiles, seed=1, faint=True)
    local.model.double()
    steps = 512
    summed = gradients(local, what, image, middles(steps))
    cells = attribution(image, summed, steps, 8)
    with torch.no_grad():
        logprob, blank = (
            float(logprob_of_pixels(local, what, local.processor.pixels(list(views)).double()))
            for views in (image.views, image.blank)
        )
    assert abs(logprob - blank) > 0.05
    assert cells.sum() == pytest.approx(logprob - blank, rel=0.01)


def test_pieces_of_the_way_add_up_to_the_whole():
    local, what, image, _ = ready(False)
    whole = gradients(local, what, image, middles(6))
    parts = sum(gradients(local, what, image, part) for part in (middles(6)[:1], middles(6)[1:]))
    np.testing.assert_allclose(whole, parts, atol=1e-5)


def test_cells_take_the_pixels_whose_centres_lie_in_them():
    rng = np.random.default_rng(2)
    values = rng.normal(size=(7, 10))
    slow = np.zeros((4, 4))
    for y in range(7):
        for x in range(10):
            slow[int((y + 0.5) / 7 * 4), int((x + 0.5) / 10 * 4)] += values[y, x]
    np.testing.assert_allclose(per_cell(values, 4), slow)
    assert per_cell(np.ones((3, 3)), 8).sum() == 9, "a grid finer than the pixels"


def test_tiles_and_the_whole_add_to_one_map_in_their_places():
    _, _, image, _ = ready(True)
    values = np.zeros((5, 32, 32))
    values[0, 4, 28] = 1  # upper right of the whole
    values[2, 4, 30] = 2  # upper right tile, at its upper right: (4 / 64, 62 / 64) of the whole
    values[3, 31, 0] = 4  # lower left tile, at its lower left
    found = attribution(image, values, 1, 8)
    assert found[1, 7] == 1 and found[0, 7] == 2 and found[7, 0] == 4
    assert found.sum() == 7


def test_smoothing_is_a_mean_of_neighbours():
    values = np.zeros((5, 5))
    values[2, 2] = 16
    assert smoothed(values)[1:4, 1:4].tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]
    assert smoothed(np.full((4, 6), 3.0)).tolist() == np.full((4, 6), 3.0).tolist()


def test_weights_learn_nothing_and_are_left_as_they_were():
    local, what, image, _ = ready(False)
    first = next(local.model.parameters())
    first.requires_grad_(False)
    before = [p.requires_grad for p in local.model.parameters()]
    with torch.no_grad():  # as in the engine
        gradients(local, what, image, [0.5])
    assert [p.requires_grad for p in local.model.parameters()] == before and not before[0]
    assert all(p.grad is None for p in local.model.parameters())
    with pytest.raises(ZeroDivisionError), weights_fixed(local.model):
        raise ZeroDivisionError
    assert [p.requires_grad for p in local.model.parameters()] == before


def test_the_map_is_of_these_gradients():
    local, what, image, pixels = ready(False)
    found = look(local, pixels, method="gradient", grid=8)
    steps = len(middles())
    slow = smoothed(attribution(image, gradients(local, what, image, middles()), steps, 8))
    assert found.most == pytest.approx(slow.max(), rel=1e-4)
    np.testing.assert_allclose(found.values, slow, atol=1e-4)
    assert found.passes == steps + 2 and found.method == "gradient"
