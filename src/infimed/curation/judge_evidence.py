"""A ledger's tier B and C tables as arrays for scoring, and as lines for a person.

Invariant: arrays are in row order and aligned; what is missing stays missing (code -1, NaN), never 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infimed.curation import ledger
from infimed.curation.calibration import Floats
from infimed.curation.findings import QUALITY
from infimed.curation.grounding_table import GROUNDING_FILE, read_grounding
from infimed.curation.judge_tables import JUDGEMENTS_FILE, level_codes, read_judgements
from infimed.data.privacy.identifiers import redact_text


@dataclass(frozen=True)
class Evidence:
    """Judged records as arrays.

    Attributes:
        rows: shard row numbers [n], ascending. record_ids: [n].
        codes: levels int8 [n, 5] as `judge_scoring` takes them; -1 without a judgement.
        log_length: natural logarithm of 1 + the characters of text [n].
        gap_without, gap_swapped: grounding gaps in nats per token [n]; NaN where not measured.
        strata: "source / modality" [n].
    """

    rows: NDArray[np.int64]
    record_ids: list[str]
    codes: NDArray[np.int8]
    log_length: Floats
    gap_without: Floats
    gap_swapped: Floats
    strata: list[str]


def judged_evidence(folder: Path) -> Evidence:
    """The judged records of a ledger, with their grounding gaps where those were measured.

    Raises:
        DataError: no ledger, or nothing was judged.
    """
    judged = read_judgements(folder).to_pylist()
    rows = np.array([row["row"] for row in judged], np.int64)
    signals = ledger.read_ledger(folder, ledger.SIGNALS, ["source", "modality", "text_chars"])
    chosen = signals.take(rows)
    strata = [
        f"{source or '?'} / {modality or '?'}"
        for source, modality in zip(
            chosen["source"].to_pylist(), chosen["modality"].to_pylist(), strict=True
        )
    ]
    without, swapped = np.full(len(signals), np.nan), np.full(len(signals), np.nan)
    if (Path(folder) / GROUNDING_FILE).is_file():
        table = read_grounding(folder)
        at = table["row"].to_numpy()
        without[at] = table["gap_without"].to_numpy(zero_copy_only=False)
        swapped[at] = table["gap_swapped"].to_numpy(zero_copy_only=False)
    return Evidence(
        rows,
        [row["record_id"] for row in judged],
        level_codes(judged),
        np.log1p(chosen["text_chars"].to_numpy().astype(np.float64)),
        without[rows],
        swapped[rows],
        strata,
    )


def evidence_lines(folder: Path, record_id: str) -> Iterator[str]:
    """What judge and grounding pass know of one record, in sentences; nothing where neither ran."""
    wanted = [("record_id", "=", record_id)]
    for row in _rows(Path(folder) / JUDGEMENTS_FILE, wanted):
        yield ""
        detail = redact_text(row["detail"] or "")[0]
        yield f"judge {row['judge']}, rubric {row['rubric']}: {row['status']} {detail}".rstrip()
        if row["status"] == "ok":
            for name in QUALITY:
                quoted = {True: "", False: "  (not found word by word in the text)", None: ""}
                words = redact_text(row[f"{name}_evidence"] or "")[0]
                said = f"  {words}{quoted[row[f'{name}_quoted']]}" if words else ""
                yield f"  {name:13} {row[name]}{said}"
    for row in _rows(Path(folder) / GROUNDING_FILE, wanted):
        if row["loss"] is not None:
            yield ""
            gaps = {"without images": row["gap_without"], "foreign images": row["gap_swapped"]}
            told = ", ".join(f"{n} {g:+.3f}" for n, g in gaps.items() if g is not None)
            yield f"grounding: loss {row['loss']:.3f} nats per token; {told}"


def _rows(path: Path, filters: list[tuple[str, str, str]]) -> list[dict[str, Any]]:
    return pq.read_table(path, filters=filters).to_pylist() if path.is_file() else []
