"""A stage with its plan: which rows make which optimizer step, and which rank builds them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from infimed.core.recipe import Stage
from infimed.packing.plan import Plan
from infimed.packing.steps import deal, step_starts


@dataclass
class Position:
    """Where training is: the next stage, the next row in it, and optimizer steps done in all."""

    stage: int = 0
    row: int = 0
    step: int = 0


@dataclass(frozen=True)
class StageJob:
    """A stage with its plan."""

    stage: Stage
    plan: Plan

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """First row of every optimizer step, and the number of rows at the end; int64 [steps + 1]."""
        stage = self.stage
        return step_starts(
            self.plan,
            rows=stage.rows_per_step,
            samples=stage.samples_per_step,
            targets=stage.targets_per_step,
        )

    @property
    def steps(self) -> int:
        """Optimizer steps of the stage; the last may hold fewer rows."""
        return len(self.starts) - 1

    @property
    def decay_from(self) -> int | None:
        """The first step with another mixture, where the rate begins to fall; None without one."""
        return None if self.plan.switch is None else self.step_at(self.plan.switch)

    def step_at(self, row: int) -> int:
        """The step that begins with `row`."""
        return int(np.searchsorted(self.starts, row))

    def shares(self, step: int, ranks: int) -> tuple[tuple[int, ...], ...]:
        """Rows of a step by rank, images balanced; a pure function of the plan."""
        begin, end = self.starts[step : step + 2].tolist()
        if ranks == 1:
            return (tuple(range(begin, end)),)
        dealt = deal(self._images[begin:end], self._tokens[begin:end], ranks)
        return tuple(tuple(begin + row for row in rows) for rows in dealt)

    @cached_property
    def _images(self) -> NDArray[np.int64]:
        return self.plan.per_row(self.plan.documents.images)

    @cached_property
    def _tokens(self) -> NDArray[np.int64]:
        return self.plan.per_row(self.plan.documents.tokens)

    @cached_property
    def hash(self) -> str:
        """Names the plan: which records stand in which document and row, in what order and which part."""
        documents = self.plan.documents
        parts = [self.plan.start, documents.start, documents.records]
        if documents.turns.any() or documents.visual_tokens.any():
            parts += [documents.turns, documents.visual_tokens]
        content = hashlib.sha256()
        for part in parts:
            content.update(np.ascontiguousarray(part, np.int64).tobytes())
        return content.hexdigest()[:16]

    def samples_hash(self, step: int) -> str:
        """Names the records of a step in row order, whoever builds them."""
        begin, end = self.starts[step : step + 2].tolist()
        first, last = self.plan.start[[begin, end]].tolist()
        inside = self.plan.documents.start[[first, last]].tolist()
        records = np.ascontiguousarray(self.plan.documents.records[slice(*inside)], np.int64)
        return hashlib.sha256(records.tobytes()).hexdigest()[:12]
