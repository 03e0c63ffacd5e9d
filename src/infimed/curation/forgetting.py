"""A curation ledger without the records of a forgotten group.

Works on every Parquet file below the ledger's folder that has a ``row`` column, whatever its name:
rows of the group go, row numbers follow the new shards, evidence that names a removed record says
"[forgotten]". Each file is replaced once: its metadata then carries the new data hash. Verdicts of
other records stay as they were decided; `infimed curate run` decides again where that is wanted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infimed.core.errors import DataError
from infimed.core.files import atomic_open, read_json, write_json
from infimed.curation import ledger
from infimed.curation.findings import DIMENSIONS

MARK: Final = b"infimed.forgotten"


def ledger_data(folder: Path) -> str | None:
    """Hash of the data a ledger is about, None when the folder holds no ledger."""
    file = folder / ledger.SUMMARY_FILE
    return str(read_json(file).get("key", {}).get("data")) if file.is_file() else None


def forget_rows(
    folder: Path, row_map: NDArray[np.int64], record_ids: Sequence[str], data_after: str
) -> None:
    """Take removed rows out of a ledger; safe to call again after an interruption."""
    for file in sorted(folder.rglob("*.parquet")):
        if "row" in pq.read_schema(file).names:
            renumber(file, "row", row_map, data_after, record_ids)
    _summary(folder, record_ids, data_after)


def renumber(
    file: Path,
    column: str,
    row_map: NDArray[np.int64],
    data_after: str,
    record_ids: Sequence[str] = (),
) -> int:
    """Drop the rows of a Parquet file whose `column` names a removed shard row, renumber the others.

    Returns the rows dropped. A file that carries the mark of `data_after` is left alone.
    """
    try:
        schema = pq.read_schema(file)
        if (schema.metadata or {}).get(MARK) == data_after.encode():
            return 0
        table = pq.read_table(file, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            "cannot be read", where=str(file), fix="remove it or make it again"
        ) from error
    numbers = table[column].to_numpy()
    keep = row_map[numbers] >= 0
    kept = table.filter(pa.array(keep))
    at = kept.schema.get_field_index(column)
    made = pa.array(row_map[numbers[keep]], type=kept.schema.field(at).type)
    kept = kept.set_column(at, kept.schema.field(at), made)
    if "evidence" in kept.schema.names and record_ids:
        place = kept.schema.get_field_index("evidence")
        texts = [_without(text, record_ids) for text in kept["evidence"].to_pylist()]
        kept = kept.set_column(place, "evidence", pa.array(texts, pa.string()))
    metadata = {**(schema.metadata or {}), MARK: data_after.encode()}
    with atomic_open(file) as handle:
        pq.write_table(kept.replace_schema_metadata(metadata), handle, compression="zstd")
    return int((~keep).sum())


def _without(text: str | None, record_ids: Sequence[str]) -> str | None:
    for name in record_ids:
        if text and name in text:
            # "r1" must not be found in "r10".
            head, _, tail = text.partition(name)
            if not (tail[:1].isalnum() or head[-1:].isalnum()):
                text = f"{head}[forgotten]{tail}"
    return text


def _summary(folder: Path, record_ids: Sequence[str], data_after: str) -> None:
    """curation.json counted again from the tables."""
    file = folder / ledger.SUMMARY_FILE
    stored: dict[str, Any] = read_json(file)
    if stored.get("key", {}).get("data") == data_after:
        return
    verdicts = ledger.read_ledger(folder, ledger.VERDICTS, ["row", "keep"]).to_pylist()
    keep = {line["row"]: bool(line["keep"]) for line in verdicts}
    columns = ["row", "source", "modality", "task", "images"]
    signals = ledger.read_ledger(folder, ledger.SIGNALS, columns).to_pylist()
    columns = ["row", "record_id", "rule", "dimension", "severity"]
    findings = ledger.read_ledger(folder, ledger.FINDINGS, columns).to_pylist()
    drops: dict[int, set[str]] = {}
    dimensions: dict[int, set[str]] = {}
    speakers: dict[str, dict[int, str]] = {}
    for line in findings:
        speakers.setdefault(line["rule"], {})[line["row"]] = line["record_id"]
        if line["severity"] == "drop":
            drops.setdefault(line["row"], set()).add(line["rule"])
            dimensions.setdefault(line["row"], set()).add(line["dimension"])
    strata: dict[str, list[int]] = {}
    for line in signals:
        name = " / ".join((line["source"] or "?", line["modality"] or "?", line["task"]))
        pair = strata.setdefault(name, [0, 0])
        pair[0] += 1
        pair[1] += keep[line["row"]]
    alone = Counter(next(iter(rules)) for rules in drops.values() if len(rules) == 1)
    found = {line["row"] for line in findings}
    summary = stored["summary"]
    gone = set(record_ids)
    rules = [
        {
            **rule,
            "records": len(speakers[rule["rule"]]),
            "alone": alone[rule["rule"]],
            "examples": [name for name in rule["examples"] if name not in gone],
        }
        for rule in summary["rules"]
        if rule["rule"] in speakers
    ]
    kept = sum(keep.values())
    summary.update(
        records=len(keep), kept=kept, dropped=len(keep) - kept, rules=rules,
        noted=sum(keep[row] for row in found), data_hash=data_after,
        images=len({image["sha256"] for line in signals for image in line["images"]}),
        dimensions={name: sum(name in d for d in dimensions.values()) for name in DIMENSIONS},
        strata={name: tuple(pair) for name, pair in sorted(strata.items())},
        measured=min(summary["measured"], len(keep)),
    )  # fmt: skip
    stored["key"].update(data=data_after, records=len(keep))
    write_json(file, stored)
