"""What a metrics line says of a step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from infimed.core.run import MetricsLog
from infimed.model.attention import Document, PackedLayout
from infimed.model.processing import IGNORE
from infimed.training.device import gemm_peak
from infimed.training.meter import TIMED, SourceLosses, step_rates
from infimed.training.parallel import World
from infimed.training.rows import idle_row
from infimed.training.step import row_weights
from tests.training.toy import low_and_high

COUNTS = {"tokens": 900, "target_tokens": 300, "samples": 20, "documents": 9, "images": 8}


def test_rates_are_of_computing_and_utilisation_is_of_the_whole_step():
    made = step_rates(COUNTS, capacity=1000, flops=6e9, peak=1e10, seconds=1.5, waited=0.5)
    assert made["tokens_per_second"] == 600
    assert made["target_tokens_per_second"] == 200
    assert made["padded_tokens_per_second"] == pytest.approx(1000 / 1.5, abs=0.1)
    assert made["samples_per_second"] == pytest.approx(20 / 1.5, abs=0.01)
    assert made["images_per_second"] == pytest.approx(8 / 1.5, abs=0.01)
    assert made["wait_share"] == 0.25
    assert made["flops_per_second"] == 3e9
    assert made["mfu"] == 0.3
    assert made.keys() <= TIMED


def test_loss_by_source_is_the_mean_over_the_targets_of_its_records():
    layout = PackedLayout((Document(3, (2, 4)), Document(5)))
    targets = torch.tensor([IGNORE] * 3 + [7, 7] + [IGNORE, 7, 7, 7] + [IGNORE] * 3 + [7, 7])
    row = replace(idle_row(0), layout=layout, targets=targets, sources=("first", "second", "first"))
    losses = torch.tensor([1.0, 2.0, 10.0, 20.0, 30.0, 4.0, 5.0])
    meter = SourceLosses(["absent", "first", "second"])
    for _ in range(2):  # two rows of a step
        meter.add(row, row_weights(row, "document"), losses)
    assert meter.read(World()) == {"first": 12 / 4, "second": 20.0}


def test_a_row_without_targets_adds_to_no_source():
    meter = SourceLosses(["first"])
    row = idle_row(0)
    meter.add(row, row_weights(row, "token"), torch.zeros(0))
    assert meter.read(World()) == {}


def test_every_line_of_a_run_is_whole(make_trainer):
    trainer = make_trainer("run", stages=low_and_high()[:1])
    trainer.run()
    lines = MetricsLog(trainer.folder / "metrics.jsonl").read()
    for line in lines:
        assert line["source_loss"] == {"toy": pytest.approx(line["loss"], abs=1e-5)}
        assert line["flops"] == line["vision_flops"] + line["language_flops"]
        assert line["vision_flops"] > 0 and line["cached_flops"] == 0
        assert 0 <= line["mfu"] < 1
        assert line["mfu"] == pytest.approx(
            line["flops_per_second"] / line["peak_flops_per_second"], abs=1e-4
        )


def test_the_fastest_product_is_measured_once_and_draws_from_no_stream_of_training():
    torch.manual_seed(5)
    drawn = torch.get_rng_state()
    first = gemm_peak(torch.device("cpu"), "fp32")
    assert torch.equal(torch.get_rng_state(), drawn)
    assert gemm_peak(torch.device("cpu"), "fp32") == first > 0
