"""Kill a run with SIGKILL at six places, go on each time, and compare with an uninterrupted run.

    python scripts/kill_and_resume.py nano --reference runs/nano --runs killed

Exit code 0 when final weights, training metrics (times apart) and scores are the same, 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from infimed.core.run import MetricsLog
from infimed.model.loading import find_checkpoint, read_json
from infimed.training.meter import TIMED


def steps(run: Path) -> list[dict[str, object]]:
    return MetricsLog(run / "metrics.jsonl").read()


def places(run: Path) -> list[tuple[str, Callable[[], bool]]]:
    """(name, has the run got there) in the order in which a run passes them."""

    def importing() -> bool:
        return any(run.glob(".shards.importing/*"))

    def curating() -> bool:
        ledger = run / "ledger.parquet"
        return ledger.is_dir() and not (ledger / "verdicts.parquet").exists()

    def mid_stage() -> bool:
        return len(steps(run)) >= 3

    def at_switch() -> bool:
        return len({row["stage"] for row in steps(run)}) >= 2

    def answered(label: str) -> bool:
        files = run.glob(f"evaluation/*/{label}.responses.jsonl")
        return any(file.stat().st_size > 0 for file in files)

    return [
        ("in import", importing),
        ("in curation", curating),
        ("mid-stage", mid_stage),
        ("at a stage switch", at_switch),
        ("while the twin is asked", lambda: answered("trained-blind")),
        ("in evaluation", lambda: answered("model")),
    ]


def kill_when(command: list[str], there: Callable[[], bool], patience: float) -> bool:
    """Start `command`, SIGKILL its process group once `there()`; False when it ended before."""
    process = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + patience
    while process.poll() is None and time.monotonic() < deadline:
        if there():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.005)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        raise SystemExit("waited too long")
    if process.returncode:
        raise SystemExit(f"the run failed with exit code {process.returncode}")
    return False


def outcome(run: Path) -> dict[str, object]:
    """What must not depend on interruptions."""
    return {
        "weights": read_json(find_checkpoint(run) / "manifest.json")["files"]["model.safetensors"],
        "metrics": [{k: v for k, v in row.items() if k not in TIMED} for row in steps(run)],
        "scores": json.loads((run / "evaluation" / "scores.json").read_text()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--runs", type=Path, required=True, help="folder for the interrupted run")
    parser.add_argument(
        "--reference", type=Path, required=True, help="run folder of the uninterrupted run"
    )
    parser.add_argument(
        "--patience", type=float, default=3600.0, help="seconds to wait for one place"
    )
    arguments = parser.parse_args()
    name = next(
        (o.partition("=")[2] for o in arguments.overrides if o.startswith("name=")),
        arguments.recipe,
    )
    run = arguments.runs / name
    command = [
        *(sys.executable, "-m", "infimed.cli.main", "run", arguments.recipe),
        *arguments.overrides,
        *("--runs", str(arguments.runs)),
    ]
    for place, there in places(run):
        killed = kill_when(command, there, arguments.patience)
        print(
            f"killed {place}" if killed else f"{place}: the run was over before it could be killed",
            flush=True,
        )
        if not killed:
            raise SystemExit(1)
    subprocess.run(command, check=True)
    expected, found = outcome(arguments.reference), outcome(run)
    same = {key: expected[key] == found[key] for key in expected}
    print(json.dumps(same))
    raise SystemExit(0 if all(same.values()) else 1)


if __name__ == "__main__":
    main()
