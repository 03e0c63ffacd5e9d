"""What a curation did, in numbers; stored as ``curation.json`` beside the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class RuleCount:
    """How often one rule spoke.

    Attributes:
        records: records with a finding of it. alone: dropped records that no other rule drops.
        examples: ids of the first records.
    """

    rule: str
    dimension: str
    severity: str
    records: int
    alone: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CurationSummary:
    """Counts of one curation.

    Attributes:
        records, kept, dropped: add up. noted: kept records with at least one note. images: distinct.
        dimensions: dimension -> records dropped for it (a record may count in several).
        rules: every rule that spoke, in rubric order.
        strata: "source / modality / task" -> (records, kept): where curation bites unevenly.
        seconds: of this run; measured: records measured in it (the others were taken over).
        data_hash, rubric: what was curated with which rubric.
    """

    records: int
    kept: int
    dropped: int
    noted: int
    images: int
    dimensions: Mapping[str, int]
    rules: tuple[RuleCount, ...]
    strata: Mapping[str, tuple[int, int]]
    seconds: float
    measured: int
    data_hash: str
    rubric: str

    @property
    def records_per_second(self) -> float:
        """Records measured per second of this run."""
        return self.measured / self.seconds if self.seconds > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; `from_dict` inverts it."""
        return asdict(self)

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> CurationSummary:
        """Inverse of `to_dict`."""
        rules = tuple(RuleCount(**{**r, "examples": tuple(r["examples"])}) for r in value["rules"])
        strata = {name: (int(a), int(b)) for name, (a, b) in value["strata"].items()}
        return CurationSummary(**{**value, "rules": rules, "strata": strata})
