"""Near-duplicate images."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from infimed.matching.image import (
    HashIndex,
    agreement,
    hamming,
    near_image_groups,
    perceptual_hash,
    thumbnail,
)
from tests.curation.clinic import picture


def grey(seed: int, side: int = 256) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(picture(seed, side), cv2.COLOR_RGB2GRAY))


def grouped(images: list[NDArray[np.uint8]]) -> list[int]:
    hashes = [perceptual_hash(image) for image in images]
    return [first for first, _ in near_image_groups(hashes, lambda i: thumbnail(images[i]))]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=30),
    st.lists(st.integers(0, 63), max_size=9, unique=True),
    st.integers(0, 7),
)
def test_the_index_finds_exactly_what_a_full_comparison_finds(
    values: list[int], flips: list[int], radius: int
) -> None:
    index = HashIndex(radius)
    for value in values:
        index.add(value)
    query = values[0]
    for bit in flips:
        query ^= 1 << bit
    slow = [i for i, value in enumerate(values) if hamming(value, query) <= radius]
    assert index.near(query) == slow


def _copies(image: NDArray[np.uint8]) -> dict[str, NDArray[np.uint8]]:
    return {
        "jpeg 50": cv2.imdecode(cv2.imencode(".jpg", image, [1, 50])[1], 0),
        "resized": cv2.resize(image, (171, 171), interpolation=cv2.INTER_AREA),
        "brighter": np.clip(image.astype(int) + 12, 0, 255).astype(np.uint8),
        "contrast": np.clip(image * 0.85 + 5, 0, 255).astype(np.uint8),
    }


@pytest.mark.parametrize("kind", ["jpeg 50", "resized", "brighter", "contrast"])
def test_copies_are_found(kind: str) -> None:
    for seed in range(8):
        image = grey(seed)
        assert grouped([image, _copies(image)[kind]]) == [0, 0]


def test_different_pictures_are_kept_apart() -> None:
    assert grouped([grey(seed) for seed in range(30)]) == list(range(30))


def test_a_new_small_lesion_makes_another_picture() -> None:
    for seed in range(8):
        image = grey(seed, 512)
        lesion = image.copy()
        at = (300, 200)
        shade = 255 if int(image[at[1], at[0]]) < 128 else 0
        cv2.circle(lesion, at, 6, shade, -1)
        assert hamming(perceptual_hash(image), perceptual_hash(lesion)) <= 7
        assert grouped([image, lesion]) == [0, 1]


def test_agreement_is_symmetric_and_perfect_with_itself() -> None:
    a, b = thumbnail(grey(1)), thumbnail(grey(2))
    assert agreement(a, a).local_difference == pytest.approx(0, abs=1e-4)
    assert agreement(a, b).correlation == pytest.approx(agreement(b, a).correlation)


def test_flat_images_are_alike_only_at_the_same_grey() -> None:
    dark, light = np.zeros((128, 128), np.uint8), np.full((128, 128), 200, np.uint8)
    assert agreement(dark, dark).local_difference == 0.0
    assert agreement(dark, light).local_difference == 1.0


def test_images_known_to_be_apart_are_not_merged() -> None:
    image = grey(3)
    hashes = [perceptual_hash(image)] * 2
    groups = near_image_groups(hashes, lambda i: thumbnail(image), apart=lambda first, second: True)
    assert [first for first, _ in groups] == [0, 1]


def test_an_unreadable_candidate_is_no_duplicate() -> None:
    value = perceptual_hash(grey(4))
    assert [first for first, _ in near_image_groups([value, value], lambda i: None)] == [0, 1]
