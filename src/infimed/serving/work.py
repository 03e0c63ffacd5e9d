"""Work for the engine's thread that is no answer: probabilities of given texts, evidence maps, image features.

One unit runs between two steps, round robin over the clients, so that running answers go on however
much is asked beside them. Invariant: what a unit raises reaches who asked for it and nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from infimed.inference.local import LocalModel
from infimed.serving.queueing import FairQueue
from infimed.serving.refusals import Refusal


@dataclass(eq=False)
class Unit:
    """A function of the model that waits for its turn.

    Attributes:
        done: in `loop`, what it made or raised. queue_until: when it fails, by the engine's clock.
        cancelled: nobody waits for it any more.
    """

    function: Callable[[LocalModel], Any]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Any]
    queue_until: float
    cancelled: bool = False

    def run(self, local: LocalModel) -> None:
        """Do it, in the engine's thread."""
        try:
            made = self.function(local)
        except (MemoryError, torch.OutOfMemoryError):
            self.fail(Refusal("out_of_memory"))
        except Exception as error:  # it is told to who asked; the engine goes on
            self.fail(error)
        else:
            self._tell(lambda: self.done.set_result(made))

    def fail(self, error: Exception) -> None:
        """Give it up."""
        self._tell(lambda: self.done.set_exception(error))

    def _tell(self, settle: Callable[[], None]) -> None:
        def settled() -> None:
            if not self.done.done():  # who asked may have gone
                settle()

        with contextlib.suppress(RuntimeError):  # the loop may be closed already
            self.loop.call_soon_threadsafe(settled)


class Works(FairQueue[Unit]):
    """The units that wait. Not thread-safe."""

    def next(self, now: float, retry_after: int) -> Unit | None:
        """Take out whose turn it is; those that waited too long or for nobody are failed."""
        for unit in self.sweep(lambda unit: unit.cancelled or now > unit.queue_until):
            code = "cancelled" if unit.cancelled else "queue_timeout"
            unit.fail(Refusal(code, retry_after=None if unit.cancelled else retry_after))
        return self.pop() if self else None
