"""Asking within a budget: so many calls, or so much money, and then no more.

A budget of money is kept by asking only what fits into the rest if each call costs the most it can, then
looking at what was really spent, and so on; so it is never passed, up to the rough count of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from infimed.core.errors import UsageError
from infimed.inference.prices import Price
from infimed.inference.replies import text_tokens
from infimed.inference.requests import ASK_AGAIN, Model, Request, Response
from infimed.inference.responses import ask, read_responses

MARGIN: Final = 1.5
"""A prompt is taken to have so many times the tokens of the rough count, so that a budget holds."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Where to stop: after so many calls, or before so much money is spent; None is no limit.

    Raises:
        UsageError: out of range, or money without a price.
    """

    calls: int | None = None
    cost: float | None = None
    price: Price | None = None

    def __post_init__(self) -> None:
        if self.calls is not None and self.calls < 0:
            raise UsageError("a budget is 0 calls or more", seen=self.calls)
        if self.cost is not None and not self.cost >= 0:
            raise UsageError("a budget is 0 or more", seen=self.cost)
        if self.cost is not None and self.price is None:
            raise UsageError("a budget of money needs a price", fix="--prices FILE")

    def most(self, request: Request) -> float:
        """What a request costs at most."""
        assert self.price is not None
        words = sum(text_tokens(turn.text) for turn in request.messages)
        return self.price.of(MARGIN * words, request.max_new_tokens)


def answered(stored: Mapping[str, Response], key: str) -> bool:
    """Whether a key has an answer that is not asked for again."""
    return key in stored and stored[key].status not in ASK_AGAIN


def ask_within(
    model: Model, requests: Sequence[Request], store: Path, budget: Budget, *, title: str
) -> int:
    """Ask what is not stored as far as the budget goes, in order; how many were not asked for its sake.

    A budget of money is kept by asking, again and again, as many as fit into what is left if each
    costs the most it can.
    """
    stored = read_responses(store)[0]
    first: dict[str, Request] = {}
    for request in requests:
        first.setdefault(request.key(model.fingerprint), request)
    missing = [key for key in first if not answered(stored, key)]
    chosen = missing if budget.calls is None else missing[: budget.calls]
    if budget.cost is None:
        wanted = set(chosen)
        asked = [r for key, r in first.items() if key in wanted or answered(stored, key)]
        if wanted:
            ask(model, asked, store, title=title)
        return len(missing) - len(chosen)
    assert budget.price is not None
    left, at = budget.cost, 0
    while at < len(chosen):
        end, most = at, 0.0
        while end < len(chosen) and most + budget.most(first[chosen[end]]) <= left:
            most += budget.most(first[chosen[end]])
            end += 1
        if end == at:
            break
        got = ask(model, [first[key] for key in chosen[at:end]], store, title=title)
        left -= budget.price.of(
            sum(r.prompt_tokens for r in got.values()), sum(r.new_tokens for r in got.values())
        )
        at = end
    return len(missing) - at
