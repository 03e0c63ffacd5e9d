"""Answers in the shape of OpenAI's chat completions, whole or as server-sent events.

Every answer has a field ``infimed`` beside OpenAI's: the disclaimer, the model's hash and what it covers, the
probability of the first token and whether the answer is flagged as an abstention (null without a fitted
threshold). Log-probabilities are those of the first token only.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from infimed.inference.disclaimer import DISCLAIMER
from infimed.serving.asking import Done, First, TokenScore
from infimed.serving.refusals import Refusal


@dataclass(frozen=True)
class Heading:
    """What all parts of an answer say of it.

    Attributes:
        created: seconds since 1970. abstain_below: probability of the first token.
        logprobs: whether they were asked for.
    """

    id: str
    created: int
    model: str
    model_hash: str
    model_hash_of: str
    abstain_below: float | None
    logprobs: bool

    def infimed(self, first: First | None) -> dict[str, Any]:
        """The field of ours."""
        probability = math.exp(first.chosen.logprob) if first is not None else None
        judged = self.abstain_below is not None and probability is not None
        return {
            "disclaimer": DISCLAIMER,
            "model_hash": self.model_hash,
            "model_hash_of": self.model_hash_of,
            "first_token_probability": probability,
            "abstained": probability < self.abstain_below if judged else None,  # type: ignore[operator]
        }

    def _whole(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.model_hash[:16],
        }

    def completion(self, first: First | None, done: Done) -> dict[str, Any]:
        """The whole answer."""
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": done.text, "refusal": None},
            "finish_reason": done.finish,
            "logprobs": self._logprobs(first),
        }
        whole = self._whole("chat.completion")
        return {**whole, "choices": [choice], "usage": usage(done), "infimed": self.infimed(first)}

    def opening(self, first: First | None) -> bytes:
        """The first event: whose turn it is, and how likely its first token was."""
        delta = {"role": "assistant", "content": ""}
        return self._chunk(delta, None, logprobs=self._logprobs(first), infimed=self.infimed(first))

    def piece(self, text: str) -> bytes:
        """An event with text."""
        return self._chunk({"content": text}, None)

    def closing(self, first: First | None, done: Done, with_usage: bool) -> bytes:
        """The last events."""
        made = self._chunk({}, done.finish, infimed=self.infimed(first))
        if with_usage:
            whole = self._whole("chat.completion.chunk")
            made += event({**whole, "choices": [], "usage": usage(done)})
        return made + b"data: [DONE]\n\n"

    def _chunk(
        self,
        delta: dict[str, Any],
        finish: str | None,
        *,
        logprobs: dict[str, Any] | None = None,
        **more: Any,
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": logprobs}
        return event({**self._whole("chat.completion.chunk"), "choices": [choice], **more})

    def _logprobs(self, first: First | None) -> dict[str, Any] | None:
        if first is None or not self.logprobs:
            return None
        top = [_token(score) for score in first.top]
        return {"content": [{**_token(first.chosen), "top_logprobs": top}], "refusal": None}


def _token(score: TokenScore) -> dict[str, Any]:
    return {
        "token": score.text,
        "logprob": max(score.logprob, -9999.0),  # JSON has no infinity
        "bytes": list(score.text.encode("utf-8", "replace")),
    }


def usage(done: Done) -> dict[str, Any]:
    """Tokens of prompt and answer; visual tokens are among the prompt's."""
    return {
        "prompt_tokens": done.prompt_tokens,
        "completion_tokens": done.new_tokens,
        "total_tokens": done.prompt_tokens + done.new_tokens,
        "prompt_tokens_details": {"cached_tokens": done.reused_tokens},
    }


def event(value: dict[str, Any]) -> bytes:
    """A server-sent event; JSON has no line break, so no text can begin another."""
    return b"data: " + json.dumps(value, ensure_ascii=True).encode() + b"\n\n"


def failure(refusal: Refusal, request_id: str) -> bytes:
    """An event that ends a stream that had begun."""
    return event(refusal.body(request_id))
