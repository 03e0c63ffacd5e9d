"""What most raters say of each labelled record: is a dimension in order, is the record?

A dimension is not in order where most of those who could tell give a 0 (critical defect); 1 and 2 are in
order. A tie, and a U of everybody, is unknown.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from infimed.curation.findings import QUALITY
from infimed.curation.labels import read_labels

Verdicts = dict[int, dict[str, bool]]


def majority(folder: Path) -> Verdicts:
    """Row -> dimension -> whether it is in order, where most raters agree."""
    votes: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for line in read_labels(folder).to_pylist():
        if line["level"] is not None:
            votes[line["row"]][line["dimension"]] += 1 if line["level"] > 0 else -1
    made: Verdicts = {}
    for row, counted in sorted(votes.items()):
        known = {name: vote > 0 for name, vote in counted.items() if vote}
        if known:
            made[row] = known
    return made


def labelled_records(folder: Path) -> dict[int, bool]:
    """Row -> whether the record is defective: in any dimension, or known to be in order in all five."""
    made = {}
    for row, known in majority(folder).items():
        if not all(known.values()):
            made[row] = True
        elif len(known) == len(QUALITY):
            made[row] = False
    return made
