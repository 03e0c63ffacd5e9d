"""What the report says about data, curation and training: counts read from a run folder.

Everything is read back from files, so a report can be written again at any time and needs no model.
Nothing here is rendered; texts stay plain strings. Cost: one pass over `metrics.jsonl` and the
Parquet footers; records are opened for examples only (`report_examples`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from infimed.core.files import read_json
from infimed.core.recipe import Recipe
from infimed.core.run import MetricsLog
from infimed.data.shards import ShardSet
from infimed.pipeline.throughput import spent_seconds

FIRST_PROBLEMS = 8
PRETRAIN_LOW, PRETRAIN_HIGH = "pretrain-low", "pretrain-high"


@dataclass(frozen=True)
class Problem:
    """Why items were not imported: how many for this reason, and the first of them."""

    code: str
    count: int
    where: str
    what: str


@dataclass(frozen=True)
class Imported:
    """What import made of the source; `problems` holds one entry a reason, the commonest first."""

    records: int
    images: int
    image_uses: int
    problem_count: int
    problems: tuple[Problem, ...]
    tasks: Mapping[str, int]
    splits: Mapping[str, int]
    data_hash: str


@dataclass(frozen=True)
class Step:
    """One optimizer step as logged; rates are per second, fill is a share of the rows' capacity."""

    step: int
    stage: str
    loss: float
    gradient_norm: float
    learning_rate: Mapping[str, float]
    tokens_per_second: float
    padded_tokens_per_second: float
    source_loss: Mapping[str, float]


@dataclass(frozen=True)
class StageNumbers:
    """One stage as it ran.

    Attributes:
        samples: records seen, repeats included. rows: packed rows. tokens: visual ones included.
        fill: share of the rows' capacity that held tokens.
        samples_per_second, tokens_per_second, padded_tokens_per_second, flops_per_second: over the
            stage's whole time, waiting for rows included; padded counts the rows' full capacity.
        mfu: share of the fastest matrix product here that was reached; None where no peak was logged.
        hours: time in steps and in filling the feature cache. memory_gib: largest resident memory of the process so far.
        final_loss: mean over the last tenth of the steps.
    """

    name: str
    grid: str
    samples: int
    rows: int | None
    steps: int
    tokens: int
    target_tokens: int
    fill: float
    samples_per_second: float
    tokens_per_second: float
    padded_tokens_per_second: float
    flops_per_second: float
    mfu: float | None
    hours: float
    memory_gib: float
    final_loss: float


def read_imported(shards: ShardSet) -> Imported:
    """Counts of the shards and the first item of every reason for which something was left out."""
    counts = shards.counts
    first: dict[str, dict[str, str]] = {}
    for problem in shards.problems():
        first.setdefault(problem.get("code", ""), problem)
        if len(first) == len(counts["problem_codes"]):
            break
    ranked = sorted(counts["problem_codes"].items(), key=lambda item: (-item[1], item[0]))
    problems = tuple(
        Problem(
            code, count, first.get(code, {}).get("where", ""), first.get(code, {}).get("what", "")
        )
        for code, count in ranked[:FIRST_PROBLEMS]
    )
    return Imported(
        records=counts["records"],
        images=counts["images"],
        image_uses=counts["image_uses"],
        problem_count=counts["problems"],
        problems=problems,
        tasks=dict(counts["tasks"]),
        splits=dict(counts["splits"]),
        data_hash=shards.data_hash,
    )


def read_steps(folder: Path) -> list[dict[str, Any]]:
    """The metrics lines of a model that are whole optimizer steps."""
    return [
        row
        for row in MetricsLog(folder / "metrics.jsonl").read()
        if "loss" in row and "stage" in row
    ]


def curve_steps(rows: Sequence[Mapping[str, Any]]) -> list[Step]:
    """The lines as curves need them."""
    return [
        Step(
            step=int(row["step"]),
            stage=str(row["stage"]),
            loss=float(row["loss"]),
            gradient_norm=float(row["gradient_norm"]),
            learning_rate={str(k): float(v) for k, v in row["learning_rate"].items()},
            tokens_per_second=float(row["tokens_per_second"]),
            padded_tokens_per_second=float(row["padded_tokens_per_second"]),
            source_loss=row.get("source_loss", {}),
        )
        for row in rows
    ]


def _planned_rows(plan: Path) -> int | None:
    """Rows of a stored plan, from the footer's statistics where they are there."""
    if not plan.is_file():
        return None
    column = pq.read_table(plan, columns=["row"])["row"].to_numpy()
    return int(column.max()) + 1 if len(column) else 0


def stage_numbers(
    folder: Path, rows: Sequence[Mapping[str, Any]], recipe: Recipe
) -> list[StageNumbers]:
    """Numbers of every stage that was trained, in the recipe's order."""
    made = []
    for stage in recipe.stages:
        own = [row for row in rows if row["stage"] == stage.name]
        if not own:
            continue

        def total(key: str, own: Sequence[Mapping[str, Any]] = own) -> float:
            return float(sum(row.get(key, 0.0) for row in own))

        seconds = max(sum(map(spent_seconds, own)), 1e-9)
        reachable = sum(row.get("peak_flops_per_second", 0.0) * spent_seconds(row) for row in own)
        capacity = sum(row["tokens"] / row["fill"] for row in own if row.get("fill"))
        tail = own[-max(1, len(own) // 10) :]
        made.append(
            StageNumbers(
                name=stage.name,
                grid=f"{stage.image_size} px, {stage.visual_tokens} tokens"
                + f", up to {stage.tiles} tiles" * bool(stage.tiles),
                samples=int(total("samples")),
                rows=_planned_rows(folder / "plan" / f"{stage.name}.parquet"),
                steps=len(own),
                tokens=int(total("tokens")),
                target_tokens=int(total("target_tokens")),
                fill=total("tokens") / capacity if capacity else 0.0,
                samples_per_second=total("samples") / seconds,
                tokens_per_second=total("tokens") / seconds,
                padded_tokens_per_second=capacity / seconds,
                flops_per_second=total("flops") / seconds,
                mfu=total("flops") / reachable if reachable else None,
                hours=seconds / 3600,
                memory_gib=max(float(row.get("memory_gib", 0.0)) for row in own),
                final_loss=sum(float(row["loss"]) for row in tail) / len(tail),
            )
        )
    return made


def low_to_high_ratio(stages: Sequence[StageNumbers]) -> float | None:
    """How many times more samples per second pretrain-low does than pretrain-high."""
    rate = {stage.name: stage.samples_per_second for stage in stages}
    if PRETRAIN_LOW not in rate or not rate.get(PRETRAIN_HIGH):
        return None
    return rate[PRETRAIN_LOW] / rate[PRETRAIN_HIGH]


@dataclass(frozen=True)
class Origin:
    """Where the numbers come from.

    Attributes:
        checkpoint, fingerprint: the final checkpoint and the hash of its weights; "" where none.
        versions: package -> version. machine: "8 cores, 16 GiB, ...", no host name, no path.
        commit: of the source, where the environment says it. written: UTC time of the last status.
    """

    checkpoint: str
    fingerprint: str
    versions: Mapping[str, str]
    machine: str
    commit: str
    written: str
    state: str


def read_origin(folder: Path) -> Origin:
    """Versions, machine and final checkpoint, each as far as the run folder has it."""
    environment = (
        read_json(folder / "environment.json") if (folder / "environment.json").exists() else {}
    )
    status = read_json(folder / "STATUS.json") if (folder / "STATUS.json").exists() else {}
    machine = [
        environment.get("cpu"),
        environment.get("accelerator"),
        f"{environment['cores']} cores" if environment.get("cores") else None,
        f"{environment['memory_gib']} GiB memory" if environment.get("memory_gib") else None,
        environment.get("system"),
    ]
    versions = {
        "infimed": environment.get("infimed"),
        "python": environment.get("python"),
        **environment.get("packages", {}),
    }
    checkpoint, fingerprint = _newest_checkpoint(folder / "checkpoints")
    return Origin(
        checkpoint=checkpoint,
        fingerprint=fingerprint,
        versions={name: str(version) for name, version in versions.items() if version},
        machine=", ".join(str(part) for part in machine if part),
        commit=str(environment.get("commit") or ""),
        written=str(status.get("updated", "")),
        state=str(status.get("state", "")),
    )


def _newest_checkpoint(folder: Path) -> tuple[str, str]:
    """(name, fingerprint) of the newest complete checkpoint; its weights are not read."""
    from infimed.model.loading import MARKER, checkpoint_folders

    for found in checkpoint_folders(folder):
        if (found / MARKER).is_file():
            return found.name, str(read_json(found / MARKER).get("fingerprint", ""))
    return "", ""
