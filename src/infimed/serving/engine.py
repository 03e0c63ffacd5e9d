"""One thread owns the model and writes all answers at once: requests join and leave between two steps.

A step writes one token of every answer (`inference.decoding`). Before it, waiting requests are taken round robin over
the clients as long as rows and memory allow; their images are encoded together (or known by hash), prompts
that begin as a known conversation are computed from where they differ, the others as one packed row as offline.
Then their keys and values are put beside those of the running ones.

Invariant: in fp32 an answer equals that of `LocalModel.respond` to the same request, whatever runs beside it
(tests). Cost: joining copies the running cache once; a long prompt delays the next step of all others.
What fails for several together is tried for halves of them (`isolation`), so who cannot be computed fails alone,
with a code. Only where the shared cache itself cannot be rearranged all fail; the engine goes on in any case.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from infimed.inference.cache import slot_bytes
from infimed.inference.decoding import choose_next, feed_newest
from infimed.inference.local import LocalModel, prepare
from infimed.serving.answers import Form, Vocabulary
from infimed.serving.asking import Ask, Done, Event, Failed, Finish, First, Made, Piece
from infimed.serving.audit import Audit, recorded
from infimed.serving.batch import Batch, Job
from infimed.serving.isolation import halved
from infimed.serving.logs import frames_of
from infimed.serving.prompts import Begun, Prompts
from infimed.serving.queueing import FairQueue
from infimed.serving.refusals import Refusal
from infimed.serving.schema import Automaton
from infimed.serving.settings import Settings
from infimed.serving.work import Unit, Works

LOG: Final = logging.getLogger("infimed.serving")
IDLE_SECONDS: Final = 0.5
"""How often an idle engine looks for requests that waited too long."""
GIVES_WAY: Final = 3
"""Niceness that the engine's threads add: where all cores compute, the event loop still gets its turn at once."""


@dataclass
class Counts:
    """What the engine did since it began."""

    steps: int = 0
    written_tokens: int = 0
    prompt_tokens: int = 0
    most_together: int = 0
    failures: int = 0


class Engine:
    """A checkpoint that answers many at once. `begin`, and `end` when done.

    Args:
        waited: told how many seconds each request was in the queue.
    """

    fingerprint_of: Final = "weights"

    def __init__(
        self,
        local: LocalModel,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
        waited: Callable[[float], object] = lambda seconds: None,
    ) -> None:
        self.local, self.settings = local, settings
        self._clock, self._waited = clock, waited
        self.audit: Audit | None = None
        self.counts = Counts()
        self._prompts = Prompts(local, settings.engine)
        self.features, self.prefixes = self._prompts.features, self._prompts.prefixes
        self._vocabulary: Vocabulary | None = None
        self._waiting: FairQueue[Job] = FairQueue()
        self._works = Works()
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._slot_bytes = slot_bytes(local.model.config.text_config, local.model.dtype)
        self._limit = int(local.model.config.text_config.max_position_embeddings)
        self._batch = Batch()

    @property
    def fingerprint(self) -> str:
        """Names weights, precision and image grid."""
        return self.local.fingerprint

    @property
    def waiting(self) -> int:
        """Requests and units of work in the queue."""
        return len(self._waiting) + len(self._works)

    @property
    def running(self) -> int:
        """Answers that are being written."""
        return len(self._batch.jobs)

    @property
    def cache_bytes(self) -> int:
        """Keys and values of the running answers."""
        cache = self._batch.cache
        return cache.nbytes if cache is not None else 0

    async def start(self) -> None:
        """See `asking.Answerer`."""
        self.begin()

    async def close(self) -> None:
        """See `asking.Answerer`."""
        await asyncio.to_thread(self.end)

    def begin(self) -> None:
        """Start the thread."""
        self._thread.start()

    def end(self) -> None:
        """Fail what is left and end the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()

    async def ready(self) -> bool:
        """Whether the thread lives."""
        return self._thread.is_alive() and not self._closing

    def answer(self, ask: Ask) -> AsyncIterator[Event]:
        """See `asking.Answerer`."""
        events = self._events(ask)
        return events if self.audit is None else recorded(self.audit, ask, self.fingerprint, events)

    async def _events(self, ask: Ask) -> AsyncIterator[Event]:
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[Event] = asyncio.Queue()

        def emit(event: Event) -> None:
            with contextlib.suppress(RuntimeError):  # the loop may be closed already
                loop.call_soon_threadsafe(arrived.put_nowait, event)

        job = await asyncio.to_thread(self.prepared, ask, emit)
        self.submit(job)
        try:
            while True:
                event = await arrived.get()
                yield event
                if isinstance(event, Done | Failed):
                    return
        finally:
            self.cancel(job)

    async def work(self, function: Callable[[LocalModel], Made], client: str) -> Made:
        """See `asking.Answerer`."""
        if self.audit is not None:
            self.audit.worked(client, self.fingerprint)
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Made] = loop.create_future()
        unit = Unit(function, loop, done, self._clock() + self.settings.times.queue)
        with self._wake:
            self._check_room()
            self._works.put(client, unit)
            self._wake.notify()
        try:
            return await done
        finally:
            unit.cancelled = True

    def prepared(self, ask: Ask, emit: Callable[[Event], None]) -> Job:
        """A request as token ids, its schema as an automaton; takes milliseconds.

        Raises:
            Refusal: it is too long for the limits or the model, or the schema is not supported.
        """
        limits, times = self.settings.limits, self.settings.times
        made = prepare(self.local.processor, ask.request)
        most = min(limits.prompt_tokens, self._limit - ask.request.max_new_tokens)
        if made.tokens > most:
            raise Refusal(
                "prompt_too_long",
                param="messages",
                detail=f"{made.tokens} tokens, at most {max(most, 0)} beside the answer's",
            )
        if (made.tokens + ask.request.max_new_tokens) * self._slot_bytes > self.settings.engine.cache_bytes:  # fmt: skip
            raise Refusal("prompt_too_long", param="messages", detail="it does not fit in memory")
        form = None
        if ask.schema is not None:
            form = Form(Automaton(ask.schema, limits.schema_states), self._words())
        now = self._clock()
        return Job(ask, made, form, emit, now + times.queue, now + times.queue + times.generate)

    def submit(self, job: Job) -> None:
        """Put a request into the queue.

        Raises:
            Refusal: the engine is closing or full.
        """
        with self._wake:
            self._check_room()
            self._waiting.put(job.ask.client, job)
            self._wake.notify()

    def _check_room(self) -> None:
        if self._closing:
            raise Refusal("draining", retry_after=self.settings.times.retry_after)
        if self.waiting >= self.settings.limits.requests:
            raise Refusal("overloaded", retry_after=self.settings.times.retry_after)

    def cancel(self, job: Job) -> None:
        """Stop writing; the row is free before the next step."""
        job.cancelled = True

    def _words(self) -> Vocabulary:
        if self._vocabulary is None:
            try:
                self._vocabulary = Vocabulary(self.local.processor.tokenizer_json)
            except ValueError:
                raise Refusal(
                    "unsupported", param="response_format", detail="this tokenizer has no schemas"
                ) from None
        return self._vocabulary

    def _run(self) -> None:
        _give_way()
        while True:
            with self._wake:
                if not self.waiting and not self._batch.jobs and not self._closing:
                    self._wake.wait(IDLE_SECONDS)
                closing = self._closing
            if closing:
                self._fail_all("draining")
                return
            try:
                with torch.no_grad():
                    self._turn()
            except Exception as error:  # the server must outlive any defect in a step
                self._broken(error)

    def _turn(self) -> None:
        """Do one unit of work, let requests join and leave, then write one token of every answer."""
        self._work()
        taken = self._take()
        now = self._clock()
        for job in self._batch.leave(lambda job: job.cancelled or now > job.write_until):
            job.emit(Failed("cancelled" if job.cancelled else "generation_timeout"))
        self._join(taken)
        self._step()

    def _work(self) -> None:
        with self._wake:
            unit = self._works.next(self._clock(), self.settings.times.retry_after)
        if unit is not None:
            unit.run(self.local)

    def _take(self) -> list[Job]:
        """Requests that fit beside the running ones, one client after another."""
        engine = self.settings.engine
        taken: list[Job] = []
        with self._wake:
            now = self._clock()
            gone = self._waiting.sweep(lambda job: job.cancelled or now > job.queue_until)
            widths, new = self._batch.widths, dict[tuple[object, ...], int]()
            while (job := self._waiting.peek()) is not None:
                together = len(self._batch.jobs) + len(taken) + 1
                group = job.prepared.group  # those with one trunk write in one row
                wide = new.get(group)
                new[group] = job.longest + (wide - len(job.prepared.trunk) if wide else 0)
                rows = [*widths, *new.values()]
                fits = len(rows) * max(rows) * self._slot_bytes <= engine.cache_bytes
                full = together > engine.running or len(taken) == engine.joining
                if full or (together > 1 and not fits):
                    break
                taken.append(self._waiting.pop())
        for job in gone:
            job.emit(Failed("cancelled" if job.cancelled else "queue_timeout"))
        for job in taken:
            self._waited(now - (job.queue_until - self.settings.times.queue))
            job.write_until = now + self.settings.times.generate
        return taken

    def _join(self, taken: Sequence[Job]) -> None:
        """Compute prompts and put their rows beside the running ones."""
        begun: list[Begun] = []
        halved(taken, lambda jobs: begun.extend(self._prompts.computed(jobs)), self._failed)
        try:
            for cache, last, jobs in begun:
                self.counts.prompt_tokens += sum(job.prepared.tokens - job.reused for job in jobs)
                self._batch.join(cache, last, jobs)
        except BaseException:
            # Some are in the batch already, where `_broken` finds them.
            there = set(self._batch.jobs)
            all_of_them = (job for _, _, jobs in begun for job in jobs)
            self._batch.jobs.extend(job for job in all_of_them if job not in there)
            raise
        self.counts.most_together = max(self.counts.most_together, self.running)

    def _step(self) -> None:
        """Write one token of every answer; the complete ones leave."""
        batch = self._batch
        if batch.cache is None:
            return
        halved(batch.jobs, self._choose, self._failed)
        self.counts.steps += 1
        for job in batch.jobs:
            if not job.failed:
                self.counts.written_tokens += 1
                try:
                    self._tell(job)
                except Exception as error:
                    self._failed(job, error)
        batch.leave(lambda job: job.failed or not job.writer.open)
        self._feed()

    def _choose(self, jobs: Sequence[Job]) -> None:
        """The next token of these answers."""
        batch = self._batch
        assert batch.hidden is not None
        hidden = batch.hidden
        if len(jobs) < len(batch.jobs):
            hidden = hidden[[batch.jobs.index(job) for job in jobs]]
        writers = [job.writer for job in jobs]
        choose_next(
            self.local.model, hidden, writers, lambda at, error: self._failed(jobs[at], error)
        )

    def _feed(self) -> None:
        """Compute the newest token of every answer."""
        batch = self._batch
        if batch.hidden is None:
            return
        before, states = batch.hidden, list[Tensor]()

        def failed(job: Job, error: Exception) -> None:
            self._failed(job, error)
            states.append(before[:1])  # keeps its place until it leaves

        halved(batch.jobs, lambda jobs: states.append(self._fed(jobs)), failed)
        batch.hidden = states[0] if len(states) == 1 else torch.cat(states)
        batch.leave(lambda job: job.failed)

    def _fed(self, jobs: Sequence[Job]) -> Tensor:
        """The states after the newest tokens of these answers [jobs, d]; a failure leaves the cache as it was."""
        cache = self._batch.cache
        assert cache is not None
        lengths = list(cache.lengths)
        try:
            return feed_newest(
                self.local.model, cache, [job.writer for job in jobs], self._batch.place
            )
        except BaseException:
            cache.rewind(lengths)
            raise

    def _tell(self, job: Job) -> None:
        """Send what an answer has that was not sent before."""
        answer = job.writer
        if not job.told:
            job.told = True
            chosen, *top = answer.first
            job.emit(First(chosen, tuple(top)))
        if job.ask.stream and (piece := answer.piece()):
            job.emit(Piece(piece))
        if not answer.open:
            finish: Finish = "stop" if answer.stopped else "length"
            tokens = job.prepared.tokens
            count = len(answer.ids)
            job.emit(Done(answer.text, finish, tokens, count, job.reused, answer.logprob))
            try:
                self._prompts.remember(self._batch, job)
            except Exception as error:  # the next turn is computed from its beginning, no more
                LOG.error("not_remembered", extra={"frames": frames_of(error)})

    def _failed(self, job: Job, error: Exception) -> None:
        """Fail one request; it leaves its place at the end of the step."""
        self.counts.failures += 1
        code = code_of(error)
        about = {"request_id": job.ask.request.id, "code": code, "frames": frames_of(error)}
        LOG.error("answer_failed", extra=about)
        job.failed = True
        job.emit(Failed(code))

    def _broken(self, error: Exception) -> None:
        """Fail all that was running and begin anew."""
        code = code_of(error)
        LOG.error("engine_failed", extra={"code": code, "frames": frames_of(error)})
        for job in self._batch.forget():
            if not job.failed:
                self.counts.failures += 1
                job.emit(Failed(code))

    def _fail_all(self, code: str) -> None:
        with self._wake:
            waiting = self._waiting.sweep(lambda _: True)
            units = self._works.sweep(lambda _: True)
        for unit in units:
            unit.fail(Refusal(code, retry_after=self.settings.times.retry_after))
        for job in (*waiting, *self._batch.forget()):
            job.emit(Failed(code))


def _give_way() -> None:
    """Lower the priority of this thread, and of those that torch starts from it; only Linux has one a thread."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        now = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, min(19, now + GIVES_WAY))


def code_of(error: Exception) -> str:
    """What a client is told of a failure."""
    full = isinstance(error, MemoryError | torch.OutOfMemoryError)
    # torch's allocator for the CPU has no exception of its own.
    if full or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error)):
        return "out_of_memory"
    return "internal"
