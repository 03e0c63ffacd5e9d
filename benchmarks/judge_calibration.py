"""Does a calibrated judge mean what it says on data with another base rate? One table a question.

A stub judge with known errors (they depend on dimension and text length; it says U, refuses and talks
nonsense) judges labelled records and held-out records of other base rates. Its answers go as words
through the parser. No model, no network but the loopback.

    python benchmarks/judge_calibration.py [--seeds 8] [--records 12000]

Exit code 1 where the promise breaks: on average over the seeds, held-out calibration error under
0.03 and reject precision within 2 points of 0.90 on at least 1,500 held-out rejects.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np

from infimed.curation.calibration import expected_calibration_error
from infimed.curation.findings import QUALITY
from infimed.curation.judge_parsing import parse_judgement
from infimed.curation.judge_scoring import (
    JudgeScorer,
    decide_by_score,
    fit_judge_scorer,
    level_features,
)
from infimed.curation.judge_tables import level_codes
from infimed.curation.stub_judge import Clinic, StubJudge, sample_clinic

TARGET = 0.90
LABELLED = {
    "a / ct": (0.06, 0.10, 0.08, 0.04, 0.05),
    "a / xray": (0.03, 0.06, 0.05, 0.04, 0.04),
    "b / us": (0.10, 0.15, 0.08, 0.08, 0.08),
}
HELD_OUT = {
    "a / ct": (0.15, 0.20, 0.10, 0.08, 0.10),
    "a / xray": (0.01, 0.03, 0.02, 0.01, 0.01),
    "b / us": (0.05, 0.05, 0.15, 0.08, 0.02),
}
SHARES = {"a / ct": 0.5, "a / xray": 0.3, "b / us": 0.2}


def spoken(judge: StubJudge, clinic: Clinic, random: np.random.Generator) -> np.ndarray:
    """What the judge says of each record, as words, read back by the parser."""
    said = [parse_judgement(judge.text(row, random)).levels for row in judge.codes(clinic, random)]
    return level_codes([{name: levels.get(name) for name in QUALITY} for levels in said])


def uncalibrated(codes: np.ndarray) -> np.ndarray:
    """The levels taken as they are: 0, 1, 2 -> 0, 0.5, 1; unknown -> 0.5; their product."""
    return np.array([0.0, 0.5, 1.0, 0.5, 0.5])[codes].prod(axis=1)


def logistic_only(scorer: JudgeScorer, codes: np.ndarray, extras: np.ndarray) -> np.ndarray:
    """The product of the logistic probabilities, before isotonic and base rates."""
    made = [
        model.logistic.probability(level_features(codes[:, at], extras))
        for at, model in enumerate(scorer.models)
    ]
    return np.prod(made, axis=0)


def figures(p: np.ndarray, clinic: Clinic) -> tuple[float, float, float, float]:
    """(calibration error, reject precision, rejects, share of defective records rejected)."""
    ok = clinic.ok.all(axis=1)
    rejected = decide_by_score(p, clinic.strata, target_precision=TARGET).rejected
    precision = 1 - ok[rejected].mean() if rejected.any() else np.nan
    return (
        expected_calibration_error(p, ok),
        float(precision),
        float(rejected.sum()),
        float(rejected[~ok].mean()),
    )


def one(seed: int, labels: int, records: int, *, single: bool, careless: float) -> np.ndarray:
    """Figures [ways of scoring, 4] of one drawn world."""
    random = np.random.default_rng(seed)
    judge = StubJudge(carelessness=careless)
    labelled = sample_clinic(labels, LABELLED, SHARES, random, single=single)
    held_out = sample_clinic(records, HELD_OUT, SHARES, random, single=single)
    codes = spoken(judge, labelled, random)
    scorer = fit_judge_scorer(
        codes,
        labelled.ok,
        labelled.log_length[:, None],
        names=QUALITY,
        extra_names=("log_length",),
        seed=seed,
    )
    codes, extras, strata = spoken(judge, held_out, random), held_out.log_length[:, None], held_out.strata  # fmt: skip
    plain = scorer.score(codes, extras).p_ok
    moved = scorer.score(
        codes, extras, joints=scorer.adapt(codes, extras, strata), strata=strata
    ).p_ok
    ways = (uncalibrated(codes), logistic_only(scorer, codes, extras), plain, moved)
    return np.array([figures(p, held_out) for p in ways])


WAYS = ("levels as they are", "logistic", "+ isotonic", "+ base rates")


def study(seeds: int, labels: int, records: int, *, single: bool, careless: float) -> np.ndarray:
    """Print a table; returns the figures [seeds, ways, 4]."""
    drawn = np.stack(
        [one(seed, labels, records, single=single, careless=careless) for seed in range(seeds)]
    )
    kind = "one defect a record" if single else "independent defects"
    errors = f", errors of a record correlated (sd {careless:g})" if careless else ""
    print(f"\n{labels} labelled, {records} held out, {kind}{errors}; {seeds} seeds")
    print(f"{'':20s} {'calibration error':>18s} {'reject precision':>22s} {'rejects':>8s} {'found':>6s}")  # fmt: skip
    for at, way in enumerate(WAYS):
        error, precision, rejects, found = drawn[:, at].T
        print(
            f"{way:20s} {error.mean():8.3f} (max {error.max():.3f}) "
            f"{precision.mean():8.3f} ({precision.min():.3f}-{precision.max():.3f}) "
            f"{rejects.mean():8.0f} {found.mean():6.1%}"
        )
    return drawn


def over_the_wire(records: int) -> None:
    """Records through the whole command: requests, a server on the loopback, retries, tables."""
    import sys

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.curation.clinic import Memory, picture
    from tests.inference.stub_server import Reply, failed, said, serving, text_of

    from infimed.core.console import err
    from infimed.curation import curate
    from infimed.curation.judge import Band, plan, run_judge
    from infimed.curation.judge_rubric import JudgeRubric
    from infimed.inference.endpoint import EndpointModel
    from infimed.inference.endpoint_settings import Endpoint

    err.quiet = True
    random = np.random.default_rng(0)
    judge = StubJudge()
    clinic = sample_clinic(records, HELD_OUT, SHARES, random)
    codes = judge.codes(clinic, random)
    memory = Memory()
    ref = memory.image(picture(0, 224))
    for number in range(records):
        memory.ask((ref,), f"Is finding number {number} seen?", "yes")
    replies = [judge.text(row, random) for row in codes]

    def script(call: dict[str, object], before: int) -> Reply:
        number = int(text_of(call).split("finding number ")[1].split(" ")[0])
        if number % 10 == 0 and before == 0:
            return failed(429, Retry_After="0")
        return said(replies[number], prompt=900, new=120)

    rubric = JudgeRubric.load()
    with tempfile.TemporaryDirectory() as folder, serving(script) as stub:
        ledger = Path(folder)
        curate(memory, ledger)
        planned = plan(ledger, memory, rubric, band=Band(0, 1))
        with EndpointModel(Endpoint(stub.url, "stub", first_wait_seconds=0.01)) as model:
            started = time.perf_counter()
            summary = run_judge(ledger, memory, model, planned, rubric)
            seconds = time.perf_counter() - started
            calls = len(stub.calls)
        with EndpointModel(Endpoint(stub.url, "stub")) as model:
            started = time.perf_counter()
            run_judge(ledger, memory, model, planned, rubric)
            again = time.perf_counter() - started
    counted = ", ".join(f"{count} {name}" for name, count in summary.statuses.items() if count)
    print(
        f"\nover the loopback, one 224-pixel image a record, every tenth call answered 429 first:\n"
        f"{summary.selected} records in {seconds:.1f} s ({summary.selected / seconds:.0f}/s) with {calls} "
        f"calls: {counted}\nthe same command again: {again:.1f} s, {len(stub.calls) - calls} calls"
    )


def main() -> int:
    """Run everything; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--records", type=int, default=12_000)
    parser.add_argument("--wire-records", type=int, default=500)
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, NumPy {np.__version__}")  # fmt: skip
    held = True
    for single in (False, True):
        drawn = study(arguments.seeds, 4000, arguments.records, single=single, careless=0.0)
        error, precision, rejects, _ = drawn[:, -1].mean(axis=0)
        held &= error < 0.03 and abs(precision - TARGET) <= 0.02 and rejects >= 1500
    study(arguments.seeds, 4000, arguments.records, single=False, careless=1.0)
    for labels in (300, 1000, 2000):
        study(arguments.seeds, labels, arguments.records, single=False, careless=0.0)
    if arguments.wire_records:
        over_the_wire(arguments.wire_records)
    print("\nok" if held else "\nFAIL")
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
