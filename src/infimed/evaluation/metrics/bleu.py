"""BLEU-1 to BLEU-4, of a whole set of answers and of single ones.

Source: Papineni et al. 2002. `bleu_N` is the score of the set: clipped n-gram matches and lengths are
summed over all answers, then one geometric mean and one brevity penalty; no smoothing, so it is 0 while
no n-gram of the longest kind matches. It equals sacrebleu with `smooth_method="none"` over the same
words. `sentence_bleu_N` is the mean of single scores, each smoothed by adding 1 to matches and counts of
pairs and longer n-grams (Lin & Och 2004); a right answer of one word scores 1.
Neither is fit for short answers: prefer exact match and token F1 there.
"""

from __future__ import annotations

import math
from collections import Counter
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infimed.evaluation.metrics.words import tokens

Floats = NDArray[np.float64]
ORDERS = 4
COUNTS = 2 * ORDERS + 2
"""Matches of each order, n-grams said of each order, words said, words of the gold text."""


def _grams(words: tuple[str, ...]) -> list[list[Any]]:
    pairs = list(pairwise(words))
    return [
        list(words),
        pairs,
        list(zip(words, words[1:], words[2:], strict=False)),
        list(zip(pairs, pairs[2:], strict=False)),
    ]


@lru_cache(maxsize=200_000)
def ngram_counts(answer: str, gold: str) -> tuple[int, ...]:
    """The counts [2 x 4 + 2] that BLEU is made of: see `COUNTS`."""
    said, right = tokens(answer), tokens(gold)
    matches: list[int] = []
    said_counts: list[int] = []
    for mine, theirs in zip(_grams(said), _grams(right), strict=True):
        said_counts.append(len(mine))
        if not mine or not theirs or (matches and not matches[-1]):
            matches.append(0)  # no match of one order means none of the next
        else:
            matches.append((Counter(mine) & Counter(theirs)).total())
    return (*matches, *said_counts, len(said), len(right))


def bleu_of_sums(sums: Floats, order: int) -> Floats:
    """BLEU from summed counts [..., 10]: [...]; NaN where nothing was to be said."""
    matches, said = sums[..., :order], sums[..., ORDERS : ORDERS + order]
    words, gold = sums[..., -2], sums[..., -1]
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(matches / said).mean(axis=-1)
        brevity = np.minimum(0.0, 1.0 - gold / words)
        score = np.exp(logs + brevity)
    missed = ((matches <= 0) | (said <= 0)).any(axis=-1)
    return np.where(gold > 0, np.where(missed, 0.0, score), np.nan)


def sentence_bleu(answer: str, gold: str, order: int) -> float:
    """Smoothed BLEU of one answer; 0 where no word matches."""
    counts = ngram_counts(answer, gold)
    if not counts[0]:
        return 0.0
    words, right = counts[-2], counts[-1]
    logs = math.log(counts[0] / counts[ORDERS])
    for n in range(1, order):
        logs += math.log((counts[n] + 1) / (counts[ORDERS + n] + 1))
    return math.exp(logs / order + min(0.0, 1 - right / words))
