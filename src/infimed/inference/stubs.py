"""Models without weights: what a harness must score perfectly, at chance, or at a constant's share.

They are used by tests and by anyone who checks a new task: oracle, constant, random and blind.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from infimed.core.seeds import stream
from infimed.data.record import Message, Record
from infimed.inference.requests import Request, Response

LETTERS = string.ascii_uppercase


def plain_conversation(
    record: Record, option_order: Sequence[int] | None = None
) -> tuple[Message, ...]:
    """The turns of a record up to the question, its options lettered below it."""
    messages = list(record.messages)
    if messages and messages[-1].role == "assistant":
        messages.pop()
    if record.choices and messages:
        order = range(len(record.choices)) if option_order is None else option_order
        lines = "\n".join(
            f"{LETTERS[at]}. {record.choices[index]}" for at, index in enumerate(order)
        )
        messages[-1] = Message(messages[-1].role, (*messages[-1].content, f"\n{lines}"))
    return tuple(messages)


@dataclass(frozen=True)
class Scripted:
    """A model that is one pure function of the request.

    Attributes:
        fingerprint: its name. answer: request -> text. batch_size: requests per batch.
    """

    fingerprint: str
    answer: Callable[[Request], str]
    batch_size: int = 16

    def conversation(
        self, record: Record, option_order: Sequence[int] | None
    ) -> tuple[Message, ...]:
        """Plain turns with lettered options."""
        return plain_conversation(record, option_order)

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        """Consecutive batches."""
        whole = range(len(requests))
        return [
            list(whole[i : i + self.batch_size]) for i in range(0, len(requests), self.batch_size)
        ]

    def respond(self, requests: Sequence[Request]) -> Iterator[Response]:
        """The script's answer to each."""
        for request in requests:
            text = self.answer(request)
            yield Response(request.id, text, new_tokens=len(text.split()))


def oracle(answers: Mapping[str, str]) -> Scripted:
    """Knows the right text of every request id."""
    return Scripted("stub-oracle", lambda request: answers[request.id])


def constant(text: str) -> Scripted:
    """Says the same whatever it is asked."""
    return Scripted(f"stub-constant:{text}", lambda request: text)


def _pick(seed: int, name: str, words: Sequence[str]) -> str:
    return words[int(stream(seed, name).integers(len(words)))]


def random_answers(seed: int = 0, words: Sequence[str] = ("yes", "no")) -> Scripted:
    """A fair letter for a choice question, else a fair draw from `words`; fixed by seed and id."""
    return Scripted(
        f"stub-random:{seed}",
        lambda request: _pick(seed, request.id, LETTERS[: len(request.choices)] or words),
    )


def blind(seed: int = 0, words: Sequence[str] = ("yes", "no")) -> Scripted:
    """Answers from the text of the question alone, so equal questions get equal answers."""
    return Scripted(
        f"stub-blind:{seed}",
        lambda request: _pick(
            seed,
            "".join(turn.text for turn in request.messages),
            LETTERS[: len(request.choices)] or words,
        ),
    )
