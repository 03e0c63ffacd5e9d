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


def test_ratio_compares_low_with_high():
    rows = [step("pretrain-low", 30, 1.0), step("pretrain-high", 10, 1.0), step("sft", 1, 1.0)]
    assert speed_ratio(stage_speeds(rows)) == pytest.approx(3.0)


def test_no_ratio_without_both_stages():
    assert speed_ratio(stage_speeds([step("pretrain-low", 30, 1.0)])) is None
