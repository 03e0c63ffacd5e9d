"""One request's dealings with the model: what it writes, how likely it finds options, and what both took.

Invariant: nothing of one request outlives it; its places in the engine are taken one after another, so that one
request never waits in more than one of them. Refusals name the application's own field.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from infimed.core.errors import DataError, MemoryBudgetError
from infimed.data.record import Message, Record
from infimed.inference.requests import ChoiceScores, OptionScore, Picture, Pixels, Request, Sampling
from infimed.serving.applications.presets import turns
from infimed.serving.applications.signals import TOP
from infimed.serving.applications.updates import Delta
from infimed.serving.asking import Ask, Done, Failed, First, Piece, closable, refusal_of
from infimed.serving.media import Shown
from infimed.serving.refusals import Refusal

if TYPE_CHECKING:
    from infimed.inference.local import LocalModel
    from infimed.serving.service import Service

UNIT_TOKENS: Final = 2048
"""Of options that are scored in one unit of the engine's work; the others' answers go on between two units."""
LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LETTER_TOKENS: Final = 8


@dataclass(frozen=True)
class Written:
    """An answer in words that is complete."""

    first: First | None
    done: Done


@dataclass
class Usage:
    """Tokens that were read, written and known, of all calls together."""

    prompt: int = 0
    new: int = 0
    reused: int = 0

    def to_dict(self) -> dict[str, Any]:
        """In OpenAI's shape."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.new,
            "total_tokens": self.prompt + self.new,
            "prompt_tokens_details": {"cached_tokens": self.reused},
        }


@dataclass
class Session:
    """See the module.

    Attributes:
        noted: what is known of the request, see `front.Front`; counts are added for its log line.
        sampling: how all its texts are decoded. stream: whether pieces are wanted.
        place: field of the request that texts come from, for refusals.
    """

    service: Service
    noted: dict[str, Any]
    sampling: Sampling
    stream: bool = False
    place: str | None = None
    usage: Usage = field(default_factory=Usage)
    _calls: int = 0

    @property
    def local(self) -> LocalModel | None:
        """The model in this process; None before a model's server."""
        return getattr(self.service.answerer, "local", None)

    def turns(self, record: Record, order: Sequence[int] | None = None) -> tuple[Message, ...]:
        """See `presets.turns`."""
        return turns(record, self.local, order)

    async def write(
        self,
        messages: Sequence[Message],
        images: Sequence[Shown],
        new_tokens: int,
        *,
        part: str = "",
        schema: Mapping[str, object] | None = None,
    ) -> AsyncGenerator[Delta | Written, None]:
        """An answer in words: pieces where they are wanted, and `Written` as the last.

        Raises:
            Refusal: it cannot be asked like this, or failed.
        """
        request = self._request(
            messages, images, min(new_tokens, self.service.settings.limits.new_tokens)
        )
        ask = Ask(
            request,
            self.noted["client"],
            {image.sha256: image for image in images},
            top=min(TOP, self.service.settings.limits.top_logprobs),
            stream=self.stream,
            schema=schema,
        )
        first: First | None = None
        with self._named():
            async with aclosing(closable(self.service.answerer.answer(ask))) as events:
                async for event in events:
                    if isinstance(event, First):
                        first = event
                        self._began()
                    elif isinstance(event, Piece):
                        yield Delta(event.text, part)
                    elif isinstance(event, Failed):
                        raise refusal_of(event, self.service.settings.times.retry_after)
                    elif isinstance(event, Done):
                        self._count(event.prompt_tokens, event.new_tokens, event.reused_tokens)
                        yield Written(first, event)
                        return
        raise Refusal("internal")

    async def written(
        self, messages: Sequence[Message], images: Sequence[Shown], new_tokens: int
    ) -> Written:
        """The same without its pieces."""
        async with aclosing(self.write(messages, images, new_tokens)) as updates:
            async for update in updates:
                if isinstance(update, Written):
                    return update
        raise Refusal("internal")

    async def shares(self, record: Record, images: Sequence[Shown], order: Sequence[int] | None = None) -> list[float]:  # fmt: skip
        """How likely each option of a choice question is, among its options, in the order shown; sums to 1.

        Our own model scores every option's text; of a model's server the first token's probabilities of the
        options' letters are taken.

        Raises:
            Refusal: it does not fit, or the server tells no probabilities of letters.
        """
        from infimed.inference.option_scoring import confidences

        messages = self.turns(record, order)
        places = range(len(record.choices)) if order is None else order
        options = tuple(record.choices[at] for at in places)
        if self.local is None:
            return await self._letters(messages, images, len(options))
        request = self._request(messages, images, 1)
        scores = await self._scored(replace(request, choices=options, scored=True))
        if not all(math.isfinite(score.logprob) for score in scores):
            raise Refusal("internal")
        return [float(share) for share in confidences(scores)]

    async def _scored(self, request: Request) -> list[OptionScore]:
        """All options of a request, a few in every unit of work."""
        local = self.local
        assert local is not None
        limits, client = self.service.settings.limits, self.noted["client"]
        tokens, branch, longest = await asyncio.to_thread(_lengths, local, request)
        if tokens > limits.prompt_tokens:
            raise Refusal("prompt_too_long", param=self.place, detail=f"{tokens} tokens")
        each = max(1, UNIT_TOKENS // (branch + longest))
        scores: list[OptionScore] = []
        for start in range(0, len(request.choices), each):
            some = replace(request, choices=request.choices[start : start + each])
            try:
                found = await self.service.answerer.work(partial(_score, some), client)
            except MemoryBudgetError:
                raise Refusal(
                    "out_of_memory", retry_after=self.service.settings.times.retry_after
                ) from None
            if found.error:
                raise Refusal("prompt_too_long", param=self.place)
            scores.extend(found.options)
        self._began()
        self._count(tokens, 0, 0)
        return scores

    async def _letters(self, messages: Sequence[Message], images: Sequence[Shown], count: int) -> list[float]:  # fmt: skip
        stream, self.stream = self.stream, False
        try:
            written = await self.written(messages, images, LETTER_TOKENS)
        finally:
            self.stream = stream
        shares = letter_shares(written.first, count)
        if shares is None:
            detail = "the model's server tells no probabilities of the options"
            raise Refusal("unsupported", param=self.place, detail=detail)
        return shares

    def _request(
        self, messages: Sequence[Message], images: Sequence[Shown], new_tokens: int
    ) -> Request:
        self._calls += 1
        return Request(
            f"{self.noted['request_id']}.{self._calls}",
            tuple(messages),
            tuple(Picture(i.sha256, _never, i.size, i.pixels) for i in images),
            new_tokens,
            sampling=self.sampling,
        )

    def _began(self) -> None:
        """Note when the first token, or the first probability, was there."""
        if "first_token_milliseconds" in self.noted or "began" not in self.noted:
            return
        seconds = time.perf_counter() - self.noted["began"]
        self.noted["first_token_milliseconds"] = round(1000 * seconds, 1)
        self.service.meters.first_token.observe(seconds)

    def _count(self, prompt: int, new: int, reused: int) -> None:
        usage, meters = self.usage, self.service.meters
        usage.prompt, usage.new, usage.reused = (
            usage.prompt + prompt,
            usage.new + new,
            usage.reused + reused,
        )
        meters.tokens.labels("prompt").inc(prompt)
        meters.tokens.labels("new").inc(new)
        self.noted["prompt_tokens"], self.noted["new_tokens"] = usage.prompt, usage.new
        self.noted["reused_tokens"] = usage.reused

    @contextmanager
    def _named(self) -> Iterator[None]:
        """The answerer names fields of a chat; the application's own stands instead."""
        try:
            yield
        except Refusal as refusal:
            if refusal.param is not None and refusal.param.startswith("messages"):
                refusal.param = self.place
            raise


def letter_shares(first: First | None, count: int) -> list[float] | None:
    """Shares of the first `count` letters in the probabilities of a first token; None where none is told."""
    if first is None:
        return None
    likely = [0.0] * count
    for score in first.top or (first.chosen,):
        letter = score.text.strip().strip("().:*")
        at = LETTERS.find(letter.upper()) if len(letter) == 1 else -1
        if 0 <= at < count:
            likely[at] += math.exp(score.logprob)
    total = sum(likely)
    return [share / total for share in likely] if total > 0 else None


def _lengths(local: LocalModel, request: Request) -> tuple[int, int, int]:
    """Tokens of a prompt, of its part that every option repeats, and of the longest option."""
    from infimed.inference.local import prepare

    made = prepare(local.processor, request)
    longest = max(len(local.processor.text_ids(option)) for option in request.choices)
    return made.tokens, len(made.branch), longest


def _score(request: Request, local: LocalModel) -> ChoiceScores:
    return local.score_choices([request])[0]


def _never() -> Pixels:
    raise DataError("images of a request are decoded already")
