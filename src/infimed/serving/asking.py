"""A question on its way to whoever answers it, and what comes back: shared by the engine and the backend."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, TypeVar

from infimed.inference.requests import Pixels, Request
from infimed.serving.media import Shown
from infimed.serving.refusals import Refusal

if TYPE_CHECKING:
    from infimed.inference.local import LocalModel
    from infimed.serving.audit import Audit

__all__ = [
    "Answerer", "Ask", "Done", "Event", "Failed", "First", "Piece", "TokenScore", "closable", "refusal_of",
]  # fmt: skip

Finish = Literal["stop", "length"]
Made = TypeVar("Made")


@dataclass(frozen=True)
class Ask:
    """One question.

    Attributes:
        request: as offline; its id is unique.
        client: whose turn it takes. images: decoded, by content hash.
        top: likeliest first tokens that are wanted. stream: whether pieces are wanted.
        schema: a JSON schema that the answer follows, or None.
    """

    request: Request
    client: str
    images: Mapping[str, Shown] = field(default_factory=dict, repr=False)
    top: int = 0
    stream: bool = False
    schema: Mapping[str, object] | None = field(default=None, repr=False)

    def views(self, sha256: str) -> Pixels:
        """The views of an image, uint8 [views, S, S, 3]."""
        return self.images[sha256].pixels


@dataclass(frozen=True)
class TokenScore:
    """A token as text and its log-probability in nats, before temperature."""

    text: str
    logprob: float


@dataclass(frozen=True)
class First:
    """The first token and the likeliest in its place, log-probabilities before temperature."""

    chosen: TokenScore
    top: tuple[TokenScore, ...]


@dataclass(frozen=True)
class Piece:
    """Text that follows what came before."""

    text: str


@dataclass(frozen=True)
class Done:
    """The end of an answer.

    Attributes:
        text: all of it. prompt_tokens, new_tokens: how long both were.
        reused_tokens: of the prompt, whose keys and values were known.
        logprob: of all its tokens together in nats, before temperature, the closing one not counted; None
            where it is not told.
    """

    text: str
    finish: Finish
    prompt_tokens: int
    new_tokens: int
    reused_tokens: int = 0
    logprob: float | None = None


@dataclass(frozen=True)
class Failed:
    """No answer; `code` is one of `refusals.CODES`."""

    code: str
    detail: str = ""


Event: TypeAlias = First | Piece | Done | Failed


class Answerer(Protocol):
    """Who answers: the engine in this process, or a model's server behind.

    Attributes:
        audit: where questions and answers are written down as hashes, or None.
    """

    audit: Audit | None

    @property
    def fingerprint(self) -> str:
        """Names what answers: a hash."""

    @property
    def fingerprint_of(self) -> str:
        """What the hash covers: "weights", or "name" where the weights are elsewhere."""

    def answer(self, ask: Ask) -> AsyncIterator[Event]:
        """First, pieces if they are wanted, and Done; or Failed. Closing it cancels.

        Raises:
            Refusal: the question cannot be asked like this.
        """

    async def work(self, function: Callable[[LocalModel], Made], client: str) -> Made:
        """What `function` makes of the model, when it is the client's turn; cancellable while it waits.

        Other answers wait while it runs, so a long piece of work is given in parts of a fraction of a second.

        Raises:
            Refusal: there is no model in this process ("unsupported"), the queue is full, or it waited too
                long. What `function` raises is raised here, and here only.
        """

    async def ready(self) -> bool:
        """Whether answers are to be expected now."""

    async def start(self) -> None:
        """Begin to answer; called in the server's loop."""

    async def close(self) -> None:
        """Fail what is left and end."""


async def closable(events: AsyncIterator[Event]) -> AsyncGenerator[Event, None]:
    """The events as a generator, whose end is also theirs."""
    try:
        async for event in events:
            yield event
    finally:
        if isinstance(events, AsyncGenerator):
            await events.aclose()


def refusal_of(event: Failed, retry_after: int) -> Refusal:
    """What a client is told of an answer that failed."""
    refusal = Refusal(event.code, detail=event.detail)
    if refusal.status == 503:
        refusal.retry_after = retry_after
    return refusal
