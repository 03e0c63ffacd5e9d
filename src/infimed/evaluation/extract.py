"""Read the answer out of what a model wrote: ordered rules that say which of them fired.

An answer that no rule can read is `unparsed`; it is never guessed and never given chance. All
functions are pure and total: any string gives an `Extraction`.

Order of rules: an explicit mark (``\\boxed{}``, ``<answer>``, the last "answer is") first, then the
text itself. Reasoning in ``<think>`` tags is never read. Marks, yes and no are read by `infimed.inference.reading`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from infimed.evaluation.metrics.words import normalise
from infimed.inference.reading import (
    NOTHING,
    UNPARSED,
    Extraction,
    boxed,
    marked,
    polarity,
    without_thinking,
    yes_no,
)

__all__ = [
    "NOTHING", "UNPARSED", "Extraction", "boxed", "closed", "letter", "marked", "polarity", "short",
    "whole", "yes_no",
]  # fmt: skip


def closed(text: str, *, expects_yes_no: bool) -> Extraction:
    """yes/no where the question is answered so, else a short answer."""
    return yes_no(text) if expects_yes_no else short(text)


_LEAD = re.compile(
    r"^\W*(?:option\s+)?\(?([A-Z])\)?\s*(?:$|[.:)、。]|\*\*|\s+(?:is|because|since|as)\b)",
    re.IGNORECASE,
)
_BARE = re.compile(r"^\W*(?:option\s+)?\(?([A-Za-z])\)?\W*$", re.IGNORECASE)
_BLOCK = re.compile(r"\n\s*\n")
_STATED = re.compile(
    r"(?i:therefore|thus|hence|so|choose|select|pick)[,:]?\s+(?:the\s+answer\s+is\s+)?(?i:option\s+)?\(?([A-Z])\)?(?=\W*$|[.,;])",
)
_CORRECT = re.compile(r"\b(?:option\s+)?\(?([A-Z])\)?\s+is\s+(?:the\s+)?(?:correct|right|best)\b")
_MENTION = re.compile(r"\(([A-Z])\)|(?<![^\W\u3400-\u9fff])([A-Z])(?![^\W\u3400-\u9fff])(?!')")


def letter(text: str, options: Sequence[str]) -> Extraction:
    """The index of the chosen option as text ("0", "1", ...); several letters are unparsed.

    Args:
        options: in the order shown, without letters.
    """
    letters = [chr(ord("A") + index) for index in range(len(options))]
    for rule, part in marked(text):
        found = _letter_in(part, letters, options)
        if found is not None:
            index, how = found
            return Extraction(str(index), how if rule == "text" else rule)
    return NOTHING


def _letter_in(part: str, letters: Sequence[str], options: Sequence[str]) -> tuple[int, str] | None:
    """(option index, rule) in one stretch of text."""
    mentioned = _mentioned(part, letters)
    blocks = [block for block in _BLOCK.split(part) if block.strip()] or [part]
    for block in (blocks[0], blocks[-1]):
        bare = _BARE.match(block)
        if bare and bare.group(1).upper() in letters:
            return letters.index(bare.group(1).upper()), "letter alone"
    exact = [i for i, option in enumerate(options) if normalise(option) == normalise(part)]
    if len(exact) == 1:
        return exact[0], "option text"
    lead = _LEAD.match(blocks[0])
    if lead and lead.group(1) in letters and len(mentioned - {"A"} | {lead.group(1)}) == 1:
        return letters.index(lead.group(1)), "leading letter"
    for pattern, rule in ((_STATED, "stated letter"), (_CORRECT, "stated letter")):
        stated = {hit.group(1) for hit in pattern.finditer(part)} & set(letters)
        if len(stated) == 1:
            return letters.index(stated.pop()), rule
    if len(mentioned) == 1:
        return letters.index(next(iter(mentioned))), "only letter"
    if mentioned:
        return None
    words = f" {normalise(part)} "
    inside = [
        i
        for i, option in enumerate(options)
        if normalise(option) and f" {normalise(option)} " in words
    ]
    # "left lung" also holds "lung": an option inside another named option does not count.
    longest = [
        i
        for i in inside
        if not any(
            j != i and f" {normalise(options[i])} " in f" {normalise(options[j])} " for j in inside
        )
    ]
    return (longest[0], "option named") if len(longest) == 1 else None


def _mentioned(part: str, letters: Sequence[str]) -> set[str]:
    """Option letters that stand alone; "A" as an article ("A mass") does not."""
    found = set()
    for hit in _MENTION.finditer(part):
        name = hit.group(1) or hit.group(2)
        article = (
            name == "A"
            and not hit.group(1)
            and re.match(r"\s+[a-z]", part[hit.end() :]) is not None
        )
        if name in letters and not (
            article and not re.match(r"\s+(?:is|and|or)\b", part[hit.end() :])
        ):
            found.add(name)
    return found


def short(text: str) -> Extraction:
    """A short answer: the marked part, else the first line with words."""
    for rule, part in marked(text):
        for line in part.splitlines():
            if normalise(line):
                return Extraction(line.strip(), "first line" if rule == "text" else rule)
    return NOTHING


def whole(text: str) -> Extraction:
    """Everything the model wrote, reasoning apart; unparsed when it has no word."""
    visible = without_thinking(text)
    return Extraction(visible, "whole text") if normalise(visible) else NOTHING
