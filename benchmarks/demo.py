"""What the demo must reach, read from a finished run folder: one line a promise, exit code 1 if one fails.

make demo && .venv/bin/python benchmarks/demo.py runs/nano
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from infimed.core.run import MetricsLog
from infimed.evaluation.report import Scoreboard
from infimed.pipeline.throughput import speed_ratio, stage_speeds


def main(run: Path) -> int:
    board = Scoreboard.from_dict(json.loads((run / "evaluation" / "scores.json").read_text()))
    closed, choice = board.task("phantom_closed"), board.task("phantom_choice")

    def score(row: str, column: str) -> float:
        return 100 * closed.cell(row, column).estimate.mean

    questions = {
        name: closed.cell("model", name).estimate.n for name in ("overall", "type=modality")
    }
    gain = 100 * choice.difference("trained-blind").estimate.mean
    loss = 100 * closed.difference("low-grid", "subset=small_findings").estimate.mean
    promises = [
        (
            "modality share of closed questions, %",
            100 * questions["type=modality"] / questions["overall"],
            "<=",
            25,
        ),
        ("presence, %", score("model", "type=presence"), ">=", 85),
        ("laterality, %", score("model", "type=laterality"), ">=", 75),
        ("choice above trained-blind, points", gain, ">=", 25),
        (
            "trained-blind presence, distance from 50",
            abs(score("trained-blind", "type=presence") - 50),
            "<=",
            6,
        ),
        (
            "trained-blind laterality, distance from 50",
            abs(score("trained-blind", "type=laterality") - 50),
            "<=",
            6,
        ),
        ("small findings: full minus low grid, points", loss, ">=", 8),
        (
            "pretrain-low : pretrain-high, samples/s",
            speed_ratio(stage_speeds(MetricsLog(run / "metrics.jsonl").read())) or 0.0,
            ">=",
            1.8,
        ),
    ]
    held = []
    for name, value, relation, bound in promises:
        held.append(value >= bound if relation == ">=" else value <= bound)
        print(f"{'ok  ' if held[-1] else 'FAIL'} {name:48s} {value:7.2f}  {relation} {bound}")
    return 0 if all(held) else 1


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
