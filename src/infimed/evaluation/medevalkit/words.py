"""MedEvalKit's word scores: its tokeniser, BLEU and F1. Its ROUGE is in `rouge`."""

from __future__ import annotations

import math
import sys
from collections import Counter


def tokenize(text: str) -> list[str]:
    """Lower case, a space before every full stop, split at single spaces."""
    return text.lower().replace(".", " .").split(" ")


def _ngrams(words: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(n)), strict=False))


def bleu(pred: str, target: str, n: int) -> float:
    """Sentence BLEU with n equal weights and no smoothing.

    A precision of zero counts as the smallest normal float, so short right answers get values like
    1e-77. 0 where no word matches.
    """
    said, right = tokenize(pred), tokenize(target)
    logs = []
    for size in range(1, n + 1):
        found, gold = _ngrams(said, size), _ngrams(right, size)
        matches = sum(min(count, gold[ngram]) for ngram, count in found.items())
        if size == 1 and not matches:
            return 0
        share = matches / max(1, found.total())
        logs.append(math.log(share or sys.float_info.min) / n)
    brevity = 1.0 if len(said) > len(right) else math.exp(1 - len(right) / len(said))
    return brevity * math.exp(math.fsum(logs))


def calculate_f1(prediction: str, ground_truth: str) -> tuple[float, float, float] | int:
    """(F1, precision, recall) of word sets, in this order; the bare number 0 where a text is empty."""
    said, right = set(prediction.lower().split()), set(ground_truth.lower().split())
    if not said or not right:
        return 0
    shared = len(said & right)
    if not shared:
        return 0, 0, 0
    precision, recall = shared / len(said), shared / len(right)
    return 2 * precision * recall / (precision + recall), precision, recall
