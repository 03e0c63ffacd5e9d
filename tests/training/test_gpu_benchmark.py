"""The command that a GPU owner runs goes through here, tiny and on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_dry_run_of_the_gpu_benchmark_fills_its_whole_table(tmp_path):
    table = tmp_path / "gpu.json"
    ended = subprocess.run(
        [
            sys.executable, str(ROOT / "benchmarks" / "gpu.py"),
            "--device", "cpu", "--dry-run", "--json", str(table),
        ],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    found = json.loads(table.read_text())
    assert found["passed"] and len(found["exactness"]) == 10
    assert [case["mfu"] > 0 and case["memory_gib"] > 0 for case in found["widths"]] == [True] * 3
    assert [arm["arm"] for arm in found["arms"]] == ["padded", "full", "low", "cache"]


def test_without_a_gpu_the_command_says_how_to_try_it(tmp_path):
    ended = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "gpu.py")],
        capture_output=True, text=True, timeout=240, env={"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    assert ended.returncode == 2 and "--dry-run" in ended.stderr
