"""Several processes as one trainer: `torchrun` starts them, FSDP2 shards the model among them.

Gradients are *summed* over ranks: the loss of a row is already divided by the weight of the whole step
(`training.step`), so a mean over ranks would be wrong for every step whose ranks hold unequal numbers
of target tokens. Sums travel in fp32. A process of its own is a world of one and none of this runs.

The CUDA branch (NCCL, bf16 parameters in compute) has not run on a GPU yet; CPU and Gloo are tested.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from infimed.core.console import err
from infimed.core.errors import InfiMedError, UsageError
from infimed.core.process import signal_at_death_of_parent
from infimed.model.modeling import InfiMedForConditionalGeneration
from infimed.training.device import best_device

T = TypeVar("T")

PATIENCE: Final = timedelta(minutes=30)
"""How long a rank waits for the others before it gives up: a checkpoint of the largest model."""


@dataclass(frozen=True)
class World:
    """The ranks that train together.

    Attributes:
        rank: number of this process. size: processes in all. device: where this one computes.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=best_device)

    @property
    def main(self) -> bool:
        """Whether this rank writes logs and files."""
        return self.rank == 0

    @property
    def many(self) -> bool:
        """Whether there is more than one rank."""
        return self.size > 1

    def sums(self, numbers: Sequence[float]) -> list[float]:
        """Every number summed over the ranks, in fp64."""
        return self._reduced(numbers, dist.ReduceOp.SUM)

    def largest(self, numbers: Sequence[float]) -> list[float]:
        """The largest of every number over the ranks."""
        return self._reduced(numbers, dist.ReduceOp.MAX)

    def _reduced(self, numbers: Sequence[float], how: dist.ReduceOp.RedOpType) -> list[float]:
        if not self.many:
            return [float(number) for number in numbers]
        together = torch.tensor(list(numbers), dtype=torch.float64, device=self.device)
        dist.all_reduce(together, how)
        return [float(number) for number in together.tolist()]

    def texts(self, text: str) -> list[str]:
        """What every rank says, by rank; all must speak."""
        if not self.many:
            return [text]
        own = torch.tensor(list(text.encode()), dtype=torch.uint8, device=self.device)
        longest = int(self.largest([len(own)])[0])
        lengths = [int(n) for n in self._gathered(torch.tensor([len(own)], device=self.device))]
        padded = torch.zeros(longest, dtype=torch.uint8, device=self.device)
        padded[: len(own)] = own
        return [
            bytes(said[:length].tolist()).decode()
            for said, length in zip(self._gathered(padded), lengths, strict=True)
        ]

    def _gathered(self, tensor: Tensor) -> list[Tensor]:
        gathered = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(gathered, tensor)
        return gathered

    def agree(self, error: InfiMedError | None) -> None:
        """Raise on every rank if any rank has an error, so that none waits for one that stopped.

        Raises:
            InfiMedError: this rank's own error, or one that says what happened on another.
        """
        if self.many and self.largest([error is not None])[0]:
            code = int(self.largest([0 if error is None else error.exit_code])[0])
            said = self.texts("" if error is None else str(error))
            if error is None:
                rank, text = next((rank, text) for rank, text in enumerate(said) if text)
                error = InfiMedError(f"rank {rank} stopped: {text}")
                error.exit_code = code
        if error is not None:
            raise error

    def together(self, work: Callable[[], T]) -> T:
        """Do this rank's part of something; returns when all ranks have, raises if any could not."""
        try:
            done = work()
        except InfiMedError as error:
            self.agree(error)
            raise
        self.agree(None)
        return done


def join_world() -> World:
    """The world that `torchrun` describes in the environment; a world of one without it.

    Raises:
        UsageError: more ranks on this machine than GPUs.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    if "TORCHELASTIC_RUN_ID" in os.environ:  # ranks would live on without their launcher
        signal_at_death_of_parent(signal.SIGTERM)
    local = int(os.environ["LOCAL_RANK"])
    device = best_device()
    if device.type == "cuda":
        if local >= torch.cuda.device_count():
            raise UsageError(
                "more processes than GPUs on this machine",
                where="torchrun --nproc-per-node",
                seen=os.environ.get("LOCAL_WORLD_SIZE"),
                accepted=f"at most {torch.cuda.device_count()}",
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE)
    return World(dist.get_rank(), dist.get_world_size(), device)


@contextmanager
def ranks() -> Iterator[World]:
    """`join_world`, undone at the end. A rank that fails prints why and ends at once.

    It does not wind down as a Python process does: threads of the collectives that still live then would
    abort it, and its exit code would be lost. All ranks share an error (`World.agree`); the first
    prints it.
    """
    world = join_world()
    try:
        yield world
    except InfiMedError as error:
        if not world.many:
            raise
        if world.main:
            err.print(f"error: {error}", markup=False)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(error.exit_code)
    if dist.is_initialized():
        dist.destroy_process_group()


def shard_model(
    whole: nn.Module, model: InfiMedForConditionalGeneration, world: World, precision: str
) -> None:
    """Shard `model` inside its training step `whole` over the ranks, in place.

    Every decoder block is a unit, the tower's encoder is one, and what is left (embeddings, head, norms,
    projector) belongs to `whole`, whose forward must therefore be what trains. Freeze before, not
    after: a unit remembers what learns.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(world.device.type, (world.size,))
    # On a CPU autocast decides, as in a single process, so that both compute the same numbers.
    compute = torch.bfloat16 if world.device.type == "cuda" and precision == "bf16" else None
    policy = MixedPrecisionPolicy(
        param_dtype=compute, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    # Not the tower itself: transformers finds by its class how to keep its hidden states.
    units: list[nn.Module] = [*model.model.language_model.layers, model.model.vision_tower.encoder]
    for unit in [*units, whole]:
        fully_shard(unit, mesh=mesh, mp_policy=policy)
        assert isinstance(unit, FSDPModule)
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)  # Gloo knows no scaled sum


def whole_tensor(tensor: Tensor) -> Tensor:
    """All of a tensor that may be sharded; every rank must ask."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
