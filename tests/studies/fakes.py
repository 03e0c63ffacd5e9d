"""Cells that take no time: answers by chance with a planted accuracy, and an executor that runs at once."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import Executor, Future

import pyarrow as pa
import pyarrow.parquet as pq

from infimed.core.files import atomic_open, write_json
from infimed.core.seeds import stream
from infimed.studies.cells import BLIND
from infimed.studies.definition import parse_study
from infimed.studies.work import ANSWERS, RESULT, SCHEMA, cell_folder, means

QUESTIONS, GROUPS = 400, 80

STUDY = """
name: tiny
number: 1
title: Tiny
question: Is b better than a?
claim: b is better.
refutes: It is not.
presets:
  nano:
    seeds: [1, 2, 3]
    reference: a
    measures:
      - {task: study_closed, title: yes/no, chance: 0.5}
    arms:
      - {name: a, label: arm a}
      - {name: b, label: arm b, recipe: {stages.learn.weighting: document}}
      - {name: c, label: arm c, recipe: {stages.learn.weighting: sqrt}}
    comparisons:
      - {arm: b, against: a}
      - {arm: c, against: a}
    gaps:
      - {arm: c, floor: a, ceiling: b}
    conclusion:
      compare: {arm: b, against: a}
      expects: more
      more: "b gives {difference} over a."
      less: "b gives {difference} against a."
      none: "b and a differ by {difference}: no effect that matters."
      unclear: "b and a differ by {difference}: too wide to say."
"""


def tiny_study(text=STUDY):
    return parse_study(text, "a test")


class AtOnce(Executor):
    """Runs what is submitted before it returns."""

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # a kill is none, and travels
            future.set_exception(error)
        return future


class FakeCells:
    """Does cells by chance. accuracy: of a cell; seconds: that each claims to have taken."""

    def __init__(self, accuracy, seconds=10.0, advance=None, stop_at=None):
        self.accuracy, self.seconds, self.advance = accuracy, seconds, advance
        self.stop_at, self.calls = stop_at, []

    def __call__(self, cell, out, root):
        if self.stop_at is not None and len(self.calls) == self.stop_at:
            raise KeyboardInterrupt
        self.calls.append(cell.key)
        if self.advance:
            self.advance(self.seconds)
        write_cell(cell, out, self.accuracy(cell), self.seconds)


def write_cell(cell, out, accuracy, seconds=10.0, resumed=False, cpu="a processor"):
    """A cell's files; the hardness of a question is the same for all arms, a seed's luck for none."""
    folder = cell_folder(out, cell)
    hard = stream(0, "hard").random(QUESTIONS)
    luck = stream(cell.recipe.train.seed, "luck", cell.key).normal(0, 0.05, QUESTIONS)
    lines = []
    for way in (BLIND,) if cell.blind else cell.ways:
        for task in cell.tasks:
            for at in range(QUESTIONS):
                right = hard[at] + luck[at] < accuracy
                lines.append(
                    {
                        "way": way, "task": task, "id": f"q{at:04d}", "group": f"g{at % GROUPS}",
                        "columns": ["overall"], "score": float(right),
                    }
                )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_open(folder / ANSWERS) as handle:
        pq.write_table(pa.Table.from_pylist(lines, schema=SCHEMA), handle)
    spent = {
        "steps": 100, "samples": 6000, "tokens": 1e6, "target_tokens": 30000, "flops": 2e12,
        "saved_flops": 1e12, "seconds": seconds, "mfu": 0.25, "memory_gib": 0.8,
    }  # fmt: skip
    result = {
        "cell": cell.key, "preset": cell.base.name, "seed": cell.recipe.train.seed, "split": cell.split,
        "commit": "abc", "machine": {"cpu": cpu}, "data": {}, "data_sha256": "0", "spent": spent,
        "joules": None, "resumed": resumed, "wall_seconds": seconds, "asking_seconds": 1.0,
        "scores": means(lines),
    }  # fmt: skip
    write_json(folder / RESULT, result)


def endless(cell, out, root):
    """A cell that ends when it is told to, and says so."""

    def stop(*_):
        (out / "stopped").touch()
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    out.mkdir(parents=True, exist_ok=True)
    (out / "running").touch()
    time.sleep(300)


def by_weighting(**accuracy):
    """Accuracy of a cell by how its loss is weighted."""
    return lambda cell: accuracy[cell.recipe.stages[0].weighting]
