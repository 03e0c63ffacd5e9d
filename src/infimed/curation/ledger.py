"""The ledger: four Parquet tables beside the shards that say what was measured, found and decided.

``signals`` (a row a record), ``findings`` (a row an objection), ``verdicts`` (a row a record) are
the same bytes however they were computed; ``cost`` (milliseconds a record) is apart because time
never is. Each file appears under its name only when complete. Finished chunks of an interrupted run
wait in ``curation.parts``.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infimed.core.errors import DataError, nearest_name
from infimed.core.files import atomic_open, read_json, write_json
from infimed.curation.findings import Finding, Verdict

SIGNALS, FINDINGS, VERDICTS, COST = "signals", "findings", "verdicts", "cost"
SUMMARY_FILE: Final = "curation.json"
MEASURED_FILE: Final = "measured.json"
"""Which data and version the signals are of; written once they are complete."""
PARTS: Final = "curation.parts"
SCORES: Final = "scores"
"""Written by another pass (`score_pass`); its schema is `score_table.SCHEMA`."""
SCORED_FILE: Final = "scores.json"
"""The evaluator that scored, and what of."""
DECISION_FILE: Final = "decision.json"
"""How the scores decided (`deciding`)."""
CHUNK_ROWS: Final = 512
CHUNKS_PER_ROW_GROUP: Final = 32

_IMAGE = pa.struct(
    [
        ("sha256", pa.string()), ("problem", pa.string()), ("width", pa.int32()), ("height", pa.int32()),
        ("pixel_hash", pa.string()), ("fingerprint", pa.binary()), ("mean", pa.float64()), ("std", pa.float64()),
        ("spread", pa.float64()), ("mode_share", pa.float64()), ("dark_share", pa.float64()),
        ("bright_share", pa.float64()), ("white_share", pa.float64()), ("two_tone", pa.float64()),
        ("edges", pa.float64()), ("entropy", pa.float64()), ("sharpness", pa.float64()),
        ("noise", pa.float64()), ("colour", pa.float64()), ("axis_lines", pa.int8()),
        ("least_sharpness", pa.float64()), ("blocking", pa.float64()), ("flat", pa.float64()),
    ]
)  # fmt: skip

SCHEMAS: Final[Mapping[str, pa.Schema]] = {
    SIGNALS: pa.schema(
        [
            ("row", pa.int64()), ("record_id", pa.string()), ("task", pa.string()), ("source", pa.string()),
            ("modality", pa.string()), ("language", pa.string()), ("question_words", pa.int32()),
            ("response_words", pa.int32()), ("words", pa.int32()), ("text_chars", pa.int32()),
            ("placeholders", pa.int32()), ("markup", pa.int32()), ("mojibake", pa.int32()),
            ("controls", pa.int32()), ("repeated_trigrams", pa.float64()), ("longest_run", pa.int32()),
            ("odd_words", pa.float64()), ("ending", pa.string()), ("stopped", pa.bool_()), ("answer_polarity", pa.string()),
            ("response_polarity", pa.string()), ("question_sides", pa.string()),
            ("response_sides", pa.string()), ("modalities", pa.list_(pa.string())),
            ("image_words", pa.bool_()), ("max_image_number", pa.int32()), ("medical_terms", pa.int32()),
            ("everyday_words", pa.int32()), ("misspelt", pa.int32()), ("loops", pa.int32()),
            ("foreign", pa.string()), ("claims", pa.list_(pa.string())),
            ("question_key", pa.string()), ("answer_key", pa.string()), ("content_key", pa.string()),
            ("images", pa.list_(_IMAGE)),
        ]
    ),
    FINDINGS: pa.schema(
        [
            ("row", pa.int64()), ("record_id", pa.string()), ("rule", pa.string()), ("version", pa.int32()),
            ("dimension", pa.string()), ("severity", pa.string()), ("where", pa.string()),
            ("evidence", pa.string()), ("value", pa.float64()), ("threshold", pa.float64()),
            ("start", pa.int32()), ("end", pa.int32()),
        ]
    ),
    VERDICTS: pa.schema(
        [
            ("row", pa.int64()), ("record_id", pa.string()), ("keep", pa.bool_()),
            ("reasons", pa.list_(pa.string())),
        ]
    ),
    COST: pa.schema(
        [
            ("row", pa.int64()), ("record_id", pa.string()), ("decode_ms", pa.float32()),
            ("image_ms", pa.float32()), ("text_ms", pa.float32()), ("rules_ms", pa.float32()),
        ]
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why one record was kept or dropped.

    Attributes:
        verdict: the decision. findings: every objection, notes included.
        signals: what was measured, name -> value as stored.
    """

    verdict: Verdict
    findings: tuple[Finding, ...]
    signals: Mapping[str, Any]


def finding_row(row: int, record_id: str, finding: Finding) -> dict[str, Any]:
    """A ledger row of a finding."""
    return {
        "row": row, "record_id": record_id, "rule": finding.rule, "version": finding.version,
        "dimension": finding.dimension, "severity": finding.severity, "where": finding.where,
        "evidence": finding.evidence, "value": finding.value, "threshold": finding.threshold,
        "start": finding.start, "end": finding.end,
    }  # fmt: skip


def finding_of(row: Mapping[str, Any]) -> Finding:
    """Inverse of `finding_row`."""
    return Finding(**{name: row[name] for name in Finding.__dataclass_fields__})


def verdict_row(verdict: Verdict) -> dict[str, Any]:
    """A ledger row of a verdict."""
    return {
        "row": verdict.row,
        "record_id": verdict.record_id,
        "keep": verdict.keep,
        "reasons": list(verdict.reasons),
    }


def table(name: str, rows: list[dict[str, Any]]) -> pa.Table:
    """Rows as a table of the ledger's schema; characters that are not Unicode become question marks."""
    try:
        return pa.Table.from_pylist(rows, schema=SCHEMAS[name])
    except UnicodeEncodeError:
        return pa.Table.from_pylist([_valid(row) for row in rows], schema=SCHEMAS[name])


def _valid(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {key: _valid(part) for key, part in value.items()}
    return [_valid(part) for part in value] if isinstance(value, list) else value


def path_of(out: Path, name: str) -> Path:
    """File of a ledger table."""
    return out / f"{name}.parquet"


def forget_scores(out: Path) -> None:
    """Remove scores and what was decided by them: they speak of other findings."""
    for name in (DECISION_FILE, SCORED_FILE, path_of(out, SCORES).name):
        (out / name).unlink(missing_ok=True)


def write_table(path: Path, name: str, tables: Iterable[pa.Table]) -> None:
    """Write tables in order, one row group for every `CHUNKS_PER_ROW_GROUP` of them, atomically."""
    with (
        atomic_open(path) as handle,
        pq.ParquetWriter(handle, SCHEMAS[name], compression="zstd") as writer,
    ):
        waiting: list[pa.Table] = []
        for part in tables:
            waiting.append(part)
            if len(waiting) == CHUNKS_PER_ROW_GROUP:
                writer.write_table(pa.concat_tables(waiting).combine_chunks())
                waiting = []
        if waiting:
            writer.write_table(pa.concat_tables(waiting).combine_chunks())


class Parts:
    """Finished chunks of a run, kept until the ledger is complete.

    A chunk is complete when its signals (written last) exist; parts of another data set, rubric or
    version are removed.
    """

    def __init__(self, out: Path, key: Mapping[str, Any], name: str = PARTS) -> None:
        self.folder = out / name
        stamp = self.folder / "key.json"
        if self.folder.exists() and (not stamp.is_file() or read_json(stamp) != dict(key)):
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        if not stamp.is_file():
            write_json(stamp, dict(key))

    def file(self, name: str, chunk: int) -> Path:
        """File of one table of one chunk."""
        return self.folder / f"{name}-{chunk:06d}.parquet"

    def done(self, chunk: int, name: str = SIGNALS) -> bool:
        """Whether the chunk is complete (or one of its tables is there)."""
        return self.file(name, chunk).is_file()

    def write(self, chunk: int, tables: Mapping[str, pa.Table]) -> None:
        """Store tables of a chunk; signals last, because they mark it complete."""
        for name in sorted(tables, key=lambda n: n == SIGNALS):
            with atomic_open(self.file(name, chunk)) as handle:
                pq.write_table(tables[name], handle, compression="zstd")

    def read(self, name: str, chunk: int, columns: list[str] | None = None) -> pa.Table:
        """One table of one chunk."""
        return pq.read_table(self.file(name, chunk), columns=columns)

    def remove(self) -> None:
        """Delete all parts."""
        shutil.rmtree(self.folder, ignore_errors=True)


def read_ledger(out: Path, name: str, columns: list[str] | None = None) -> pa.Table:
    """A table of the ledger.

    Raises:
        DataError: there is no ledger, or it is damaged.
    """
    path = path_of(Path(out), name)
    if not path.is_file():
        raise DataError(
            "no curation ledger here",
            where=str(path),
            fix="run: infimed curate run SHARDS --out FOLDER",
        )
    try:
        return pq.read_table(path, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            "the ledger cannot be read", where=str(path), fix="run the curation again"
        ) from error


def read_verdicts(out: Path) -> pa.Table:
    """The verdicts: row, record_id, keep, reasons; one row a record, in shard order."""
    return read_ledger(out, VERDICTS)


def kept_rows(out: Path) -> NDArray[np.int64]:
    """Shard row numbers of the kept records, ascending; int64 [n]."""
    verdicts = read_ledger(out, VERDICTS, ["row", "keep"])
    keep = verdicts["keep"].to_numpy().astype(bool)
    return np.asarray(verdicts["row"].to_numpy()[keep], np.int64)


def rows_of(out: Path, name: str, record_id: str) -> Iterator[dict[str, Any]]:
    """All rows of one record in one table, read with a pushed-down filter."""
    read_ledger(out, name, ["row"])  # a missing or damaged ledger gets its own message
    found = pq.read_table(path_of(Path(out), name), filters=[("record_id", "=", record_id)])
    yield from found.to_pylist()


def explain(out: Path, record_id: str) -> Explanation:
    """Everything the ledger knows of one record.

    Raises:
        DataError: no ledger, or no such record in it.
    """
    rows = list(rows_of(out, VERDICTS, record_id))
    if not rows:
        ids = read_ledger(out, VERDICTS, ["record_id"])["record_id"].to_pylist()
        raise DataError(
            "no such record in this ledger",
            where=str(out),
            seen=record_id,
            nearest=nearest_name(record_id, ids[:50_000]),
        )
    verdict = Verdict(
        rows[0]["record_id"], rows[0]["row"], rows[0]["keep"], tuple(rows[0]["reasons"])
    )
    findings = tuple(
        finding_of(row) for row in rows_of(out, FINDINGS, record_id) if row["row"] == verdict.row
    )
    signals = next((r for r in rows_of(out, SIGNALS, record_id) if r["row"] == verdict.row), {})
    return Explanation(verdict, findings, signals)
