"""The scores beside a ledger, ``scores.parquet``: P(ok) of every record, and what speaks most against it.

Written by `score_pass`, read by the report, the judge (whose band it sets) and `deciding`. ``scores.json``
keeps the evaluator that scored and what it scored, so that scores of another evaluator, of other
findings or of older judgements are known as such.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from infimed.core.errors import DataError
from infimed.core.files import read_json
from infimed.curation import ledger
from infimed.curation.findings import DIMENSIONS
from infimed.curation.scoring import Evaluator

SCHEMA: Final = pa.schema(
    [
        ("row", pa.int64()), ("record_id", pa.string()), ("stratum", pa.string()),
        ("p_ok", pa.float64()), ("low", pa.float64()), ("high", pa.float64()),
        ("p_rules", pa.float64()), *((name, pa.float64()) for name in DIMENSIONS),
        ("weakest", pa.string()), ("strongest", pa.string()), ("judged", pa.bool_()),
        ("evaluator", pa.string()),
    ]
)  # fmt: skip
"""A row a record, in row order.

p_ok: P(no critical defect). low, high: where it would be if every level that judge left open were 0, or
2; null for an evaluator that knows no judge. p_rules: the same by the rules alone. Then P(ok) by
dimension, the weakest dimension, and in it the evidence without which P(ok) would rise most: "rules that
drop", "rules that note", "judge", "grounding", a signal of `scoring.SIGNAL_FEATURES`, or "".
"""


def scored_by(folder: Path) -> Evaluator | None:
    """The evaluator that scored a ledger last; None where none did.

    Raises:
        DataError: `scores.json` is malformed.
    """
    file = Path(folder) / ledger.SCORED_FILE
    if not file.is_file():
        return None
    value = read_json(file)
    if not isinstance(value, dict) or not isinstance(value.get("evaluator"), dict):
        raise DataError("not what scored a ledger", where=str(file), fix="score it again")
    return Evaluator.from_dict(value["evaluator"], str(file))


def evidence_lines(folder: Path, record_id: str, row: int) -> Iterator[str]:
    """The score of one record in sentences; nothing where the ledger was not scored."""
    path = ledger.path_of(Path(folder), ledger.SCORES)
    if not path.is_file():
        return
    wanted = (ds.field("record_id") == record_id) & (ds.field("row") == row)
    for line in ds.dataset(str(path), format="parquet").to_table(filter=wanted).to_pylist():
        yield ""
        yield f"score {told(line['p_ok'])} by evaluator {line['evaluator']}{_between(line)}"
        for name in DIMENSIONS:
            why = ""
            if name == line["weakest"] and line["strongest"]:
                why = f"  weakest; most against it: {line['strongest']}"
            yield f"  {name:13} {told(line[name])}{why}"


def told(p: float) -> str:
    """A probability in words: "P(ok) 0.081"."""
    return f"P(ok) {p:.3f}" if p >= 0.001 else "P(ok) below 0.001"


def _between(line: dict[str, Any]) -> str:
    low, high = line["low"], line["high"]
    if low is None or high is None or np.isclose(low, high):
        return ""
    return f", {low:.3f} to {high:.3f} as what the judge left open turns out"
