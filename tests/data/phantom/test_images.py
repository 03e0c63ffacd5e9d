"""Pixels: pure, of the promised form, and showing what the truth says."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from infimed.core.errors import UsageError
from infimed.data.phantom import generate_patient
from infimed.data.phantom.abdomen import display
from infimed.data.phantom.catalogue import MODALITIES
from infimed.data.phantom.drawing_lots import draw_patient
from infimed.data.phantom.imaging import render_image
from infimed.data.phantom.sheet import contact_sheet

COLOUR = {"fundus_photograph", "histology"}


@pytest.mark.parametrize("modality", [modality.key for modality in MODALITIES])
@pytest.mark.parametrize("size", [96, 192, 512])
def test_images_have_the_promised_form(modality, size):
    case = generate_patient(1, 3, size=size, modality=modality)
    for image in case.images:
        assert image.pixels.dtype == np.uint8
        assert image.pixels.shape == ((size, size, 3) if modality in COLOUR else (size, size))
        assert (image.hu is not None) == (modality == "abdominal_ct")
        assert image.pixels.std() > 15


def test_the_same_patient_is_drawn_twice_alike():
    for index in range(6):
        first, second = generate_patient(4, index, size=96), generate_patient(4, index, size=96)
        assert first.records == second.records
        for ours, theirs in zip(first.images, second.images, strict=True):
            assert np.array_equal(ours.pixels, theirs.pixels)


def test_ct_pixels_are_the_windowed_hu():
    image = generate_patient(4, 2, modality="abdominal_ct").images[0]
    taken = image.truth.acquisition
    shown = display(image.hu.astype(np.float32), taken.window_center, taken.window_width)
    assert np.array_equal(np.round(shown * 255).astype(int), image.pixels.astype(int))
    assert image.hu.min() < -900 and 200 < image.hu.max() <= 3071


@pytest.mark.parametrize(
    ("modality", "kind"), [(m, k) for m in MODALITIES for k in m.findings], ids=lambda x: x.key
)
def test_each_finding_changes_the_image_where_the_truth_says_and_hardly_elsewhere(modality, kind):
    shown = next(
        truth
        for index in range(100)
        for truth in draw_patient(8, index, modality.key).images
        if truth.finding(kind.key) is not None
    )
    alone = replace(shown, findings=(shown.finding(kind.key),))
    without = replace(shown, findings=())
    size = 192
    there = render_image(alone, size).pixels.astype(float)
    absent = render_image(without, size).pixels.astype(float)
    change = np.abs(there - absent)
    change = change if change.ndim == 2 else change.max(-1)
    mask = np.zeros((size, size), bool)
    for ellipse in alone.findings[0].ellipses:
        x0, y0, x1, y1 = (round(v * size) for v in ellipse.box)
        mask[max(0, y0) : y1 + 1, max(0, x0) : x1 + 1] = True
    assert np.percentile(change[mask], 90) > 25
    assert (change[mask] > 12).mean() > 0.3
    assert change[mask].mean() > 4 * change[~mask].mean()


@pytest.mark.parametrize("modality", MODALITIES, ids=lambda m: m.key)
def test_small_findings_keep_their_contrast_at_96_pixels_and_lose_some_of_it_at_48(modality):
    kind = modality.findings[-1]
    peaks: dict[int, list[float]] = {96: [], 48: []}
    for index in range(40):
        truth = draw_patient(8, index, modality.key, pair=False).images[0]
        finding = truth.finding(kind.key)
        if finding is None:
            continue
        there = render_image(replace(truth, findings=(finding,)), 192).pixels.astype(np.float32)
        absent = render_image(replace(truth, findings=()), 192).pixels.astype(np.float32)
        change = there - absent
        change = change if change.ndim == 2 else change[..., 0]
        for size, seen in peaks.items():
            seen.append(
                float(np.abs(cv2.resize(change, (size, size), interpolation=cv2.INTER_AREA)).max())
            )
    assert np.mean(peaks[96]) > 45
    assert np.mean(peaks[48]) < 0.9 * np.mean(peaks[96])


def test_unknown_modality_and_size_are_refused():
    with pytest.raises(UsageError, match="did you mean: brain_mri"):
        generate_patient(0, 0, modality="brain_mr")
    with pytest.raises(UsageError, match="48 to 1024"):
        generate_patient(0, 0, size=20)


def test_the_contact_sheet_is_written(tmp_path):
    sheet = contact_sheet(tmp_path / "sheet.png", size=96, columns=2)
    stored = cv2.cvtColor(cv2.imread(str(tmp_path / "sheet.png")), cv2.COLOR_BGR2RGB)
    assert np.array_equal(stored, sheet)
