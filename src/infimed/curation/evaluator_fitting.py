"""Fit what judge and grounding gap mean, from the labels beside a ledger.

The evaluator's view of rules and signals is taken over; people's labels teach what a judge's levels, the
gap and that view together are worth (`judge_scoring`). A sample for people is enriched with suspects, so
how common defects are is taken from the whole ledger, not from the sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from infimed.core.errors import DataError
from infimed.curation.calibration import Floats
from infimed.curation.engine import read_summary
from infimed.curation.evidence import by_rules, plain_columns
from infimed.curation.findings import DIMENSIONS, QUALITY
from infimed.curation.judge_scoring import NONE, Codes, fit_judge_scorer
from infimed.curation.label_agreement import first_images
from infimed.curation.label_shift import MOST_RECORDS
from infimed.curation.labels import read_labels
from infimed.curation.ledger_columns import Lot
from infimed.curation.record_labels import majority
from infimed.curation.score_features import LedgerFeatures
from infimed.curation.score_pass import PART_ROWS
from infimed.curation.scoring import EXTRAS, PLAIN, Evaluator

FEWEST: Final = 20
"""Labels of both kinds that it takes in one dimension."""


@dataclass(frozen=True)
class _Seen:
    """Records as the fit sees them: P(ok) by rules [n, 7], levels [n, 5], log length [n], gaps [n, 2]."""

    rules: Floats
    codes: Codes
    log_length: Floats
    gaps: Floats


def fit_on_labels(folder: Path, base: Evaluator, *, l2: float = 1.0, seed: int = 0) -> Evaluator:
    """`base` with evidence fitted from the labels beside a ledger.

    Args:
        base: whose view of rules and signals is kept.

    Raises:
        DataError: no finished ledger, or too few labels.
    """
    folder = Path(folder)
    records = read_summary(folder).records
    marks = majority(folder)
    rows = np.array(sorted(marks), np.int64)
    ok = np.array([[marks[r].get(name, True) for name in QUALITY] for r in rows.tolist()], bool)
    known = np.array([[name in marks[r] for name in QUALITY] for r in rows.tolist()], bool)
    _check(folder, ok, known)
    lot = Lot(MOST_RECORDS, seed, "evaluator")
    lot.offer(np.arange(records))
    drawn = np.sort(np.array(lot.rows, np.int64))
    labelled, population = _read(folder, base, records, (rows, drawn))
    without, swapped = (bool(np.isfinite(gap).any()) for gap in labelled.gaps.T)
    here = {"rules": True, "gap_without": without, "gap_swapped": swapped, "gap_measured": without}
    names = tuple(name for name in PLAIN if here[name])
    scorer = fit_judge_scorer(
        labelled.codes,
        ok,
        labelled.log_length[:, None],
        names=QUALITY,
        extra_names=EXTRAS,
        plain=plain_columns(names, labelled.rules, labelled.gaps),
        plain_names=names,
        labelled=known,
        population=(
            population.codes,
            population.log_length[:, None],
            plain_columns(names, population.rules, population.gaps),
        ),
        groups=first_images(folder, rows.tolist()),
        l2=l2,
        seed=seed,
    )
    made_by = {
        "command": "infimed curate train-evaluator --ledger", "base": base.identity,
        "records": len(rows), "judged": int((labelled.codes != NONE).any(axis=1).sum()),
        "grounded": int(np.isfinite(labelled.gaps).any(axis=1).sum()),
        "raters": len(set(read_labels(folder)["rater"].to_pylist())),
        "labels": dict(zip(QUALITY, known.sum(axis=0).tolist(), strict=True)),
        "defects": dict(zip(QUALITY, (known & ~ok).sum(axis=0).tolist(), strict=True)),
    }  # fmt: skip
    return replace(base, made_by=made_by, evidence=scorer)


def _check(folder: Path, ok: NDArray[np.bool_], known: NDArray[np.bool_]) -> None:
    counts = {name: int(known[:, at].sum()) for at, name in enumerate(QUALITY)} if len(ok) else {}
    enough = [
        at
        for at in range(len(QUALITY) if len(ok) else 0)
        if known[:, at].sum() >= FEWEST and len(set(ok[known[:, at], at].tolist())) == 2
    ]
    if not enough:
        raise DataError(
            "too few labels to fit an evaluator",
            where=str(folder),
            seen=counts or "no labels",
            accepted=f"at least {FEWEST} labels of both kinds in one dimension",
            fix="let people judge more: infimed label export, then infimed label import",
        )


def _read(
    folder: Path, base: Evaluator, records: int, wanted: Sequence[NDArray[np.int64]]
) -> list[_Seen]:
    """What is seen of some rows, ascending each, in one pass."""
    features = LedgerFeatures.of(folder, evidence=True)
    held: list[list[_Seen]] = [[] for _ in wanted]
    for begin in range(0, records, PART_ROWS):
        end = min(records, begin + PART_ROWS)
        chosen = [rows[(rows >= begin) & (rows < end)] - begin for rows in wanted]
        if not any(len(rows) for rows in chosen):
            continue
        part = features.read(begin, end)
        rules = np.column_stack([by_rules(base, name, part.inputs[name]) for name in DIMENSIONS])
        for rows, into in zip(chosen, held, strict=True):
            into.append(
                _Seen(rules[rows], part.codes[rows], part.log_length[rows], part.gaps[rows])
            )
    return [
        _Seen(*(np.concatenate([getattr(one, name) for one in parts])
                for name in ("rules", "codes", "log_length", "gaps")))
        for parts in held
    ]  # fmt: skip
