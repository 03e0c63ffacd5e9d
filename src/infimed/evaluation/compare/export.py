"""A comparison as long CSV (one line a cell) and as LaTeX tables (booktabs)."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from typing import Final

from infimed.core.escaping import spreadsheet_text
from infimed.core.page import clean
from infimed.core.statistics import Estimate
from infimed.evaluation.compare.table import Comparison, Scored, TaskTable
from infimed.evaluation.compare.words import flags, interval, mean, p_value
from infimed.evaluation.report import MEDEVALKIT, SCORE

HEADS: Final = (
    "what", "task", "model", "asked", "row", "column", "metric", "reference", "mean", "low", "high", "n",
    "groups", "unparsed", "errors", "truncated", "only_model", "only_reference", "mcnemar_mid_p", "note",
    "source",
)  # fmt: skip
"""Columns of the CSV. `what` is score, control, control difference, difference or reported elsewhere;
`mean`, `low`, `high` and the shares are in 0..1 for all of them."""


def to_csv(found: Comparison) -> str:
    """One line for every score, control, difference and reported number."""
    text = io.StringIO()
    writer = csv.DictWriter(text, HEADS, restval="", lineterminator="\n")
    writer.writeheader()

    def write(**values: object) -> None:
        writer.writerow(
            {
                k: spreadsheet_text(clean(v)) if isinstance(v, str) else "" if v is None else v
                for k, v in values.items()
            }
        )

    for task in found.tasks:
        for at, name in enumerate(found.names):
            head = {"task": task.name, "model": name, "asked": task.asked[at]}
            row = task.asked[at]
            _scores(write, "score", {**head, "row": row}, "overall", SCORE, task.overall[at])
            for line in task.parts:
                _scores(
                    write, "score", {**head, "row": row}, line.column, line.metric, line.scores[at]
                )
            for control in task.controls:
                _scores(
                    write,
                    "control",
                    {**head, "row": control.name},
                    "overall",
                    SCORE,
                    control.scores[at],
                )
                gap = control.differences[at]
                if gap is not None:
                    write(
                        what="control difference", **head, row=row, column="overall", metric=SCORE,
                        reference=control.name, **_numbers(gap),
                    )  # fmt: skip
        for pair in task.pairs:
            write(
                what="difference", task=task.name, model=pair.model, column=pair.column, metric=SCORE,
                reference=pair.reference, **(_numbers(pair.estimate) if pair.estimate else {}),
                only_model=pair.only_model, only_reference=pair.only_reference, mcnemar_mid_p=pair.p,
                note=pair.reason,
            )  # fmt: skip
        for one in task.published:
            write(
                what="reported elsewhere", task=task.name, model=one.model, column=one.benchmark,
                metric=one.metric, mean=round(one.value / 100, 6), note=one.differs,
                source=f"{one.cited.title}; {one.place}",
            )  # fmt: skip
    return text.getvalue()


def _numbers(e: Estimate) -> dict[str, object]:
    values = {"mean": e.mean, "low": e.low, "high": e.high}
    return {
        **{k: v if v is None else round(v, 6) for k, v in values.items()},
        "n": e.n,
        "groups": e.groups,
    }


def _scores(
    write: Callable[..., None],
    what: str,
    head: dict[str, str],
    column: str,
    metric: str,
    scored: Scored | None,
) -> None:
    if scored is None:
        return
    rates = {"unparsed": scored.unparsed, "errors": scored.errors, "truncated": scored.truncated}
    rates = {name: round(value, 6) for name, value in rates.items()}
    write(what=what, **head, column=column, metric=metric, **_numbers(scored.estimate), **rates)
    if scored.medevalkit is not None:
        write(
            what=what,
            **head,
            column=column,
            metric=MEDEVALKIT,
            **_numbers(scored.medevalkit),
            **rates,
        )


_LATEX: Final = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_",
    "%": r"\%", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "–": "--", "“": "``", "”": "''",
}  # fmt: skip
_SPECIAL: Final = re.compile("|".join(map(re.escape, _LATEX)))


def latex(text: object) -> str:
    """Text that LaTeX sets as it is written; a line break becomes a space."""
    flat = " ".join(clean(str(text)).split())
    return _SPECIAL.sub(lambda found: _LATEX[found.group()], flat)


def to_latex(found: Comparison) -> str:
    """Tables of scores, of differences, and of numbers reported elsewhere, for ``\\usepackage{booktabs}``."""
    reference = found.names[found.reference]
    parts = [
        "% Written by `infimed compare`. Needs \\usepackage{booktabs}.",
        _table(
            "Score in per cent with its 95\\,\\% interval, resampled by patient or image. Answers that failed or "
            "could not be read count as wrong.",
            "tab:compare-scores",
            "l" + "r" * (len(found.names) + 1),
            ["Task", "$n$", *map(latex, found.names)],
            [_score_row(task) for task in found.tasks],
        ),
    ]
    pairs = [pair for task in found.tasks for pair in task.pairs if pair.column == "overall"]
    if pairs:
        rows = []
        for pair in pairs:
            gap = pair.estimate
            if gap is None:
                shown = [f"\\multicolumn{{3}}{{l}}{{not paired: {latex(pair.reason)}}}"]
            else:
                alone = "--" if pair.p is None else f"{pair.only_model} / {pair.only_reference}"
                p = (
                    "--"
                    if pair.p is None
                    else latex(p_value(pair.p).removeprefix("p ").removeprefix("= "))
                )
                shown = [_cell(gap, signed=True), alone, p]
            rows.append([latex(pair.task), latex(pair.model), *shown])
        parts.append(
            _table(
                f"Score minus that of {latex(reference)} on the same questions, in points, with the paired 95\\,\\% "
                "interval; questions that only one of the two answered rightly; McNemar's exact test (mid-$p$, "
                "not by group). No correction for the number of comparisons.",
                "tab:compare-differences",
                "llrrr",
                ["Task", "Model", "Difference", "Right alone", "$p$"],
                rows,
            )
        )
    others = [(task, one) for task in found.tasks for one in task.published]
    if others:
        parts.append(
            _table(
                "Reported elsewhere, measured by others with other prompts, sets or judges: not comparable to the "
                "point.",
                "tab:compare-reported",
                "lllrl",
                ["Task", "Model", "Benchmark", "Per cent", "Source"],
                [
                    [latex(task.name), latex(one.model), latex(one.benchmark), f"{one.value:.1f}", latex(one.cited.title)]
                    for task, one in others
                ],
            )
        )  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _score_row(task: TaskTable) -> list[str]:
    sizes = " / ".join(f"{n:,}".replace(",", "\\,") for n, _ in task.sizes)
    cells = []
    for scored in task.overall:
        if scored is None:
            cells.append("not asked")
            continue
        said = flags(scored)
        cells.append(
            _cell(scored.estimate)
            + (f" {{\\scriptsize ({latex(', '.join(said))})}}" if said else "")
        )
    return [latex(task.name), sizes, *cells]


def _cell(estimate: Estimate, *, signed: bool = False) -> str:
    """``61.3 [55.0, 67.2]``; signed numbers in mathematics, so that a minus is one."""
    if estimate.mean is None:
        return "--"
    values = [mean(estimate, signed=signed)]
    if estimate.low is not None:
        values += interval(estimate, signed=signed).split(" to ")
    value, *limits = (f"${text}$" if text[0] in "+-" else text for text in values)
    return f"{value} {{\\scriptsize [{', '.join(limits)}]}}" if limits else value


def _table(
    caption: str, label: str, columns: str, heads: Sequence[str], rows: Sequence[Sequence[str]]
) -> str:
    lines = [" & ".join(row) + r" \\" for row in rows]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            r"\small",
            f"\\caption{{{caption}}}",
            f"\\label{{{label}}}",
            f"\\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join(heads) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )
