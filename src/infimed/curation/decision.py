"""How scores decided a ledger: target, thresholds, retained shares and labels by stratum (``decision.json``).

Made by `deciding`, read by report, explanation and pipeline. It names no record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from infimed.core.errors import DataError
from infimed.core.files import read_json
from infimed.curation import ledger


@dataclass(frozen=True, slots=True)
class StratumDecision:
    """How one source × modality fared.

    Attributes:
        records: in all. by_rules: dropped by rules. by_score: dropped by score beside them.
        threshold: P(ok) below which a record is dropped; 0 where nothing is.
        basis: whose records set it: the stratum's own, its source's, or all.
        expected_precision: share of the records dropped by score that is expected to be defective;
            None where none is.
        labelled: records that people labelled among those that rules keep; labelled_below: of these
            under the threshold (before any doubt); labelled_bad: of these with a critical defect.
        remark: why nothing is dropped by score; "" otherwise.
    """

    name: str
    records: int
    by_rules: int
    by_score: int
    threshold: float
    basis: str
    expected_precision: float | None
    labelled: int
    labelled_below: int
    labelled_bad: int
    remark: str

    @property
    def retained(self) -> float:
        """Share of the records that is kept."""
        return (self.records - self.by_rules - self.by_score) / max(1, self.records)


@dataclass(frozen=True)
class Decision:
    """What scores decide.

    Attributes:
        key: what it follows from. target_precision: aimed for. evaluator: its identity.
        strata: by name. pooled: the threshold over all records.
    """

    key: Mapping[str, Any]
    target_precision: float
    evaluator: str
    pooled: float
    strata: tuple[StratumDecision, ...]

    @property
    def by_score(self) -> int:
        """Records dropped by score."""
        return sum(stratum.by_score for stratum in self.strata)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; `from_dict` inverts it."""
        return {**asdict(self), "strata": [asdict(stratum) for stratum in self.strata]}

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> Decision:
        """Inverse of `to_dict`."""
        strata = tuple(StratumDecision(**one) for one in value["strata"])
        return Decision(**{**value, "strata": strata})


def read_decision(folder: Path) -> Decision | None:
    """How scores decided a ledger; None where rules alone did.

    Raises:
        DataError: `decision.json` is malformed.
    """
    file = Path(folder) / ledger.DECISION_FILE
    if not file.is_file():
        return None
    try:
        return Decision.from_dict(read_json(file))
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            "not a decision", where=str(file), fix="decide again: infimed curate decide"
        ) from error
