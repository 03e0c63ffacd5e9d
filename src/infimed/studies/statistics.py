"""Differences between arms with intervals over seeds and groups, and Holm's correction.

Arms are paired twice: the same seeds (the same damage, order and start) and the same questions. An interval
resamples both, seeds and groups of questions (patients), each with replacement and crossed, because another
training and other patients would both have given another figure.

A bootstrap of three seeds is too narrow by a factor of sqrt(2/3), so what a seed's difference departs from
the mean over seeds is stretched by sqrt(n / (n - 1)) first; Rao & Wu, *Resampling inference with complex
survey data*, JASA 83 (1988). With so few seeds an interval is still rough, and every table says how many there are.
Holm, *A simple sequentially rejective multiple test procedure*, Scand. J. Statist. 6 (1979).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from infimed.core.errors import DataError
from infimed.core.statistics import LEVEL, group_index, resample_counts

Floats = NDArray[np.float64]

RESAMPLES: Final = 4000


@dataclass(frozen=True)
class Scores:
    """Scores of an arm, one row a seed and one column a question.

    Attributes:
        values: [seeds, questions]. seeds, questions: their names. groups: of each question.
    """

    values: Floats
    seeds: tuple[int, ...]
    questions: tuple[str, ...]
    groups: tuple[str, ...]

    def over(self, seeds: Sequence[int], questions: Sequence[str]) -> Scores:
        """The same for some seeds and questions, in this order."""
        rows = [self.seeds.index(seed) for seed in seeds]
        place = {name: at for at, name in enumerate(self.questions)}
        columns = [place[name] for name in questions]
        groups = tuple(self.groups[at] for at in columns)
        return Scores(self.values[np.ix_(rows, columns)], tuple(seeds), tuple(questions), groups)


@dataclass(frozen=True)
class Effect:
    """A mean, a difference of means or a share of a gap.

    Attributes:
        low, high: 95 % interval; None with fewer than two groups. p: two-sided, of no difference; None
            for a mean. n: questions. groups, seeds: how many there are.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    n: int
    groups: int
    seeds: int


def mean_of(scores: Scores, *, resamples: int = RESAMPLES, seed: int = 0) -> Effect:
    """The mean over seeds and questions with its interval, which ends where scores end, at 0 and 1."""
    mean = _effect(scores, scores.values, None, resamples, seed)
    low, high = (None if v is None else min(max(v, 0.0), 1.0) for v in (mean.low, mean.high))
    return replace(mean, low=low, high=high)


def difference(
    first: Scores, second: Scores, *, resamples: int = RESAMPLES, seed: int = 0
) -> Effect:
    """Mean of `first` minus mean of `second`, on the seeds and questions that both have.

    Raises:
        DataError: they share no seed or no question.
    """
    one, other = matched([first, second])
    values = one.values - other.values
    return _effect(one, values, 0.0, resamples, seed)


def share_of_gap(
    arm: Scores, floor: Scores, ceiling: Scores, *, resamples: int = RESAMPLES, seed: int = 0
) -> Effect | None:
    """(arm - floor) / (ceiling - floor); None where the interval of the gap itself reaches zero.

    Raises:
        DataError: they share no seed or no question.
    """
    low, mid, high = matched([floor, arm, ceiling])
    gap = _effect(low, high.values - low.values, 0.0, resamples, seed)
    if gap.low is None or gap.low <= 0:
        return None
    part, whole = (
        np.concatenate(list(_draws(low, scores.values - low.values, resamples, seed)))
        for scores in (mid, high)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        # In a draw without a gap anything is more than all of it, and nothing is none.
        ratio = np.where(part == 0, 0.0, part / whole)
    mean = float((mid.values - low.values).mean() / (high.values - low.values).mean())
    limits = np.quantile(ratio, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Effect(
        mean, float(limits[0]), float(limits[1]), _p(ratio, 0.0), gap.n, gap.groups, gap.seeds
    )


def matched(arms: Sequence[Scores]) -> list[Scores]:
    """The arms on the seeds and questions that all have, in the order of the first.

    Raises:
        DataError: there are none.
    """
    first = arms[0]
    seeds = [seed for seed in first.seeds if all(seed in arm.seeds for arm in arms)]
    names = [set(arm.questions) for arm in arms]
    questions = [name for name in first.questions if all(name in own for own in names)]
    if not seeds or not questions:
        raise DataError(
            "the arms share no seed or no question",
            seen=[f"{len(arm.seeds)} seeds, {len(arm.questions)} questions" for arm in arms],
        )
    return [arm.over(seeds, questions) for arm in arms]


def holm(p: Sequence[float]) -> list[float]:
    """Holm-adjusted p-values, in the order given: each is at least its own and at most 1."""
    order = sorted(range(len(p)), key=lambda at: p[at])
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, at in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - rank) * p[at]))
        adjusted[at] = highest
    return adjusted


def holm_by_name(p: Mapping[str, float]) -> dict[str, float]:
    """The same for named tests."""
    return dict(zip(p, holm(list(p.values())), strict=True))


def _effect(about: Scores, values: Floats, null: float | None, resamples: int, seed: int) -> Effect:
    groups = len(set(about.groups))
    mean, seeds, n = float(values.mean()), values.shape[0], values.shape[1]
    if groups < 2:
        return Effect(mean, None, None, None, n, groups, seeds)
    drawn = np.concatenate(list(_draws(about, values, resamples, seed)))
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    p = None if null is None else _p(drawn, null)
    return Effect(mean, float(low), float(high), p, n, groups, seeds)


def _p(drawn: Floats, null: float) -> float:
    """Twice the share of resamples on the far side of `null`, which agrees with the interval."""
    far = min(int((drawn <= null).sum()), int((drawn >= null).sum()))
    return min(1.0, 2 * (far + 1) / (len(drawn) + 1))


def _draws(about: Scores, values: Floats, resamples: int, seed: int) -> Iterator[Floats]:
    """Resampled means of `values` [seeds, questions], in blocks.

    The draw depends on the numbers of groups, seeds and resamples alone, so arms share it.
    """
    index, groups = group_index(about.groups)
    sums = np.stack([np.bincount(index, weights=row, minlength=groups) for row in values])
    sizes = np.bincount(index, minlength=groups).astype(np.float64)
    seeds = len(sums)
    middle = sums.mean(axis=0)
    stretch = np.sqrt(seeds / (seeds - 1)) if seeds > 1 else 1.0
    sums = middle + stretch * (sums - middle)
    counts = resample_counts(groups, resamples, seed)
    # Another stream than that of the groups, so that both are drawn independently.
    chosen = np.concatenate(list(resample_counts(seeds, resamples, seed + 1)))
    done = 0
    for block in counts:
        weights = chosen[done : done + len(block)]
        done += len(block)
        yield ((weights @ sums) * block).sum(axis=1) / (seeds * (block @ sizes))
