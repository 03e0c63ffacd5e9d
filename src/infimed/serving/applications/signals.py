"""Raw probabilities of a written answer: what a calibration starts from.

None of them is a confidence by itself. Which ranks the right answers best depends on how a model was taught to
answer ("yes" at once, or "On the left, so no."), so `infimed calibrate` measures and the calibration names one.
"""

from __future__ import annotations

import math
from typing import Final, Literal, get_args

from infimed.inference.reading import yes_no
from infimed.serving.asking import Done, First

Kind = Literal["yes_no", "choice", "open"]
"""Kinds of answer, told apart by the answer, which is all that is known of a question in words."""
KINDS: tuple[Kind, ...] = get_args(Kind)

Signal = Literal["first_token", "yes_no", "answer", "per_token", "options"]
"""
- ``first_token``: probability of the first token.
- ``yes_no``: of the first token among those that say yes or no; ``answer`` where it is neither.
- ``answer``: of all tokens together. ``per_token``: their geometric mean.
- ``options``: of the option among all options, by option scoring.
"""
WRITTEN: tuple[Signal, ...] = ("first_token", "yes_no", "answer", "per_token")
UNFITTED: Final[dict[Kind, Signal]] = {"yes_no": "yes_no", "choice": "options", "open": "answer"}
"""What `raw_probability` is without a calibration."""
TOP: Final = 20
"""Likeliest first tokens that are looked at; what is below has next to no probability."""

_YES: Final = frozenset({"yes", "是", "是的", "有", "对"})
_NO: Final = frozenset({"no", "否", "没有", "无", "不", "不是"})


def kind_of(text: str) -> Kind:
    """What kind of answer a text is."""
    return "yes_no" if yes_no(text).value is not None else "open"


def signals(first: First | None, done: Done) -> dict[Signal, float]:
    """Those that are known, each in 0..1; a server behind may tell none."""
    found: dict[Signal, float] = {}
    if first is not None:
        found["first_token"] = math.exp(first.chosen.logprob)
    if done.logprob is not None and done.new_tokens:
        found["answer"] = math.exp(done.logprob)
        found["per_token"] = math.exp(done.logprob / done.new_tokens)
    decided = share_of_decision(first) if first is not None else None
    if decided is not None:
        found["yes_no"] = decided
    elif "answer" in found:
        found["yes_no"] = found["answer"]
    return found


def share_of_decision(first: First) -> float | None:
    """P(yes) / (P(yes) + P(no)) of the first token if it says yes, and the other way round; None for any other."""
    own = _says(first.chosen.text)
    if own is None:
        return None
    likely = {True: 0.0, False: 0.0}
    for score in first.top:
        said = _says(score.text)
        if said is not None:
            likely[said] += math.exp(score.logprob)
    likely[own] = max(likely[own], math.exp(first.chosen.logprob))
    both = likely[True] + likely[False]
    return likely[own] / both if both > 0 else None


def _says(token: str) -> bool | None:
    word = token.strip().strip(".,。，").lower()
    return True if word in _YES else False if word in _NO else None
