"""`infimed export` and `infimed card`: a trained model for other software, and its description."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from infimed.pipeline.card import StudyFinding

Studies = Annotated[
    Path | None,
    typer.Option(
        "--studies",
        metavar="FILE",
        help="Results table of the studies (results.parquet): the card quotes what they found.",
    ),
]


def export(
    source: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run folder, or a checkpoint folder.")
    ],
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    dtype: Annotated[
        Literal["fp32", "bf16", "fp16"], typer.Option(help="Precision of the stored weights.")
    ] = "fp32",
    shard_size: Annotated[
        str, typer.Option("--shard-size", help="Largest weight file, e.g. 500MB or 5GB.")
    ] = "5GB",
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Also write vision.onnx: pixels to image embeddings.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
    studies: Studies = None,
) -> None:
    """Write a model that transformers, transformers serve and vLLM open without this package.

    At the full grid it is stock LLaVA. A model with fewer visual tokens is 'infimed_vl': transformers
    opens it after 'import infimed.model.auto'. Adapters are merged. A model card is written from
    the run.

    Examples:

      infimed export runs/nano exported/nano

      infimed export runs/mine exported/mine --dtype bf16 --shard-size 2GB --onnx
    """
    from infimed.core.console import out as console
    from infimed.pipeline.exporting import export as export_model

    written = export_model(
        source,
        out,
        dtype=dtype,
        shard_size=shard_size,
        onnx=onnx,
        force=force,
        studies=_findings(studies),
    )
    console.print(
        f"{written.model_type}: {out} ({written.parameters / 1e6:,.1f} M parameters, {dtype}, "
        f"{written.image_size} px, {written.visual_tokens} tokens an image)",
        markup=False,
        soft_wrap=True,
    )


def card(
    source: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run folder, or a checkpoint folder in one.")
    ],
    studies: Studies = None,
) -> None:
    """Print the model card of a run: what it was made from and how well it does.

    Everything is read from the run folder; what is not there is called "not recorded". The card
    holds no image, question or answer.

    Examples:

      infimed card runs/nano > README.md

      infimed card runs/nano --studies runs/studies/results.parquet > README.md
    """
    import sys

    from infimed.model.loading import find_checkpoint
    from infimed.pipeline.card import model_card, run_of

    checkpoint = find_checkpoint(source)
    sys.stdout.write(model_card(run_of(source, checkpoint), checkpoint, _findings(studies)))


def _findings(studies: Path | None) -> list[StudyFinding] | None:
    if studies is None:
        return None
    from infimed.studies.results import read_findings

    return read_findings(studies)
