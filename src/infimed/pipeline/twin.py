"""The trained-blind twin in a process of its own, beside the model's training.

Small models gain little from a second thread, so two single-threaded trainings side by side take the
time of one. The twin is the same command on the same run folder; it stops with its parent and
resumes with it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infimed.core.errors import InfiMedError
from infimed.core.recipe import load_recipe
from infimed.core.run import RunFolder

LOG = "twin.log"


class TwinError(InfiMedError):
    """The twin's process failed; its own message is the reason."""


def _die_with_parent() -> None:
    """Ask the kernel to end this process when its parent ends, however that happens."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


@contextmanager
def beside(run: RunFolder) -> Iterator[subprocess.Popen[bytes]]:
    """Train the twin of `run` while the block runs; the process is ended if the block fails."""
    folder = run / "blind"
    folder.mkdir(exist_ok=True)
    with (folder / LOG).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "infimed.pipeline.twin", str(run.path)],
            stdout=log,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            preexec_fn=_die_with_parent,
        )
        try:
            yield process
        except BaseException:
            process.terminate()
            process.wait()
            raise


def wait(process: subprocess.Popen[bytes], run: RunFolder) -> None:
    """Wait for the twin.

    Raises:
        TwinError: it failed; carries its exit code.
    """
    code = process.wait()
    if code:
        lines = (run / "blind" / LOG).read_text(errors="replace").strip().splitlines()
        error = TwinError(
            "training the blind twin failed",
            where=str(run / "blind" / LOG),
            seen=lines[-1] if lines else None,
            fix="run the same command to go on",
        )
        error.exit_code = code if code > 0 else 1
        raise error


def main(folder: Path) -> int:
    """Train the twin of a run whose data and verdicts are there; the process's exit code."""
    from infimed.core.console import err
    from infimed.pipeline.run import prepare, train_step
    from infimed.training.device import set_threads

    run = RunFolder(folder)
    recipe = load_recipe(str(folder / "recipe.yaml"))
    set_threads(1)
    try:
        train_step(prepare(recipe, run), blind=True)
    except InfiMedError as error:
        err.print(str(error), markup=False)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
