"""`infimed estimate`."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from infimed.cli.main import app
from infimed.core.errors import RecipeError


def test_json_holds_memory_and_time_of_every_stage():
    ran = CliRunner().invoke(
        app, ["estimate", "nano", "data.phantom.patients=30", "--hardware", "h100x2", "--json"]
    )
    assert ran.exit_code == 0, ran.output
    found = json.loads(ran.stdout)
    assert found["hardware"]["devices"] == 2
    for stage in found["stages"]:
        assert stage["fits"]
        assert stage["peak_gib"] > sum(stage["gib"][k] for k in ("parameters", "optimizer"))
        assert stage["seconds"] > 0
    assert found["seconds"] == sum(stage["seconds"] for stage in found["stages"])


def test_without_data_or_weights_memory_is_shown_and_the_missing_plan_explained():
    ran = CliRunner().invoke(
        app, ["estimate", "infimed-1.7b", "data.root=no-such-folder", "--hardware", "rtx4090"]
    )
    assert ran.exit_code == 0, ran.output
    assert "does not fit" in ran.output
    assert "2.140 B together" in ran.output
    assert "no total time without a plan" in ran.output


def test_moments_in_blocks_are_refused_on_several_devices():
    ran = CliRunner().invoke(
        app, ["estimate", "nano", "train.optimizer=adamw8bit", "--hardware", "h100x8"]
    )
    assert isinstance(ran.exception, RecipeError)


def test_inference_is_estimated_for_both_precisions():
    ran = CliRunner().invoke(
        app,
        [
            "estimate",
            "infimed-4b",
            "data.root=none",
            "--inference",
            "--batch",
            "8",
            "--hardware",
            "h100",
            "--json",
        ],
    )
    assert ran.exit_code == 0, ran.output
    found = json.loads(ran.stdout)
    half, full = found["needs"]
    assert full["weights_gib"] == 2 * half["weights_gib"]
    assert half["requests_that_fit"] > 2 * full["requests_that_fit"] > 0


def test_a_load_that_does_not_fit_is_marked():
    ran = CliRunner().invoke(
        app,
        [
            "estimate",
            "infimed-4b",
            "data.root=none",
            "--inference",
            "--batch",
            "999",
            "--hardware",
            "rtx4090",
        ],
    )
    assert ran.exit_code == 0, ran.output
    assert "does not fit" in ran.output
