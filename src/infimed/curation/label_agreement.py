"""What labels say: how far people agree, and how far rules and judge agree with them.

Kappa and alpha leave out what a rater did not label or could not tell (U); U is counted beside them.
Intervals resample whole images, because questions about one image are judged alike. A sample that was
enriched with dropped and borderline records describes that sample, not the data set.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from infimed.core.agreement import MISSING, krippendorff_alpha, weighted_kappa
from infimed.core.statistics import Estimate, wilson_interval
from infimed.curation import ledger
from infimed.curation.findings import QUALITY
from infimed.curation.labels import judge_levels, read_labels, rules_levels
from infimed.curation.ledger_columns import rows_where

K: Final = 3
ALL: Final = "all dimensions"
RULES, JUDGE = "rules", "judge"
AGREEMENT_FILE: Final = "agreement.json"
"""Where a report stays beside the ledger."""

Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Pair:
    """Two raters (or a rater and a machine): weighted kappa and the share of equal levels."""

    first: str
    second: str
    kappa: Estimate
    equal: float | None


@dataclass(frozen=True)
class Machine:
    """Rules or judge against people: mean kappa over the raters; `unknown` is its share of U."""

    name: str
    kappa: float | None
    pairs: tuple[Pair, ...]
    unknown: float


@dataclass(frozen=True)
class DimensionAgreement:
    """Agreement in one dimension.

    Attributes:
        records: with at least one label. unknown: share of U among labels. pairs: of people.
        alpha: Krippendorff's ordinal alpha. ceiling: mean kappa between people, which no machine can be
            expected to pass; None with fewer than two raters.
    """

    dimension: str
    records: int
    unknown: float
    pairs: tuple[Pair, ...]
    alpha: Estimate
    ceiling: float | None
    machines: tuple[Machine, ...]


@dataclass(frozen=True)
class Found:
    """How many of some records have a critical defect (0) by most of their raters."""

    records: int
    defective: int
    low: float
    high: float


@dataclass(frozen=True)
class LabelReport:
    """Everything the labels of a ledger say.

    Attributes:
        dropped: labelled records that the rules drop for a dimension people judge: the share that
            people call defective is the rules' precision. kept: the same of kept records: what slipped
            through.
    """

    raters: tuple[str, ...]
    records: int
    labels: int
    dimensions: tuple[DimensionAgreement, ...]
    dropped: Found
    kept: Found

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)


def label_report(folder: Path, seed: int = 0) -> LabelReport:
    """Agreement of all labels beside a ledger, with rules and (where it judged) the judge."""
    table = read_labels(folder).to_pylist()
    rows = sorted({line["row"] for line in table})
    raters = sorted({line["rater"] for line in table})
    at = {row: i for i, row in enumerate(rows)}
    codes = {name: np.full((len(raters), len(rows)), MISSING, np.int64) for name in QUALITY}
    unknown: dict[str, int] = defaultdict(int)
    labels: dict[str, int] = defaultdict(int)
    for line in table:
        labels[line["dimension"]] += 1
        if line["level"] is None:
            unknown[line["dimension"]] += 1
        else:
            codes[line["dimension"]][raters.index(line["rater"]), at[line["row"]]] = line["level"]
    groups = first_images(folder, rows)
    machines = _machines(folder, table, rows)
    made = [
        _dimension(name, codes[name], raters, groups, {m: c[name] for m, c in machines.items()},
                   unknown[name] / max(1, labels[name]), seed)
        for name in QUALITY
    ]  # fmt: skip
    if len(raters) and rows:
        pooled = np.concatenate([codes[name] for name in QUALITY], axis=1)
        each = {m: np.concatenate([c[name] for name in QUALITY]) for m, c in machines.items()}
        share = sum(unknown.values()) / max(1, sum(labels.values()))
        made.append(_dimension(ALL, pooled, raters, groups * len(QUALITY), each, share, seed))
    dropped, kept = _defective(folder, rows, codes)
    return LabelReport(tuple(raters), len(rows), len(table), tuple(made), dropped, kept)


def _dimension(
    name: str,
    codes: Codes,
    raters: Sequence[str],
    groups: Sequence[str],
    machines: Mapping[str, Codes],
    unknown: float,
    seed: int,
) -> DimensionAgreement:
    pairs = tuple(
        _pair(raters[i], raters[j], codes[i], codes[j], groups, seed)
        for i, j in itertools.combinations(range(len(raters)), 2)
    )
    alpha = krippendorff_alpha(codes, K, groups=groups, seed=seed) if len(raters) else _NONE
    labelled = np.asarray((codes >= 0).any(axis=0), bool)
    return DimensionAgreement(
        dimension=name,
        records=int(labelled.sum()),
        unknown=unknown,
        pairs=pairs,
        alpha=alpha,
        ceiling=_mean([pair.kappa.mean for pair in pairs]),
        machines=tuple(
            _machine(machine, values, codes, raters, groups, labelled, seed)
            for machine, values in machines.items()
        ),
    )


_NONE: Final = Estimate(None, None, None, 0, 0)


def _machine(
    name: str,
    values: Codes,
    codes: Codes,
    raters: Sequence[str],
    groups: Sequence[str],
    labelled: NDArray[np.bool_],
    seed: int,
) -> Machine:
    pairs = tuple(
        _pair(name, rater, values, codes[i], groups, seed) for i, rater in enumerate(raters)
    )
    missing = float((values[labelled] < 0).mean()) if labelled.any() else 0.0
    return Machine(name, _mean([pair.kappa.mean for pair in pairs]), pairs, missing)


def _pair(first: str, second: str, a: Codes, b: Codes, groups: Sequence[str], seed: int) -> Pair:
    both = (a >= 0) & (b >= 0)
    equal = float((a[both] == b[both]).mean()) if both.any() else None
    return Pair(first, second, weighted_kappa(a, b, K, groups=groups, seed=seed), equal)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def first_images(folder: Path, rows: Sequence[int]) -> list[str]:
    """What clusters the records: their first image, or the record itself."""
    found = rows_where(folder, ledger.SIGNALS, rows)
    made = []
    for row in rows:
        images = found[row][0].get("images") if found[row] else None
        made.append(str(images[0]["sha256"]) if images else f"row {row}")
    return made


def _machines(
    folder: Path, table: Sequence[Mapping[str, Any]], rows: Sequence[int]
) -> dict[str, dict[str, Codes]]:
    held: dict[str, Mapping[int, Mapping[str, int | None]]] = {RULES: rules_levels(folder, rows)}
    judged = judge_levels(folder, {line["record_id"]: line["row"] for line in table})
    if judged:
        held[JUDGE] = judged
    made: dict[str, dict[str, Codes]] = {}
    for machine, levels in held.items():
        made[machine] = {}
        for name in QUALITY:
            values = [levels.get(row, {}).get(name) for row in rows]
            made[machine][name] = np.array([MISSING if v is None else v for v in values], np.int64)
    return made


def _defective(
    folder: Path, rows: Sequence[int], codes: Mapping[str, Codes]
) -> tuple[Found, Found]:
    """(dropped, kept): how many most of their raters give a 0 in some dimension."""
    verdicts = rows_where(folder, ledger.VERDICTS, rows)
    findings = rows_where(folder, ledger.FINDINGS, rows)
    counts = {True: [0, 0], False: [0, 0]}
    for i, row in enumerate(rows):
        if not verdicts[row]:
            continue
        keep = bool(verdicts[row][0]["keep"])
        judged = any(f["severity"] == "drop" and f["dimension"] in QUALITY for f in findings[row])
        if not keep and not judged:
            continue  # dropped as a duplicate only: nothing that a reviewer of one record can see
        levels = np.stack([codes[name][:, i] for name in QUALITY])
        rated = (levels >= 0).any(axis=0)
        if not rated.any():
            continue
        zeros = (levels == 0).any(axis=0)[rated]
        counts[keep][0] += 1
        counts[keep][1] += bool(zeros.mean() > 0.5)
    dropped, kept = (
        Found(n, bad, *wilson_interval(bad, n)) for n, bad in (counts[False], counts[True])
    )
    return dropped, kept
