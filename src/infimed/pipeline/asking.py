"""Asking a run's model and its controls, alone or shared between processes.

A unit of asking is one label (the model, image-zeroed, the twin, the low grid) and one task; each
has its own response file, which is cache and resume at once. Units are dealt to the processes to and
fro, so who asks what is a function of the recipe, and so are the answers: every process uses the same
number of threads.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path

from infimed.core.errors import InfiMedError
from infimed.core.recipe import Evaluation, Grid, Recipe, load_recipe
from infimed.core.run import RunFolder
from infimed.data.shards import ShardSet, open_shards
from infimed.evaluation.report import Scoreboard
from infimed.evaluation.runner import evaluate
from infimed.evaluation.scoring import score
from infimed.inference.local import LocalModel
from infimed.model.loading import find_checkpoint
from infimed.pipeline.benchmarks import evaluation_shards, kept, without_images
from infimed.pipeline.beside import beside
from infimed.pipeline.report_results import BLIND, LOW, MODEL, TEXT_ONLY, ZEROED
from infimed.training.device import set_threads

FOLDER = "evaluation"


def wants_twin(recipe: Recipe) -> bool:
    """Whether a twin without images is trained and asked."""
    return recipe.evaluation.trained_blind and bool(recipe.evaluation.tasks)


def labels(settings: Evaluation) -> list[str]:
    """The ways of asking, in the order of the tables."""
    return [
        MODEL,
        *([TEXT_ONLY] if settings.text_only else []),
        *([ZEROED] if settings.zeroed else []),
        *([BLIND] if settings.trained_blind else []),
        *([LOW] if settings.low_grid is not None else []),
    ]


def ways(settings: Evaluation, task: str, *, images: bool = True) -> list[str]:
    """The ways in which one task is asked: without images, fewer of them mean anything."""
    if task in settings.text_only:
        return [TEXT_ONLY, *([BLIND] if settings.trained_blind else [])]
    every = [label for label in labels(settings) if label != TEXT_ONLY]
    return every if images else [label for label in every if label not in (ZEROED, LOW)]


def units(recipe: Recipe, run: RunFolder) -> list[tuple[str, str]]:
    """Every (label, task) that is asked, by label, then in the order of the tasks."""
    settings = recipe.evaluation
    blind = without_images(run, recipe)
    asked = {task: ways(settings, task, images=task not in blind) for task in settings.tasks}
    return [
        (label, task)
        for label in labels(settings)
        for task in settings.tasks
        if label in asked[task]
    ]


def threads_each(settings: Evaluation) -> int:
    """Threads of every process that asks: the cores shared among them, so that answers agree."""
    return max(1, (os.cpu_count() or 1) // settings.processes)


def ask_label(
    recipe: Recipe, run: RunFolder, shards: ShardSet, label: str, tasks: list[str]
) -> None:
    """Ask `tasks` in one way; answers that are stored are not asked again."""
    settings = recipe.evaluation
    model = LocalModel.open(
        find_checkpoint(run / "blind" if label == BLIND else run.path),
        batch_size=settings.batch_size,
    )
    if label == LOW:
        grid = settings.low_grid
        assert isinstance(grid, Grid)
        low = model.processor.with_grid(grid.image_size, grid.visual_tokens)
        model = LocalModel(model.model, low, model.checkpoint, settings.batch_size)
    evaluate(
        model,
        evaluation_shards(run, shards),
        tasks,
        run / FOLDER,
        label=label,
        blank_images=label == ZEROED,
        no_images=label in (BLIND, TEXT_ONLY),
        limit=settings.limit,
    )


def ask_share(recipe: Recipe, run: RunFolder, shards: ShardSet, number: int) -> None:
    """Ask every unit of process `number` of the recipe's `evaluation.processes`.

    The twin's units are no part of this where the twin asked them itself, see `ask_twin`.
    """
    settings = recipe.evaluation
    set_threads(threads_each(settings))
    own = [label for label in labels(settings) if not (label == BLIND and twin_asks(recipe))]
    asked = [unit for unit in units(recipe, run) if unit[0] in own]
    dealt = [unit for at, unit in enumerate(asked) if _dealt_to(at, settings.processes) == number]
    for label in own:
        tasks = [task for name, task in dealt if name == label]
        if tasks:
            ask_label(recipe, run, shards, label, tasks)


def _dealt_to(place: int, processes: int) -> int:
    """0 1 2 2 1 0 0 1 2 ...: later units are shorter, so dealing to and fro balances them."""
    turn, at = divmod(place, processes)
    return processes - 1 - at if turn % 2 else at


def twin_asks(recipe: Recipe) -> bool:
    """Whether the twin's process goes on to ask the twin while the model still trains."""
    return wants_twin(recipe) and recipe.train.twin_beside and recipe.evaluation.processes > 1


def ask_twin(recipe: Recipe, run: RunFolder, shards: ShardSet) -> None:
    """Ask the trained-blind twin everything, in its own process."""
    set_threads(threads_each(recipe.evaluation))
    tasks = [task for label, task in units(recipe, run) if label == BLIND]
    ask_label(recipe, run, shards, BLIND, tasks)


def evaluate_step(recipe: Recipe, run: RunFolder, shards: ShardSet) -> Scoreboard:
    """Ask the model and its controls; score everything offline."""
    settings = recipe.evaluation
    with ExitStack() as stack:
        others = [
            stack.enter_context(
                beside(
                    "infimed.pipeline.asking",
                    [str(run.path), str(number)],
                    run / FOLDER / f"asking-{number}.log",
                    work="asking the model",
                    threads=threads_each(settings),
                )
            )
            for number in range(1, settings.processes)
        ]
        ask_share(recipe, run, shards, 0)
        for other in others:
            other.wait()
    return score(
        run / FOLDER,
        evaluation_shards(run, shards),
        settings.tasks,
        labels(settings),
        prior_splits=tuple(recipe.data.train_splits),
        partial=bool(kept(run)),
    )


def main(folder: Path, number: int) -> int:
    """Ask one share of a trained run's questions; the process's exit code."""
    from infimed.core.console import err

    run = RunFolder(folder)
    recipe = load_recipe(str(folder / "recipe.yaml"))
    try:
        ask_share(recipe, run, open_shards(run / "shards"), number)
    except InfiMedError as error:
        err.print(str(error), markup=False)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
