"""The trained-blind twin in a process of its own, beside the model's training."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from pathlib import Path

from infimed.core.errors import InfiMedError
from infimed.core.recipe import load_recipe
from infimed.core.run import RunFolder
from infimed.pipeline.beside import Beside, beside

LOG = "twin.log"


def twin_beside(run: RunFolder) -> AbstractContextManager[Beside]:
    """Train the twin of `run` while the block runs."""
    return beside(
        "infimed.pipeline.twin",
        [str(run.path)],
        run / "blind" / LOG,
        work="training the blind twin",
        threads=1,
    )


def main(folder: Path) -> int:
    """Train and ask the twin of a run whose data and verdicts are there; the process's exit code."""
    from infimed.core.console import err
    from infimed.pipeline.asking import ask_twin, twin_asks
    from infimed.pipeline.run import prepare, train_step
    from infimed.training.device import set_threads

    run = RunFolder(folder)
    recipe = load_recipe(str(folder / "recipe.yaml"))
    set_threads(1)
    try:
        prepared = prepare(recipe, run)
        train_step(prepared, blind=True)
        if twin_asks(recipe):
            ask_twin(recipe, run, prepared.shards)
    except InfiMedError as error:
        err.print(str(error), markup=False)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
