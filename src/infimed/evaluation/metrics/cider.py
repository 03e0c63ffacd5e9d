"""CIDEr-D: cosine of tf-idf n-gram vectors (n = 1 to 4), clipped, with a penalty on length; 0 to 10.

Source: Vedantam et al. 2015, in the -D form with sigma 6 of the reference code (pycocoevalcap), one
gold text per answer. Document frequencies come from the gold texts of the task, so a value depends on
all of them and a set of one text scores 0. As in the reference code, lengths are counted in pairs of
words. Papers multiply by 10 or 100; here it is the reference code's scale.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from infimed.evaluation.metrics.words import tokens

ORDERS = 4
SIGMA = 6.0

Words = Sequence[str]
_Vector = tuple[list[dict[Any, float]], list[float], int]


def _counts(words: Words) -> list[Counter[Any]]:
    """Counts of n-grams for n = 1 to 4."""
    return [
        Counter(words if n == 1 else zip(*(words[start:] for start in range(n)), strict=False))
        for n in range(1, ORDERS + 1)
    ]


class Cider:
    """Scores answers against gold texts with the document frequencies of those gold texts."""

    def __init__(self, golds: Sequence[Words]) -> None:
        self._frequency: Counter[Any] = Counter()
        for gold in golds:
            for counts in _counts(gold):
                self._frequency.update(counts.keys())
        self._log_size = math.log(len(golds)) if golds else 0.0

    def _vector(self, words: Words) -> _Vector:
        frequency, log, size = self._frequency, math.log, self._log_size
        parts, norms = [], []
        counted = _counts(words)
        for counts in counted:
            part = {
                ngram: count * (size - log(max(1.0, frequency[ngram])))
                for ngram, count in counts.items()
            }
            parts.append(part)
            norms.append(math.sqrt(sum(value * value for value in part.values())))
        return parts, norms, counted[1].total()

    def score(self, answer: Words, gold: Words) -> float:
        """CIDEr-D of one answer, 0 to 10."""
        said, said_norms, said_length = self._vector(answer)
        right, right_norms, right_length = self._vector(gold)
        total = 0.0
        for mine, theirs, norm, other in zip(said, right, said_norms, right_norms, strict=True):
            if norm and other:
                shared = sum(
                    min(value, weight) * weight
                    for ngram, value in mine.items()
                    if (weight := theirs.get(ngram)) is not None
                )
                total += shared / (norm * other)
        penalty = math.exp(-((said_length - right_length) ** 2) / (2 * SIGMA**2))
        return 10.0 * penalty * total / ORDERS


def cider(answers: Sequence[str], golds: Sequence[str]) -> list[float]:
    """CIDEr-D of each answer; their mean is the score of the set."""
    scorer = Cider([tokens(gold) for gold in golds])
    found: dict[tuple[str, str], float] = {}
    for pair in zip(answers, golds, strict=True):
        if pair not in found:
            found[pair] = scorer.score(tokens(pair[0]), tokens(pair[1]))
    return [found[pair] for pair in zip(answers, golds, strict=True)]
