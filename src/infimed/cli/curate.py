"""``infimed curate``: judge shards, list the rules, explain one record."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from infimed.cli import curate_benchmark, curate_leakage
from infimed.cli.curate_decide import decide, score
from infimed.cli.curate_explain import explain_record
from infimed.cli.curate_grounding import grounding
from infimed.cli.curate_judge import judge
from infimed.cli.curate_redecide import redecide
from infimed.cli.curate_report import report
from infimed.cli.curate_settings import parse_settings

app = typer.Typer(
    name="curate",
    no_args_is_help=True,
    help="""Judge every record in five dimensions and write down why.

    Nothing is deleted: shards stay as they are, and four tables beside them say what was measured,
    found and decided. Training reads the records that were kept.

    Example, from files to an explained verdict:

      infimed data import my_folder --out shards

      infimed curate run shards --out curated

      infimed curate explain curated RECORD_ID

      infimed curate report curated
    """,
)
app.command("explain")(explain_record)
app.command("report")(report)
app.command("redecide")(redecide)
app.command("score")(score)
app.command("decide")(decide)
app.command("judge")(judge)
app.command("grounding")(grounding)
app.command("leakage")(curate_leakage.leakage)
curate_benchmark.register(app)


@app.command("run")
def run(
    shards: Annotated[Path, typer.Argument(help="Folder written by `infimed data import`.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the ledger.")],
    rubric: Annotated[
        Path | None, typer.Option(help="Rubric file (YAML); default: all rules.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Apply these rules only (RULE or PATTERN such as 'duplication.*'; may be given"
            " again). What they do not need is not measured: without a rule on images none is opened."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Change a rule (RULE=drop|note|off) or a limit (RULE.LIMIT=NUMBER)."
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Chunks of records at a time.")] = 2,
    engine: Annotated[
        str,
        typer.Option(help="Who measures: auto, threads, processes, or ray (a Ray cluster)."),
    ] = "auto",
    against: Annotated[
        Path | None,
        typer.Option(help="Benchmark whose images and questions must not be trained on."),
    ] = None,
) -> None:
    """Judge every record of SHARDS.

    Run it again after an interruption and it goes on where it stopped; run it with other limits and
    it decides again from what it measured, without opening the images.

    Examples:

      infimed curate run shards --out curated --set readability.small_image.min_side=224

      infimed curate run shards --out text --only 'completeness.cut_*' --only 'accuracy.*_value'
    """
    from infimed.core import console
    from infimed.curation import curate, default_rubric
    from infimed.curation.engine import engine_named
    from infimed.curation.origin import note_shards
    from infimed.curation.rubric import Rubric
    from infimed.curation.tables import summary_tables
    from infimed.data.shards import open_shards

    chosen = Rubric.load(rubric) if rubric else default_rubric()
    if only:
        chosen = chosen.only(only)
    chosen = chosen.with_settings(parse_settings(settings or []))
    if against is not None:
        from infimed.curation.leakage import with_leaks

        chosen = with_leaks(chosen, curate_leakage.compare(shards, against, out, workers))
    opened = open_shards(shards)
    if chosen.needs == "none":
        console.out.print("no rule needs an image: none is opened")
    with console.progress("curating", len(opened), unit="records") as advance:
        summary = curate(
            opened,
            out,
            rubric=chosen,
            workers=workers,
            engine=engine_named(engine),
            on_progress=advance,
        )
    note_shards(out, opened)
    for table in summary_tables(summary):
        console.out.print(table)
    console.out.print(
        f"{summary.records} records, {summary.images} images: kept {summary.kept}, dropped {summary.dropped} "
        f"({summary.dropped / summary.records:.1%}), {summary.noted} kept with notes; "
        f"{summary.records_per_second:.0f} records/s"
    )
    example = next((rule.examples[0] for rule in summary.rules if rule.severity == "drop"), None)
    if example:
        console.out.print(
            f"why: infimed curate explain {out} {example}", markup=False, soft_wrap=True
        )
    console.out.print(f"look at it: infimed curate report {out}", markup=False, soft_wrap=True)


@app.command("rules")
def rules(
    yaml: Annotated[
        bool, typer.Option("--yaml", help="As a rubric file to edit and pass to --rubric.")
    ] = False,
) -> None:
    """List every rule: what it catches, its severity and its limits.

    Example: infimed curate rules --yaml > rubric.yaml
    """
    from infimed.core import console
    from infimed.curation import default_rubric
    from infimed.curation.tables import rules_table

    if yaml:
        import sys

        from yaml import safe_dump

        sys.stdout.write(safe_dump(default_rubric().to_dict(), sort_keys=False, allow_unicode=True))
        return
    console.out.print(rules_table(default_rubric()))
