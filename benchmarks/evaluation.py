"""How long offline scoring takes: stored answers in, scoreboard with clustered intervals out.

    python benchmarks/evaluation.py

Two sets, both made up with a seed. "short": 100,000 answers to yes/no, choice and open questions about
5,000 images, scored by the shipped tasks `closed`, `choice` and `open`. "reports": 95,000 answers to open
questions and 5,000 reports of about fifty words, each scored by every built-in metric. Both have the
medevalkit column, 2,000 resamples of images (no normal approximation) and a column per question type;
what is timed is `infimed.evaluation.runner.score` whole: reading the stored answers, extraction, metrics,
intervals, writing the scoreboard and the line per sample. Times are of one core; nothing is in parallel.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

from infimed.data.record import ImageRef, Record, question_record
from infimed.evaluation import scoring
from infimed.evaluation.metrics.registry import BUILT_IN
from infimed.evaluation.runner import evaluate, score
from infimed.evaluation.spec import TaskSpec, load_task
from infimed.inference.requests import Request
from infimed.inference.stubs import Scripted

IMAGES = 5000
VOCABULARY = """
lung heart left right lower upper lobe effusion pleural small large opacity clear normal mild moderate no acute
chronic the of in with is are seen unchanged cardiomediastinal silhouette pneumothorax edema consolidation
atelectasis base apex hilum vascular congestion tube line tip position rib fracture nodule mass calcified
granuloma scoliosis degenerative changes spine
"""
WORDS = VOCABULARY.split()
TYPES = ("presence", "position", "modality", "size", "count")


class Records(list[Record]):
    """A shard set without pixels."""

    def pixels(self, ref: ImageRef) -> np.ndarray:
        return np.zeros((8, 8, 3), np.uint8)


def words(rng: np.random.Generator, count: int) -> str:
    return " ".join(rng.choice(WORDS, count))


def record(rng: np.random.Generator, kind: str, number: int) -> Record:
    image = int(rng.integers(IMAGES))
    choices: tuple[str, ...] = ()
    if kind == "closed":
        answer = str(rng.choice(["yes", "no"]))
    elif kind == "choice":
        choices = tuple(dict.fromkeys(f"{words(rng, 2)} {n}" for n in range(4)))
        answer = choices[int(rng.integers(4))]
    elif kind == "report":
        answer = f"Findings: {words(rng, 40)}. Impression: {words(rng, 8)}."
    else:
        answer = words(rng, int(rng.integers(1, 5)))
    return question_record(
        id=f"{kind}-{number}",
        question=f"Question {number}?",
        answer=answer,
        choices=choices,
        task=kind,
        images=(ImageRef(f"{image}.png", sha256=f"{image:064x}", width=8, height=8),),
        facts={"question_type": str(rng.choice(TYPES))},
        source="made up",
        split="test",
        group=f"image-{image}",
    )


def model(shards: Records, rng: np.random.Generator) -> Scripted:
    """Answers: half of them right, in the forms that models use."""
    said = {}
    for one in shards:
        gold = one.answer if one.answer is not None else one.response
        right = rng.random() < 0.5
        if one.task == "choice":
            letter = "ABCD"[int(rng.integers(4))]
            said[one.id] = str(
                rng.choice([letter, f"{letter}. because of it", f"The answer is {letter}."])
            )
        elif one.task == "closed":
            said[one.id] = str(rng.choice(["Yes.", "no", "Yes, there is one", "No, it is clear"]))
        elif one.task == "report":
            kept = gold.split()
            said[one.id] = " ".join(
                w if rng.random() < 0.6 else str(rng.choice(WORDS)) for w in kept
            )
        else:
            said[one.id] = gold.capitalize() + "." if right else words(rng, int(rng.integers(1, 6)))

    def answer(request: Request) -> str:
        return said[request.id]

    return Scripted("made up", answer, batch_size=1000)


def all_metrics(name: str, kind: str) -> TaskSpec:
    return load_task(name).model_copy(update={"metrics": {kind: BUILT_IN}})


def run(title: str, shards: Records, tasks: list[str], profile: bool) -> None:
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        evaluate(model(shards, rng), shards, tasks, out, label="model")
        job = partial(score, out, shards, tasks, ["model"])
        profiler = cProfile.Profile()
        wall, cpu = time.perf_counter(), time.process_time()
        profiler.runcall(job) if profile else job()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{title}: {len(shards):,} answers, {wall:.1f} s, {cpu:.1f} s of processor time")
    if profile:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(25)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=["short", "reports", "both"], default="both")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the answers")
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    args = parser.parse_args()
    rng = np.random.default_rng(0)

    def made(**counts: int) -> Records:
        return Records(
            record(rng, kind, number)
            for kind, count in counts.items()
            for number in range(round(count * args.scale))
        )

    if args.part != "reports":
        shards = made(closed=40_000, choice=30_000, open=30_000)
        run("short", shards, ["closed", "choice", "open"], args.profile)
    if args.part != "short":
        shards = made(open=95_000, report=5_000)
        every = {"open": all_metrics("open", "open"), "report": all_metrics("report", "report")}
        scoring.load_task = every.__getitem__  # type: ignore[assignment]
        run(f"{len(BUILT_IN)} metrics", shards, ["open", "report"], args.profile)


if __name__ == "__main__":
    main()
