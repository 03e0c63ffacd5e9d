"""Another step of the same run in a process of its own, beside this one.

Small models gain little from a second thread, so two single-threaded processes side by side do the
work of two in the time of one. The process works on the same run folder, writes its progress to a
log there, stops with its parent and resumes with it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import infimed
from infimed.core.errors import InfiMedError
from infimed.core.process import signal_at_death_of_parent


class BesideError(InfiMedError):
    """A process beside this one failed; its own message is the reason."""


@dataclass(frozen=True)
class Beside:
    """A running process.

    Attributes:
        work: what it does, for messages. log: where its progress and messages go.
    """

    process: subprocess.Popen[bytes]
    work: str
    log: Path

    def wait(self) -> None:
        """Wait for its end.

        Raises:
            BesideError: it failed; carries its exit code.
        """
        code = self.process.wait()
        if code:
            lines = self.log.read_text(errors="replace").strip().splitlines()
            error = BesideError(
                f"{self.work} failed",
                where=str(self.log),
                seen=lines[-1] if lines else None,
                fix="run the same command to go on",
            )
            error.exit_code = code if code > 0 else 1
            raise error


@contextmanager
def beside(
    module: str, arguments: Sequence[str], log: Path, *, work: str, threads: int
) -> Iterator[Beside]:
    """Run ``python -m module arguments`` while the block runs; ended if the block fails."""
    package = str(Path(infimed.__file__).parents[1])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as handle:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=handle,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path},
            preexec_fn=signal_at_death_of_parent,
        )
    try:
        yield Beside(process, work, log)
    except BaseException:
        process.terminate()
        process.wait()
        raise
