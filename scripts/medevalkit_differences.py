"""Write the table of docs/evaluation-medevalkit.md: MedEvalKit's result and ours for every case.

    python scripts/medevalkit_differences.py CASES.json            (rewrites the table in the page)
    python scripts/medevalkit_differences.py CASES.json --print

CASES.json holds ``{"cases": [{"function": ..., "args": [...]}, ...]}``; the values that MedEvalKit's own
code gave are such a file. Cases for which both results agree are only counted.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from infimed.evaluation.differences import Compared, compare, name_of

PAGE = Path(__file__).parents[1] / "docs" / "evaluation-medevalkit.md"
BEGIN, END = "<!-- begin table -->", "<!-- end table -->"


def shown(value: Any) -> str:
    """A value in a table cell: short, floats to four places, bars escaped."""
    if isinstance(value, bool) or value is None:
        return {True: "right", False: "wrong", None: "-"}[value]
    if isinstance(value, int | float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return "; ".join(f"{key} {shown(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(shown(inner) for inner in value)
    return "`" + str(value).replace("|", "\\|").replace("\n", "⏎").replace("`", "'") + "`"


def same(theirs: Any, ours: Any) -> bool:
    """Equality to 1e-6 through lists and mappings."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        return theirs.keys() == ours.keys() and all(same(theirs[k], ours[k]) for k in theirs)
    if isinstance(theirs, list | tuple) and isinstance(ours, list | tuple):
        return len(theirs) == len(ours) and all(map(same, theirs, ours))
    if isinstance(theirs, int | float) and isinstance(ours, int | float):
        return abs(theirs - ours) <= 1e-6
    return bool(theirs == ours)


def without_counts(value: Any) -> Any:
    """A benchmark's result with what the corrected one has too: accuracies and word scores."""
    if not isinstance(value, dict) or "total metrics" not in value:
        return value
    if "open" not in value:
        return {
            "acc": value["total metrics"]["acc"],
            **{
                name: {key: own["acc"] for key, own in part.items()}
                for name, part in value.items()
                if name != "total metrics"
            },
        }
    shares = {name.partition(" ")[0]: part["acc"] for name, part in value.items()}
    words = {name: value["open"][name] for name in ("precision", "recall", "f1")}
    return {"acc": shares, "precision/recall/f1": words}


def arguments(found: Compared) -> str:
    """What was asked, short: a row set is named by its size, options are left out."""
    parts = []
    for value in found.args:
        if isinstance(value, list) and value and isinstance(value[0], dict):
            parts.append(f"{len(value)} rows")
        elif isinstance(value, dict) or (isinstance(value, list) and len(value) > 2):
            continue
        else:
            parts.append(shown(value))
    return " · ".join(parts)


def short_name(function: str) -> str:
    """``SLAKE.cal_metrics, judged`` for a method of a benchmark, else the function's own name."""
    name, judged = name_of(function)
    parts = name.removeprefix("utils.").split(".")
    short = parts[-1] if parts[-1] != "cal_metrics" else f"{parts[0]}.cal_metrics"
    return f"{short}, judged" if judged else short


def table(cases: list[dict[str, Any]]) -> str:
    """The Markdown between the marks of the page."""
    found = sorted((compare(case) for case in cases), key=lambda item: short_name(item.function))
    rows, agreed, alone = [], Counter[str](), 0
    for item in found:
        if item.corrected is None:
            alone += 1
        elif same(item.medevalkit, item.corrected):
            agreed[short_name(item.function)] += 1
        else:
            rows.append(
                f"| {short_name(item.function)} | {arguments(item)} "
                f"| {shown(without_counts(item.medevalkit))} | {shown(item.corrected)} |"
            )
    heads = ["| function | asked | MedEvalKit | here |", "|---|---|---|---|"]
    tail = ", ".join(f"{name} {count}" for name, count in sorted(agreed.items()))
    return "\n".join(
        [
            f"{len(found)} cases: {len(rows)} differ, {agreed.total()} agree ({tail}), {alone} are of "
            "functions that have no other way here (prompts, tokenisers, reports, parsers of tags).",
            "",
            *heads,
            *rows,
        ]
    )


def page_with(text: str, inside: str) -> str:
    """The page with its table replaced."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{inside}\n{END}{rest.partition(END)[2]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", type=Path)
    parser.add_argument("--print", action="store_true", help="print it instead of writing the page")
    args = parser.parse_args()
    made = table(json.loads(args.cases.read_text(encoding="utf-8"))["cases"])
    if args.print:
        print(made)
    else:
        PAGE.write_text(page_with(PAGE.read_text(encoding="utf-8"), made), encoding="utf-8")


if __name__ == "__main__":
    main()
