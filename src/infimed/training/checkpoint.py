"""Checkpoints of training: what `model.loading` writes, and what it takes to go on.

A checkpoint holds the whole model in the Hub's layout, so that any of them can be asked or exported, and
between the ends of stages also the optimizer's moments as safetensors shards that torch's distributed
checkpoint wrote: one file a rank, readable at any other number of ranks. Adapters lie beside the weights
until their stage ends, then they are merged. No pickle is written or read.
The manifest names the plan of every stage, so that a run cannot go on with another one unnoticed.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

import infimed
from infimed.core.console import err
from infimed.core.errors import DataError
from infimed.core.files import atomic_folder, partial_folder, write_failed
from infimed.core.recipe import Lora
from infimed.model.adapters import split_adapters
from infimed.model.loading import (
    checkpoint_folders,
    prune_checkpoints,
    verify_checkpoint,
    write_checkpoint,
)
from infimed.model.modeling import InfiMedForConditionalGeneration
from infimed.model.processing import Processor
from infimed.training.optimizer import optimizer_tensors, restore_optimizer
from infimed.training.parallel import World, whole_tensor
from infimed.training.stage import Position, StageJob

STATE: Final = "training_state"
"""Folder of the optimizer's shards inside a checkpoint."""


def save_training(
    folder: Path,
    model: InfiMedForConditionalGeneration,
    processor: Processor,
    optimizer: torch.optim.Optimizer | None,
    *,
    about: Mapping[str, Any],
    world: World,
    keep: int,
    lora: Lora | None = None,
) -> None:
    """Write a checkpoint; every rank calls it, rank 0 names and completes it.

    Args:
        optimizer: whose moments to keep, or None at the end of a stage.
        lora: what adapters the model has; without an optimizer they are merged.
        keep: older checkpoints beyond this many are deleted.

    Raises:
        InfiMedError: on every rank, when any could not write; the folder is then not there.
    """
    weights, adapters = whole_weights(model, world), None
    if lora is not None:
        weights, adapters = split_adapters(weights, lora.scale)
        if optimizer is None:
            weights, adapters = adapters.merged_into(weights), None
    about = {"infimed": infimed.__version__, "ranks": world.size, **about}
    files = atomic_folder(folder) if world.main else nullcontext(partial_folder(folder))
    # Ranks go on together or stop together: one that met a full disk must not be waited for.
    with ExitStack() as unfinished:
        partial = world.together(lambda: unfinished.enter_context(files))
        if optimizer is not None:
            tensors = optimizer_tensors(model, optimizer)
            world.together(lambda: _write_state(partial / STATE, tensors, world))
        if world.main:
            world.together(
                lambda: write_checkpoint(
                    partial, weights, model.config, processor, about=about, adapters=adapters
                )
            )
        else:
            world.together(lambda: None)
        world.together(unfinished.close)
    if world.main:
        prune_checkpoints(folder.parent, keep)
    world.agree(None)


def whole_weights(model: nn.Module, world: World) -> dict[str, Tensor]:
    """All tensors of a model that may be sharded, gathered one by one; empty except on rank 0."""
    weights = {}
    for name, tensor in model.state_dict().items():
        whole = whole_tensor(tensor.detach())
        if world.main:
            weights[name] = whole.cpu() if world.many else whole
    return weights


def _write_state(folder: Path, tensors: dict[str, Tensor], world: World) -> None:
    if not tensors:
        return
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        with _quiet():
            state_dict_saver.save(tensors, storage_writer=writer, no_dist=not world.many)
    except CheckpointException as error:  # carries what went wrong on every rank
        reasons = "; ".join(f"rank {rank}: {one[0]}" for rank, one in error.failures.items())
        raise write_failed(folder, reasons) from error


def load_training_state(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, world: World
) -> None:
    """Fill the optimizer with the moments of a checkpoint, whatever number of ranks wrote it.

    Raises:
        DataError: a shard is missing or belongs to another stage.
    """
    if not (folder / STATE).is_dir():
        return
    reader = HuggingFaceStorageReader(str(folder / STATE))
    stored = reader.read_metadata().state_dict_metadata
    shapes = {
        name: (tuple(entry.size), entry.properties.dtype)
        for name, entry in stored.items()
        if isinstance(entry, TensorStorageMetadata)
    }

    def fill(tensors: dict[str, Tensor]) -> None:
        with _quiet():
            state_dict_loader.load(tensors, storage_reader=reader, no_dist=not world.many)

    try:
        restore_optimizer(model, optimizer, shapes, fill)
    except (KeyError, RuntimeError, ValueError) as error:
        raise DataError(
            f"the optimizer's state does not fit this stage ({error})",
            where=str(folder / STATE),
            fix="go on with the recipe and the version that began this run",
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """torch warns of a process group that is not there, which is how one process saves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def newest_checkpoint(checkpoints: Path, world: World) -> tuple[Path, dict[str, Any]] | None:
    """The newest verified checkpoint with its manifest; damaged ones are passed over and named.

    Rank 0 reads the files and decides for all.
    """
    folders = checkpoint_folders(checkpoints)
    chosen = len(folders)
    if world.main:
        for number, folder in enumerate(folders):
            if verify_checkpoint(folder) is not None:
                chosen = number
                break
            err.print(
                f"{folder.name} is damaged or incomplete; using the one before", style="yellow"
            )
    chosen = int(world.sums([chosen if world.main else 0])[0])
    if chosen == len(folders):
        return None
    manifest = verify_checkpoint(folders[chosen], hashes=False)
    assert manifest is not None
    return folders[chosen], manifest


def check_continues(
    manifest: Mapping[str, Any], folder: Path, jobs: Sequence[StageJob], seed: int
) -> Position:
    """Where a checkpoint stands in the plans given now.

    Raises:
        DataError: it was made with another seed, or a stage that is not finished has another plan.
    """
    if manifest["seed"] != seed:
        raise DataError(
            "the checkpoint was made with another seed",
            where=str(folder), seen=manifest["seed"], accepted=str(seed),
        )  # fmt: skip
    position = Position(**manifest["position"])
    known = manifest.get("plans", {})
    for job in jobs[position.stage :]:
        name = job.stage.name
        if known.get(name, job.hash) != job.hash:
            raise DataError(
                f"stage {name!r} of this run was planned otherwise when it began",
                where=str(folder),
                seen=f"plan {job.hash}",
                accepted=f"plan {known[name]}",
                fix="go on with the version, data and verdicts that began this run, or give the new"
                " run another name (name=OTHER)",
            )
    return position
