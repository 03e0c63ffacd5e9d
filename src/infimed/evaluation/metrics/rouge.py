"""ROUGE-1, ROUGE-2 and ROUGE-L: F1 of shared words, word pairs and the longest common subsequence.

Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004, with beta = 1; n-grams are
counted as multisets, no stemming, over the words of `words.tokens`.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from infimed.evaluation.metrics.words import shares, token_f1, tokens


def rouge_1(answer: str, gold: str) -> float:
    """F1 of words, which is `token_f1` under its name for reports."""
    return token_f1(answer, gold)


def rouge_2(answer: str, gold: str) -> float:
    """F1 of neighbouring pairs of words; 0 where a text has fewer than two."""
    said, right = Counter(pairwise(tokens(answer))), Counter(pairwise(tokens(gold)))
    return shares(said.total(), right.total(), (said & right).total()).f1


def lcs_length(first: tuple[str, ...], second: tuple[str, ...]) -> int:
    """Length of the longest common subsequence, bit-parallel (Crochemore et al. 2001).

    One big-integer step per word of `second`: 50 words against 50 take about 10 microseconds.
    """
    places: dict[str, int] = {}
    for index, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << index
    full = (1 << len(first)) - 1
    row = full
    for word in second:
        match = row & places.get(word, 0)
        row = (row + match | row - match) & full
    return len(first) - row.bit_count()


def rouge_l(answer: str, gold: str) -> float:
    """F1 of the longest common subsequence of words."""
    said, right = tokens(answer), tokens(gold)
    return shares(len(said), len(right), lcs_length(said, right)).f1
