"""The tables of tier C beside the ledger: what a judge said, and what it cost.

Invariant: one row a judged record, in row order; a later run replaces the rows it judged again and
leaves the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infimed.core.errors import DataError
from infimed.core.files import atomic_open
from infimed.curation.findings import QUALITY, Finding
from infimed.curation.judge_parsing import LEVELS, Judgement
from infimed.data.privacy.identifiers import redact_text
from infimed.inference.prices import Price
from infimed.inference.requests import Response

JUDGEMENTS_FILE: Final = "judgements.parquet"
JUDGE_COST_FILE: Final = "judge_cost.parquet"

JUDGEMENT_SCHEMA: Final = pa.schema(
    [
        ("row", pa.int64()), ("record_id", pa.string()), ("status", pa.string()),
        ("detail", pa.string()), ("p_ok", pa.float64()), ("judge", pa.string()),
        ("rubric", pa.string()), ("request", pa.string()),
        *((name, pa.string()) for name in QUALITY),
        *((f"{name}_evidence", pa.string()) for name in QUALITY),
        *((f"{name}_quoted", pa.bool_()) for name in QUALITY),
    ]
)  # fmt: skip
COST_SCHEMA: Final = pa.schema(
    [
        ("row", pa.int64()), ("record_id", pa.string()), ("attempts", pa.int32()),
        ("seconds", pa.float64()), ("prompt_tokens", pa.int64()), ("completion_tokens", pa.int64()),
        ("price", pa.float64()), ("currency", pa.string()),
    ]
)  # fmt: skip


def judgement_row(
    row: int, record_id: str, said: Judgement, p_ok: float, judge: str, rubric: str, key: str
) -> dict[str, Any]:
    """A row of the judgements."""
    return {
        "row": row, "record_id": record_id, "status": said.status, "detail": said.detail,
        "p_ok": p_ok, "judge": judge, "rubric": rubric, "request": key,
        **{name: said.levels.get(name) for name in QUALITY},
        **{f"{name}_evidence": said.evidence.get(name) for name in QUALITY},
        **{f"{name}_quoted": said.quoted.get(name) for name in QUALITY},
    }  # fmt: skip


def cost_row(
    row: int, record_id: str, response: Response, price: Price | None, *, shared: bool
) -> dict[str, Any]:
    """What a judgement cost; nothing where its request is `shared` with an earlier row."""
    prompt, new = (0, 0) if shared else (response.prompt_tokens, response.new_tokens)
    return {
        "row": row, "record_id": record_id, "attempts": 0 if shared else response.attempts,
        "seconds": 0.0 if shared else response.seconds, "prompt_tokens": prompt,
        "completion_tokens": new, "price": price.of(prompt, new) if price else None,
        "currency": price.currency if price else None,
    }  # fmt: skip


def write_merged(
    path: Path, schema: pa.Schema, rows: Sequence[Mapping[str, Any]], *, keep: bool
) -> None:
    """Write rows, in row order; with `keep` the rows of an earlier run stay where there is no new one."""
    merged: dict[int, Mapping[str, Any]] = {}
    if keep and path.is_file():
        merged.update((row["row"], row) for row in pq.read_table(path).to_pylist())
    merged.update((row["row"], row) for row in rows)
    table = pa.Table.from_pylist([dict(merged[row]) for row in sorted(merged)], schema=schema)
    with atomic_open(path) as handle:
        pq.write_table(table, handle, compression="zstd")


def read_judgements(folder: Path) -> pa.Table:
    """The judgements of a ledger, a row a judged record.

    Raises:
        DataError: nothing was judged yet, or the table is damaged.
    """
    path = Path(folder) / JUDGEMENTS_FILE
    if not path.is_file():
        raise DataError(
            "nothing was judged here", where=str(path), fix="run: infimed curate judge LEDGER"
        )
    try:
        return pq.read_table(path, schema=JUDGEMENT_SCHEMA)
    except (pa.ArrowException, OSError) as error:
        raise DataError("the judgements cannot be read", where=str(path)) from error


def judgement_findings(row: Mapping[str, Any]) -> list[Finding]:
    """A stored judgement as findings of tier C: a note per dimension at level 0 or 1.

    The rule is named ``judge.DIMENSION``; the value is the level and the threshold 2. A judge alone
    never drops a record: that takes the calibrated score.
    """
    return [
        Finding(
            rule=f"judge.{name}",
            version=1,
            dimension=name,  # type: ignore[arg-type]
            severity="note",
            where="judge",
            evidence=redact_text(row[f"{name}_evidence"] or "no evidence quoted")[0],
            value=float(row[name]),
            threshold=2.0,
        )
        for name in QUALITY
        if row[name] in ("0", "1")
    ]


def level_codes(judgements: Iterable[Mapping[str, Any]]) -> NDArray[np.int8]:
    """Levels as int8 [n, 5], dimensions in the order of `QUALITY`: 0, 1, 2, 3 for U, -1 for none."""
    codes = {level: code for code, level in enumerate(LEVELS)}
    made = [[codes.get(row[name], -1) for name in QUALITY] for row in judgements]
    return np.array(made, np.int8).reshape(len(made), len(QUALITY))
