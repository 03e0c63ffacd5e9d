"""Several right answers at once: F1 of sets of labels, flat and with the levels above them.

A text is a list of labels between semicolons, commas or line breaks; the levels of a label stand
between ">" from the general to the special: ``lung > opacity > left``. "none" and "no finding" are no
label. Hierarchical F1 (Kiritchenko et al. 2005) counts every label with all levels above it, so
``lung > opacity`` for ``lung > opacity > left`` is half right instead of wrong. Both are micro-averaged:
the weight of an answer is the number of labels said plus right. Direction: higher is better. Domain:
structured reports (Rad-ReStruct); Rad-ReStruct's own macro average over labels is another number.
"""

from __future__ import annotations

import re
from functools import lru_cache

from infimed.evaluation.metrics.words import normalise

Label = tuple[str, ...]

_BETWEEN = re.compile(r"[;,；，、\n]+")
_NOTHING = frozenset(("none", "no finding", "no findings", "无"))


@lru_cache(maxsize=50_000)
def labels(text: str) -> frozenset[Label]:
    """Labels of a text, each a tuple of its normalised levels."""
    found = set()
    for part in _BETWEEN.split(text):
        levels = tuple(level for piece in part.split(">") if (level := normalise(piece)))
        if levels and levels not in {(word,) for word in _NOTHING}:
            found.add(levels)
    return frozenset(found)


def with_levels_above(found: frozenset[Label]) -> frozenset[Label]:
    """The labels and every level above them."""
    return frozenset(label[:end] for label in found for end in range(1, len(label) + 1))


def _f1(said: frozenset[Label], right: frozenset[Label], answer: str) -> tuple[float, float]:
    total = len(said) + len(right)
    if not total:  # nothing to find: right if that was said
        return (1.0, 1.0) if answer.strip() else (0.0, 1.0)
    return 2 * len(said & right) / total, float(total)


def label_f1(answer: str, gold: str) -> tuple[float, float]:
    """(F1, weight) of sets of labels; the weighted mean is the micro-averaged F1."""
    return _f1(labels(answer), labels(gold), answer)


def hierarchical_f1(answer: str, gold: str) -> tuple[float, float]:
    """(F1, weight) of labels with all levels above them."""
    return _f1(with_levels_above(labels(answer)), with_levels_above(labels(gold)), answer)
