"""Answers in the shape of OpenAI's chat completions, whole or as server-sent events.

Every answer has a field ``infimed`` beside OpenAI's: the disclaimer, the model's hash and what it covers, the
probability of the first token, and where the model has a calibration the confidence and whether the answer is
flagged as an abstention. Log-probabilities are those of the first token only.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from infimed.inference.disclaimer import DISCLAIMER
from infimed.serving.applications.calibration import UNKNOWN, Calibration, Judged, judge_written
from infimed.serving.asking import Done, First, TokenScore
from infimed.serving.refusals import Refusal


@dataclass(frozen=True)
class Heading:
    """What all parts of an answer say of it.

    Attributes:
        created: seconds since 1970. calibration: None where there is none, or none for such a request.
        top: how many likeliest first tokens were asked for; None where no log-probabilities were.
    """

    id: str
    created: int
    model: str
    model_hash: str
    model_hash_of: str
    calibration: Calibration | None
    top: int | None

    def judged(self, first: First | None, done: Done | None) -> Judged:
        """What may be believed of the answer: nothing before it is complete, or without a calibration."""
        if self.calibration is None or done is None:
            return UNKNOWN
        return judge_written(self.calibration, first, done)

    def infimed(self, first: First | None, done: Done | None = None) -> dict[str, Any]:
        """The field of ours; `done` as soon as the answer is complete."""
        judged = self.judged(first, done)
        return {
            "disclaimer": DISCLAIMER,
            "model_hash": self.model_hash,
            "model_hash_of": self.model_hash_of,
            "first_token_probability": math.exp(first.chosen.logprob) if first else None,
            "confidence": judged.confidence,
            "threshold": judged.threshold,
            "abstained": judged.abstained,
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
        own = self.infimed(first, done)
        return {**whole, "choices": [choice], "usage": usage(done), "infimed": own}

    def opening(self, first: First | None) -> bytes:
        """The first event: whose turn it is, and how likely its first token was."""
        delta = {"role": "assistant", "content": ""}
        return self._chunk(delta, None, logprobs=self._logprobs(first), infimed=self.infimed(first))

    def piece(self, text: str) -> bytes:
        """An event with text."""
        return self._chunk({"content": text}, None)

    def closing(self, first: First | None, done: Done, with_usage: bool) -> bytes:
        """The last events."""
        made = self._chunk({}, done.finish, infimed=self.infimed(first, done))
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
        if first is None or self.top is None:
            return None
        top = [_token(score) for score in first.top[: self.top]]
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
