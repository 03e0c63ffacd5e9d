"""The gate: print is found on every background, clean pictures pass untouched."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from infimed.data.phantom import generate_patient
from infimed.data.privacy.textlines import TextLine, _begins, find_text_lines, merged

FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX)


def background(name: str, side: int = 512) -> NDArray[np.uint8]:
    """RGB uint8 [side, side, 3]."""
    if name in ("black", "grey"):
        return np.full((side, side, 3), 0 if name == "black" else 128, np.uint8)
    pixels = generate_patient(5, 0, size=side, modality=name).images[0].pixels
    return pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)


def burned(
    pixels: NDArray[np.uint8], text: str, height: int, font: int, left: int = 24, top: int = 60
):  # type: ignore[no-untyped-def]
    """The picture with a line of text in the contrasting colour, and the box of the text."""
    made = pixels.copy()
    scale = cv2.getFontScaleFromHeight(font, height, 1)
    (width, high), below = cv2.getTextSize(text, font, scale, 1)
    around = made[top : top + high, left : left + width].mean()
    colour = (255, 255, 255) if around < 140 else (0, 0, 0)
    cv2.putText(made, text, (left, top + high), font, scale, colour, 1, cv2.LINE_AA)
    return made, (left, top, left + width, top + high + below)


def coverage(lines: list[TextLine], box: tuple[int, int, int, int], side: int = 512) -> float:
    covered = np.zeros((side, side), bool)
    for line in lines:
        covered[line.top : line.bottom, line.left : line.right] = True
    return float(covered[box[1] : box[3], box[0] : box[2]].mean())


def grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))


NAMES = ["black", "grey", "chest_radiograph", "ultrasound", "histology"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("height", [10, 14, 18, 24])
def test_a_burned_in_name_is_found_on_every_background_and_height(name: str, height: int) -> None:
    base = background(name)
    for font in FONTS:
        pixels, box = burned(base, "SMITH^JOHN 1961", height, font)
        assert coverage(find_text_lines(grey(pixels)), box) >= 0.9


@pytest.mark.parametrize(
    "modality", ["chest_radiograph", "abdominal_ct", "brain_mri", "ultrasound", "histology", "fundus_photograph"]
)  # fmt: skip
def test_clean_phantoms_pass(modality: str) -> None:
    for index in range(3):
        for image in generate_patient(9, index, size=512, modality=modality).images:
            pixels = image.pixels
            assert not find_text_lines(pixels if pixels.ndim == 2 else grey(pixels))


def test_side_markers_and_flat_or_tiny_pictures_pass() -> None:
    pixels, _ = burned(background("black"), "R", 24, FONTS[0])
    assert not find_text_lines(grey(pixels))
    for shape in ((8, 8), (8, 600), (64, 64), (3000, 20)):
        assert find_text_lines(np.full(shape, 90, np.uint8)) == []


def test_a_picture_of_specks_only_is_no_text_and_no_error() -> None:
    specks = np.zeros((600, 600), np.uint8)
    specks[::2, ::2] = 255
    assert isinstance(find_text_lines(specks), list)


def test_large_print_in_a_large_picture_is_found_in_a_smaller_copy() -> None:
    base = np.zeros((2600, 2600, 3), np.uint8)
    scale = cv2.getFontScaleFromHeight(FONTS[0], 90, 12)
    cv2.putText(base, "DOE JANE", (300, 900), FONTS[0], scale, (255, 255, 255), 12, cv2.LINE_AA)
    lines = find_text_lines(grey(base))
    assert coverage(lines, (300, 815, 700, 895), 2600) > 0.9


def test_strokes_begin_where_a_slow_count_says() -> None:
    mask = (np.random.default_rng(0).random((9, 40)) < 0.4).astype(np.uint8)
    slow = np.array([[1 if row[x] > row[x - 1] else 0 for x in range(1, 40)] for row in mask])
    assert np.array_equal(_begins(mask), slow)


def test_pieces_of_a_line_become_one_and_a_paragraph_stays_apart() -> None:
    pieces = [
        TextLine(0, 10, 50, 24, 5.0),
        TextLine(55, 11, 90, 25, 4.0),
        TextLine(0, 40, 60, 54, 6.0),
    ]
    made = merged(pieces, 85, 50)
    assert [(m.left, m.top, m.right, m.bottom) for m in made] == [(0, 10, 85, 25), (0, 40, 60, 50)]
