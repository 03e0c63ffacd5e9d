"""``infimed curate score`` and ``infimed curate decide``: P(ok) of every record, and verdicts by it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infimed.core.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from infimed.curation.decision import Decision
    from infimed.curation.scoring import Evaluator

MOST_STRATA = 40

LedgerArgument = Annotated[Path, typer.Argument(help="Folder given to `infimed curate run --out`.")]
EvaluatorOption = Annotated[
    str | None,
    typer.Option(
        help="File of `infimed curate train-evaluator`, or `shipped` for the one in the package; default:"
        " the one that scored LEDGER last, else the shipped one."
    ),
]


def score(ledger: LedgerArgument, evaluator: EvaluatorOption = None) -> None:
    """Write P(ok) of every record of LEDGER, per dimension and overall, to its scores.parquet.

    Opens no image and changes no verdict. The judge then asks about the uncertain records only, and the
    report shows the scores. Killed, the same command goes on.

    Example: infimed curate score curated --evaluator evaluator.json
    """
    from infimed.core import console
    from infimed.curation import ledger as tables
    from infimed.curation.score_pass import score_ledger

    chosen = _evaluator(ledger, evaluator)
    with console.progress("scoring", _records(ledger), unit="records") as advance:
        made = score_ledger(ledger, chosen, on_progress=advance)
    what = "scored" if made.fresh else "were scored already"
    judged = f", {made.judged} with a judge's levels" if chosen.evidence is not None else ""
    rates = ", ".join(f"{name} {1 - share:.1%}" for name, share in made.base_rates.items())
    for line in (
        f"{made.records} records {what} by evaluator {made.evaluator}{judged}: "
        f"{tables.path_of(ledger, tables.SCORES)}",
        f"defects expected among them by the rules: {rates}",
        f"next: infimed curate decide {ledger}",
    ):
        console.out.print(line, markup=False, soft_wrap=True)


def decide(
    ledger: LedgerArgument,
    evaluator: EvaluatorOption = None,
    target_precision: Annotated[
        float,
        typer.Option(help="Share of the records dropped by score that should be defective."),
    ] = 0.90,
    diff: Annotated[
        bool, typer.Option("--diff", help="Only say what would be dropped; change no verdict.")
    ] = False,
    undo: Annotated[
        bool, typer.Option("--undo", help="Take the score's verdicts back: the rules alone decide.")
    ] = False,
) -> None:
    """Drop by score, too: beside what rules drop, the records whose P(ok) lies under a threshold.

    Every source and modality has a threshold of its own, the largest below which the target precision is
    expected; small ones lean on their source. Where the target is out of reach, where labels contradict it, or
    where an evaluator of phantoms (the shipped one) has none to bear it out, nothing is dropped by score.
    `infimed curate explain` says why a record went, `infimed run` trains on the others.

    Examples:

      infimed curate decide curated --evaluator evaluator.json --diff

      infimed curate decide curated --target-precision 0.95
    """
    from infimed.core import console
    from infimed.curation.deciding import decide_ledger, plan_decision, take_back
    from infimed.curation.score_pass import score_ledger

    def say(line: str) -> None:
        console.out.print(line, markup=False, soft_wrap=True)

    if undo:
        if evaluator is not None or diff:
            raise UsageError("--undo stands alone", where="--undo")
        summary = take_back(ledger)
        say(f"the rules alone decide: kept {summary.kept} of {summary.records} records")
        return
    chosen = _evaluator(ledger, evaluator)
    with console.progress("scoring", _records(ledger), unit="records") as advance:
        if diff:
            score_ledger(ledger, chosen, on_progress=advance)
            made = plan_decision(ledger, target_precision=target_precision).decision
        else:
            made = decide_ledger(
                ledger, chosen, target_precision=target_precision, on_progress=advance
            )
    for part in lines(made):
        console.out.print(part, markup=False, soft_wrap=True) if isinstance(
            part, str
        ) else console.out.print(part)
    say(
        "no verdict was changed (--diff)"
        if diff
        else f"look at it: infimed curate report {ledger}   why: infimed curate explain {ledger} ID"
    )


def _evaluator(ledger: Path, given: str | None) -> Evaluator:
    from infimed.curation.score_table import scored_by
    from infimed.curation.scoring import default_evaluator, evaluator_named

    if given is not None:
        return evaluator_named(given)
    return scored_by(ledger) or default_evaluator()


def _records(ledger: Path) -> int:
    from infimed.curation.engine import read_summary

    return read_summary(ledger).records


def lines(made: Decision) -> Iterator[str | Table]:
    """A decision as a table by stratum and sentences."""
    from infimed.core.console import table

    strata = sorted(made.strata, key=lambda one: (-one.by_score, -one.records, one.name))
    rows = [
        (
            one.name,
            one.records,
            one.by_rules,
            one.by_score,
            f"{one.retained:.1%}",
            f"{one.threshold:.4f}" if one.by_score else "–",
            "–" if one.expected_precision is None else f"{one.expected_precision:.2f}",
            "its own" if one.basis == one.name else one.basis,
            f"{one.labelled_bad}/{one.labelled_below} of {one.labelled}"
            if one.labelled
            else "none",
        )
        for one in strata[:MOST_STRATA]
    ]
    columns = [
        "source / modality", "records", "by rules", "by score", "kept", "P(ok) under", "expected precision",
        "threshold of", "labels: defective/below of all",
    ]  # fmt: skip
    yield table(f"Target precision of rejects {made.target_precision:g}", columns, rows, numeric=1)
    if len(strata) > MOST_STRATA:
        yield f"and {len(strata) - MOST_STRATA} more"
    for one in strata[:MOST_STRATA]:
        if one.remark:
            yield f"{one.name}: nothing is dropped by score; {one.remark}"
    records = sum(one.records for one in strata)
    by_rules = sum(one.by_rules for one in strata)
    yield (
        f"kept {records - by_rules - made.by_score} of {records} records: {by_rules} dropped by rules, "
        f"{made.by_score} more by score (evaluator {made.evaluator})"
    )
