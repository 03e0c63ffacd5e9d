"""Where a run's metrics go besides `metrics.jsonl`: TensorBoard, Weights & Biases, trackio.

`metrics.jsonl` stays the source of truth; a tracker is a view of it. TensorBoard is on by default and writes
below the run folder. The other two are chosen by name in the recipe and imported only then; W&B talks to
its server, trackio to a local database unless its own environment variables say otherwise. After
a resume no step is there twice.
"""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from infimed.core.console import err
from infimed.core.errors import missing_extra
from infimed.core.files import write_failed
from infimed.core.recipe import TrackerName

EVENTS: Final = "tensorboard"
"""Folder of the event files."""
PROJECT: Final = "infimed"


class Tracker(Protocol):
    """Takes the numbers of one optimizer step after another."""

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Take the numbers of a step."""
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
    """An event file below a folder, whole after every step.

    Written here record by record: torch's writer puts the machine's name into the file's name and keeps
    what it was given in memory for minutes.

    Args:
        step: the next step; what earlier processes wrote from it on is purged by whoever reads.

    Raises:
        ImportError: the package is not installed. DataError: the disk is full.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        (folder / EVENTS).mkdir(parents=True, exist_ok=True)
        # Readers take files in the order of their names.
        self._file = folder / EVENTS / f"events.out.tfevents.{time.time_ns()}"
        self._writer = RecordWriter(self._file.open("ab"))
        self._write(file_version="brain.Event:2")
        self._write(step=step, session_log=SessionLog(status=SessionLog.START))

    def _write(self, **content: Any) -> None:
        try:
            self._writer.write(self._event(wall_time=time.time(), **content).SerializeToString())
            self._writer.flush()
        except OSError as error:
            raise write_failed(self._file, str(error)) from error

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        values = [self._summary.Value(tag=k, simple_value=v) for k, v in numbers.items()]
        self._write(step=step, summary=self._summary(value=values))

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
