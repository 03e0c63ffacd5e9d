"""A model that answers with the likeliest of a request's choices, through the same store as any other.

The answer's text is the choice itself; the log-probability and length of every choice are kept beside
it. The key of such a request covers its choices (`Request.scored`), so it is never taken for a
written answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from infimed.core.errors import UsageError
from infimed.data.record import Message, Record
from infimed.inference.requests import ChoiceScores, Model, OptionScore, Request, Response


@runtime_checkable
class ScoresChoices(Protocol):
    """A model that can say how likely each choice is (`LocalModel.score_choices`)."""

    def score_choices(self, requests: Sequence[Request]) -> list[ChoiceScores]:
        """The choices of one batch of requests, scored."""


class OptionScorer:
    """`model`, answering by its own probabilities of the choices.

    Raises:
        UsageError: the model gives no probabilities.
    """

    def __init__(self, model: Model) -> None:
        if not isinstance(model, ScoresChoices):
            raise UsageError(
                "this model gives no probabilities of options",
                seen=type(model).__name__,
                accepted="a checkpoint in this process",
                fix="leave --option-scoring out",
            )
        self._model = model
        self._scores: ScoresChoices = model
        self.fingerprint = model.fingerprint

    def conversation(
        self, record: Record, option_order: Sequence[int] | None
    ) -> tuple[Message, ...]:
        """The model's own turns."""
        return self._model.conversation(record, option_order)

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        """The model's own batches."""
        return self._model.batches(requests)

    def respond(self, requests: Sequence[Request]) -> Iterator[Response]:
        """The likeliest choice of each, by mean log-probability of a token."""
        for request, found in zip(requests, self._scores.score_choices(requests), strict=True):
            if found.error:
                yield Response(request.id, "", "error", error=found.error)
            elif not all(math.isfinite(option.logprob) for option in found.options):
                yield Response(request.id, "", "error", error="a probability is not finite")
            else:
                yield Response(request.id, request.choices[found.best()], options=found.options)


def confidences(options: Sequence[OptionScore]) -> NDArray[np.float64]:
    """Softmax over the choices of their mean log-probability of a token [options].

    With choices of one token it is the model's own probability among them; with longer ones it is a
    score, and whether it can be believed is what the calibration says.
    """
    scores = np.array([option.per_token for option in options])
    odds = np.exp(scores - scores.max())
    return np.asarray(odds / odds.sum())
