"""What abstaining brings: accuracy of the surest answers, and the area under the risk-coverage curve.

    infimed calibrate runs/nano
    python benchmarks/abstention.py runs/nano --json abstention.json
    infimed calibrate runs/mini && python benchmarks/abstention.py runs/mini

Asks the run's model every test question that its calibration was not fitted on, as *ask* does, and takes the
confidences that a server would state. Per kind of answer and together: accuracy of all, accuracy at `--coverage` (by
the ranking) and at the fitted threshold (which may cover another share here), the area under the curve beside that of
random abstention, and 95 % intervals that resample patients or images. Also writes both plots, and what the other raw
probabilities would have given. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from infimed.core.console import err, out, table
from infimed.core.errors import DataError
from infimed.core.reliability import Abstaining, abstaining, reliability
from infimed.core.run import environment
from infimed.core.statistics import Estimate
from infimed.data.shards import open_shards
from infimed.inference.local import LocalModel
from infimed.pipeline.calibrating import Answered, HeldOut, answers, confidences, measured_on
from infimed.pipeline.calibration_page import curves_of, write_picture
from infimed.serving.applications.calibration import read_calibration
from infimed.serving.applications.signals import WRITTEN

ALL = "all"


def shown(value: Estimate, scale: float = 100) -> str:
    """``72.1 [70.0, 74.2]``."""
    mean = "-" if value.mean is None else f"{scale * value.mean:.1f}"
    if value.low is None or value.high is None:
        return mean
    return f"{mean} [{scale * value.low:.1f}, {scale * value.high:.1f}]"


def judged(own: list[tuple[Answered, float]], coverage: float) -> Abstaining:
    """Abstaining by the stated confidences."""
    sure = [confidence for _, confidence in own]
    right = [float(one.right) for one, _ in own]
    return abstaining(sure, right, [one.group for one, _ in own], coverage=coverage)


def by_signal(own: list[tuple[Answered, float]], coverage: float) -> dict[str, dict[str, Any]]:
    """The same by each raw probability alone."""
    made = {}
    for name in WRITTEN:
        if all(name in one.found for one, _ in own):
            raw = [(one, one.found[name]) for one, _ in own]
            made[name] = asdict(judged(raw, coverage))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run folder with calibration.json")
    parser.add_argument("--data", type=Path, help="its shards, where they are elsewhere")
    parser.add_argument("--split", default="test")
    parser.add_argument("--coverage", type=float, default=0.7)
    parser.add_argument("--kind", choices=["closed", "choice", "open"], help="of question; all by default")  # fmt: skip
    parser.add_argument("--json", type=Path, help="also write everything there")
    parser.add_argument("--picture", type=Path, help="default: RUN/abstention.png")
    arguments = parser.parse_args()
    local = LocalModel.open(arguments.run)
    calibration = read_calibration(arguments.run, local.fingerprint)
    if calibration is None:
        raise DataError("no calibration", where=str(arguments.run), fix=f"infimed calibrate {arguments.run}")  # fmt: skip
    shards = open_shards(arguments.data or arguments.run / "shards")
    asked = measured_on(shards, calibration, arguments.split)
    if arguments.kind:
        asked = [question for question in asked if question.sample.kind == arguments.kind]
    answered = answers(local, shards, asked)
    stated = confidences(calibration, answered)
    known = [(one, sure) for one, sure in zip(answered, stated, strict=True) if sure is not None]
    if len(known) < len(answered):
        err.print(f"{len(answered) - len(known)} answers are of a kind without calibration")
    parts = {kind: [pair for pair in known if pair[0].kind == kind] for kind in calibration.kinds}
    parts = {kind: own for kind, own in {**parts, ALL: known}.items() if own}
    found: dict[str, Any] = {"machine": environment(), "run": arguments.run.name, "kinds": {}}
    rows, held = [], {}
    for kind, own in parts.items():
        measured = judged(own, arguments.coverage)
        right = [float(one.right) for one, _ in own]
        sure = [confidence for _, confidence in own]
        kept = [
            one.right
            for one, confidence in own
            if (threshold := calibration.kinds[one.kind].threshold) is not None
            and confidence >= threshold
        ]
        share, at = len(kept) / len(own), sum(kept) / len(kept) if kept else None
        held[kind] = HeldOut(tuple(sure), tuple(right), tuple(one.group for one, _ in own))
        found["kinds"][kind] = {
            **asdict(measured),
            "threshold_coverage": share,
            "threshold_accuracy": at,
            "ece": reliability(sure, right).ece,
            "raw": by_signal(own, arguments.coverage),
        }
        rows.append(
            (
                kind,
                len(own),
                measured.accuracy.groups,
                shown(measured.accuracy),
                shown(measured.at_coverage),
                shown(measured.gain),
                shown(measured.excess),
                "-" if at is None else f"{100 * at:.1f} of {100 * share:.0f} %",
            )
        )
    cut = f"at {100 * arguments.coverage:.0f} %"
    columns = ("answers", "n", "groups", "right, %", cut, "gain", "AURC minus random, x 100", "at the threshold")  # fmt: skip
    out.print(table(f"Abstaining: {arguments.run.name}, {arguments.split}", columns, rows))
    for kind, own in found["kinds"].items():
        areas = ", ".join(f"{name} {v['aurc']['mean']:.4f}" for name, v in own["raw"].items())
        by_raw = f"; AURC by raw probability: {areas}" if areas else ""
        print(f"{kind}: AURC {own['aurc']['mean']:.4f}, calibration error {own['ece']:.4f}{by_raw}")
    picture = arguments.picture or arguments.run / "abstention.png"
    write_picture(curves_of({k: v for k, v in held.items() if k != ALL}), picture)
    print(f"plots: {picture}")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
