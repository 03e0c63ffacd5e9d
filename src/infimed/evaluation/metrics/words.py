"""Words and short answers: the one normaliser, exact match, token precision, recall and F1, ROUGE-L.

The normaliser (English): Unicode NFKC, lower case, punctuation to spaces (a point or comma inside a
number stays), articles dropped, number words up to ten as digits, single spaces. Chinese characters
are words of their own.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import lru_cache

_TOKEN = re.compile(r"\d+(?:[.,]\d+)*%?|[\u3400-\u9fff]|[^\W\d_\u3400-\u9fff]+\d*")
_ARTICLES = frozenset(("a", "an", "the"))
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {word: str(value) for value, word in enumerate(_DIGITS)}


@lru_cache(maxsize=200_000)
def tokens(text: str) -> tuple[str, ...]:
    """Normalised words of a text. Articles are kept when nothing else is left."""
    plain = unicodedata.normalize("NFKC", text).lower()
    found = [_NUMBERS.get(word, word) for word in _TOKEN.findall(plain)]
    kept = tuple(word for word in found if word not in _ARTICLES)
    return kept or tuple(found)


def normalise(text: str) -> str:
    """Normalised text: its words with single spaces."""
    return " ".join(tokens(text))


def exact_match(answer: str, gold: str) -> float:
    """1 when the normalised texts are equal and not empty."""
    return float(bool(tokens(answer)) and tokens(answer) == tokens(gold))


def overlap(answer: str, gold: str) -> tuple[float, float, float]:
    """(precision, recall, F1) of normalised words as multisets; 0 where either is empty."""
    said, right = Counter(tokens(answer)), Counter(tokens(gold))
    shared = sum((said & right).values())
    if not shared:
        return 0.0, 0.0, 0.0
    precision, recall = shared / said.total(), shared / right.total()
    return precision, recall, 2 * precision * recall / (precision + recall)


def token_f1(answer: str, gold: str) -> float:
    """F1 of normalised words."""
    return overlap(answer, gold)[2]


def recall(answer: str, gold: str) -> float:
    """Share of the gold answer's words that were said."""
    return overlap(answer, gold)[1]


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
    """ROUGE-L F1 over normalised words (Lin 2004, with beta = 1)."""
    said, right = tokens(answer), tokens(gold)
    common = lcs_length(said, right)
    if not common:
        return 0.0
    precision, found = common / len(said), common / len(right)
    return 2 * precision * found / (precision + found)
