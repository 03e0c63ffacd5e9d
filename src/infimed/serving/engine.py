"""One thread owns the model and writes all answers at once: requests join and leave between two steps.

A step writes one token of every answer (`inference.decoding`). Before it, waiting requests are taken round robin over
the clients as long as rows and memory allow; their images are encoded together (or known by hash), prompts
that begin as a known conversation are computed from where they differ, the others as one packed row as offline.
Then their keys and values are put beside those of the running ones.

Invariant: in fp32 an answer equals that of `LocalModel.respond` to the same request, whatever runs beside it
(tests). Cost: joining copies the running cache once; a long prompt delays the next step of all others.
Should a step fail, all that was running fails with a code, and the engine goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from infimed.inference.branches import Row, extend, fill, new_cache
from infimed.inference.cache import KeyValues, slot_bytes
from infimed.inference.chat import TOKENS_PER_PART
from infimed.inference.decoding import choose_next, feed_newest
from infimed.inference.local import LocalModel, encode_views, prepare, shown
from infimed.serving.answers import Answer, Form, Vocabulary
from infimed.serving.asking import Ask, Done, Event, Failed, Finish, First, Made, Piece
from infimed.serving.batch import Batch, Job
from infimed.serving.logs import frames_of
from infimed.serving.queueing import FairQueue
from infimed.serving.refusals import Refusal
from infimed.serving.remembering import Conversation, FeatureCache, PrefixCache
from infimed.serving.schema import Automaton
from infimed.serving.settings import Settings
from infimed.serving.work import Unit, Works

LOG: Final = logging.getLogger("infimed.serving")
IDLE_SECONDS: Final = 0.5
"""How often an idle engine looks for requests that waited too long."""


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
        self.counts = Counts()
        self.features = FeatureCache(settings.engine.feature_bytes)
        self.prefixes = PrefixCache(settings.engine.prefix_bytes)
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

    async def answer(self, ask: Ask) -> AsyncIterator[Event]:
        """See `asking.Answerer`."""
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
            except (MemoryError, torch.OutOfMemoryError):
                self._broken("out_of_memory", None)
            except Exception as error:  # the server must outlive any defect in a step
                self._broken("internal", error)

    def _turn(self) -> None:
        """Do one unit of work, let requests join and leave, then write one token of every answer."""
        self._work()
        taken = self._take()
        now = self._clock()
        for job in self._batch.leave(lambda job: job.cancelled or now > job.write_until):
            job.emit(Failed("cancelled" if job.cancelled else "generation_timeout"))
        try:
            if taken:
                self._join(taken)
        except BaseException:
            # Some are in the batch already, where `_broken` finds them.
            there = set(self._batch.jobs)
            self._batch.jobs.extend(job for job in taken if job not in there)
            raise
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
        features = self._features(taken)
        fresh: dict[tuple[object, ...], list[Job]] = {}
        begun: list[tuple[KeyValues, Tensor, list[Job]]] = []
        for job in taken:
            found = self.prefixes.find(job.ask.client, job.ids, self._images(job))
            if found is None:
                fresh.setdefault(job.prepared.group, []).append(job)
            else:
                begun.append(self._resumed(job, *found, features))
        if fresh:
            begun.append(self._fresh(list(fresh.values()), features))
        for cache, last, jobs in begun:
            self.counts.prompt_tokens += sum(job.prepared.tokens - job.reused for job in jobs)
            self._batch.join(cache, last, jobs)
        self.counts.most_together = max(self.counts.most_together, self.running)

    def _fresh(
        self, groups: Sequence[Sequence[Job]], features: dict[str, Tensor]
    ) -> tuple[KeyValues, Tensor, list[Job]]:
        """Prompts from their first token; those with one trunk share a row."""
        model = self.local.model
        rows = [
            Row(
                jobs[0].prepared.trunk,
                [job.prepared.branch for job in jobs],
                shown(jobs[0].prepared, features),
            )
            for jobs in groups
        ]
        cache = new_cache(model, len(rows))
        states = fill(model, rows, cache)
        last = torch.cat(
            [of[[end - 1 for end in row.ends()]] for row, of in zip(rows, states, strict=True)]
        )
        for number, jobs in enumerate(groups):
            for branch, job in enumerate(jobs):
                job.answer = self._answer(job, number, branch)
        return cache, last, [job for jobs in groups for job in jobs]

    def _resumed(
        self, job: Job, taken: Tensor, length: int, features: dict[str, Tensor]
    ) -> tuple[KeyValues, Tensor, list[Job]]:
        """A prompt from where it differs from a known conversation; fed in parts as in `Chat`."""
        model = self.local.model
        cache = new_cache(model, 1)
        cache.put(0, taken)
        rest = job.ids[length:]
        new = [sha256 for sha256, start in self._images(job) if start >= length]
        stacked = torch.cat([features[sha256] for sha256 in new]) if new else None
        embedded = model.embed(torch.tensor([rest], device=cache.device), stacked)
        for start in range(0, len(rest), TOKENS_PER_PART):
            part = embedded[:, start : start + TOKENS_PER_PART]
            begin, count = length + start, part.shape[1]
            positions = list(range(begin, begin + count))
            hidden = extend(model, cache, part, [0] * count, [0] * count, positions)
        job.reused = length
        job.answer = self._answer(job, 0, 0)
        return cache, hidden[-1:], [job]

    def _answer(self, job: Job, row: int, branch: int) -> Answer:
        processor, request = self.local.processor, job.prepared.request
        return Answer(
            row,
            branch,
            job.prepared.tokens,
            processor.raw_text,
            processor.stop_ids,
            request.max_new_tokens,
            request.sampling,
            request.stop,
            top=job.ask.top,
            form=job.form,
        )

    def _images(self, job: Job) -> list[tuple[str, int]]:
        """Hash and first placeholder of each image of a prompt, in order."""
        processor = self.local.processor
        places = [at for at, token in enumerate(job.ids) if token == processor.image_token_id]
        found, passed = [], 0
        for picture in job.prepared.pictures:
            found.append((picture.sha256, places[passed]))
            passed += processor.visual_tokens * len(job.ask.views(picture.sha256))
        return found

    def _features(self, jobs: Sequence[Job]) -> dict[str, Tensor]:
        """Features of all images of these requests, known or computed now."""
        found: dict[str, Tensor] = {}
        missing: dict[str, Job] = {}
        for job in jobs:
            for picture in job.prepared.pictures:
                if picture.sha256 in found or picture.sha256 in missing:
                    continue
                known = self.features.get(picture.sha256)
                if known is None:
                    missing[picture.sha256] = job
                else:
                    found[picture.sha256] = known
        views = [job.ask.views(sha256) for sha256, job in missing.items()]
        made = encode_views(self.local.model, self.local.processor, views)
        for sha256, features in zip(missing, made, strict=True):
            found[sha256] = features
            self.features.put(sha256, features)
        return found

    def _step(self) -> None:
        """Write one token of every answer; the complete ones leave."""
        batch = self._batch
        if batch.cache is None or batch.hidden is None:
            return
        model = self.local.model
        choose_next(model, batch.hidden, batch.answers)
        self.counts.steps += 1
        self.counts.written_tokens += len(batch.jobs)
        for job in batch.jobs:
            self._tell(job)
        batch.leave(lambda job: not job.writer.open)
        if batch.cache is not None:
            batch.hidden = feed_newest(model, batch.cache, batch.answers, batch.place)

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
            self._remember(job)
            finish: Finish = "stop" if answer.stopped else "length"
            tokens = job.prepared.tokens
            count = len(answer.ids)
            job.emit(Done(answer.text, finish, tokens, count, job.reused, answer.logprob))

    def _remember(self, job: Job) -> None:
        """Keep the keys and values of a conversation that may go on."""
        cache, answer = self._batch.cache, job.writer
        if cache is None or not self.settings.engine.prefix_bytes:
            return
        taken = cache.taken(self._batch.place[answer.row], answer.branch)
        ids = np.array([*job.ids, *answer.ids][: taken.shape[2]], np.int64)
        images = tuple(self._images(job))
        self.prefixes.put(Conversation(job.ask.client, ids, images, taken))

    def _broken(self, code: str, error: Exception | None) -> None:
        """Fail what was running and begin anew."""
        self.counts.failures += 1
        LOG.error("engine_failed", extra={"code": code, "frames": frames_of(error)})
        for job in self._batch.forget():
            job.emit(Failed(code))

    def _fail_all(self, code: str) -> None:
        with self._wake:
            waiting = self._waiting.sweep(lambda _: True)
            units = self._works.sweep(lambda _: True)
        for unit in units:
            unit.fail(Refusal(code, retry_after=self.settings.times.retry_after))
        for job in (*waiting, *self._batch.forget()):
            job.emit(Failed(code))
