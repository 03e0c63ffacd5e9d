"""`infimed calibrate`: what a model's confidences mean, and when it should not answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def calibrate(
    run: Annotated[Path, typer.Argument(help="A run folder with a trained model.")],
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Imported data; default: that of the run.")
    ] = None,
    tasks: Annotated[
        str, typer.Option("--tasks", metavar="A,B", help="Tasks whose questions are asked; default: those of the run's recipe.")
    ] = "",
    split: Annotated[
        str, typer.Option("--split", help="A split that was not trained on; default: calibration, else half of test.")
    ] = "",
    share: Annotated[
        float | None, typer.Option("--share", min=0.01, max=1.0, help="Share of its patients or images to fit on; the others stay to measure on.")
    ] = None,
    coverage: Annotated[
        float | None, typer.Option("--coverage", min=0.01, max=1.0, help="Answer this share of the questions (0.7 by default).")
    ] = None,
    risk: Annotated[
        float | None, typer.Option("--risk", min=0.001, max=1.0, help="Instead: be wrong in at most this share of the answers.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="At most so many questions a task.")
    ] = None,
    dtype: Annotated[str, typer.Option("--dtype", metavar="fp32|bf16|fp16", help="As the model will be served.")] = "fp32",
    device: Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:N.")] = "cpu",
) -> None:  # fmt: skip
    """Fit confidences and the threshold below which to abstain, on questions nothing was trained on.

    Writes calibration.json, calibration.png and calibration.html to the run folder; `infimed serve` uses the first.

    Examples:

      infimed calibrate runs/nano

      infimed calibrate runs/mini --risk 0.1
    """
    from infimed.core import console
    from infimed.core.errors import UsageError
    from infimed.core.recipe import load_recipe
    from infimed.data.shards import open_shards
    from infimed.serving.applications.calibration import Target
    from infimed.serving.starting import local_model, need_extra

    if coverage is not None and risk is not None:
        raise UsageError("give --coverage or --risk, one of them")
    need_extra()
    from infimed.pipeline import calibrating
    from infimed.pipeline.calibration_page import (  # fmt: skip
        PAGE,
        PICTURE,
        curves_of,
        write_page,
        write_picture,
    )

    names = [name for name in tasks.split(",") if name]
    recipe = run / "recipe.yaml"
    if not names and recipe.is_file():
        names = list(load_recipe(str(recipe)).evaluation.tasks)
    asked = calibrating.decisive(names)
    if not asked:
        raise UsageError("no task with closed, choice or open questions", where="--tasks", seen=names or "none", fix="infimed eval --list")  # fmt: skip
    shards = open_shards(data if data is not None else run / "shards")
    chosen = calibrating.asking(run, shards, asked, split, share)
    questions = calibrating.fitted_on(shards, chosen, limit)
    local = local_model(run, dtype, device)
    target = Target(name="coverage", value=coverage or 0.7)
    if risk is not None:
        target = Target(name="risk", value=risk)
    answered = calibrating.answers(local, shards, questions)
    made, held_out, notes = calibrating.calibrate(local, shards, chosen, answered, target)
    curves = curves_of(held_out)
    write_picture(curves, run / PICTURE)
    write_page(made, curves, run / PAGE)
    file = made.save(run)
    rows = [
        (
            kind,
            own.signal,
            own.method,
            own.n,
            f"{100 * own.accuracy:.1f} %",
            "never" if own.threshold is None else f"{own.threshold:.3f}",
            f"{100 * own.coverage:.1f} %",
            "-" if own.risk is None else f"{100 * own.risk:.1f} %",
        )
        for kind, own in made.kinds.items()
    ]
    columns = ("answers", "raw", "map", "n", "right", "from", "answered", "wrong")
    console.out.print(console.table(f"Calibration on {chosen.split}", columns, rows, numeric=3))
    for note in notes:
        console.err.print(note, markup=False)
    console.err.print(f"written: {file}", markup=False)
