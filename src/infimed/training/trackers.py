"""Where a run's metrics go besides `metrics.jsonl`: TensorBoard, Weights & Biases, trackio.

`metrics.jsonl` stays the source of truth; a tracker is a view of it. TensorBoard is on by default and writes
below the run folder. The other two are chosen by name in the recipe and imported only then; W&B talks to
its server, trackio to a local database unless its own environment variables say otherwise. After
a resume no step is there twice.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from infimed.core.console import err
from infimed.core.errors import missing_extra
from infimed.core.recipe import TrackerName

EVENTS: Final = "tensorboard"
"""Folder of the event files."""
PROJECT: Final = "infimed"


class Tracker(Protocol):
    """Takes the numbers of one optimizer step after another."""

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Take the numbers of a step."""
        ...

    def flush(self) -> None:
        """Let nothing of what was taken be lost when the process is killed now."""
        ...

    def close(self) -> None:
        """The run has ended or stops here."""
        ...


def numbers_of(line: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a metrics line; those of a nested field under ``field/name``."""
    found: dict[str, float] = {}
    for name, value in line.items():
        parts = value.items() if isinstance(value, Mapping) else [(None, value)]
        for part, number in parts:
            if isinstance(number, (int, float)) and math.isfinite(number):
                found[name if part is None else f"{name}/{part}"] = float(number)
    found.pop("step", None)
    return found


class TensorBoard:
    """Event files below a folder. Events from `step` on that an earlier process wrote are purged."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / EVENTS), purge_step=step)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        for name, number in numbers.items():
            self._writer.add_scalar(name, number, step)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class Remote:
    """A run of wandb or of trackio, which share these calls; one that stopped is gone on with.

    Args:
        seen: the last step that an earlier process logged. Steps up to it are done again to the same
            bits and not sent again: wandb would refuse them, trackio would hold them twice.

    Raises:
        UsageError: the package is not installed.
    """

    def __init__(self, package: str, name: str, seen: int, **settings: Any) -> None:
        try:
            module = importlib.import_module(package)
        except ImportError as error:
            raise missing_extra(package, package) from error
        self._seen = seen
        self._run = module.init(project=PROJECT, name=name, resume="allow", **settings)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        if step > self._seen:
            self._run.log(dict(numbers), step=step)

    def flush(self) -> None:
        """Both send in the background and keep nothing that we could hand on."""

    def close(self) -> None:
        self._run.finish()


@contextmanager
def open_trackers(
    names: Sequence[TrackerName], folder: Path, run: str, *, step: int, seen: int
) -> Iterator[list[Tracker]]:
    """The trackers of these names, closed at the end.

    Args:
        folder: of the run. run: its name for people. step: the next optimizer step.
        seen: the last step that an earlier process logged.

    Raises:
        UsageError: a package is not installed. Without TensorBoard's there is a hint instead,
            because nobody asked for it.
    """
    with ExitStack() as opened:
        trackers: list[Tracker] = []
        for name in names:
            tracker = _opened(name, folder, run, step, seen)
            if tracker is not None:
                opened.callback(tracker.close)
                trackers.append(tracker)
        yield trackers


def _opened(name: TrackerName, folder: Path, run: str, step: int, seen: int) -> Tracker | None:
    if name == "wandb":
        return Remote("wandb", run, seen, id=run, dir=str(folder))
    if name == "trackio":
        return Remote("trackio", run, seen)
    try:
        return TensorBoard(folder, step)
    except ImportError:
        err.print(
            "no curves for TensorBoard: pip install 'infimed[tensorboard]', or train.trackers=[]",
            markup=False,
        )
        return None
