"""How common defects are among the records of a ledger that nobody labelled, over all and per stratum.

Found from a seeded draw of the weighed records (`label_shift`), so that it follows from the ledger alone. A
share of defects is never found to be higher than it was among the records learnt from on what all records
share: rules alone, and the silence of a judge, can lower it and not raise it. A new source often looks
different to every rule without being worse, and the likelihood would then call all of it defective.

Cost: a few passes over at most `label_shift.MOST_RECORDS` records, and `MOST_OF_STRATUM` a stratum.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infimed.curation.calibration import Floats
from infimed.curation.findings import DIMENSIONS, QUALITY
from infimed.curation.label_shift import MOST_RECORDS, Joint, JointByStratum, estimate_prior
from infimed.curation.ledger_columns import Lot
from infimed.curation.scoring import Evaluator

MOST_OF_STRATUM: Final = 5_000
"""Records drawn of a stratum to find its base rates."""
SHRINKAGE: Final = 100.0
"""How many records the pooled base rates count for in each stratum."""
ENOUGH_HEARD: Final = 0.5
"""Where a judge or the grounding gap spoke of this share of the records, the others are taken to be like them;
of a smaller share, only as many."""

Read = Callable[[int, list[str] | None], pa.Table]
"""Number of a part and the wanted columns (all when None) -> its rows, as `score_pass` stores them."""


@dataclass
class Rates:
    """Base rates of the records at hand, over all ("") and per stratum.

    Attributes:
        rules: stratum -> share ok in each of `DIMENSIONS` by the rules. joints: of judge and gap.
    """

    rules: dict[str, Floats] = field(default_factory=dict)
    joints: JointByStratum | None = None


class _Drawn(NamedTuple):
    """Some records: P(ok) by the rules [m, 7], likelihood ratios [m, 5], whether judge or gap spoke [m]."""

    rules: Floats
    ratios: Floats
    heard: NDArray[np.bool_]


def matrix(part: pa.Table, kind: str, names: tuple[str, ...]) -> Floats:
    """The columns KIND_NAME of a part [n, names]."""
    return np.column_stack([part[f"{kind}_{name}"].to_numpy() for name in names])


def find_rates(read: Read, count: int, evaluator: Evaluator) -> Rates:
    """Base rates from a draw of all records, and one of each stratum."""
    lots: dict[str, Lot] = {"": Lot(MOST_RECORDS, 0, "scores")}
    for number in range(count):
        part = read(number, ["row", "stratum"])
        rows, strata = part["row"].to_numpy(), np.array(part["stratum"].to_pylist(), object)
        lots[""].offer(rows)
        for name in set(strata.tolist()):
            lot = lots.setdefault(name, Lot(MOST_OF_STRATUM, 0, "scores", name))
            lot.offer(rows[strata == name])
    drawn = _drawn(read, count, lots, evaluator)
    rates = Rates()
    priors = np.array(
        [evaluator.models[n].prior if n in evaluator.models else 1.0 for n in DIMENSIONS]
    )
    for name in ["", *sorted(set(lots) - {""})]:
        expected, strength = (priors, 1.0) if name == "" else (rates.rules[""], SHRINKAGE)
        found = [
            estimate_prior(
                drawn[name].rules[:, at], prior, expected=expected[at], strength=strength
            )
            if DIMENSIONS[at] in evaluator.models
            else 1.0
            for at, prior in enumerate(priors.tolist())
        ]  # fmt: skip
        rates.rules[name] = np.maximum(priors, found)
    if evaluator.evidence is not None:
        joint = evaluator.evidence.joint
        pooled = _defects(joint, drawn[""], joint.defects, 1.0)
        rates.joints = JointByStratum(
            joint.tilted(pooled),
            {
                name: joint.tilted(_defects(joint, one, pooled, SHRINKAGE))
                for name, one in sorted(drawn.items())
                if name
            },
        )
    return rates


def _defects(joint: Joint, drawn: _Drawn, expected: Floats, strength: float) -> Floats:
    """Shares of defects [5] among the drawn records; above the expected only as far as the records show
    that were heard of."""
    found = joint.estimate_defects(drawn.ratios, expected=expected, strength=strength)
    if (found <= expected).all():
        return found
    heard = drawn.ratios[drawn.heard]
    told = joint.estimate_defects(heard, expected=expected, strength=strength)
    share = min(1.0, len(heard) / max(1, len(drawn.heard)) / ENOUGH_HEARD)
    return np.minimum(found, np.maximum(expected, share * told + (1 - share) * expected))


def _drawn(
    read: Read, count: int, lots: Mapping[str, Lot], evaluator: Evaluator
) -> dict[str, _Drawn]:
    """Stratum -> the drawn rows, in row order."""
    wanted = {name: np.sort(np.array(lot.rows, np.int64)) for name, lot in lots.items()}
    held: dict[str, list[_Drawn]] = defaultdict(list)
    for number in range(count):
        part = read(number, None)
        first = part["row"][0].as_py()
        heard = part["heard"].to_numpy()
        rules = matrix(part, "rules", DIMENSIONS)
        ratios = (
            matrix(part, "ratio", QUALITY)
            if evaluator.evidence is not None
            else np.ones((len(rules), len(QUALITY)))
        )
        for name, rows in wanted.items():
            mine = rows[(rows >= first) & (rows < first + len(rules))] - first
            held[name].append(_Drawn(rules[mine], ratios[mine], heard[mine]))
    return {
        name: _Drawn(*(np.concatenate(column) for column in zip(*several, strict=True)))
        for name, several in held.items()
    }
