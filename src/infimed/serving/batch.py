"""The answers that the engine is writing: who they are for, and their rows of keys and values.

Invariant: `hidden` has the last state of every job's answer, in the order of `jobs`; every answer's `row` is in
`rows`, which says where it is in `cache`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from infimed.inference.cache import KeyValues
from infimed.inference.local import Prepared
from infimed.serving.answers import Answer, Form
from infimed.serving.asking import Ask, Event


@dataclass(eq=False)
class Job:
    """A request in the engine. `emit` is called from the engine's thread and must not block.

    Attributes:
        queue_until, write_until: when it fails, by the engine's clock.
        told: its first token was told. reused: tokens of its prompt that were known.
        failed: it was told that it failed, and leaves.
        answer: from when its prompt is computed.
    """

    ask: Ask
    prepared: Prepared
    form: Form | None
    emit: Callable[[Event], None]
    queue_until: float
    write_until: float
    cancelled: bool = False
    failed: bool = False
    told: bool = False
    reused: int = 0
    answer: Answer | None = None

    @property
    def ids(self) -> tuple[int, ...]:
        """Tokens of the prompt."""
        return (*self.prepared.trunk, *self.prepared.branch)

    @property
    def longest(self) -> int:
        """Tokens of prompt and answer together, at most."""
        return self.prepared.tokens + self.prepared.request.max_new_tokens

    @property
    def writer(self) -> Answer:
        """Its answer, whose prompt is computed."""
        assert self.answer is not None
        return self.answer


@dataclass
class Batch:
    """See the module.

    Attributes:
        cache, hidden: None while nobody is answered. rows: numbers of the cache's rows, in order.
    """

    cache: KeyValues | None = None
    hidden: Tensor | None = None
    rows: list[int] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    _next_row: int = 0

    @property
    def answers(self) -> list[Answer]:
        """The jobs' answers."""
        return [job.writer for job in self.jobs]

    @property
    def place(self) -> dict[int, int]:
        """Where each row is in the cache."""
        return {row: at for at, row in enumerate(self.rows)}

    @property
    def widths(self) -> list[int]:
        """Slots that each row in use has when all its answers have their greatest length."""
        if self.cache is None:
            return []
        place, found = self.place, dict[int, int]()
        for answer in self.answers:
            there = found.get(answer.row, self.cache.lengths[place[answer.row]])
            found[answer.row] = there + answer.most - len(answer.ids)
        return list(found.values())

    def join(self, cache: KeyValues, hidden: Tensor, jobs: Sequence[Job]) -> None:
        """Take in answers whose prompts are computed; their rows are numbered from 0."""
        rows = list(range(self._next_row, self._next_row + len(cache.lengths)))
        self._next_row += len(rows)
        for job in jobs:
            job.writer.row += rows[0]
        if self.cache is None or self.hidden is None:
            self.cache, self.hidden = cache, hidden
        else:
            self.compact()
            self.cache.join(cache)
            self.hidden = torch.cat([self.hidden, hidden])
        self.rows.extend(rows)
        self.jobs.extend(jobs)

    def leave(self, gone: Callable[[Job], bool]) -> list[Job]:
        """Take out the jobs of which `gone` is true."""
        stay = [at for at, job in enumerate(self.jobs) if not gone(job)]
        if len(stay) == len(self.jobs):
            return []
        kept = set(stay)
        left = [job for at, job in enumerate(self.jobs) if at not in kept]
        self.jobs = [self.jobs[at] for at in stay]
        if not stay or self.hidden is None:
            self.forget()
            return left
        self.hidden = self.hidden[torch.tensor(stay, device=self.hidden.device)]
        if 2 * len({answer.row for answer in self.answers}) <= len(self.rows):
            self.compact()
        return left

    def compact(self) -> None:
        """Take out rows that nobody writes in."""
        needed = {answer.row for answer in self.answers}
        if self.cache is not None and len(needed) < len(self.rows):
            self.cache.keep([at for at, row in enumerate(self.rows) if row in needed], narrow=True)
            self.rows = [row for row in self.rows if row in needed]

    def forget(self) -> list[Job]:
        """Take out all; returns them."""
        left, self.jobs, self.rows = self.jobs, [], []
        self.cache, self.hidden = None, None
        return left
