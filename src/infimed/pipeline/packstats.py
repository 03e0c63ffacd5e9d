"""What a pack plan looks like: fill, documents and images per row, tokens by source.

Read from the plan's arrays and the index; no row is made and no image is opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from infimed.core.console import table
from infimed.core.files import atomic_open, write_json
from infimed.packing.planner import document_kinds
from infimed.training.stage import StageJob

STATS_FILE: Final = "stats.json"
FIGURE_FILE: Final = "stats.png"
_QUANTILES: Final = (0.0, 0.05, 0.5, 0.95, 1.0)
_BLUE: Final = "#2166ac"


@dataclass(frozen=True)
class SourceStats:
    """One source's part of a stage. A document's tokens are shared evenly among its records.

    Attributes:
        records: records, or parts of them, in rows. share: part of the stage's tokens.
        over_long, split, shrunk, without_targets: records, each once.
    """

    source: str
    records: int
    tokens: int
    share: float
    target_tokens: int
    over_long: int
    split: int
    shrunk: int
    without_targets: int


@dataclass(frozen=True)
class StageStats:
    """One stage's rows.

    Attributes:
        row_tokens, visual_tokens, max_images: the limits. rows, documents, records: counts.
        fill: share of all rows' capacity that holds tokens.
        tokens_per_row, documents_per_row, images_per_row: least, 5 %, median, 95 %, greatest.
        sources: most tokens first.
    """

    stage: str
    row_tokens: int
    visual_tokens: int
    max_images: int
    rows: int
    documents: int
    records: int
    fill: float
    tokens_per_row: tuple[float, ...]
    documents_per_row: tuple[float, ...]
    images_per_row: tuple[float, ...]
    sources: tuple[SourceStats, ...]


def stage_stats(job: StageJob, source: NDArray[np.str_]) -> StageStats:
    """Figures of a stage's plan.

    Args:
        source: data set name of every record of the shards, by shard row.
    """
    plan, stage = job.plan, job.stage
    documents = plan.documents
    return StageStats(
        stage=stage.name,
        row_tokens=stage.row_tokens,
        visual_tokens=stage.visual_tokens,
        max_images=stage.max_images,
        rows=len(plan.rows),
        documents=len(documents),
        records=plan.records,
        fill=plan.fill,
        tokens_per_row=_quantiles(plan.per_row(documents.tokens)),
        documents_per_row=_quantiles(np.diff(plan.start)),
        images_per_row=_quantiles(plan.per_row(documents.images)),
        sources=_by_source(job, source),
    )


def _by_source(job: StageJob, source: NDArray[np.str_]) -> tuple[SourceStats, ...]:
    plan, documents = job.plan, job.plan.documents
    names, number = np.unique(source, return_inverse=True)

    def counted(records: NDArray[np.int64]) -> list[int]:
        return list(map(int, np.bincount(number[records], minlength=len(names))))

    tokens = document_kinds(documents, number, len(names), documents.tokens)
    targets = document_kinds(documents, number, len(names), documents.target_tokens)
    records, left_out = counted(documents.records), counted(np.unique(plan.over_long))
    parts, fewer, idle = counted(plan.split), counted(plan.shrunk), counted(plan.without_targets)
    return tuple(
        SourceStats(
            source=str(names[i]) or "?",
            records=records[i],
            tokens=round(tokens[i]),
            share=float(tokens[i] / max(1, tokens.sum())),
            target_tokens=round(targets[i]),
            over_long=left_out[i],
            split=parts[i],
            shrunk=fewer[i],
            without_targets=idle[i],
        )
        for i in np.argsort(-tokens, kind="stable").tolist()
        if records[i] or left_out[i] or idle[i]
    )


def _quantiles(values: NDArray[np.int64]) -> tuple[float, ...]:
    if not len(values):
        return ()
    return tuple(float(v) for v in np.quantile(values, _QUANTILES))


def stats_tables(stats: Sequence[StageStats]) -> list[Any]:
    """Two tables for the terminal: rows by stage, tokens by source."""
    rows = [
        (
            s.stage, s.rows, f"{100 * s.fill:.2f} %", _span(s.documents_per_row),
            _span(s.images_per_row), sum(o.over_long for o in s.sources),
        )
        for s in stats
    ]  # fmt: skip
    rare = [
        name
        for name in ("over_long", "split", "shrunk", "without_targets")
        if name == "over_long" or any(getattr(o, name) for s in stats for o in s.sources)
    ]
    sources = [
        (
            s.stage, o.source, f"{o.records:,}", f"{o.tokens:,}", f"{100 * o.share:.1f} %",
            f"{o.target_tokens:,}", *(getattr(o, name) for name in rare),
        )
        for s in stats
        for o in s.sources
    ]  # fmt: skip
    told = {"over_long": "over-long", "without_targets": "without answer"}
    return [
        table(
            "documents and images per row: 5 %, median, 95 %",
            ["stage", "rows", "fill", "documents", "images", "over-long"],
            rows,
            numeric=1,
        ),
        table(
            "tokens by source",
            [
                "stage",
                "source",
                "records",
                "tokens",
                "share",
                "targets",
                *(told.get(name, name) for name in rare),
            ],
            sources,
            numeric=2,
        ),
    ]


def _span(quantiles: tuple[float, ...]) -> str:
    return ", ".join(f"{q:.0f}" for q in quantiles[1:4])


def write_stats(jobs: Sequence[StageJob], stats: Sequence[StageStats], folder: Path) -> Path:
    """Write the figures and one picture into `folder`; returns the picture's path."""
    write_json(folder / STATS_FILE, {"stages": [asdict(s) for s in stats]})
    path = folder / FIGURE_FILE
    _draw(jobs, stats, path)
    return path


def _draw(jobs: Sequence[StageJob], stats: Sequence[StageStats], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import EngFormatter, MaxNLocator

    figure, grid = pyplot.subplots(
        len(jobs), 4, figsize=(13, 2.3 * len(jobs) + 0.4), squeeze=False, layout="constrained"
    )
    for axes, job, found in zip(grid, jobs, stats, strict=True):
        plan = job.plan
        tokens = plan.per_row(plan.documents.tokens)
        axes[0].hist(100 * tokens / plan.row_tokens, bins=40, range=(0, 100), color=_BLUE)
        axes[0].set_ylabel(f"{found.stage}\nrows", fontsize=9)
        axes[0].set_title(f"{100 * found.fill:.2f} % filled", fontsize=9)
        axes[0].set_xlabel("tokens in % of a row", fontsize=8)
        for at, values, name in (
            (axes[1], np.diff(plan.start), "documents per row"),
            (axes[2], plan.per_row(plan.documents.images), "images per row"),
        ):
            most = int(values.max(initial=1))
            step = -(-most // 40)
            edges = np.arange(0, most + 2 * step, step) - 0.5
            at.hist(values, bins=edges.tolist(), color=_BLUE)
            at.set_xlabel(name, fontsize=8)
        if found.max_images <= 1.2 * max(found.images_per_row, default=0):
            axes[2].axvline(found.max_images, color="#b35806", lw=1)
            axes[2].set_title("orange: limit", fontsize=9)
        shown = found.sources[:8][::-1]
        axes[3].barh([s.source for s in shown], [s.tokens for s in shown], color="#c6d7ea")
        axes[3].barh([s.source for s in shown], [s.target_tokens for s in shown], color=_BLUE)
        axes[3].set_xlabel("tokens by source (dark: predicted)", fontsize=8)
        axes[3].xaxis.set_major_formatter(EngFormatter(sep=""))
        for each in axes:
            each.tick_params(labelsize=7)
        for each in axes[1:]:
            each.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    with atomic_open(path) as handle:
        figure.savefig(handle, format="png", dpi=110)
    pyplot.close(figure)
