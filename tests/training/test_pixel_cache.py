"""Decoded images: the right pixels for every record, within a budget of bytes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from infimed.core.errors import DataError
from infimed.data import imaging
from infimed.data.importing import import_data
from infimed.data.record import ImageRef, question_record
from infimed.data.shards import open_shards
from infimed.training.features import FeatureCache
from infimed.training.rows import PixelCache

WINDOWS = (
    {"window_center": 500.0, "window_width": 1000.0},
    {"window_center": 3000.0, "window_width": 400.0},
)


class Counting:
    """Shards of grey squares that count what they decode."""

    def __init__(self, side: int = 8) -> None:
        self.side, self.decoded = side, 0

    def pixels(self, image: ImageRef) -> np.ndarray:
        self.decoded += 1
        return np.full((self.side, self.side, 3), int(image.sha256), np.uint8)


@pytest.fixture
def windowed(tmp_path):
    """One stored image that two records show through two windows."""
    values = np.tile(np.arange(64, dtype=np.uint16) * 60, (64, 1))
    source = tmp_path / "windows"
    source.mkdir()
    cv2.imwrite(str(source / "a.png"), values)
    records = [
        question_record(
            id=f"w{n}",
            question="?",
            answer="!",
            images=(ImageRef("a.png", facts=facts),),
            task="open",
        )
        for n, facts in enumerate(WINDOWS)
    ]
    (source / "records.jsonl").write_text("".join(r.to_json() + "\n" for r in records))
    import_data(source, tmp_path / "shards", reader="records", workers=1)
    return values, open_shards(tmp_path / "shards")


def test_two_records_show_one_image_through_their_own_windows(windowed):
    values, shards = windowed
    cache = PixelCache(shards)
    for _ in range(2):  # decoded, then kept
        for number, facts in enumerate(WINDOWS):
            square = cache.square(shards.record(number).images[0], 64)
            assert np.array_equal(square, imaging.render(values, facts))


def test_the_feature_cache_refuses_a_window_that_is_not_the_stored_one(windowed, tmp_path):
    _, shards = windowed
    images = np.arange(1, dtype=np.int64)
    cache = FeatureCache(tmp_path / "features", shards, images, (1, 4), "fp32")
    shown = shards.record(0).images[0]
    own = ImageRef(shown.locator, shown.sha256, facts={"window_center": 7.0, "window_width": 9.0})
    with pytest.raises(DataError, match="window of its own"):
        cache.read(own)


def test_what_is_kept_stays_within_the_budget_and_is_decoded_once():
    shards = Counting()
    cache = PixelCache(shards, budget_bytes=3 * 8 * 8 * 3)
    for _ in range(2):
        for number in range(5):
            assert cache.square(ImageRef("", str(number)), 8)[0, 0, 0] == number
            assert cache.used <= cache.budget
    assert shards.decoded == 3 + 2 * 2  # three are kept, two are decoded each time


def test_a_full_cache_makes_room_for_the_next_stage():
    shards = Counting()
    cache = PixelCache(shards, budget_bytes=4 * 8 * 8 * 3)
    for number in range(9):
        cache.square(ImageRef("", str(number)), 8)
    for _ in range(2):
        cache.square(ImageRef("", "3"), 16)
    assert list(cache.kept) == [16]
    assert cache.used == 16 * 16 * 3
    assert shards.decoded == 9 + 1


def test_threads_that_decode_the_same_image_count_its_bytes_once():
    cache = PixelCache(Counting(side=64))
    images = [ImageRef("", str(number % 3)) for number in range(300)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda image: cache.square(image, 32), images))
    assert cache.used == 3 * 32 * 32 * 3
