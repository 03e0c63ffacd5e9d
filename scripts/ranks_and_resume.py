"""Train a recipe's stages with two ranks, kill them, go on with one process; compare with one process alone.

    python scripts/ranks_and_resume.py nano train.precision=fp32 --runs /tmp/ranks --rows 12

Every stage is cut to `--rows` rows, two rows make a step, every stage augments its images and warms up for half
of its steps, unless overrides say otherwise. The two ranks are killed in the third stage (SIGKILL), started again, told to stop (SIGTERM),
and one process goes on. Exit code 0 when every step has the same records and a loss within `--tolerance`
of the one process's, 1 otherwise.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from infimed.core.recipe import load_recipe
from infimed.core.run import MetricsLog

CHANGES = {"rows_per_step": 2, "augment": 0.5, "warmup": 0.5}
"""Work for both ranks, chance in every row, and a warm-up as gentle as that of whole stages: at the full rate
from the first step, AdamW doubles differences of rounding every few steps."""
CLI = ("-m", "infimed.cli.main")


def steps(run: Path) -> list[dict[str, object]]:
    return MetricsLog(run / "metrics.jsonl").read()


def start(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command, start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def stop_at(command: list[str], run: Path, step: int, how: signal.Signals) -> int:
    """Run `command` until `step` is logged, then signal it; its exit code."""
    process = start(command)
    while process.poll() is None and len(steps(run)) < step:
        time.sleep(0.05)
    if process.poll() is not None:
        raise SystemExit(f"ended with {process.returncode} before step {step}")
    if how is signal.SIGKILL:  # the ranks first: they are in no group with their launcher
        ranks = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for rank in map(int, ranks):
            os.kill(rank, how)
    process.send_signal(how)
    return process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=16, help="rows of each stage")
    parser.add_argument("--tolerance", type=float, default=1e-5)
    arguments = parser.parse_args()
    stages = load_recipe(arguments.recipe).stages
    changes = [
        f"stages.{stage.name}.{key}={value}"
        for stage in stages
        for key, value in (("max_rows", arguments.rows), *CHANGES.items())
    ]
    changes += ["train.checkpoint_seconds=1", "train.threads=1", *arguments.overrides]

    def command(name: str, verb: str = "train") -> list[str]:
        words = [verb, arguments.recipe, f"name={name}", *changes]
        return [*CLI, *words, "--runs", str(arguments.runs)]

    alone, split = arguments.runs / "one-process", arguments.runs / "two-ranks"
    for name in (alone.name, split.name):
        subprocess.run([sys.executable, *command(name, "pack")], check=True)
    subprocess.run([sys.executable, *command(alone.name)], check=True)
    expected = steps(alone)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    two = [*launch, "--nproc-per-node", "2", *command(split.name)]
    third = next(n for n, row in enumerate(expected, 1) if row["stage"] == stages[2].name)
    print("SIGKILL: exit code", stop_at(two, split, third + 1, signal.SIGKILL), flush=True)
    print("SIGTERM: exit code", stop_at(two, split, third + 3, signal.SIGTERM), flush=True)
    by_two = len(steps(split))
    subprocess.run([sys.executable, *command(split.name)], check=True)
    found = steps(split)
    same = [row["records"] for row in found] == [row["records"] for row in expected]
    differences = [
        abs(float(str(a["loss"])) - float(str(b["loss"])))
        for a, b in zip(found, expected, strict=True)
    ]
    print(
        f"{len(found)} steps of {len(stages)} stages, {by_two} by two ranks: same records {same}, "
        f"largest difference of a step's loss {max(differences):.2e}"
    )
    raise SystemExit(0 if same and max(differences) <= arguments.tolerance else 1)


if __name__ == "__main__":
    main()
