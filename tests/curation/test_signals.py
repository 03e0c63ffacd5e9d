"""Image and text measurements."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from infimed.curation.image_signals import measure_image, noise_level, pixel_hash
from infimed.curation.rules.base import caption, sample
from infimed.curation.sharpness import sharpness
from infimed.curation.signals import Signals, record_modality
from infimed.curation.text_signals import measure_text, odd_word
from tests.curation.clinic import picture


def test_exposure_shares_equal_a_slow_count() -> None:
    pixels = picture(1, 96)
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    made = measure_image(pixels)
    assert made.mean == pytest.approx(grey.mean(), abs=1e-3)
    assert made.std == pytest.approx(grey.std(), abs=1e-3)
    assert made.dark_share == pytest.approx((grey <= 4).mean(), abs=1e-4)
    assert made.white_share == pytest.approx((grey >= 235).mean(), abs=1e-4)


def test_sharpness_falls_with_blur_and_not_with_noise() -> None:
    random, changes = np.random.default_rng(0), []
    for seed in range(8):
        sharp = cv2.cvtColor(picture(seed, 256), cv2.COLOR_RGB2GRAY)
        blurred = cv2.GaussianBlur(sharp, (0, 0), 4)
        noise = random.normal(0, 15, sharp.shape)
        noisy = np.clip(blurred + noise, 0, 255).astype(np.uint8)
        assert sharpness(sharp) > 2.4
        assert sharpness(blurred) < 1.8
        changes.append(abs(sharpness(noisy) - sharpness(blurred)))
        # What it replaces: the variance of the Laplacian calls blurred and noisy the sharper one.
        assert cv2.Laplacian(noisy, cv2.CV_32F).var() > cv2.Laplacian(sharp, cv2.CV_32F).var()
    assert np.mean(changes) < 0.15 and max(changes) < 0.35


def test_noise_level_is_the_standard_deviation_of_added_noise() -> None:
    flat = np.full((200, 200), 128.0)
    noisy = np.clip(flat + np.random.default_rng(1).normal(0, 8, flat.shape), 0, 255).astype(
        np.uint8
    )
    assert noise_level(noisy) == pytest.approx(8, rel=0.1)


def test_the_pixel_hash_knows_shape_and_content() -> None:
    pixels = picture(2, 64)
    assert pixel_hash(pixels) == pixel_hash(pixels.copy())
    assert pixel_hash(pixels) != pixel_hash(pixels.reshape(32, 128, 3))


def test_a_chart_and_a_page_of_print_look_unlike_a_scan() -> None:
    chart = np.full((300, 400, 3), 255, np.uint8)
    cv2.line(chart, (40, 260), (380, 260), (0, 0, 0), 2)
    cv2.line(chart, (40, 20), (40, 260), (0, 0, 0), 2)
    page = np.full((300, 400, 3), 255, np.uint8)
    for row in range(20, 290, 14):
        cv2.putText(
            page, "Patients were enrolled between 2001 and 2004", (5, row), 0, 0.45, (0, 0, 0), 1
        )
    assert measure_image(chart).axis_lines == 1
    printed = measure_image(page)
    assert printed.white_share > 0.6 and printed.two_tone > 0.85 and printed.edges > 0.08
    assert measure_image(picture(3)).axis_lines == 0


@pytest.mark.parametrize("shape", [(1, 1), (3, 500), (500, 3), (8, 8)])
def test_odd_shapes_are_measured(shape: tuple[int, int]) -> None:
    assert measure_image(np.full((*shape, 3), 7, np.uint8)).width == shape[1]


@pytest.mark.parametrize(
    "word",
    ["T2-weighted", "SpO2", "FEV1", "L4/L5", "5mm", "rhythm", "CSF", "p53", "COVID-19", "5-FU"],
)
def test_codes_and_terms_are_not_odd(word: str) -> None:
    assert not odd_word(word)


@pytest.mark.parametrize("word", ["sh0wing", "s|mple", "l3ft", "krtmpl", "aaaaah", "eff0sion"])
def test_damaged_words_are_odd(word: str) -> None:
    assert odd_word(word)


def test_signals_round_trip_through_a_ledger_row() -> None:
    record = caption("Axial CT of the left kidney.", facts={"modality": "CT"})
    signals = Signals(
        measure_text(record), (measure_image(picture(4), "a"),), record_modality(record)
    )
    assert Signals.from_row(signals.to_row(3, record)) == signals


def test_a_closed_no_claims_no_modality() -> None:
    assert measure_text(sample("Is this an MRI?", "no")).modalities == ()
    assert measure_text(sample("Is this an MRI?", "yes")).modalities == ("MR",)
