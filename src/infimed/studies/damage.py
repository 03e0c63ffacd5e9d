"""Damaging training records in known ways, and what filters leave of them.

Pure functions of records, seed and verdicts. Only records that are trained on are damaged or dropped: what is
asked stays clean, and no damage shows training an image of another split. Every damaged record takes the place
of its clean twin, so the clean data set is the oracle's, record by record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from infimed.core.errors import DataError
from infimed.core.seeds import stream
from infimed.curation.corruption import OPERATORS
from infimed.curation.corruption.base import Context, Corrupted, Pixels
from infimed.data.record import ImageRef, Record
from infimed.studies.definition import Damage, Keep

CLEAN_LOST: Final = 0.05
"""Share of clean records below the evaluator's threshold."""
NEEDED: Final = ("modality", "anatomy", "view", "question_type", "described", "consent")
"""Facts that stay where those about findings are withheld: recipes select by them."""


@dataclass(frozen=True)
class Verdicts:
    """What curation says of every record of a damaged set; arrays of one entry a record.

    Attributes:
        train: whether it may be trained on. dropped: whether a rule drops it. score: pooled P(ok).
        threshold: score below which the evaluator drops; of the clean twins alone.
    """

    train: NDArray[np.bool_]
    dropped: NDArray[np.bool_]
    score: NDArray[np.float64]
    threshold: float


def damage_records(
    records: Sequence[Record],
    trained: Sequence[str],
    damage: Damage,
    seed: int,
    pixels: Callable[[ImageRef], Pixels],
) -> dict[int, Corrupted]:
    """Place -> damaged record; as many as the share says, exactly.

    Args:
        trained: splits that are trained on. pixels: decodes an image.

    Raises:
        DataError: the operators apply to fewer records than that.
    """
    chosen = {operator.number: operator for operator in OPERATORS}
    inside = [at for at, record in enumerate(records) if record.split in trained]
    places = [at for at in inside if not damage.tasks or records[at].task in damage.tasks]
    count = round(damage.share * len(places))
    random = stream(seed, "study", "damage")
    context = Context(pixels, [records[at] for at in inside])
    found: dict[int, Corrupted] = {}
    for at in np.array(places, np.int64)[random.permutation(len(places))].tolist():
        if len(found) == count:
            break
        for index in random.permutation(len(damage.operators)).tolist():
            operator = chosen[damage.operators[index]]
            one = operator.apply(records[at], context, random, int(random.integers(1, 4)))
            if one is not None and not one.beside:
                found[at] = one
                break
    if len(found) < count:
        raise DataError(
            f"the operators {list(damage.operators)} apply to {len(found)} of {len(places)} training records",
            where="damage.share",
            seen=damage.share,
            fix="lower the share, or add operators",
        )
    return found


def without_findings(record: Record) -> Record:
    """The record without what its source states of findings."""
    facts = {name: value for name, value in record.facts.items() if name in NEEDED}
    return replace(record, facts=facts)


def kept(verdicts: Verdicts, keep: Keep, seed: int) -> NDArray[np.bool_]:
    """Which records stay. Records that are not trained on all stay."""
    by_rules = verdicts.dropped & verdicts.train
    if keep == "all":
        return np.ones(len(by_rules), bool)
    if keep == "rules":
        return ~by_rules
    if keep == "evaluator":
        return ~(by_rules | (verdicts.train & (verdicts.score < verdicts.threshold)))
    places = np.flatnonzero(verdicts.train)
    order = stream(seed, "study", "random drop").permutation(len(places))
    stays = np.ones(len(by_rules), bool)
    stays[places[order[: int(by_rules.sum())]]] = False
    return stays


def counts_of(
    train: NDArray[np.bool_], damaged: NDArray[np.bool_], stays: NDArray[np.bool_]
) -> dict[str, int]:
    """Training records, damaged ones, and how many of each are dropped."""
    lost = ~stays & train
    return {
        "train": int(train.sum()),
        "damaged": int(damaged.sum()),
        "dropped": int(lost.sum()),
        "dropped_damaged": int((lost & damaged).sum()),
    }
