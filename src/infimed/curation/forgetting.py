"""A curation folder without the records of a forgotten group.

Works on every Parquet file below the folder that has a ``row`` column, whatever its name (signals,
findings, verdicts, scores, judgements, gaps, labels, leaks): rows of the group go, row numbers follow the
new shards, evidence that names a removed record says "[forgotten]". Each file is replaced once: its
metadata then carries the new data hash. A judge's stored answers stay only where a judgement that is
left stands on them. Unfinished work (``*.parts``) goes: it would be begun anew in any case. Verdicts of
other records stay as they were decided; `infimed curate run` decides again where that is wanted.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infimed.core.errors import DataError
from infimed.core.files import PARTIAL_SUFFIX, atomic_open, read_json, sha256_json, write_json
from infimed.curation import grounding_table, label_export, leakage, ledger, score_pass
from infimed.curation.deciding import recount_decision
from infimed.curation.grounding_table import read_grounding, summarise
from infimed.curation.judge import forget_judgements
from infimed.curation.label_agreement import AGREEMENT_FILE
from infimed.curation.ledger_columns import batches
from infimed.curation.origin import SHARDS_FILE
from infimed.curation.recount import recount
from infimed.curation.redecide import stage_of
from infimed.curation.summary import CurationSummary

MARK: Final = b"infimed.forgotten"


def ledger_data(folder: Path) -> str | None:
    """Hash of the data that a ledger, or a leakage table alone, is about; None where there is neither."""
    file = folder / ledger.SUMMARY_FILE
    if file.is_file():
        return str(read_json(file).get("key", {}).get("data"))
    file = folder / leakage.SUMMARY
    return str(read_json(file).get("data")) if file.is_file() else None


def exported(folder: Path, record_ids: Sequence[str]) -> Iterator[Path]:
    """Files for reviewers below a folder, of every sample that holds one of these records."""
    wanted = set(record_ids)
    for items in sorted(folder.rglob(label_export.ITEMS_JSONL)):
        lines = items.read_text(encoding="utf-8").splitlines()
        if any(_record_of(line) in wanted for line in lines):
            yield from (
                items.with_name(name) for name in (label_export.PAGE, label_export.ITEMS_CSV)
            )
            yield from sorted((items.parent / label_export.IMAGES).glob("*"))
            yield items


def _record_of(line: str) -> str:
    try:
        return str(json.loads(line).get("record_id", ""))
    except (ValueError, AttributeError):
        return ""


def forget_rows(
    folder: Path,
    row_map: NDArray[np.int64],
    record_ids: Sequence[str],
    data_before: str,
    data_after: str,
) -> None:
    """Take removed rows out of a ledger, or of a leakage table; safe to call again after an interruption."""
    _unfinished(folder)
    for file in sorted(folder.rglob("*.parquet")):
        if "row" in pq.read_schema(file).names and _of_this_data(file, data_before, data_after):
            renumber(file, "row", row_map, data_after, record_ids)
    comparison = leakage.forget_leaks(folder, data_before, data_after)
    if not (folder / ledger.SUMMARY_FILE).is_file():
        return
    forget_judgements(folder, data_before, data_after)
    _grounding(folder, data_before, data_after)
    for name in (ledger.MEASURED_FILE, SHARDS_FILE):
        _renamed(folder / name, data_before, data_after)
    (folder / AGREEMENT_FILE).unlink(missing_ok=True)
    recount_decision(folder)
    _summary(folder, data_after, comparison)


def _unfinished(folder: Path) -> None:
    """Remove what interrupted commands left: they would begin anew, with the new data."""
    for name in (ledger.PARTS, score_pass.PARTS, grounding_table.PARTS):
        shutil.rmtree(folder / name, ignore_errors=True)
    shutil.rmtree(stage_of(folder), ignore_errors=True)
    for pattern in ("*.new", f".*{PARTIAL_SUFFIX}"):
        for file in folder.glob(pattern):
            file.unlink()


def _of_this_data(file: Path, data_before: str, data_after: str) -> bool:
    """Whether row numbers are of these shards: a leakage table may be of others."""
    about = file.with_name(leakage.SUMMARY)
    if file.name != leakage.TABLE or not about.is_file():
        return True
    return read_json(about).get("data") in (data_before, data_after)


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
    # A table left over from other data may number further, and name a removed record elsewhere.
    keep = numbers < len(row_map)
    keep[keep] = row_map[numbers[keep]] >= 0
    if record_ids and "record_id" in table.schema.names:
        gone = set(record_ids)
        keep &= np.array([name not in gone for name in table["record_id"].to_pylist()], bool)
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
        pq.write_table(
            kept.replace_schema_metadata(metadata), handle, compression="zstd",
            row_group_size=ledger.CHUNK_ROWS * ledger.CHUNKS_PER_ROW_GROUP,
        )  # fmt: skip
    return int((~keep).sum())


def _without(text: str | None, record_ids: Sequence[str]) -> str | None:
    for name in record_ids:
        if text and name in text:
            # "r1" must not be found in "r10".
            head, _, tail = text.partition(name)
            if not (tail[:1].isalnum() or head[-1:].isalnum()):
                text = f"{head}[forgotten]{tail}"
    return text


def _grounding(folder: Path, data_before: str, data_after: str) -> None:
    """grounding.json counted again from its table."""
    file = folder / grounding_table.SUMMARY_FILE
    if not file.is_file() or not (folder / grounding_table.GROUNDING_FILE).is_file():
        return
    stored: dict[str, Any] = read_json(file)
    if stored["key"]["data"] == data_before:
        made = summarise(read_grounding(folder))
        key = {**stored["key"], "data": data_after}
        write_json(file, {"key": key, **{name: getattr(made, name) for name in made.__slots__}})


def _renamed(file: Path, data_before: str, data_after: str) -> None:
    """Name the data as it is now in a small file that says what data a ledger is of."""
    if file.is_file():
        value = read_json(file)
        made = {k: data_after if v == data_before else v for k, v in value.items()}
        if "records" in made:
            table = ledger.path_of(file.parent, ledger.SIGNALS)
            made["records"] = pq.read_metadata(table).num_rows
        write_json(file, made)


def _summary(folder: Path, data_after: str, comparison: float | None) -> None:
    """curation.json counted again from the tables."""
    file = folder / ledger.SUMMARY_FILE
    stored: dict[str, Any] = read_json(file)
    if stored.get("key", {}).get("data") == data_after:
        return
    old = CurationSummary.from_dict(stored["summary"])
    rubric = stored.get("rubric")
    identity = old.rubric
    leak = (rubric or {}).get("rules", {}).get(leakage.RULE)
    if leak is not None and comparison is not None and sha256_json(rubric)[:16] == identity:
        # The leak rule is named by its table, which has fewer rows now.
        leak["thresholds"][leakage.COMPARISON]["value"] = comparison
        identity = sha256_json(rubric)[:16]
    counted = recount(folder, old, rubric)
    shown: set[str] = set()
    for batch in batches(folder, ledger.SIGNALS, ["images.list.element.sha256"]):
        shown.update(image["sha256"] for images in batch["images"].to_pylist() for image in images)
    summary = {
        **counted.to_dict(), "data_hash": data_after, "rubric": identity, "images": len(shown),
        "measured": min(old.measured, counted.records),
    }  # fmt: skip
    key = {**stored["key"], "data": data_after, "records": counted.records}
    if "rubric" in key:
        key["rubric"] = identity
    write_json(file, {**stored, "key": key, "summary": summary})
