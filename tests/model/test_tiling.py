"""Tiles: which an image has, that they are all of it, and the placeholders they get."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import tiny_tokenizer_json

from infimed.core.errors import DataError
from infimed.core.files import read_json
from infimed.data.record import ImageRef, Message, Record, question_record
from infimed.data.rendering import resized, squash
from infimed.model.processing import Processor
from infimed.model.tiling import NO_TILES, cut, tile_grid, together, view_count

PLAIN = Processor(tokenizer_json=tiny_tokenizer_json(), image_size=32, visual_tokens=4)
TILED = PLAIN.with_grid(32, 4, 4)
SMALL, LARGE, WIDE = (40, 40), (64, 64), (128, 32)

sides = st.integers(1, 4000)


def slow_grid(size: tuple[int, int], side: int, tiles: int) -> tuple[int, int]:
    """From one tile upwards: the first number of tiles with a grid that is good enough."""

    def shown(rows: int, columns: int) -> Fraction:
        across = Fraction(min(columns * side, size[0]), size[0])
        down = Fraction(min(rows * side, size[1]), size[1])
        return across if across < down else down

    every = [(r, c) for r in range(1, 1 + tiles) for c in range(1, 1 + tiles) if r * c <= tiles]
    if not every or 2 * max(shown(*g) for g in every) < 3 * shown(1, 1):
        return NO_TILES
    for number in range(1, tiles + 1):
        good = [
            g
            for g in every
            if g[0] * g[1] == number and all(10 * shown(*g) >= 9 * shown(*other) for other in every)
        ]
        if good:
            assert len(good) == 1
            return good[0]
    raise AssertionError


@settings(max_examples=150, deadline=None)
@given(sides, sides, st.integers(8, 400), st.integers(0, 12))
def test_the_grid_is_the_one_of_the_slow_search(width, height, side, tiles):
    grid = tile_grid((width, height), side, tiles)
    assert grid == slow_grid((width, height), side, tiles)
    assert view_count(grid) <= 1 + tiles
    assert tile_grid((height, width), side, tiles) == grid[::-1]


@pytest.mark.parametrize(
    ("size", "tiles", "grid"),
    [
        ((384, 384), 36, NO_TILES),
        ((575, 575), 36, NO_TILES),  # 1.5 times the square is where tiles begin
        ((576, 576), 36, (2, 2)),
        ((768, 768), 4, (2, 2)),
        ((768, 768), 3, NO_TILES),  # no grid of three shows both directions larger
        ((2500, 2500), 6, (2, 2)),  # 2 x 3 would show it no larger
        ((3000, 2500), 6, (2, 3)),
        ((3000, 2900), 6, (2, 2)),  # 2 x 3 would show it 3 % larger
        ((2000, 500), 4, (1, 4)),
        ((500, 2000), 6, (4, 1)),
        ((2500, 3000), 12, (4, 3)),
        ((10_000, 384), 4, (1, 4)),
        ((10_000, 10_000), 0, NO_TILES),
    ],
)
def test_grids_of_usual_sizes_at_384_pixels(size, tiles, grid):
    assert tile_grid(size, 384, tiles) == grid


@settings(max_examples=30, deadline=None)
@given(st.integers(8, 90), st.integers(8, 90), st.integers(1, 3), st.integers(1, 3))
def test_tiles_put_together_are_the_resized_image(width, height, rows, columns):
    image = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    views = cut(image, 16, (rows, columns))
    assert views.shape == (1 + rows * columns, 16, 16, 3)
    assert np.array_equal(views[0], squash(image, 16))
    sheet = resized(image, rows * 16, columns * 16)
    assert np.array_equal(together(views[1:], (rows, columns)), sheet)
    assert np.array_equal(views[columns], sheet[:16, -16:])  # the first row's last tile


def test_every_row_of_tiles_follows_a_newline():
    question = [Message("user", (0, 1, "a", 2, "b?"))]
    encoded = TILED.encode(question, [LARGE, SMALL, WIDE], generation=True)
    assert encoded.images == (0, 1, 2)
    assert encoded.views == (5, 1, 5)
    newline = TILED.text_ids("\n")
    image = [TILED.image_token_id]
    squares = [*image * 4, *newline, *image * 8, *newline, *image * 8]
    line = [*image * 4, *newline, *image * 16]
    said = [TILED.start_id, *TILED.text_ids("user\n")]
    assert encoded.input_ids[: encoded.trunk] == [
        *said, *squares, *image * 4, *TILED.text_ids("a"), *line,
    ]  # fmt: skip


def test_without_tiles_sizes_change_nothing():
    turns = [Message("user", (0, "a?")), Message("assistant", ("b",))]
    assert PLAIN.encode(turns) == PLAIN.encode(turns, [LARGE])
    assert TILED.encode(turns, [SMALL]) == PLAIN.encode(turns)
    assert TILED.template_hash == PLAIN.template_hash


def test_an_image_of_unknown_size_is_refused_where_it_may_have_tiles():
    with pytest.raises(DataError, match="size of an image is not known"):
        TILED.encode([Message("user", (0, "?"))], [ImageRef("a.png").size])


def sized(size: tuple[int, int], name: str) -> ImageRef:
    return ImageRef(name, width=size[0], height=size[1])


def test_views_are_measured_as_images_and_their_newlines_as_shared_text():
    record = question_record(
        id="q", question="Which?", answer="left", task="open",
        images=(sized(LARGE, "a"), sized(SMALL, "b")),
    )  # fmt: skip
    plain, tiled = PLAIN.measure(record), TILED.measure(record)
    newlines = 2 * len(TILED.text_ids("\n"))
    assert (plain.images, tiled.images) == (2, 6)
    assert tiled.text_tokens - plain.text_tokens == newlines
    assert tiled.trunk_tokens - plain.trunk_tokens == newlines
    assert tiled.target_tokens == plain.target_tokens
    assert tiled == TILED.with_grid(32, 16, 4).measure(record)


def test_the_views_of_every_exchange_add_up():
    record = Record(
        id="d", images=(sized(LARGE, "a"), sized(WIDE, "b")), task="dialogue",
        messages=(
            Message("user", (0, "Is it left?")), Message("assistant", ("no",)),
            Message("user", (1, "And now?")), Message("assistant", ("yes",)),
        ),
    )  # fmt: skip
    measured = TILED.measure(record)
    first, second = measured.exchanges
    assert (first[1], second[1]) == (5, 5)
    assert measured.images == 10
    assert first[2] + second[3] == measured.text_tokens


def test_a_saved_processor_keeps_its_tiles_and_one_without_is_written_as_before(tmp_path):
    for processor in (PLAIN, TILED):
        processor.save(tmp_path)
        assert Processor.load(tmp_path) == processor
        assert ("tiles" in read_json(tmp_path / "infimed_processor.json")) == bool(processor.tiles)


def test_another_grid_has_no_tiles_unless_it_says_so():
    assert TILED.with_grid(16, 4) == replace(PLAIN, image_size=16)
