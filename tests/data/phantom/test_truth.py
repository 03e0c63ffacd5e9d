"""Truth and dense targets."""

import math

import numpy as np
import pytest

from infimed.core.errors import DataError
from infimed.data.phantom.catalogue import FINDING_KEYS, MODALITIES, SMALL_LIMIT
from infimed.data.phantom.drawing_lots import draw_patient
from infimed.data.phantom.truth import ImageTruth, dense_targets, size_bucket


def test_truth_survives_a_round_trip():
    for index in range(12):
        for truth in draw_patient(7, index).images:
            assert ImageTruth.from_dict(truth.to_dict()) == truth


def test_malformed_truth_is_named():
    broken = draw_patient(7, 0).images[0].to_dict()
    del broken["findings"]
    with pytest.raises(DataError, match=broken["image_id"]):
        ImageTruth.from_dict(broken)


def slow_targets(truth: ImageTruth, grid: int, fine: int = 8) -> np.ndarray:
    out = np.zeros((len(FINDING_KEYS), grid, grid))
    for finding in truth.findings:
        for e in finding.ellipses:
            inside = np.zeros((grid, grid))
            for row in range(grid * fine):
                for column in range(grid * fine):
                    dx = (column + 0.5) / (grid * fine) - e.x
                    dy = (row + 0.5) / (grid * fine) - e.y
                    t = math.radians(e.angle)
                    u = (dx * math.cos(t) + dy * math.sin(t)) / e.rx
                    v = (dy * math.cos(t) - dx * math.sin(t)) / e.ry
                    inside[row // fine, column // fine] += u * u + v * v <= 1
            if inside.sum():
                cell = np.maximum(inside / fine**2, inside / inside.sum())
                channel = FINDING_KEYS.index(finding.key)
                out[channel] = np.maximum(out[channel], cell)
    return out


def test_dense_targets_equal_a_slow_reference():
    truth = next(t for i in range(20) for t in draw_patient(2, i).images if len(t.findings) >= 3)
    np.testing.assert_allclose(dense_targets(truth, 6), slow_targets(truth, 6), atol=1e-6)


def test_dense_targets_are_empty_without_findings():
    truth = next(t for i in range(200) for t in draw_patient(2, i).images if not t.findings)
    assert not dense_targets(truth, 12).any()


def test_each_modality_has_one_small_finding_and_the_small_ones_are_below_the_limit():
    for modality in MODALITIES:
        assert [kind.small for kind in modality.findings] == [False, False, False, True]
        small = modality.findings[-1]
        assert small.sizes[0] >= 0.024 and small.sizes[1] < SMALL_LIMIT
        assert small.midpoint < SMALL_LIMIT


def test_size_buckets_cut_the_range_in_three_and_clip():
    kind = MODALITIES[0].findings[0]
    low, high = kind.sizes
    steps = [low - 1, low + 0.01 * (high - low), (low + high) / 2, high - 1e-6, high + 1]
    assert [size_bucket(kind, s) for s in steps] == [0, 0, 1, 2, 2]
