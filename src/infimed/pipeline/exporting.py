"""`infimed export`: the newest checkpoint of a run as a folder for other software, with its model card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from infimed import __version__
from infimed.core.errors import DataError, UsageError
from infimed.core.files import atomic_folder, read_json, sha256_file, write_json
from infimed.model.export import Dtype, Written, write_export
from infimed.model.loading import MARKER, find_checkpoint, load_checkpoint, verify_checkpoint
from infimed.pipeline.card import StudyFinding, model_card, run_of

ABOUT = "export.json"
"""Where an export came from and the SHA-256 of its files; its presence marks a folder as an export."""


def export(
    source: Path,
    out: Path,
    *,
    dtype: Dtype = "fp32",
    shard_size: str = "5GB",
    onnx: bool = False,
    force: bool = False,
    studies: Sequence[StudyFinding] | None = None,
) -> Written:
    """Write `out` from a run folder or a checkpoint folder; it appears only when it is complete.

    Args:
        onnx: also write the graph from pixels to image embeddings.
        force: replace an earlier export in `out`; a folder of anything else is never replaced.
        studies: findings that the model card quotes.

    Raises:
        DataError: there is no whole checkpoint, or the model cannot be stored so.
        UsageError: `out` is not empty, or a package of the extra ``onnx`` is missing.
    """
    check_target(out, force)
    if onnx:
        from infimed.model.onnx_export import export_onnx, require_onnx

        require_onnx()
    checkpoint = find_checkpoint(source)
    if verify_checkpoint(checkpoint) is None:
        raise DataError("the checkpoint is damaged", where=str(checkpoint))
    model, processor = load_checkpoint(checkpoint)
    card = model_card(run_of(source, checkpoint), checkpoint, studies)
    with atomic_folder(out) as partial:
        written = write_export(
            partial, model, processor, card=card, dtype=dtype, shard_size=shard_size
        )
        if onnx:
            export_onnx(partial / "vision.onnx", model, processor)
        files = sorted(file for file in partial.iterdir() if file.is_file())
        write_json(
            partial / ABOUT,
            {
                "infimed": __version__,
                "checkpoint": read_json(checkpoint / MARKER)["fingerprint"],
                "model_type": written.model_type,
                "dtype": dtype,
                "image_size": written.image_size,
                "visual_tokens": written.visual_tokens,
                "files": {file.name: sha256_file(file) for file in files},
            },
        )
    return written


def is_export(folder: Path) -> bool:
    """Whether a folder holds an export and nothing else."""
    if not (folder / ABOUT).is_file():
        return False
    try:
        own = {ABOUT, *read_json(folder / ABOUT)["files"]}
    except (DataError, KeyError, TypeError):
        return False
    return {entry.name for entry in folder.iterdir()} <= own


def check_target(out: Path, force: bool) -> None:
    """Refuse to write over what is not an export.

    Raises:
        UsageError: `out` is a file, or a folder with something in it.
    """
    if out.is_file():
        raise UsageError("is a file", where=str(out), fix="give a folder that does not exist yet")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not is_export(out):
        raise UsageError(
            "the folder is not empty and holds more than an earlier export; it is never replaced",
            where=str(out),
            fix="give a folder that does not exist yet",
        )
    if not force:
        raise UsageError(
            "there is an export here already",
            where=str(out),
            fix="give another folder, or --force to replace it",
        )
