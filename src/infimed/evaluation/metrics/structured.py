"""Structured reports filled in question by question: macro F1 over every answer of the form.

Source: Rad-ReStruct (Pellegrini et al. 2023) and its evaluator. A report is a vector with a place for
every answer of every question of the form; below a "no" every yes/no question is "no" and nothing else
is selected, in the reference and in what is scored; "no selection" and "unspecified" stand only alone.
The score is the mean F1 of the places that the reference sets in at least one report. Higher is better.
Domain: Rad-ReStruct.

Where this differs from that evaluator, and why:

- Questions are those of the reference's own path, with its answers: what a model would have said below a "yes" of its
  own, where the reference says "no", was never asked and counts as "no". Its evaluator asks there.
- Places that no report of the set is asked about are left out: there both say "no" by construction, and
  each would add a 1 to the mean. Its evaluator has all 2,470 places of the form.
- Its mean runs over scikit-learn's report, in which the micro, macro, weighted and sample averages stand
  beside the places as if they were four more of them. Here they do not.
- An answer that cannot be read selects nothing. Its evaluator then sets "no selection".
- Several findings of one kind keep their order. Its evaluator may match them with the reference first.

So the number is not that of the paper's table; it compares models that were asked alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from infimed.evaluation.metrics.words import normalise

Floats = NDArray[np.float64]
Place = tuple[str, int, str]
"""Path of a question, how often the report has asked it before, and an answer."""

YES, NO = "yes", "no"
ALONE: Final = frozenset({"no selection", "unspecified"})
_NOTHING: Final = frozenset(
    {"none", "nothing", "no selection", "no selections", "unspecified", "not specified", "unknown"}
)


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a report.

    Attributes:
        report: which. path: its place in the form. text: as asked. above: texts of the questions it
            hangs on, from the top. options, gold, said: possible, right and chosen answers.
    """

    report: str
    path: str
    text: str
    above: tuple[str, ...]
    options: tuple[str, ...]
    gold: frozenset[str]
    said: frozenset[str]

    @property
    def binary(self) -> bool:
        """Whether it is answered by yes or no."""
        return set(self.options) == {YES, NO}


def chosen(text: str | None, options: Sequence[str], *, single: bool) -> frozenset[str]:
    """The options that an answer names; longer names first, so that "left lung" is not "lung" too.

    Args:
        text: None where the answer could not be read: nothing is chosen. single: several named
            options are no answer.
    """
    if text is None:
        return frozenset()
    words = f" {normalise(text)} "
    found: set[str] = set()
    for option in sorted(options, key=lambda option: (-len(normalise(option)), option)):
        name = f" {normalise(option)} "
        if name.strip() and name in words:
            found.add(option)
            words = words.replace(name, " | ")
    if not found and words.strip() in _NOTHING:
        found = set(ALONE & set(options))
    if len(found) > 1:
        found -= ALONE
    return frozenset() if single and len(found) > 1 else frozenset(found)


def _parents(questions: Sequence[Question], at: int) -> list[int]:
    """Numbers of the questions above one: for each text the nearest earlier one, from below upwards."""
    found, before = [], at
    for text in reversed(questions[at].above):
        for number in range(before - 1, -1, -1):
            if questions[number].text == text:
                found.append(number)
                before = number
                break
    return found


def consistent(questions: Sequence[Question]) -> list[frozenset[str]]:
    """What one report's answers select once everything below a question not answered yes is "no".

    Args:
        questions: of one report, in the order of the form.
    """
    made: list[frozenset[str]] = []
    for at, question in enumerate(questions):
        above = [number for number in _parents(questions, at) if questions[number].binary]
        if all(made[number] == {YES} for number in above):
            made.append(question.said)
        else:
            made.append(frozenset({NO}) if question.binary else frozenset())
    return made


def places(questions: Sequence[Question]) -> tuple[list[str], Floats]:
    """Reports in order of appearance, and their right, wrong and missed places: [reports, 3 K].

    K places; first those selected rightly, then wrongly, then missed. Sums of rows are what
    `macro_f1` takes.
    """
    by_report: dict[str, list[Question]] = {}
    for question in questions:
        by_report.setdefault(question.report, []).append(question)
    gold: list[set[Place]] = []
    said: list[set[Place]] = []
    asked: list[set[tuple[str, int]]] = []
    forms: dict[tuple[str, int], set[str]] = {}
    for own in by_report.values():
        seen: Counter[str] = Counter()
        gold.append(set())
        said.append(set())
        asked.append(set())
        for question, answers in zip(own, consistent(own), strict=True):
            key = (question.path, seen[question.path])
            seen[question.path] += 1
            asked[-1].add(key)
            forms.setdefault(key, set()).update(question.options)
            gold[-1].update((*key, answer) for answer in question.gold)
            said[-1].update((*key, answer) for answer in answers)
    for number, own_keys in enumerate(asked):  # what the reference's "no" made needless to ask
        implied = {(*key, NO) for key, options in forms.items() if key not in own_keys and options == {YES, NO}}  # fmt: skip
        gold[number] |= implied
        said[number] |= implied
    every = sorted(set().union(*gold, *said))
    index = {place: number for number, place in enumerate(every)}
    rows = np.zeros((len(by_report), 3, len(every)))
    for number, (right, chosen_places) in enumerate(zip(gold, said, strict=True)):
        for kind, part in enumerate((right & chosen_places, chosen_places - right, right - chosen_places)):  # fmt: skip
            rows[number, kind, [index[place] for place in part]] = 1.0
    return list(by_report), rows.reshape(len(by_report), -1)


def macro_f1(sums: Floats) -> Floats:
    """Mean F1 of the places that the reference sets, from sums [..., 3 K]; NaN where it sets none."""
    right, wrong, missed = np.split(sums, 3, axis=-1)
    there = right + missed > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        each = np.where(there, 2 * right / (2 * right + wrong + missed), 0.0)
        return np.asarray(each.sum(axis=-1) / there.sum(axis=-1))
