"""What a judge run would cost, before anything is asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from infimed.curation.judge import RESPONSES_FILE, Plan
from infimed.inference.prices import Price
from infimed.inference.replies import text_tokens
from infimed.inference.responses import read_responses


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run would cost.

    Attributes:
        selected: records in the band. answered: of them already answered, so free.
        calls: requests that would be sent. images: pictures in them.
        prompt_tokens, completion_tokens: estimated. price: from the table, None without one.
    """

    selected: int
    answered: int
    calls: int
    images: int
    prompt_tokens: int
    completion_tokens: int
    price: Price | None

    @property
    def cost(self) -> float | None:
        """Estimated cost in the currency of the price."""
        return self.price.of(self.prompt_tokens, self.completion_tokens) if self.price else None

    def lines(self, records: int) -> list[str]:
        """The estimate in words, of so many records in all."""
        made = [
            f"{self.selected} of {records} records are in the band ({self.selected / max(1, records):.1%})",
            f"{self.answered} of them are answered already; {self.calls} calls with {self.images} images",
            f"about {self.prompt_tokens} prompt and {self.completion_tokens} written tokens",
        ]
        if self.price is None:
            made.append("no price table given (--prices FILE), so no cost")
        else:
            made.append(f"about {self.cost:.2f} {self.price.currency}")
        return made


def estimate(
    folder: Path,
    planned: Plan,
    fingerprint: str,
    *,
    image_tokens: int = 1000,
    answer_tokens: int = 250,
    price: Price | None = None,
) -> Estimate:
    """Calls and cost of a plan, asking nothing.

    Args:
        image_tokens: prompt tokens per image; depends on the judge and the size of the images.
        answer_tokens: tokens written per answer; the mean of the stored answers where there are any.
    """
    stored = read_responses(folder / RESPONSES_FILE)[0]
    done = {key for key, response in stored.items() if response.outcome != "error"}
    written = [r.new_tokens for r in stored.values() if r.status == "ok" and r.new_tokens]
    keys = [request.key(fingerprint) for request in planned.requests]
    fresh = {k: r for k, r in zip(keys, planned.requests, strict=True) if k not in done}
    images = sum(len(request.pictures) for request in fresh.values())
    words = sum(text_tokens(turn.text) for request in fresh.values() for turn in request.messages)
    per_answer = round(float(np.mean(written))) if written else answer_tokens
    return Estimate(
        selected=len(keys),
        answered=sum(key in done for key in keys),
        calls=len(fresh),
        images=images,
        prompt_tokens=words + images * image_tokens,
        completion_tokens=len(fresh) * per_answer,
        price=price,
    )
