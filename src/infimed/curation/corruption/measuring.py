"""Figures of a benchmark: recall at a fixed share of false rejections, AUROC, attribution, baselines.

One pooled score and one threshold for all operators: the threshold is the highest one below which at
most the given share of the *clean* records lies. Pure functions on what `running.run` returns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from infimed.core.seeds import stream
from infimed.curation.corruption import CORE, HELD_OUT, OPERATORS
from infimed.curation.corruption.running import Case, Judged, Outcome
from infimed.curation.findings import DIMENSIONS
from infimed.curation.scoring import Evaluator, pooled

Floats = NDArray[np.float64]

RATES: Final = (0.01, 0.05)
"""Shares of clean records rejected at which recall is given."""
BASELINES: Final = ("random", "length")


@dataclass(frozen=True, slots=True)
class OperatorScore:
    """How well one operator is found.

    Attributes:
        number, name, held_out, core: the operator; `core` ones count in the pooled figures.
        records: damaged records judged.
        rules: share that a rule drops (no score, no threshold). at_1, at_5: recall of the pooled
            score at 1 and 5 % false rejection. auroc: against all clean records.
        named: of those found at 1 %, the share whose worst dimension is one of the operator's.
        mentioned: of those found at 1 %, the share where any objecting rule is of such a dimension.
        evaluator_only: share found at 1 % that no rule drops: what the evaluator adds.
        random_5, length_5: recall of the baselines at 5 %.
        by_severity: recall at 1 % for severity 1, 2, 3; None without records.
    """

    number: int
    name: str
    dimensions: tuple[str, ...]
    held_out: bool
    core: bool
    records: int
    rules: float
    at_1: float
    at_5: float
    auroc: float
    named: float | None
    mentioned: float | None
    evaluator_only: float
    random_5: float
    length_5: float
    by_severity: tuple[float | None, ...]


@dataclass(frozen=True)
class Report:
    """The benchmark's figures.

    Attributes:
        clean: clean records. clean_rejected: share of them that a rule drops.
        clean_rules: rule -> clean records it drops. thresholds: rate -> pooled threshold, and the
            share of clean records that really lies below it.
        operators: one score each. pooled: figures over the core operators and over the held-out
            ones. sole_rules: rule -> damaged records that no other rule mentions.
        collateral: share of undamaged records in damaged passes that a rule newly drops.
        about: data set, seed and what was not run.
    """

    clean: int
    clean_rejected: float
    clean_rules: dict[str, int]
    thresholds: dict[str, tuple[float, float]]
    operators: tuple[OperatorScore, ...]
    pooled: dict[str, dict[str, float | int | None]]
    sole_rules: dict[str, int]
    collateral: float
    about: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)


def threshold_at(clean: Floats, rate: float) -> float:
    """The highest threshold below which at most `rate` of the clean scores lie."""
    if not len(clean):
        return 0.0
    return float(np.sort(clean)[min(len(clean) - 1, int(rate * len(clean)))])


def auroc(bad: Floats, good: Floats) -> float:
    """Probability that a damaged record scores lower than a clean one; ties count half."""
    if not len(bad) or not len(good):
        return float("nan")
    ordered = np.sort(good)
    above = len(good) - np.searchsorted(ordered, bad, side="right")
    ties = np.searchsorted(ordered, bad, side="right") - np.searchsorted(ordered, bad, side="left")
    return float((above + 0.5 * ties).sum() / (len(good) * len(bad)))


def scores(judged: Sequence[Judged], evaluator: Evaluator) -> tuple[Floats, list[str]]:
    """(pooled score [n], worst dimension of each)."""
    if not judged:
        return np.zeros(0), []
    p = evaluator.probabilities([j.features for j in judged], [j.gates for j in judged])
    table = np.stack([p[name] for name in DIMENSIONS])
    return pooled(p), [DIMENSIONS[int(i)] for i in table.argmin(axis=0)]


def measure(outcome: Outcome, evaluator: Evaluator, about: dict[str, Any], seed: int) -> Report:
    """All figures of one benchmark run."""
    clean, _ = scores(outcome.clean, evaluator)
    limits = {rate: threshold_at(clean, rate) for rate in RATES}
    random = stream(seed, "corruption", "baseline")
    chance = random.random(len(outcome.clean))
    lengths = np.array([j.chars for j in outcome.clean], np.float64)
    sole = Counter(
        next(iter(case.judged.rules)) for case in outcome.cases if len(case.judged.rules) == 1
    )
    made = []
    for operator in OPERATORS:
        cases = [case for case in outcome.cases if case.operator == operator.number]
        if not cases:
            continue
        score, worst = scores([case.judged for case in cases], evaluator)
        found = score < limits[0.01]
        right = [name in operator.dimensions for name in worst]
        said = [
            any(f.dimension in operator.dimensions for f in case.judged.findings) for case in cases
        ]
        dropped = np.array([bool(case.judged.drops) for case in cases])
        own_lengths = np.array([case.judged.chars for case in cases], np.float64)
        made.append(
            OperatorScore(
                operator.number,
                operator.name,
                operator.dimensions,
                operator.held_out,
                operator.number in CORE,
                len(cases),
                _share(dropped),
                _share(found),
                _share(score < limits[0.05]),
                round(auroc(score, clean), 4),
                _share(np.array(right)[found]) if found.any() else None,
                _share(np.array(said)[found]) if found.any() else None,
                _share(found & ~dropped),
                _share(random.random(len(cases)) < threshold_at(chance, 0.05)),
                _share(own_lengths < threshold_at(lengths, 0.05)),
                tuple(_severity(cases, found, level) for level in (1, 2, 3)),
            )
        )
    dropping = Counter(rule for j in outcome.clean for rule in j.drops)
    return Report(
        len(outcome.clean),
        round(sum(bool(j.drops) for j in outcome.clean) / max(1, len(outcome.clean)), 5),
        dict(sorted(dropping.items())),
        {
            f"{rate:g}": (limit, round(float((clean < limit).mean()), 5))
            for rate, limit in limits.items()
        },
        tuple(made),
        {
            "core": _pooled([s for s in made if s.core]),
            "held out": _pooled([s for s in made if s.number in HELD_OUT]),
            "core, tuned on": _pooled([s for s in made if s.core and not s.held_out]),
            "others": _pooled([s for s in made if not s.core]),
        },
        dict(sorted(sole.items())),
        round(outcome.hurt / max(1, outcome.bystanders), 5),
        {**about, "operators that apply to no record": list(outcome.skipped)},
    )


def _pooled(made: Sequence[OperatorScore]) -> dict[str, float | int | None]:
    if not made:
        return {"operators": 0}
    found = sum(s.at_1 * s.records for s in made)
    named = sum((s.named or 0.0) * s.at_1 * s.records for s in made)
    return {
        "operators": len(made),
        "median recall at 1 %": round(float(np.median([s.at_1 for s in made])), 4),
        "worst recall at 1 %": round(min(s.at_1 for s in made), 4),
        "median recall at 5 %": round(float(np.median([s.at_5 for s in made])), 4),
        "worst recall at 5 %": round(min(s.at_5 for s in made), 4),
        "median share dropped by rules": round(float(np.median([s.rules for s in made])), 4),
        "right dimension named": round(named / found, 4) if found else None,
    }


def _share(values: Any) -> float:
    return round(float(np.mean(values)), 4) if len(values) else 0.0


def _severity(cases: Sequence[Case], found: NDArray[np.bool_], level: int) -> float | None:
    inside = [bool(found[i]) for i, case in enumerate(cases) if case.severity == level]
    return _share(inside) if inside else None
