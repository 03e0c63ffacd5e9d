"""How steady answers are: under other orders of the options, and under other words for a question.

The rephrasings are the data set's own, so they cost no further question. Pure functions of rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from infimed.core.statistics import Combine, Estimate, Measured, compare_sums, ratio_of_sums
from infimed.evaluation.evidence import Letter, Rephrasings, Rotations
from infimed.evaluation.extract import polarity
from infimed.evaluation.metrics.words import normalise
from infimed.evaluation.sample import LETTERS, Sample
from infimed.evaluation.spec import TaskSpec, field_values, matches
from infimed.evaluation.stored import RowResult, Turn

Floats = NDArray[np.float64]


def _shares(values: Sequence[float]) -> Floats:
    return np.stack([np.array(values, np.float64), np.ones(len(values))], axis=1)


def letter_bias(sums: Floats) -> Floats:
    """Half the summed distance of two shares over letters, from sums of counts [..., 2 * letters]."""
    said, gold = np.split(sums, 2, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = said / said.sum(-1, keepdims=True) - gold / gold.sum(-1, keepdims=True)
    return np.asarray(np.abs(apart).sum(axis=-1) / 2)


def rotations(samples: Sequence[Sample], row: RowResult, seed: int) -> Rotations:
    """What rotating the options shows, over the questions whose options were rotated."""
    turned = [row.turned[at] for at in row.covered.tolist()]
    groups = [samples[at].group for at in row.covered.tolist()]
    letters = LETTERS[: max(max(len(samples[at].order), 2) for at in row.covered.tolist())]
    counts = np.zeros((len(turned), 2 * len(letters)))
    for own, turns in zip(counts, turned, strict=True):
        for turn in turns:
            if turn.letter:  # what could not be read stands at no letter, on either side
                own[letters.index(turn.letter)] += 1
                own[len(letters) + letters.index(turn.gold)] += 1
    columns: list[tuple[Floats, Combine]] = [
        (_shares([turns[0].score for turns in turned]), ratio_of_sums),
        (_shares([float(np.mean([t.score for t in turns])) for turns in turned]), ratio_of_sums),
        (_shares([float(all(t.score == 1 for t in turns)) for turns in turned]), ratio_of_sums),
        (_shares([float(_same(turns)) for turns in turned]), ratio_of_sums),
        (counts, letter_bias),
    ]
    found = compare_sums([Measured([rows], how) for rows, how in columns], groups, seed=seed)
    plain, mean, right, same, bias = (one.rows[0] for one in found)
    said, gold = np.split(counts.sum(axis=0), 2)
    read = max(1.0, said.sum())
    return Rotations(
        questions=len(turned),
        orders=max(map(len, turned)),
        asked=sum(map(len, turned)),
        plain=plain,
        mean=mean,
        all_right=right,
        same=same,
        letters=tuple(
            Letter(letter, float(a / read), float(b / read))
            for letter, a, b in zip(letters, said, gold, strict=True)
        ),
        bias=bias,
    )


def _same(turns: Sequence[Turn]) -> bool:
    """Whether every order got the same option; an answer that cannot be read is the same as none."""
    return turns[0].parsed is not None and len({turn.parsed for turn in turns}) == 1


def _meaning(text: str) -> str:
    return polarity(text) or normalise(text)


def rephrased_sets(samples: Sequence[Sample], spec: TaskSpec) -> tuple[list[list[int]], int]:
    """Numbers of the questions that mean the same about the same images, and sets left out.

    A set needs two questions; one whose gold answers differ is left out and counted.
    """
    sets: dict[tuple[object, ...], list[int]] = {}
    for number, sample in enumerate(samples):
        values = field_values(sample.record, spec.rephrasings.field)
        if values and matches(sample.record, spec.rephrasings.where):
            images = tuple(image.sha256 or image.locator for image in sample.record.images)
            sets.setdefault((str(values[0]), images, sample.kind), []).append(number)
    several = [own for own in sets.values() if len(own) > 1]
    equal = [own for own in several if len({_meaning(samples[at].gold) for at in own}) == 1]
    return equal, len(several) - len(equal)


def rephrasings(
    samples: Sequence[Sample],
    spec: TaskSpec,
    results: Mapping[str, RowResult],
    names: Sequence[str],
    seed: int,
) -> tuple[Rephrasings, ...]:
    """Consistency of rows on the data set's own rephrasings; nothing where it has none."""
    sets, left_out = rephrased_sets(samples, spec)
    if not sets:
        return ()
    groups = [samples[own[0]].group for own in sets]
    found = []
    for name in names:
        result = results[name]
        if not result.complete:
            continue
        answers, scores = result.assessment.answers, result.assessment.scores()
        same = [_agree([answers[at].parsed for at in own]) for own in sets]
        right = [float(all(scores[at] == 1 for at in own)) for own in sets]
        one, other = (_estimate(values, groups, seed) for values in (same, right))
        found.append(Rephrasings(name, len(sets), sum(map(len, sets)), one, other, left_out))
    return tuple(found)


def _agree(parsed: Sequence[str | None]) -> float:
    said = {None if text is None else _meaning(text) for text in parsed}
    return float(len(said) == 1 and None not in said)


def _estimate(values: Sequence[float], groups: Sequence[str], seed: int) -> Estimate:
    return compare_sums([Measured([_shares(values)])], groups, seed=seed)[0].rows[0]
