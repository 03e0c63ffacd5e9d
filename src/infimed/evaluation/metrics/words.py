"""Words and short answers: the normaliser of each language, exact match, precision, recall and F1.

English and other languages of letters: Unicode NFKC (full-width forms become plain ones), lower case,
punctuation to spaces (a point or comma inside a number stays), number words up to ten as digits,
single spaces. Articles stay: "the liver" is not "liver", and token F1 says how near it is.
Chinese: the same, and every character is a word of its own, so 肺部 holds 肺. A mixed text is read by
both rules at once, so no language has to be given.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import lru_cache
from typing import NamedTuple

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U000323af"
_TOKEN = re.compile(rf"\d+(?:[.,]\d+)*%?|[{_HAN}]|[^\W\d_{_HAN}]+\d*")
_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {word: str(value) for value, word in enumerate(_DIGITS)}


class Overlap(NamedTuple):
    """Shares of words in common, by name, so that none is taken for another."""

    precision: float
    recall: float
    f1: float


@lru_cache(maxsize=200_000)
def tokens(text: str) -> tuple[str, ...]:
    """Normalised words of a text."""
    plain = (text if text.isascii() else unicodedata.normalize("NFKC", text)).lower()
    return tuple(_NUMBERS.get(word, word) for word in _TOKEN.findall(plain))


def normalise(text: str) -> str:
    """Normalised text: its words with single spaces."""
    return " ".join(tokens(text))


def exact_match(answer: str, gold: str) -> float:
    """1 when the normalised texts are equal and not empty."""
    said = tokens(answer)
    return float(bool(said) and said == tokens(gold))


def shares(said: int, right: int, shared: int) -> Overlap:
    """Precision, recall and F1 of `shared` things among `said` and `right` ones; 0 without any."""
    if not shared:
        return Overlap(0.0, 0.0, 0.0)
    precision, recall = shared / said, shared / right
    return Overlap(precision, recall, 2 * precision * recall / (precision + recall))


def overlap(answer: str, gold: str) -> Overlap:
    """Precision, recall and F1 of normalised words as multisets; 0 where either is empty."""
    said, right = tokens(answer), tokens(gold)
    if said == right:
        return shares(len(said), len(right), len(said))
    counts = Counter(right)
    shared = 0
    for word in said:
        if counts[word] > 0:
            counts[word] -= 1
            shared += 1
    return shares(len(said), len(right), shared)


def token_f1(answer: str, gold: str) -> float:
    """F1 of normalised words."""
    return overlap(answer, gold).f1


def precision(answer: str, gold: str) -> float:
    """Share of the said words that are in the gold answer."""
    return overlap(answer, gold).precision


def recall(answer: str, gold: str) -> float:
    """Share of the gold answer's words that were said."""
    return overlap(answer, gold).recall


def numbers(text: str) -> set[float]:
    """Numbers of a text, rounded to two decimals."""
    return {round(float(hit.replace(",", "")), 2) for hit in _NUMBER.findall(text)}


def contains(answer: str, gold: str) -> float:
    """1 when the gold words stand in the answer as a run, or its number is one of the answer's.

    Numbers are compared after rounding to two decimals.
    """
    said, right = f" {normalise(answer)} ", normalise(gold)
    if not right:
        return 0.0
    bare = gold.strip()
    if _NUMBER.fullmatch(bare):
        return float(bool(numbers(bare) & numbers(answer)))
    return float(f" {right} " in said)
