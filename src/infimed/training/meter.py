"""What a step cost and gained: tokens, samples, images and operations per second, memory, loss by source."""

from __future__ import annotations

import resource
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from infimed.training.flops import Cost
from infimed.training.parallel import World
from infimed.training.rows import Row
from infimed.training.step import RowWeights

TIMED: Final = frozenset(
    {
        "seconds", "wait_seconds", "wait_share", "feature_seconds", "feature_flops", "tokens_per_second",
        "target_tokens_per_second", "padded_tokens_per_second", "samples_per_second",
        "images_per_second", "flops_per_second", "peak_flops_per_second", "mfu", "memory_gib",
    }
)  # fmt: skip
"""Fields of a metrics line that the machine or a kill decides; all others are the same whenever a run is repeated."""


def peak_memory_gib() -> float:
    """Largest resident memory of this process so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def resident_gib() -> float:
    """Resident memory now, GiB."""
    with open("/proc/self/statm") as handle:
        return int(handle.read().split()[1]) * resource.getpagesize() / 2**30


def step_counts(rows: Sequence[Row]) -> dict[str, int]:
    """Counts of the rows of one optimizer step."""
    return {
        "tokens": sum(row.layout.tokens for row in rows),
        "target_tokens": sum(row.target_tokens for row in rows),
        "samples": sum(len(row.record_ids) for row in rows),
        "documents": sum(len(row.layout.documents) for row in rows),
        "images": sum(row.images for row in rows),
    }


def step_rates(
    counts: Mapping[str, int],
    *,
    capacity: int,
    flops: float,
    peak: float,
    seconds: float,
    waited: float,
) -> dict[str, float]:
    """Rates of one optimizer step.

    Tokens, samples and images are counted a second of computing. Operations and MFU are counted
    a second of the whole step: hardware that waits for rows is not utilised.

    Args:
        counts: of `step_counts`, over all ranks. capacity: tokens that the step's rows could hold.
        flops: operations of the step, over all ranks. peak: operations per second of all ranks'
            fastest matrix products. seconds: of computing. waited: seconds of waiting for rows.
    """
    whole = seconds + waited
    return {
        "seconds": round(seconds, 4),
        "wait_seconds": round(waited, 4),
        "wait_share": round(waited / whole, 4),
        "tokens_per_second": round(counts["tokens"] / seconds, 1),
        "target_tokens_per_second": round(counts["target_tokens"] / seconds, 1),
        "padded_tokens_per_second": round(capacity / seconds, 1),
        "samples_per_second": round(counts["samples"] / seconds, 2),
        "images_per_second": round(counts["images"] / seconds, 2),
        "flops_per_second": round(flops / whole),
        "peak_flops_per_second": round(peak),
        "mfu": round(flops / whole / peak, 5),
        "memory_gib": round(peak_memory_gib(), 3),
    }


class SourceLosses:
    """Loss per target token of one step, by where its records come from.

    Args:
        names: every source there is, in the same order on every rank.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self._place = {name: place for place, name in enumerate(names)}
        self._loss = torch.zeros(len(names), dtype=torch.float64)
        self._tokens = torch.zeros(len(names), dtype=torch.float64)

    def add(self, row: Row, weights: RowWeights, losses: Tensor) -> None:
        """Count a row, given the losses of its target tokens, fp32 [n]."""
        places = torch.tensor([self._place[name] for name in row.sources], dtype=torch.int64)
        of_target = places[weights.sample]
        self._loss.index_add_(0, of_target, losses.double().cpu())
        self._tokens.index_add_(0, of_target, torch.ones(len(of_target), dtype=torch.float64))

    def read(self, world: World) -> dict[str, float]:
        """Loss per target token of the sources that the step shows on any rank."""
        count = len(self.names)
        sums = world.sums([*self._loss.tolist(), *self._tokens.tolist()])
        return {
            name: round(loss / tokens, 6)
            for name, loss, tokens in zip(self.names, sums[:count], sums[count:], strict=True)
            if tokens
        }


def summed(costs: Sequence[Cost], world: World) -> Cost:
    """Operations of all rows on all ranks."""
    mine = sum(costs, Cost())
    return Cost(*world.sums([mine.vision, mine.language, mine.cached]))
