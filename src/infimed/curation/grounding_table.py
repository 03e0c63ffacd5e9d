"""The table of grounding gaps beside a ledger; reading it needs no model library."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infimed.core.errors import DataError

GROUNDING_FILE: Final = "grounding.parquet"
SUMMARY_FILE: Final = "grounding.json"
PARTS: Final = "grounding.parts"

SCHEMA: Final = pa.schema(
    [
        ("row", pa.int64()), ("record_id", pa.string()), ("status", pa.string()),
        ("target_tokens", pa.int32()), ("loss", pa.float64()), ("loss_without", pa.float64()),
        ("loss_swapped", pa.float64()), ("swaps", pa.int32()), ("gap_without", pa.float64()),
        ("gap_swapped", pa.float64()),
    ]
)  # fmt: skip


def read_grounding(folder: Path) -> pa.Table:
    """The grounding table of a ledger.

    Raises:
        DataError: none was measured, or it is damaged.
    """
    path = Path(folder) / GROUNDING_FILE
    if not path.is_file():
        raise DataError(
            "no grounding gap was measured here",
            where=str(path),
            fix="run: infimed curate grounding LEDGER --shards DIR --model RUN",
        )
    try:
        return pq.read_table(path, schema=SCHEMA)
    except (pa.ArrowException, OSError) as error:
        raise DataError("the grounding table cannot be read", where=str(path)) from error


@dataclass(frozen=True, slots=True)
class GroundingSummary:
    """What a run found.

    Attributes:
        records: in all. statuses: how many could be measured, and why the others not.
        mean_gap_without, mean_gap_swapped: mean gaps in nats per token, None without any.
        own_wins: share of records whose answer is easier with their own images than with foreign
            ones; 0.5 is what a model that does not look would get.
    """

    records: int
    statuses: Mapping[str, int]
    mean_gap_without: float | None
    mean_gap_swapped: float | None
    own_wins: float | None


def summarise(table: pa.Table) -> GroundingSummary:
    """Counts and means of a grounding table."""
    statuses = Counter(table["status"].to_pylist())
    without = [gap for gap in table["gap_without"].to_pylist() if gap is not None]
    swapped = [gap for gap in table["gap_swapped"].to_pylist() if gap is not None]
    wins = [1.0 if gap > 0 else 0.5 if gap == 0 else 0.0 for gap in swapped]
    return GroundingSummary(
        records=len(table),
        statuses=dict(sorted(statuses.items())),
        mean_gap_without=float(np.mean(without)) if without else None,
        mean_gap_swapped=float(np.mean(swapped)) if swapped else None,
        own_wins=float(np.mean(wins)) if wins else None,
    )
