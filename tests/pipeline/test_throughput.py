"""Speeds are totals over totals, so a slow first step weighs what it cost."""

from __future__ import annotations

import pytest

from infimed.pipeline.throughput import speed_ratio, stage_speeds


def step(stage, samples, seconds, wait=0.0):
    return {
        "stage": stage,
        "samples": samples,
        "tokens": 100,
        "fill": 0.5,
        "flops": 1e9,
        "seconds": seconds,
        "wait_seconds": wait,
        "loss": 1.0,
    }


def test_rate_is_total_samples_over_total_seconds_with_waiting():
    (speed,) = stage_speeds([step("a", 10, 9.0), step("a", 10, 0.5, 0.5)])
    assert speed.samples_per_second == pytest.approx(2.0)
    assert speed.padded_tokens == 400


def test_utilisation_is_of_what_the_fastest_product_does_in_the_same_time():
    peak = {"peak_flops_per_second": 4e9}
    (speed,) = stage_speeds([step("a", 1, 0.5, 0.5) | peak, step("a", 1, 1.0) | peak])
    assert speed.mfu == pytest.approx(0.25)
    assert stage_speeds([step("a", 1, 1.0)])[0].mfu is None


def test_saving_of_kept_features_is_told_less_what_filling_cost():
    rows = [step("low", 1, 1.0) | {"cached_flops": 30e9} for _ in range(2)]
    rows[0] |= {"feature_seconds": 2.0, "feature_flops": 20e9}
    (speed,) = stage_speeds(rows)
    assert speed.seconds == 4.0
    assert speed.saving == (
        "low: kept features saved 40 GFLOP of the tower, about 4 s; filling took 2.0 s"
    )
    assert stage_speeds([step("low", 1, 1.0)])[0].saving == ""


def test_ratio_compares_low_with_high():
    rows = [step("pretrain-low", 30, 1.0), step("pretrain-high", 10, 1.0), step("sft", 1, 1.0)]
    assert speed_ratio(stage_speeds(rows)) == pytest.approx(3.0)


def test_no_ratio_without_both_stages():
    assert speed_ratio(stage_speeds([step("pretrain-low", 30, 1.0)])) is None
