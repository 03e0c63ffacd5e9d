"""The runner: which cells are done in which order, within a budget of time.

Seeds come in turn, so that every arm has as many when time runs out. A cell is started only where the measured
time of cells like it fits into what is left; what was not started is said. Each cell runs in a process of its
own: its memory is its own, and one that fails takes no other with it. Done cells are never done again.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Final, Protocol

from infimed.core.console import err
from infimed.core.errors import InfiMedError, UsageError
from infimed.core.process import signal_at_death_of_starter
from infimed.core.run import environment
from infimed.studies.cells import Cell
from infimed.studies.work import cell_folder, do_cell, is_done, read_result

LOG: Final = "log.txt"
_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0}


class Doing(Protocol):
    """What does a cell."""

    def __call__(self, cell: Cell, out: Path, root: Path | None, /) -> None: ...


def parse_budget(text: str) -> float:
    """Seconds of ``90m``, ``2h``, ``45s`` or ``1h30m``.

    Raises:
        UsageError: it is none of these.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh])", text)
    if not parts or "".join(f"{number}{unit}" for number, unit in parts) != text:
        raise UsageError(
            "not a length of time", where="--budget", seen=text, accepted="90m, 2h, 1h30m"
        )
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


@dataclass
class Outcome:
    """What a call of the runner did.

    Attributes:
        done: cells done in it. known: cells that were done before. not_run: cells that no time was left
            for. failed: cell -> why.
    """

    done: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


class Times:
    """How long cells take: measured means of the same kind, else of any kind, else a first guess."""

    def __init__(self, guess: float) -> None:
        self.guess = guess
        self._of_kind: dict[str, list[float]] = {}

    def add(self, cell: Cell, seconds: float) -> None:
        """A cell took so long."""
        self._of_kind.setdefault(cell.kind, []).append(seconds)

    def of(self, cell: Cell) -> float:
        """Seconds that a cell is expected to take."""
        alike = self._of_kind.get(cell.kind)
        if alike:
            return fmean(alike)
        every = [seconds for own in self._of_kind.values() for seconds in own]
        return max(every) if every else self.guess


def known_times(cells: Sequence[Cell], out: Path) -> Times:
    """Times of the cells that are done; one that was interrupted, or ran on another processor, tells nothing."""
    times = Times(max((60 * cell.base.minutes for cell in cells), default=60.0))
    here = environment()["cpu"]
    for cell in cells:
        if is_done(out, cell):
            result = read_result(out, cell)
            if not result["resumed"] and result["machine"]["cpu"] == here:
                times.add(cell, float(result["wall_seconds"]))
    return times


class CellError(InfiMedError):
    """A cell failed in its own process; the message is the reason."""


def quiet_cell(cell: Cell, out: Path, root: Path | None) -> None:
    """`do_cell` with everything it says in the cell's log.

    Raises:
        CellError: it failed; errors of other kinds would not all travel between processes.
    """
    log = cell_folder(out, cell) / LOG
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as handle, _redirected(handle.fileno()):
        try:
            do_cell(cell, out, root)
        except InfiMedError as error:
            failed = CellError(error.what, where=error.where or str(log), fix=error.fix)
            raise failed from None
        except MemoryError:
            raise CellError("out of memory", where=str(log)) from None


def run_cells(
    cells: Sequence[Cell],
    out: Path,
    *,
    root: Path | None = None,
    budget: float | None = None,
    workers: int = 1,
    executor: Executor | None = None,
    do: Doing = quiet_cell,
    clock: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Do the cells that are not done, in their order.

    Args:
        budget: seconds; None for no end. workers: cells at a time. do: what does a cell. executor: runs
            it; fresh processes by default.

    Raises:
        KeyboardInterrupt: stopped by a person; done cells stay done.
    """
    began = clock()
    outcome = Outcome(known=[cell.key for cell in cells if is_done(out, cell)])
    waiting = [cell for cell in cells if not is_done(out, cell)]
    times = known_times(cells, out)
    running: dict[Future[None], Cell] = {}
    with contextlib.ExitStack() as held:
        pool = executor or held.enter_context(_processes(workers))
        while waiting or running:
            while waiting and len(running) < workers:
                cell = waiting.pop(0)
                left = None if budget is None else budget - (clock() - began)
                if left is not None and times.of(cell) > left:
                    outcome.not_run.append(cell.key)
                    continue
                err.print(_told(cell, len(waiting), times.of(cell)), markup=False)
                running[pool.submit(do, cell, out, root)] = cell
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                _take(future, running.pop(future), out, outcome, times)
    return outcome


def _take(future: Future[None], cell: Cell, out: Path, outcome: Outcome, times: Times) -> None:
    """Note what became of a cell."""
    try:
        future.result()
    except InfiMedError as error:
        outcome.failed[cell.key] = str(error)
        err.print(f"cell {cell.key} failed: {error}", markup=False, style="red")
        return
    outcome.done.append(cell.key)
    result = read_result(out, cell)
    if not result["resumed"]:
        times.add(cell, float(result["wall_seconds"]))


def _told(cell: Cell, left: int, seconds: float) -> str:
    stages = " > ".join(f"{stage.name} {stage.grid}" for stage in cell.recipe.stages)
    told = f"cell {cell.key}: seed {cell.recipe.train.seed}, {stages}"
    return f"{told}; about {seconds:.0f} s, {left} more"


@contextlib.contextmanager
def _redirected(to: int) -> Iterator[None]:
    """Standard output and error of this process go to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    before = os.dup(1), os.dup(2)
    try:
        os.dup2(to, 1)
        os.dup2(to, 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for old, new in zip(before, (1, 2), strict=True):
            os.dup2(old, new)
            os.close(old)


@contextlib.contextmanager
def _processes(workers: int) -> Iterator[Executor]:
    """A fresh process a cell, forked from one that has imported everything and computed nothing."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["infimed.studies.work"])
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=_born, max_tasks_per_child=1
    ) as pool:
        yield pool


def _born() -> None:
    """A cell saves and stops when the runner ends, however that happens."""
    signal_at_death_of_starter(signal.SIGTERM)
