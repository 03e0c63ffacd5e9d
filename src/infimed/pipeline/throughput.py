"""How fast each stage trained, from `metrics.jsonl`: for the terminal and for the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from infimed.core.console import table


@dataclass(frozen=True)
class StageSpeed:
    """Sums of one stage's steps; rates are totals over total seconds, waiting for data included."""

    stage: str
    steps: int
    samples: float
    tokens: float
    padded_tokens: float
    flops: float
    seconds: float
    wait_seconds: float
    last_loss: float

    @property
    def samples_per_second(self) -> float:
        """Question-answer pairs, captions or reports per second."""
        return self.samples / self.seconds if self.seconds else 0.0


def stage_speeds(metrics: Iterable[Mapping[str, Any]]) -> list[StageSpeed]:
    """One entry a stage, in training order."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in metrics:
        if "loss" in row:  # not a step whose every document was left out
            groups.setdefault(row["stage"], []).append(row)
    return [
        StageSpeed(
            stage=stage,
            steps=len(rows),
            samples=sum(r["samples"] for r in rows),
            tokens=sum(r["tokens"] for r in rows),
            padded_tokens=sum(r["tokens"] / r["fill"] for r in rows),
            flops=sum(r["flops"] for r in rows),
            seconds=sum(r["seconds"] + r["wait_seconds"] for r in rows),
            wait_seconds=sum(r["wait_seconds"] for r in rows),
            last_loss=sum(r["loss"] for r in rows[-10:]) / len(rows[-10:]),
        )
        for stage, rows in groups.items()
    ]


def speed_ratio(speeds: Iterable[StageSpeed]) -> float | None:
    """Samples per second of `pretrain-low` over `pretrain-high`; None unless both were trained."""
    rates = {speed.stage: speed.samples_per_second for speed in speeds}
    low, high = rates.get("pretrain-low"), rates.get("pretrain-high")
    return low / high if low and high else None


def speed_table(speeds: Iterable[StageSpeed]) -> Table:
    """The stages' speeds for the terminal."""
    rows = [
        (
            s.stage,
            s.steps,
            f"{s.seconds:.0f}",
            f"{s.samples_per_second:.0f}",
            f"{s.tokens / s.seconds:,.0f}",
            f"{s.padded_tokens / s.seconds:,.0f}",
            f"{s.flops / s.seconds / 1e9:.0f}",
            f"{100 * s.wait_seconds / s.seconds:.0f} %",
            f"{s.last_loss:.3f}",
        )
        for s in speeds
        if s.seconds
    ]
    columns = [
        "stage",
        "steps",
        "s",
        "samples/s",
        "tokens/s",
        "padded",
        "GFLOP/s",
        "waiting",
        "loss",
    ]
    return table("training", columns, rows)
