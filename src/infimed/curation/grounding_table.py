"""The table of grounding gaps beside a ledger; reading it needs no model library."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from infimed.core.errors import DataError

GROUNDING_FILE: Final = "grounding.parquet"

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
