"""The pack planner: time, memory and fill, beside best-fit decreasing and a greedy buffer, in one run.

    python benchmarks/packing.py                    # about two minutes
    python benchmarks/packing.py --records 200000

Lengths are generated (seed 7): captions of log-normal length, median 60 tokens, sigma 0.6, behind 144
visual tokens; and a mixture of 70 % such captions and 30 % texts of log-normal length, median 180,
sigma 0.9, cut at a row. Rows hold 4,096 tokens. Rivals look at as many documents at a time as we do and
are written here from their descriptions: best-fit decreasing window by window; and the buffered best fit
of nanochat's fine-tuning, which starts a row with the next document of its buffer and adds the longest that
still fits until none does, refilling the buffer after each row.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from bisect import bisect_right, insort

import numpy as np
from numpy.typing import NDArray

from infimed.core.run import environment
from infimed.core.seeds import stream
from infimed.packing.planner import Limits, Samples, plan_epoch

ROW, VISUAL, SEED = 4096, 144, 7
Integers = NDArray[np.int64]


def captions(count: int) -> Integers:
    text = np.exp(stream(SEED, "captions").normal(np.log(60), 0.6, count))
    return np.clip(text, 1, ROW - VISUAL).astype(np.int64)


def samples(kind: str, count: int) -> Samples:
    text = captions(count)
    shown = np.ones(count, np.int64)
    if kind == "mix":
        random = stream(SEED, "mix")
        shown = (random.random(count) < 0.7).astype(np.int64)
        alone = np.exp(random.normal(np.log(180), 0.9, count))
        text = np.where(shown, text, np.clip(alone, 1, ROW).astype(np.int64))
    number = np.arange(count)
    return Samples(
        row=number, trunk_tokens=np.zeros(count, np.int64), branch_tokens=text, target_tokens=text,
        images=shown, image_key=np.where(shown, number, -1), weight=np.ones(count),
    )  # fmt: skip


def decreasing(lengths: list[int], window: int) -> int:
    """Rows that best-fit decreasing needs, window by window."""
    rows = 0
    for begin in range(0, len(lengths), window):
        free: list[int] = []
        for length in sorted(lengths[begin : begin + window], reverse=True):
            at = bisect_right(free, length - 1)
            space = free.pop(at) if at < len(free) else ROW
            rows += space == ROW
            insort(free, space - length)
    return rows


def buffered(lengths: list[int], window: int) -> int:
    """Rows that the buffered best fit needs."""
    waiting = iter(lengths)
    order: list[tuple[int, int]] = []  # (length, number), sorted
    arrived: dict[int, int] = {}
    number = rows = 0
    while True:
        while len(order) < window and (length := next(waiting, None)) is not None:
            insort(order, (length, number))
            arrived[number] = length
            number += 1
        if not order:
            return rows
        first = next(iter(arrived))
        order.remove((arrived[first], first))
        space = ROW - arrived.pop(first)
        while (at := bisect_right(order, (space, number))) > 0:
            length, taken = order.pop(at - 1)
            del arrived[taken]
            space -= length
        rows += 1


def alone(kind: str, count: int, window: int, images: int) -> None:
    """One plan in a process of its own: seconds, rows and peak memory in MiB."""
    made = samples(kind, count)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    plan = plan_epoch(made, Limits(ROW, images, VISUAL, window), SEED, 0)
    spent = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(spent, len(plan.rows), plan.tokens, plan.images, peak / 1024, before / 1024)


def planned(kind: str, count: int, window: int, images: int) -> tuple[float, ...]:
    command = [sys.executable, __file__, "alone", kind, str(count), str(window), str(images)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return tuple(map(float, done.stdout.split()))


def main() -> int:
    if sys.argv[1:2] == ["alone"]:
        alone(sys.argv[2], *map(int, sys.argv[3:]))
        return 0
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    reader.add_argument("--records", type=int, default=1_000_000)
    reader.add_argument("--windows", type=int, nargs="*", default=[1024, 4096, 16_384])
    given = reader.parse_args()
    print(f"{environment()['cpu']}, rows of {ROW}, {VISUAL} visual tokens, seed {SEED}\n")
    print(f"{'data':9}{'window':>8}{'seconds':>9}{'MiB':>6}{'ours':>9}{'BFD':>9}{'buffered':>10}")
    part = min(given.records, 200_000)
    for kind in ("captions", "mix"):
        some = samples(kind, part)
        order = stream(SEED, "arrival").permutation(part)
        lengths = (some.images * VISUAL + some.branch_tokens)[order].tolist()
        for window in given.windows:
            spent, rows, tokens, _, peak, _ = planned(kind, given.records, window, 10**6)
            rivals = [sum(lengths) / (ROW * f(lengths, window)) for f in (decreasing, buffered)]
            print(
                f"{kind:9}{window:8}{spent:9.2f}{peak:6.0f}{tokens / (rows * ROW):9.2%}"
                f"{rivals[0]:9.2%}{rivals[1]:10.2%}",
                flush=True,
            )
    print(f"\nours over {given.records} records, the rivals over {part}")
    print("\nlimit on images per row, captions, the middle window:")
    for most in (28, 20, 16, 12):
        spent, rows, tokens, images, *_ = planned("captions", part, given.windows[1], most)
        print(
            f"  {most:3} images: fill {tokens / (rows * ROW):7.2%}, {images / rows:5.1f} images a row, {spent:.2f} s"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
