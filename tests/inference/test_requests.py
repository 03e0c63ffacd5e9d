"""What names an answer."""

from __future__ import annotations

import numpy as np

from infimed.data.record import ImageRef, Message
from infimed.inference.requests import Pixels, Request, picture_of


def load(image: ImageRef) -> Pixels:
    return np.full((2, 2, 3), float(image.facts.get("window_center", 0)), np.uint8)


def image(**facts: float) -> ImageRef:
    return ImageRef(locator="ct.png", sha256="ab" * 32, facts=facts)


def key(shown: ImageRef) -> str:
    turns = (Message("user", (0, "What is seen?")),)
    return Request("q", turns, (picture_of(shown, load),)).key("model")


def test_an_image_without_a_stated_window_is_named_by_its_bytes() -> None:
    assert picture_of(image(age=50), load).sha256 == "ab" * 32


def test_one_stored_image_through_two_windows_is_two_questions() -> None:
    lung, bone = image(window_center=10), image(window_center=200)
    assert key(lung) != key(bone)
    assert key(lung) == key(image(window_center=10))
    assert picture_of(bone, load).load()[0, 0, 0] == 200
