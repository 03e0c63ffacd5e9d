"""A benchmark's report as a rich table, JSON, Parquet, Markdown and one figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table

from infimed.core import console
from infimed.core.files import atomic_open, write_json
from infimed.curation.corruption.measuring import Report

JSON_FILE: Final = "benchmark.json"
PARQUET_FILE: Final = "benchmark.parquet"
MARKDOWN_FILE: Final = "benchmark.md"
FIGURE_FILE: Final = "benchmark.png"


def table(report: Report) -> Table:
    """One row an operator; the baselines stand in the last two columns."""
    heads = ("#", "operator", "n", "rules", "1 %", "5 %", "AUROC", "named", "score\nonly", "random\n5 %",
             "length\n5 %")  # fmt: skip
    rows = []
    for s in report.operators:
        mark = " (held out)" if s.held_out else "" if s.core else " *"
        rows.append((
            s.number, s.name + mark, s.records, _percent(s.rules), _percent(s.at_1),
            _percent(s.at_5), f"{s.auroc:.2f}", _percent(s.named), _percent(s.evaluator_only),
            _percent(s.random_5), _percent(s.length_5),
        ))  # fmt: skip
    return console.table("Corruption benchmark", heads, rows, numeric=2)


def lines(report: Report) -> list[str]:
    """What the table leaves out, in sentences."""
    out = [
        f"clean records: {report.clean}, of which a rule drops {report.clean_rejected:.2%}; "
        f"undamaged records newly dropped in damaged sets: {report.collateral:.2%}",
        *(
            f"pooled threshold at {float(rate):.0%}: {limit:.6g} (rejects {share:.2%} of the clean)"
            for rate, (limit, share) in report.thresholds.items()
        ),
    ]
    for group, figures in report.pooled.items():
        if figures.get("operators"):
            said = ", ".join(f"{name} {_number(value)}" for name, value in figures.items())
            out.append(f"{group}: {said}")
    out.append(
        f"{len(report.sole_rules)} rules are the only one to object to some damaged record: "
        + ", ".join(f"{rule} {count}" for rule, count in report.sole_rules.items())
    )
    out += [f"{name}: {value}" for name, value in report.about.items()]
    return out


def markdown(report: Report) -> str:
    """The tables for a document; recall, named and the baselines in per cent."""
    heads = ("#", "operator", "n", "rules drop", "1 %", "5 %", "AUROC", "dimension named",
             "random 5 %", "length 5 %")  # fmt: skip
    rows: list[tuple[object, ...]] = []
    for s in report.operators:
        mark = " **(held out)**" if s.held_out else "" if s.core else " *"
        rows.append((
            s.number, s.name + mark, s.records, _percent(s.rules), _percent(s.at_1),
            _percent(s.at_5), f"{s.auroc:.3f}", _percent(s.named), _percent(s.random_5),
            _percent(s.length_5),
        ))  # fmt: skip
    groups = {name: figures for name, figures in report.pooled.items() if figures.get("operators")}
    kinds = tuple(next(iter(groups.values()), {}))
    pooled = [(name, *map(_number, figures.values())) for name, figures in groups.items()]
    rules = ", ".join(f"`{rule}` {count}" for rule, count in report.sole_rules.items())
    return (
        f"{report.clean} clean records, of which a rule drops {report.clean_rejected:.2%}; of the "
        f"undamaged records in damaged sets {report.collateral:.2%} are dropped for what their "
        f"damaged neighbours say.\n\n{_markdown_table(heads, rows)}\n"
        "\\* not among the operators that rules are expected to find.\n\n"
        f"{_markdown_table(('group', *kinds), pooled)}\n"
        f"{len(report.sole_rules)} rules were the only one to object to some damaged record: {rules}.\n"
    )


def _markdown_table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(map(str, cells))} |\n" for cells in lines)


def write(report: Report, out: Path) -> None:
    """Write the files into the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for s in report.operators:
        row = asdict(s)
        row["dimensions"] = list(s.dimensions)
        row["by_severity"] = list(s.by_severity)
        rows.append(row)
    with atomic_open(out / PARQUET_FILE) as handle:
        pq.write_table(pa.Table.from_pylist(rows), handle)
    with atomic_open(out / MARKDOWN_FILE) as handle:
        handle.write(markdown(report).encode())
    _figure(report, out / FIGURE_FILE)
    write_json(out / JSON_FILE, report.to_dict())


def _figure(report: Report, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = list(reversed(report.operators))
    figure, axes = pyplot.subplots(figsize=(8, 0.28 * len(shown) + 1.4))
    places = range(len(shown))
    colours = ["#b35806" if s.held_out else "#2166ac" if s.core else "#999999" for s in shown]
    axes.barh(places, [s.at_5 for s in shown], color="#d8d8d8", label="at 5 % false rejection")
    axes.barh(places, [s.at_1 for s in shown], height=0.5, color=colours, label="at 1 %")
    axes.plot([s.length_5 for s in shown], places, "k|", markersize=7, label="length filter, 5 %")
    axes.set_yticks(places, [f"{s.number} {s.name}" for s in shown], fontsize=7)
    axes.set_xlim(0, 1)
    axes.set_xlabel("recall (blue: tuned on, orange: held out, grey: beyond rules)", fontsize=8)
    axes.legend(fontsize=7, loc="lower right")
    figure.tight_layout()
    with atomic_open(path) as handle:
        figure.savefig(handle, format="png", dpi=110)
    pyplot.close(figure)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f}"


def _number(value: float | int | None) -> str:
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"
