"""What is asked of a model and what comes back, wherever the model lives.

A request is rendered already: turns with their options lettered, pictures as content hashes with a
way to load them. Its key covers everything the answer can depend on (model fingerprint, turns,
picture hashes, generation settings), so a stored response can be trusted without asking again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from infimed.core.errors import UsageError
from infimed.core.files import sha256_json
from infimed.data.record import ImageRef, Message, Record
from infimed.data.rendering import SHOWN_BY, shown_as

Pixels = NDArray[np.uint8]
Outcome = Literal["ok", "truncated", "error"]
Status = Literal["ok", "truncated", "refused", "garbage", "timeout", "error"]
STATUSES: tuple[str, ...] = get_args(Status)
ASK_AGAIN: frozenset[str] = frozenset({"garbage", "timeout", "error"})
"""Statuses that are no answer: a later run asks again."""

BLANK_SHA256 = "blank-mid-grey"
BLANK_LEVEL = 128
"""Grey level of the picture that stands in when a model is asked without seeing."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image by content hash, decoded only when it is needed.

    `load` returns uint8 RGB [H, W, 3] and may raise `DataError`; it takes no part in equality.
    `size` is (width, height) in pixels, known before; a model that tiles large images needs it.
    `views`, uint8 [views, S, S, 3], are what a model sees of it where that is made already: nothing is loaded then.
    """

    sha256: str
    load: Callable[[], Pixels] = field(compare=False, repr=False)
    size: tuple[int, int] = (0, 0)
    views: Pixels | None = field(default=None, compare=False, repr=False)


def picture_of(image: ImageRef, load: Callable[[ImageRef], Pixels]) -> Picture:
    """An image of a record. The hash is of the stored bytes, so a stated window or scale belongs to its
    name: two records may show one stored image differently."""
    name = image.sha256 or image.locator
    if any(image.facts.get(fact) is not None for fact in SHOWN_BY):
        name = f"{name} shown as {shown_as(image.facts)}"
    return Picture(name, partial(load, image), image.size)


def blank_picture() -> Picture:
    """The one mid-grey picture of the image-zeroed control; squashing leaves it unchanged.

    It is small, so it has no tiles, whatever it stands for: not even the size of an image is shown.
    """
    return Picture(BLANK_SHA256, lambda: np.full((16, 16, 3), BLANK_LEVEL, np.uint8), (16, 16))


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: 0 takes the likeliest token (greedy) and leaves the others without effect.
        top_p: share of probability that is drawn from, in (0, 1]. top_k: likeliest tokens that are
            drawn from; 0 for all. seed: equal seeds give equal answers, whatever is asked beside.

    Raises:
        UsageError: a value is out of range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, right, accepted in (
            ("temperature", 0 <= self.temperature < math.inf, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "more than 0, at most 1"),
            ("top_k", self.top_k >= 0, "0 or more"),
        ):
            if not right:
                raise UsageError(
                    "cannot sample like this",
                    where=name,
                    seen=getattr(self, name),
                    accepted=accepted,
                )

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken."""
        return self.temperature == 0


GREEDY = Sampling()


@dataclass(frozen=True, slots=True)
class Request:
    """One question to a model.

    Attributes:
        id: sample id, unique among the requests of a run.
        messages: rendered turns, ending with the user's; image parts index `pictures`.
        max_new_tokens: longest answer in tokens.
        choices: options in the order shown, for models that score them; empty otherwise.
        sampling: greedy unless something else is asked for.
        stop: strings before which the answer ends, besides the end of its turn; none is empty.
        scored: the choices are to be scored instead of an answer written, see `option_scoring`.
    """

    id: str
    messages: tuple[Message, ...]
    pictures: tuple[Picture, ...] = ()
    max_new_tokens: int = 32
    choices: tuple[str, ...] = ()
    sampling: Sampling = GREEDY
    stop: tuple[str, ...] = ()
    scored: bool = False

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UsageError(
                "an answer has at least one token", where=self.id, seen=self.max_new_tokens
            )
        if not all(self.stop):
            raise UsageError("a stop string is empty", where=self.id, seen=list(self.stop))

    def settings(self) -> dict[str, Any]:
        """Generation settings that are part of the key."""
        if self.scored:
            return {"option_scoring": list(self.choices)}
        sampling = "greedy" if self.sampling.greedy else asdict(self.sampling)
        made = {"max_new_tokens": self.max_new_tokens, "sampling": sampling}
        return {**made, "stop": list(self.stop)} if self.stop else made

    def key(self, fingerprint: str) -> str:
        """Hex SHA-256 of model fingerprint + rendered turns + picture hashes + settings."""
        return sha256_json(
            {
                "model": fingerprint,
                "messages": [message.to_dict() for message in self.messages],
                "images": [picture.sha256 for picture in self.pictures],
                "generation": self.settings(),
            }
        )


@dataclass(frozen=True, slots=True)
class Response:
    """One answer.

    Attributes:
        id: of the request it answers.
        text: what the model wrote; empty where it failed.
        status: "ok"; "truncated" (stopped by max_new_tokens); "refused" (the endpoint or the model
            declined); "garbage" (what came back is no answer); "timeout"; "error". A local model
            gives "ok", "truncated" or "error" only.
        new_tokens: tokens written, the closing one not counted.
        error: what went wrong, for a status that is no answer.
        prompt_tokens, seconds, attempts: what an endpoint's answer cost; 0 for a local model.
        options: how likely each of the choices is, where they were scored.
    """

    id: str
    text: str
    status: Status = "ok"
    new_tokens: int = 0
    error: str = ""
    prompt_tokens: int = 0
    seconds: float = 0.0
    attempts: int = 0
    options: tuple[OptionScore, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """Status for a scorer: a refusal is something that was said, garbage and timeouts are not."""
        if self.status in ASK_AGAIN:
            return "error"
        return "truncated" if self.status == "truncated" else "ok"


@dataclass(frozen=True, slots=True)
class OptionScore:
    """How likely an option is as the answer.

    Attributes:
        logprob: of the whole option in nats, the closing token not counted. tokens: of the option.
    """

    logprob: float
    tokens: int

    @property
    def per_token(self) -> float:
        """Mean log-probability of a token; keeps long options in the race."""
        return self.logprob / self.tokens


@dataclass(frozen=True, slots=True)
class ChoiceScores:
    """The options of one request, scored.

    Attributes:
        id: of the request. options: in the order of its choices; empty where it failed, and `error`
            says why.
    """

    id: str
    options: tuple[OptionScore, ...] = ()
    error: str = ""

    def best(self, *, per_token: bool = True) -> int:
        """Number of the likeliest option; the first of equals."""
        scores = [o.per_token if per_token else o.logprob for o in self.options]
        return scores.index(max(scores))


@runtime_checkable
class Model(Protocol):
    """Anything that answers requests."""

    @property
    def fingerprint(self) -> str:
        """Names weights, precision and image grid; part of every request key."""

    def conversation(
        self, record: Record, option_order: Sequence[int] | None
    ) -> tuple[Message, ...]:
        """The turns of a record as this model was taught to see them, up to the question."""

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        """Which requests are answered together: every index exactly once.

        A pure function of the full list, so that a resumed run computes the same sums.
        """

    def respond(self, requests: Sequence[Request]) -> Iterator[Response]:
        """Answer one batch; a request that cannot be answered gets status "error"."""
