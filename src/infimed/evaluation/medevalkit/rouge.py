"""ROUGE as the package `rouge` 1.0.1 computes it: sets of n-grams, and 1e-8 in the denominator of F.

A text is cut into sentences at every full stop. ROUGE-L is of the summary kind: the union of the
words of one longest common subsequence per pair of sentences, as a set.
"""

from __future__ import annotations

from itertools import chain

Scores = dict[str, dict[str, float]]


def _sentences(text: str) -> list[list[str]]:
    """Words per sentence. A sentence of spaces only is one empty word, as in the original."""
    return [" ".join(part.split()).split(" ") for part in text.split(".") if part]


def _score(said: int, right: int, shared: int) -> dict[str, float]:
    precision = shared / said if said else 0.0
    recall = shared / right if right else 0.0
    return {
        "r": recall,
        "p": precision,
        "f": 2.0 * (precision * recall / (precision + recall + 1e-8)),
    }


def _grams(words: list[str], n: int) -> set[tuple[str, ...]]:
    return set(zip(*(words[start:] for start in range(n)), strict=False))


def _subsequence(first: list[str], second: list[str]) -> set[str]:
    """Words of a longest common subsequence; of several, the one found walking back by columns."""
    rows = [[0] * (len(second) + 1)]
    for word in first:
        above, row = rows[-1], [0]
        for at, other in enumerate(second):
            row.append(above[at] + 1 if word == other else max(above[at + 1], row[at]))
        rows.append(row)
    i, j = len(first), len(second)
    found = set()
    while i and j:
        if first[i - 1] == second[j - 1]:
            found.add(first[i - 1])
            i, j = i - 1, j - 1
        elif rows[i - 1][j] > rows[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found


def rouge_l(pred: str, target: str) -> float:
    """F of ROUGE-L alone; both texts must have a sentence."""
    return _rouge_l(_sentences(pred.lower()), _sentences(target.lower()))["f"]


def _rouge_l(said: list[list[str]], right: list[list[str]]) -> dict[str, float]:
    union: set[str] = set()
    for gold in right:
        for sentence in said:
            union |= _subsequence(gold, sentence)
    return _score(len(set(chain(*said))), len(set(chain(*right))), len(union))


def rouge(pred: str, target: str) -> list[Scores]:
    """ROUGE-1, 2 and L as a list of one: r, p and f each.

    Raises:
        ValueError: a text is empty, or nothing but full stops.
    """
    said, right = _sentences(pred.lower()), _sentences(target.lower())
    if not said:
        raise ValueError("Hypothesis is empty.")
    if not right:
        raise ValueError("Reference is empty.")
    scores: Scores = {}
    for n in (1, 2):
        ours, theirs = _grams([*chain(*said)], n), _grams([*chain(*right)], n)
        scores[f"rouge-{n}"] = _score(len(ours), len(theirs), len(ours & theirs))
    scores["rouge-l"] = _rouge_l(said, right)
    return [scores]
