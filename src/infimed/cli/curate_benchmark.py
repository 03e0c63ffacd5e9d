"""``infimed curate benchmark`` and ``infimed curate train-evaluator``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from infimed.core.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add both commands to ``infimed curate``."""
    app.command("benchmark")(benchmark)
    app.command("train-evaluator")(train_evaluator)


def benchmark(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the table and the figure.")],
    shards: Annotated[
        Path | None, typer.Option(help="Imported data; default: a phantom clinic made on the fly.")
    ] = None,
    limit: Annotated[int, typer.Option(min=20, help="Clean records, at most.")] = 5000,
    per_operator: Annotated[int, typer.Option(min=1, help="Damaged records of each kind.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the clinic, the choice and the damage.")] = 2026,
    evaluator: Annotated[
        Path | None, typer.Option(help="Evaluator (JSON); default: the one in the package.")
    ] = None,
    held_out: Annotated[
        bool, typer.Option(help="Include the six operators held out from all tuning.")
    ] = True,
    workers: Annotated[int, typer.Option(min=1, help="Threads.")] = 2,
) -> None:
    """Damage clean records in 39 known ways and measure what curation finds.

    Every record is judged by the real engine, clean and damaged, with one pooled score and one
    threshold for all kinds of damage; a random drop and a length filter stand in the same table.

    Example: infimed curate benchmark --shards vqa_rad_shards --limit 1000 --out benchmark
    """
    from infimed.core import console
    from infimed.curation.corruption import OPERATORS
    from infimed.curation.corruption.measuring import measure
    from infimed.curation.corruption.running import run
    from infimed.curation.corruption.writing import lines, table, write
    from infimed.curation.scoring import Evaluator, default_evaluator

    source, about = _source(shards, limit, seed)
    chosen = [operator for operator in OPERATORS if held_out or not operator.held_out]
    judge = Evaluator.load(evaluator) if evaluator else default_evaluator()
    with console.progress("judging", None, unit="records") as advance:
        outcome = run(
            source,
            chosen,
            per_operator=per_operator,
            seed=seed,
            workers=workers,
            on_progress=advance,
        )
    report = measure(outcome, judge, {**about, **_not_run()}, seed)
    write(report, out)
    console.out.print(table(report))
    for line in lines(report):
        console.out.print(line, markup=False, soft_wrap=True)


def train_evaluator(
    out: Annotated[Path, typer.Option("--out", "-o", help="File for the evaluator (JSON).")],
    shards: Annotated[
        Path | None, typer.Option(help="Imported data; default: a phantom clinic made on the fly.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="Human labels (JSONL or CSV): record_id, dimension, ok. Needs --shards."),
    ] = None,
    injected: Annotated[bool, typer.Option(help="Also learn from injected damage.")] = True,
    limit: Annotated[int, typer.Option(min=20, help="Records, at most.")] = 5000,
    per_operator: Annotated[int, typer.Option(min=1, help="Damaged records of each kind.")] = 120,
    seed: Annotated[int, typer.Option(help="Of the clinic, the choice and the damage.")] = 11,
    workers: Annotated[int, typer.Option(min=1, help="Threads.")] = 2,
    ledger: Annotated[
        Path | None,
        typer.Option(
            help="Ledger with labels (infimed label import): learn from them what its judge and its"
            " grounding gaps mean."
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            help="With --ledger: evaluator (JSON) whose view of rules and signals is kept; default:"
            " the one in the package."
        ),
    ] = None,
) -> None:
    """Fit the evaluator: P(ok) per dimension from signals and findings, and from judge and grounding gap.

    Learns from damage injected into clean records (never from the held-out kinds), from human labels,
    or from both. With --ledger it takes an evaluator of that kind and learns from the labels beside the
    ledger what the judge's levels, the grounding gap and the rules together are worth.

    Examples:

      infimed curate train-evaluator --shards shards --labels labels.jsonl --out evaluator.json

      infimed curate train-evaluator --ledger curated --out evaluator.json
    """
    if ledger is not None:
        _from_ledger(ledger, base, out, shards is not None or labels is not None)
        return
    if base is not None:
        raise UsageError("--base is for --ledger", where="--base", seen=base)
    from infimed.core import console
    from infimed.curation.corruption import OPERATORS
    from infimed.curation.corruption.running import judge, rubric_for, run
    from infimed.curation.corruption.training import human_labels, read_labels, rows_and_labels
    from infimed.curation.findings import DIMENSIONS
    from infimed.curation.scoring import fit_evaluator

    if labels is not None and shards is None:
        raise UsageError("--labels needs --shards: labels are about records", where="--labels")
    if labels is None and not injected:
        raise UsageError("nothing to learn from: give --labels or --injected")
    source, about = _source(shards, limit, seed)
    rows: list[Any] = []
    ok: dict[str, list[bool | None]] = {name: [] for name in DIMENSIONS}
    if injected:
        chosen = [operator for operator in OPERATORS if not operator.held_out]
        with console.progress("judging", None, unit="records") as advance:
            outcome = run(
                source, chosen, per_operator=per_operator, seed=seed, workers=workers,
                on_progress=advance,
            )  # fmt: skip
        rows, ok = rows_and_labels(outcome)
    if labels is not None:
        ids = [source.record(row).id for row in range(len(source))]
        known = human_labels(read_labels(labels), ids, judge(source, rubric_for(source), workers))
        rows = [*rows, *known[0]]
        ok = {name: [*ok[name], *known[1][name]] for name in DIMENSIONS}
    command = f"infimed curate train-evaluator --limit {limit} --per-operator {per_operator} --seed {seed}"
    made = fit_evaluator(rows, ok, made_by={"command": command, "records": len(rows), **about})
    made.save(out)
    console.out.print(
        f"fitted on {len(rows)} records: {', '.join(sorted(made.models))}; written to {out}",
        markup=False,
        soft_wrap=True,
    )


def _from_ledger(ledger: Path, base: str | None, out: Path, also: bool) -> None:
    """Fit on the labels beside a ledger."""
    from infimed.core import console
    from infimed.curation.evaluator_fitting import fit_on_labels
    from infimed.curation.scoring import SHIPPED, evaluator_named

    if also:
        raise UsageError(
            "--ledger brings its own records and labels",
            where="--ledger",
            fix="leave out --shards and --labels; fit on them first and give the result as --base",
        )
    made = fit_on_labels(ledger, evaluator_named(base or SHIPPED))
    made.save(out)
    about = made.made_by
    defects = ", ".join(f"{name} {count}" for name, count in about["defects"].items())
    for line in (
        f"fitted on {about['records']} labelled records by {about['raters']} raters, {about['judged']} of them "
        f"judged, {about['grounded']} with a grounding gap; critical defects: {defects}",
        f"written to {out}; next: infimed curate decide {ledger} --evaluator {out}",
    ):
        console.out.print(line, markup=False, soft_wrap=True)


def _source(shards: Path | None, limit: int, seed: int) -> tuple[Any, dict[str, Any]]:
    from infimed.curation.corruption.source import FirstRecords, PhantomSource
    from infimed.curation.scoring import PHANTOMS
    from infimed.data.shards import open_shards

    if shards is None:
        return PhantomSource(limit, seed), {"data": PHANTOMS, "seed": seed}
    return FirstRecords(open_shards(shards), limit), {"data": shards.name, "seed": seed}


def _not_run() -> dict[str, str]:
    from importlib.util import find_spec

    installed = find_spec("data_juicer") is not None
    return {
        "tiers": "A (rules) and the evaluator on them; no model (B) and no judge (C) was asked",
        "data-juicer": "installed, but not compared here"
        if installed
        else "not installed, not compared",
    }
