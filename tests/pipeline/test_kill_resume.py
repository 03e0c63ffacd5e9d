"""A run killed in import, curation, mid-stage, at a stage switch and in evaluation ends the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "kill_and_resume.py"
SMALL = [
    "data.phantom.patients=60",
    "data.splits={train: 0.6, test: 0.4}",
    "stages.pretrain-low.epochs=1",
    "stages.pretrain-high.epochs=1",
    "stages.sft-broad.epochs=0.3",
    "stages.sft-task.epochs=0.2",
    "stages.sft-refine.epochs=0.2",
    "stages.pretrain-low.row_tokens=512",
    "stages.pretrain-high.row_tokens=512",
    "evaluation.limit=20",
    "train.checkpoint_seconds=1",
]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_run_ends_with_the_same_weights_metrics_and_scores(tmp_path):
    run = [sys.executable, "-m", "infimed.cli.main", "run", "nano", *SMALL]
    subprocess.run([*run, "--runs", str(tmp_path / "whole")], check=True)
    subprocess.run(
        [
            *(sys.executable, str(SCRIPT), "nano", *SMALL),
            *("--runs", str(tmp_path / "killed"), "--reference", str(tmp_path / "whole" / "nano")),
        ],
        check=True,
    )
