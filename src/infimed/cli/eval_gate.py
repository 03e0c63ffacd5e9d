"""`infimed eval --gate OLD NEW`: promote a model or not."""

from __future__ import annotations

from pathlib import Path

import typer


def decide(old: Path, new: Path, config: Path | None, out: Path | None) -> None:
    """Decide, print, write gate.json; exit code 7 where the new model is not promoted."""
    from infimed.core import console
    from infimed.core.errors import EXIT_NOT_PROMOTED
    from infimed.core.files import write_json
    from infimed.evaluation.gate import gate, gate_settings, lines_of

    result = gate(old, new, gate_settings(config))
    heads = ["task", "what", "", "new minus old"]
    console.out.print(console.table("gate", heads, lines_of(result), numeric=4))
    target = (out if out is not None else new) / "gate.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_json(target, result.to_dict())
    for reason in result.reasons:
        console.out.print(f"  {reason}", markup=False)
    console.out.print("promote" if result.promote else "do not promote", style="bold")
    console.err.print(f"decision: {target}", markup=False)
    if not result.promote:
        raise typer.Exit(EXIT_NOT_PROMOTED)
