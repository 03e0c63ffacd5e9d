"""`infimed import`: a checkpoint of LLaVA, LLaVA-NeXT or Prismatic becomes one of InfiMed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def import_(
    checkpoint: Annotated[
        Path, typer.Argument(help="Folder of the checkpoint: config.json and *.safetensors.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="New checkpoint folder.")],
    vision: Annotated[
        Path | None,
        typer.Option(
            "--vision",
            metavar="DIR",
            help="Folder of the vision tower, if the checkpoint lacks it.",
        ),
    ] = None,
    language: Annotated[
        Path | None,
        typer.Option(
            "--language",
            metavar="DIR",
            help="Folder of the language model, for its configuration and tokenizer.",
        ),
    ] = None,
    allow_pickle: Annotated[
        bool,
        typer.Option(
            "--allow-pickle", help="Convert .bin and .pt files, read as plain tensors only."
        ),
    ] = False,
) -> None:
    """Make an InfiMed checkpoint of another project's; then chat with it or evaluate it.

    Examples:

      infimed import llava-interleave-qwen-0.5b-hf --out checkpoints/llava

      infimed import open-qwen2vl --language Qwen2.5-1.5B-Instruct --allow-pickle --out checkpoints/oq
    """
    from infimed.core.console import err
    from infimed.core.console import out as stdout
    from infimed.model.importing import import_checkpoint

    made = import_checkpoint(
        checkpoint, out, vision=vision, language=language, allow_pickle=allow_pickle
    )
    for note in made.notes:
        err.print(note, markup=False, soft_wrap=True)
    stdout.print(
        f"{made.layout} -> {out} ({made.parameters / 1e6:.1f} M parameters, {made.dtype})",
        markup=False,
        soft_wrap=True,
    )
