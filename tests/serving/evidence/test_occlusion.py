"""Occlusion equals hiding one part after another by hand, and its map lies where the part is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from infimed.data.imaging import squash
from infimed.inference.requests import BLANK_LEVEL
from infimed.serving.evidence import job, occlusion
from infimed.serving.evidence.hiding import ALL, Box, Hideable, cell_of
from infimed.serving.evidence.occlusion import REACH, children, divided, levels, worth_dividing
from tests.serving.evidence.pictures import local_of, look, slow_logprob, smooth


def by_hand(pixels: np.ndarray, grid: int, row: int, column: int, colour: np.ndarray) -> np.ndarray:
    """The image with a cell and what is `REACH` around it painted over."""
    height, width = pixels.shape[:2]
    tall, wide = height / grid, width / grid
    top, bottom = round((row - REACH) * tall), round((row + 1 + REACH) * tall)
    left, right = round((column - REACH) * wide), round((column + 1 + REACH) * wide)
    made = pixels.copy()
    for y in range(max(0, top), min(height, bottom)):
        for x in range(max(0, left), min(width, right)):
            made[y, x] = colour
    return made


def colour_of(pixels: np.ndarray, fill: str) -> np.ndarray:
    if fill == "grey":
        return np.full(3, BLANK_LEVEL, np.uint8)
    return np.rint(squash(pixels, 32).reshape(-1, 3).mean(axis=0)).astype(np.uint8)


@pytest.mark.parametrize("fill", ["grey", "mean"])
@pytest.mark.parametrize("tiles", [False, True])
def test_drops_equal_hiding_one_part_at_a_time_in_the_image_itself(tiles, fill):
    local = local_of(tiles)
    pixels = smooth(64, 64) if tiles else smooth(32, 32)  # no resizing, so that edges are the same
    found = look(local, pixels, grid=4, fill=fill)
    colour = colour_of(pixels, fill)
    base = slow_logprob(local, pixels)
    slow = np.array(
        [
            [base - slow_logprob(local, by_hand(pixels, 4, row, column, colour)) for column in range(4)]
            for row in range(4)
        ]
    )  # fmt: skip
    assert found.logprob == pytest.approx(base, abs=1e-4)
    assert found.most == pytest.approx(slow.max(), abs=2e-4)
    whole = base - slow_logprob(local, np.broadcast_to(colour, pixels.shape).copy())
    assert found.total == pytest.approx(whole, abs=2e-4)
    assert found.depends and found.most > 0.2, "otherwise nothing was compared"
    np.testing.assert_allclose(found.values, slow, atol=3e-4)
    assert found.passes == 16 + 2


def test_a_fine_grid_equals_a_slow_division_of_the_cells_that_are_worth_it(monkeypatch):
    monkeypatch.setattr(occlusion, "COARSEST", 2)
    local, pixels = local_of(False), smooth(32, 32, seed=3)
    found = look(local, pixels, grid=8, fill="grey")
    base, colour = slow_logprob(local, pixels), colour_of(pixels, "grey")

    def drop(grid: int, row: int, column: int) -> float:
        return base - slow_logprob(local, by_hand(pixels, grid, row, column, colour))

    slow = np.array([[drop(2, row, column) for column in range(2)] for row in range(2)])
    looked = 4
    for grid in (4, 8):
        finer = np.zeros((grid, grid))
        order = sorted(
            (-slow[row, column], row, column) for row in range(grid // 2) for column in range(grid // 2)
        )  # fmt: skip
        chosen = {
            (row, column)
            for minus, row, column in order[: grid * grid // 16]
            if -minus >= 0.25 * slow.max() > 0
        }
        for row in range(grid // 2):
            for column in range(grid // 2):
                inside = [(2 * row + down, 2 * column + right) for down in (0, 1) for right in (0, 1)]  # fmt: skip
                if (row, column) in chosen:
                    looked += 4
                    own = [max(0.0, drop(grid, *at)) for at in inside]
                    shares = [one / max(own) for one in own] if max(own) > 0 else [1.0] * 4
                else:
                    shares = [1.0] * 4
                for at, share in zip(inside, shares, strict=True):
                    finer[at] = slow[row, column] * share
        slow = finer
    assert looked < 64 and found.passes == looked + 2
    np.testing.assert_allclose(found.values, slow, atol=5e-4)


def test_levels_double_up_to_the_grid():
    assert [levels(grid) for grid in (2, 8, 9, 16, 12, 32)] == [
        [2], [8], [9], [8, 16], [6, 12], [8, 16, 32],
    ]  # fmt: skip


def test_what_is_divided_is_worth_it_and_a_quarter_at_most():
    drops = np.arange(16.0).reshape(4, 4)
    assert worth_dividing(drops) == [(3, 0), (3, 1), (3, 2), (3, 3)]
    drops = np.zeros((4, 4))
    assert worth_dividing(drops) == []
    drops[1, 2], drops[0, 0] = 1, 0.2
    assert worth_dividing(drops) == [(1, 2)]
    assert children([(1, 2)], 8) == [(2, 4), (2, 5), (3, 4), (3, 5)]


def test_parts_of_a_cell_share_its_drop():
    drops = np.array([[8.0, -1.0], [0.0, 2.0]])
    made = divided(drops, [(0, 0), (1, 1)], [1, 0, -3, 2, -1, -1, -1, -1])
    assert made.tolist() == [[4, 0, -1, -1], [0, 8, -1, -1], [0, 0, 2, 2], [0, 0, 2, 2]]


# What a box hides, and that a map lies where the cause is, whatever the processor did to the image.


def marked(height: int, width: int, y: int, x: int) -> np.ndarray:
    """Black with one bright mark."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[max(0, y - 3) : y + 4, max(0, x - 3) : x + 4] = 255
    return pixels


def looked_for(image: Hideable, grid: int) -> np.ndarray:
    """A map of how much of the mark each cell hides; the views themselves are looked at."""
    full = float(image.views.astype(np.float64).sum())

    async def score(boxes: Sequence[Box]) -> list[float]:
        return [full - float(image.without(box).astype(np.float64).sum()) for box in boxes]

    return asyncio.run(occlusion.occlusion(score, grid))


@pytest.mark.parametrize("grid", [8, 16, 32])
@pytest.mark.parametrize("tiles", [False, True])
@pytest.mark.parametrize(
    ("height", "width", "y", "x"),
    [(60, 180, 50, 20), (180, 60, 20, 50), (90, 160, 45, 130), (64, 64, 5, 60), (33, 100, 30, 90)],
)
def test_the_hottest_cell_is_over_the_mark_in_the_whole_image(tiles, grid, height, width, y, x):
    local = local_of(tiles)
    pixels = marked(height, width, y, x)
    size = (width, height)
    processor = local.processor
    if tiles:
        assert processor.tiles_of(size) != (0, 0)
    image = Hideable.of(processor.views(pixels, size), processor.tiles_of(size), "mean")
    drops = looked_for(image, grid)
    row, column = np.unravel_index(int(drops.argmax()), drops.shape)
    box = cell_of(grid, int(row), int(column))
    slack = 4 / 32  # a mark of seven pixels, squashed to a view of 32
    assert box.x0 - slack <= x / width <= box.x1 + slack
    assert box.y0 - slack <= y / height <= box.y1 + slack


@pytest.mark.parametrize("tiles", [False, True])
def test_a_box_hides_the_same_part_of_all_views_and_nothing_else(tiles):
    local, size = local_of(tiles), (64, 64)
    views = local.processor.views(smooth(64, 64, seed=9), size)
    image = Hideable.of(views, local.processor.tiles_of(size), "grey")
    hidden = image.without(Box(0.25, 0.5, 0.5, 1))
    changed = (hidden != views).any(axis=-1)
    assert changed[0].any() and not changed[0][:, 16:].any() and not changed[0][:16].any()
    assert (hidden[0][16:, 8:16] == BLANK_LEVEL).all()
    if tiles:  # tiles 0 and 1 above, 2 and 3 below; the part is the right half of tile 2
        assert not changed[1:3].any() and not changed[4].any()
        assert (hidden[3][:, 16:] == BLANK_LEVEL).all() and not changed[3][:, :16].any()
    assert np.array_equal(image.without(ALL), image.blank)
    assert np.array_equal(image.views, views), "the image itself is as it was"
    assert np.array_equal(image.without(Box(-0.5, -0.5, 1.5, 1.5)), image.blank)


def test_fills_are_grey_the_mean_colour_or_the_image_out_of_focus():
    views = smooth(32, 32)[None]
    mean = Hideable.of(views, (0, 0), "mean").blank
    assert (mean == np.rint(views.reshape(-1, 3).mean(axis=0))).all()
    assert (Hideable.of(views, (0, 0), "grey").blank == BLANK_LEVEL).all()
    blurred = Hideable.of(views, (0, 0), "blur").blank.astype(float)
    assert 0 < blurred.std() < 0.7 * views.std()


def test_pieces_grow_while_they_are_fast_and_shrink_when_they_are_not():
    pace = job.Pace(32)
    pace.took(1, job.PIECE_SECONDS / 100)
    assert pace.size == 2, "never more than twice as many"
    pace.took(2, job.PIECE_SECONDS / 100)
    pace.took(16, job.PIECE_SECONDS / 100)
    assert pace.size == 32
    pace.took(32, 4 * job.PIECE_SECONDS)
    assert pace.size == 8
    pace.took(1, 100)
    assert pace.size == 1
