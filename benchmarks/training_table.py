"""The tables of benchmarks/training.py."""

from __future__ import annotations

import statistics
from itertools import pairwise
from typing import Any

import torch

from infimed.core.run import environment


def rate_of(results: list[list[dict[str, Any]]], place: int) -> float:
    """Samples per second of an arm from the median step of all seeds."""
    seconds = [second for run in results for second in run[place]["seconds"][1:]]
    samples = results[0][place]["samples"] / len(results[0][place]["seconds"])
    return float(samples / statistics.median(seconds))


def show(name: str, precision: str, results: list[list[dict[str, Any]]]) -> None:
    """The tables: speed and loss of every arm, operations by part, each arm against the next."""
    print(f"\n{name} on {environment()['cpu']}, {torch.get_num_threads()} threads, {precision}")
    first = [
        {**arm, "samples_per_second": rate_of(results, at)} for at, arm in enumerate(results[0])
    ]
    print(f"{'arm':18s}{'samples/s':>10s}{'GFLOP/s':>9s}   held-out loss by seed")
    for place, arm in enumerate(first):
        work = sum(arm["flops_per_sample"].values())
        losses = "  ".join(f"{run[place]['held_out']:.3f}" for run in results)
        rate = arm["samples_per_second"]
        print(f"{arm['arm']:18s}{rate:10.3f}{work * rate / 1e9:9.0f}   {losses}")
    print("\nGFLOP a sample by part")
    parts = list(first[0]["flops_per_sample"])
    print(f"{'arm':18s}" + "".join(f"{part:>11s}" for part in parts))
    for arm in first:
        cells = "".join(f"{arm['flops_per_sample'][part] / 1e9:11.1f}" for part in parts)
        print(f"{arm['arm']:18s}{cells}")
    print("\nratio of samples/s, and what the operations predict")
    pairs = [(a, b) for a, b in pairwise(first)]
    pairs += [(a, b) for a in first for b in first if (a["arm"], b["arm"]) == ("padded", "low")]
    for slow, quick in pairs:
        measured = quick["samples_per_second"] / slow["samples_per_second"]
        work = [sum(arm["flops_per_sample"].values()) for arm in (slow, quick)]
        predicted = work[0] / work[1]
        print(
            f"{quick['arm']:8s} / {slow['arm']:18s} {measured:6.2f}   predicted {predicted:6.2f}   "
            f"reached {100 * measured / predicted:4.0f} %"
        )
