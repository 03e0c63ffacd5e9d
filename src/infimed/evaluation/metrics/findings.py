"""Clinical content of phantom texts: which findings a report states, and on which side.

Both the model's report and the true one are read by the same rule, with the vocabulary of the
phantom catalogue: a finding is stated by a sentence that names it and does not deny it. Domain:
phantom reports and captions only. Direction: higher is better.
"""

from __future__ import annotations

import re
from functools import lru_cache

_SENTENCE = re.compile(r"(?<=[.;!?])\s+|\n+")
_DENIAL = re.compile(r"\b(?:no|without|not|absent|denies|free of)\b", re.IGNORECASE)
_SIDE = re.compile(r"\b(left|right)\b", re.IGNORECASE)


@lru_cache(maxsize=1)
def _vocabulary() -> tuple[re.Pattern[str], dict[str, str]]:
    """A pattern of all finding names, longest first, and the key each stands for."""
    from infimed.data.phantom.catalogue import MODALITIES  # brings DICOM along: not for a list

    names = {
        name.lower(): kind.key
        for modality in MODALITIES
        for kind in modality.findings
        for name in (kind.name, kind.plural)
    }
    ordered = sorted(names, key=lambda name: (-len(name), name))
    return re.compile(r"\b(" + "|".join(map(re.escape, ordered)) + r")\b", re.IGNORECASE), names


@lru_cache(maxsize=50_000)
def stated_findings(text: str) -> frozenset[tuple[str, str]]:
    """(finding key, side) pairs that a text states; side is "" where none is given.

    The side is the first one named after the finding in its sentence, else the last before it.
    """
    pattern, names = _vocabulary()
    found = set()
    for sentence in _SENTENCE.split(text):
        hits = list(pattern.finditer(sentence))
        ends = [*(hit.start() for hit in hits[1:]), len(sentence)]
        for hit, end in zip(hits, ends[: len(hits)], strict=True):
            if _DENIAL.search(sentence[: hit.start()]):
                continue
            after = _SIDE.search(sentence, hit.end(), end)
            before = _SIDE.findall(sentence[: hit.start()])
            side = after.group(1).lower() if after else before[-1].lower() if before else ""
            found.add((names[hit.group(1).lower()], side))
    return frozenset(found)


def _f1(said: set[object], right: set[object]) -> tuple[float, float]:
    total = len(said) + len(right)
    return (2 * len(said & right) / total, float(total)) if total else (0.0, 0.0)


def finding_f1(answer: str, gold: str) -> tuple[float, float]:
    """(F1, weight) of stated findings; the weighted mean over samples is the micro-averaged F1.

    The weight is the number of findings stated plus true ones, 0 where neither has any.
    """
    return _f1(
        {key for key, _ in stated_findings(answer)}, {key for key, _ in stated_findings(gold)}
    )


def side_f1(answer: str, gold: str) -> tuple[float, float]:
    """(F1, weight) of findings with their side: both must be right."""
    return _f1(set(stated_findings(answer)), set(stated_findings(gold)))


def finding_exact(answer: str, gold: str) -> float:
    """1 when exactly the true findings are stated, sides apart; a normal report counts too."""
    said = {key for key, _ in stated_findings(answer)}
    return float(bool(answer.strip()) and said == {key for key, _ in stated_findings(gold)})
