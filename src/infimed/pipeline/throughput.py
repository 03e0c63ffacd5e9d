"""How fast each stage trained, from `metrics.jsonl`: for the terminal and for the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from infimed.core.console import table


@dataclass(frozen=True)
class StageSpeed:
    """Sums of one stage's steps; rates are totals over total seconds, waiting for data included.

    Attributes:
        capacity_flops: what the fastest matrix product here does in these seconds.
        feature_seconds, feature_flops: spent on filling the feature cache; the seconds are part of
            `seconds`. cached_flops: what the tower would have cost without it.
    """

    stage: str
    steps: int
    samples: float
    tokens: float
    padded_tokens: float
    flops: float
    seconds: float
    wait_seconds: float
    last_loss: float
    capacity_flops: float = 0.0
    feature_seconds: float = 0.0
    feature_flops: float = 0.0
    cached_flops: float = 0.0

    @property
    def samples_per_second(self) -> float:
        """Question-answer pairs, captions or reports per second."""
        return self.samples / self.seconds if self.seconds else 0.0

    @property
    def mfu(self) -> float | None:
        """Share of the fastest matrix product that training reached; None for runs without a peak."""
        return self.flops / self.capacity_flops if self.capacity_flops else None

    @property
    def saving(self) -> str:
        """What the feature cache saved, as a sentence; "" without one."""
        if not self.cached_flops:
            return ""
        saved = self.cached_flops - self.feature_flops
        said = f"{self.stage}: kept features saved {saved / 1e9:,.0f} GFLOP of the tower"
        if not self.feature_flops:
            return said
        seconds = saved / self.feature_flops * self.feature_seconds
        return f"{said}, about {seconds:,.0f} s; filling took {self.feature_seconds:,.1f} s"


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
            seconds=sum(map(spent_seconds, rows)),
            wait_seconds=sum(r["wait_seconds"] for r in rows),
            last_loss=sum(r["loss"] for r in rows[-10:]) / len(rows[-10:]),
            capacity_flops=sum(
                r.get("peak_flops_per_second", 0.0) * spent_seconds(r) for r in rows
            ),
            feature_seconds=sum(r.get("feature_seconds", 0.0) for r in rows),
            feature_flops=sum(r.get("feature_flops", 0.0) for r in rows),
            cached_flops=sum(r.get("cached_flops", 0.0) for r in rows),
        )
        for stage, rows in groups.items()
    ]


def spent_seconds(row: Mapping[str, Any]) -> float:
    """Computing, waiting for rows and filling the feature cache, of one metrics line."""
    return float(row["seconds"] + row["wait_seconds"] + row.get("feature_seconds", 0.0))


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
            "" if s.mfu is None else f"{100 * s.mfu:.1f} %",
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
        "MFU",
        "waiting",
        "loss",
    ]
    return table("training", columns, rows)
