"""The tables of benchmarks/reducers.py as Markdown, and the block of a page that they fill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

BEGIN, END = "<!-- benchmarks/reducers.py -->", "<!-- end of the tables -->"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _percent(estimate: list[float], sign: str = "") -> str:
    mean, low, high = (100 * value for value in estimate)
    return f"{mean:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def _sizes(found: dict[str, dict[str, float]], tokens: int) -> str:
    return _table(
        ["reducer", "tokens", "weights", "reducer, MFLOP", "tower, MFLOP", "projector, MFLOP"],
        [
            [arm, str(tokens), f"{one['parameters']:,}"]
            + [f"{one[part] / 1e6:,.1f}" for part in ("reducer", "tower", "projector")]
            for arm, one in found.items()
        ],
    )


def render(found: dict[str, Any]) -> str:
    """All tables of a run's results."""
    accuracy, seeds = found["accuracy"], ",".join(map(str, found["seeds"]))
    columns = list(accuracy)
    arms = list(accuracy[columns[0]]["arms"])
    nano, speed = found["nano"], found["samples_per_second"]

    def cells(arm: str, what: str, sign: str = "") -> list[str]:
        return [_percent(accuracy[column]["arms"][arm][what], sign) for column in columns]

    head = [f"{column} ({accuracy[column]['questions']})" for column in columns]
    parts = [
        f"`nano`, 96 px, 12 x 12 features to {found['tokens']} tokens, --epochs {found['epochs']:g}, "
        f"--seeds {seeds}; {found['machine']['cpu']}, one thread. Operations are of one image, forward.",
        _table(
            ["reducer", "tokens", "weights", "reducer, MFLOP", "all of vision, MFLOP", "samples/s"],
            [
                [arm, str(found["tokens"]), f"{one['parameters']:,}", f"{one['reducer'] / 1e6:,.1f}",
                 f"{(one['tower'] + one['reducer'] + one['projector']) / 1e6:,.1f}",
                 f"{speed[arm]:.1f}"]
                for arm, one in nano.items()
            ],
        ),
        "Accuracy in per cent, the mean over the seeds, with its 95 % interval over patients:",
        _table(["reducer", *head], [[arm, *cells(arm, "mean")] for arm in arms]),
        "The same minus `average`, paired:",
        _table(["reducer", *head], [[arm, *cells(arm, "minus_average", "+")] for arm in arms[1:]]),
        "Every seed alone:",
        _table(
            ["reducer", *columns],
            [
                [arm, *(" / ".join(f"{100 * one:.1f}" for one in accuracy[c]["arms"][arm]["seeds"])
                        for c in columns)]
                for arm in arms
            ],
        ),
        "`infimed-1.7b`, 384 px, 27 x 27 features to 144 tokens, one image forward:",
        _sizes(found["infimed-1.7b"], 144),
    ]  # fmt: skip
    return "\n\n".join(parts)


def write_block(page: Path, tables: str) -> None:
    """Put the tables between the page's two marks."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}", encoding="utf-8")
