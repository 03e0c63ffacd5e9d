"""Records for people to judge: a stratified, blinded sample, and the labels that come back.

A reviewer sees images, texts and header facts, and gives 0, 1, 2 or U to each of the five dimensions;
no file for reviewers holds a verdict, a finding or the reason a record was drawn. What was drawn and why
stays beside the ledger in `label_sample.parquet`, the labels in `labels.parquet`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from infimed.core.files import atomic_open, sha256_json
from infimed.core.sampling import alternate, shuffled
from infimed.curation import ledger
from infimed.curation.distributions import read_distributions
from infimed.curation.engine import read_summary
from infimed.curation.findings import QUALITY, SCORE_RULES
from infimed.curation.hiding import is_identity
from infimed.curation.ledger_columns import Decisions, Lot, batches, read_decisions, rows_where
from infimed.curation.origin import read_rubric
from infimed.curation.report_examples import borderline

"""The dimensions that people label: duplication is a property of the set, not of a record."""

LEVELS: Final = ("0", "1", "2", "U")
SAMPLE, LABELS = "label_sample", "labels"

SHARES: Final = (("dropped", 0.4), ("borderline", 0.2), ("noted", 0.1), ("kept", 0.3))
"""Parts of a sample; what one part cannot fill goes to the others."""

ASKED: Final[dict[str, tuple[str, str, str, str]]] = {
    "completeness": (
        "Is everything there that the question and its answer need: image or panel, options, units, conditions?",
        "something essential is missing",
        "something is missing, still usable",
        "nothing is missing",
    ),
    "accuracy": (
        "Does any stated modality, anatomy, side, finding, number or unit conflict with the image or the facts?",
        "wrong in an essential point",
        "doubtful or imprecise",
        "correct",
    ),
    "consistency": (
        "Do question, options, answer and explanation agree on side, negation, quantity and finding?",
        "they contradict each other",
        "they fit loosely",
        "they agree",
    ),
    "relevance": (
        "Is the image medical, and is it needed to answer?",
        "not medical, or not about this image",
        "answerable without the image",
        "the image is needed",
    ),
    "readability": (
        "Can the text be read without truncation, markup or damaged characters, and the image for this task?",
        "text or image cannot be read",
        "readable with effort",
        "readable",
    ),
}
"""Dimension -> the question put to a reviewer, and what 0, 1 and 2 mean; U is "cannot tell"."""

SAMPLE_SCHEMA: Final = pa.schema(
    [("row", pa.int64()), ("record_id", pa.string()), ("pool", pa.string()), ("number", pa.int32())]
)
LABEL_SCHEMA: Final = pa.schema(
    [
        ("row", pa.int64()), ("record_id", pa.string()), ("rater", pa.string()),
        ("dimension", pa.string()), ("level", pa.int8()), ("comment", pa.string()),
    ]
)  # fmt: skip
"""A row a given label; `level` is null for U, and there is no row where nothing was given."""


@dataclass(frozen=True)
class Drawn:
    """A record of the sample: why it was drawn is for the ledger only."""

    row: int
    record_id: str
    pool: str


def draw_sample(folder: Path, n: int, seed: int = 0) -> list[Drawn]:
    """At most `n` records: dropped (dimensions in turn), close to a limit, noted, kept (strata in turn).

    The order is shuffled, so that it tells a reviewer nothing. Records that name a person are left out.

    Raises:
        DataError: no finished ledger.
    """
    summary = read_summary(folder)
    decisions = read_decisions(folder, summary.records)
    rubric = read_rubric(folder, summary, known_only=True)
    near = read_distributions(folder, rubric, decisions)
    found = _by_dimension(folder, decisions, n, seed)
    close = [[p.row for _, p in borderline(near, keep, n)] for keep in (False, True)]
    candidates = {
        "dropped": alternate(found["drop"], n),
        "borderline": alternate(close, n),
        "noted": alternate(found["note"], n),
        "kept": alternate(_by_stratum(folder, decisions, n, seed), n),
    }
    named = _naming_persons(folder, [row for rows in candidates.values() for row in rows])
    candidates = {
        pool: [row for row in rows if row not in named] for pool, rows in candidates.items()
    }
    chosen: dict[int, str] = {}
    taken = {pool: _fresh(rows, chosen, pool, round(n * dict(SHARES)[pool]))
             for pool, rows in candidates.items()}  # fmt: skip
    for pool, rows in candidates.items():  # what is left over goes round again
        _fresh(rows[taken[pool] :], chosen, pool, n - len(chosen))
    order = shuffled(sorted(chosen)[:n] if len(chosen) > n else sorted(chosen), seed, "labels")
    names = rows_where(folder, ledger.VERDICTS, order)
    return [Drawn(row, names[row][0]["record_id"], chosen[row]) for row in order]


def _naming_persons(folder: Path, rows: Sequence[int]) -> set[int]:
    """Rows that are dropped because they name a person: they are not given out at all."""
    found = rows_where(folder, ledger.FINDINGS, rows)
    return {
        row
        for row, lines in found.items()
        if any(f["severity"] == "drop" and is_identity(ledger.finding_of(f)) for f in lines)
    }


def _fresh(rows: Sequence[int], chosen: dict[int, str], pool: str, count: int) -> int:
    """Take up to `count` rows that are not chosen yet; returns how many were looked at."""
    looked = 0
    for row in rows:
        if count <= 0:
            break
        looked += 1
        if row not in chosen:
            chosen[row] = pool
            count -= 1
    return looked


def _by_dimension(
    folder: Path, decisions: Decisions, n: int, seed: int
) -> dict[str, list[list[int]]]:
    """Severity -> rows with such a finding, a list a dimension; notes of kept records only."""
    lots: dict[tuple[str, str], Lot] = {}
    for batch in batches(folder, ledger.FINDINGS, ["row", "dimension", "severity"]):
        rows = batch["row"].to_numpy()
        severity = np.asarray(pc.equal(batch["severity"], "drop").to_numpy(zero_copy_only=False))
        for dimension in pc.unique(batch["dimension"]).to_pylist():
            ours = pc.equal(batch["dimension"], dimension).to_numpy(zero_copy_only=False)
            for name, belongs in (("drop", severity), ("note", ~severity & decisions.keep[rows])):
                key = (name, dimension)
                lots.setdefault(key, Lot(n, seed, "labels", *key)).offer(rows[ours & belongs])
    made: dict[str, list[list[int]]] = {"drop": [], "note": []}
    for name, dimension in sorted(lots):
        made[name].append(lots[name, dimension].rows)
    return made


def _by_stratum(folder: Path, decisions: Decisions, n: int, seed: int) -> list[list[int]]:
    """Kept rows, a list for every source, modality and task."""
    lots: dict[str, Lot] = {}
    for batch in batches(folder, ledger.SIGNALS, ["row", "source", "modality", "task"]):
        rows = batch["row"].to_numpy()
        parts = [pc.fill_null(batch[name], "") for name in ("source", "modality", "task")]
        encoded = pc.dictionary_encode(pc.binary_join_element_wise(*parts, "\x1f"))
        codes = encoded.indices.to_numpy()
        for code, name in enumerate(encoded.dictionary.to_pylist()):
            lot = lots.setdefault(name, Lot(n, seed, "labels", "kept", name))
            lot.offer(rows[(codes == code) & decisions.keep[rows]])
    return [lots[name].rows for name in sorted(lots)]


def sample_id(data_hash: str, drawn: Sequence[Drawn]) -> str:
    """A short name of a sample: the same records in the same order of the same data."""
    return sha256_json([data_hash, [one.row for one in drawn]])[:12]


def write_sample(folder: Path, drawn: Sequence[Drawn]) -> None:
    """Keep beside the ledger what was drawn, and from which part."""
    rows = [
        {"row": d.row, "record_id": d.record_id, "pool": d.pool, "number": number}
        for number, d in enumerate(drawn, start=1)
    ]
    _write(ledger.path_of(folder, SAMPLE), pa.Table.from_pylist(rows, schema=SAMPLE_SCHEMA))


def read_labels(folder: Path) -> pa.Table:
    """All labels beside a ledger (`LABEL_SCHEMA`); an empty table where there are none."""
    path = ledger.path_of(Path(folder), LABELS)
    if not path.is_file():
        return LABEL_SCHEMA.empty_table()
    return ledger.read_ledger(Path(folder), LABELS).cast(LABEL_SCHEMA)


def store_labels(folder: Path, rows: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """Add labels; a rater's newer label replaces the older one. (new, replaced)."""
    held = {_key(line): line for line in read_labels(folder).to_pylist()}
    replaced = sum(_key(row) in held and held[_key(row)]["level"] != row["level"] for row in rows)
    new = len({_key(row) for row in rows} - held.keys())
    held.update({_key(row): row for row in rows})
    table = pa.Table.from_pylist([held[key] for key in sorted(held)], schema=LABEL_SCHEMA)
    _write(ledger.path_of(Path(folder), LABELS), table)
    return new, replaced


def _key(row: dict[str, Any]) -> tuple[int, str, int]:
    return row["row"], row["rater"], QUALITY.index(row["dimension"])


def _write(path: Path, table: pa.Table) -> None:
    with atomic_open(path) as handle:
        pq.write_table(table, handle, compression="zstd")


def rules_levels(folder: Path, rows: Sequence[int]) -> dict[int, dict[str, int]]:
    """What the rules say in the reviewers' levels: 0 for a finding that drops, 1 for a note, 2 for none.

    The score's own findings are left out: it may have been fitted on the very labels.
    """
    found = rows_where(folder, ledger.FINDINGS, rows)
    made: dict[int, dict[str, int]] = {}
    for row, findings in found.items():
        levels = dict.fromkeys(QUALITY, 2)
        for finding in findings:
            if finding["dimension"] in levels and not finding["rule"].startswith(SCORE_RULES):
                level = 0 if finding["severity"] == "drop" else 1
                levels[finding["dimension"]] = min(levels[finding["dimension"]], level)
        made[row] = levels
    return made


def judge_levels(folder: Path, rows: Mapping[str, int]) -> dict[int, dict[str, int | None]]:
    """A judge's levels from `judgements.parquet` (nothing where there is none); None for "cannot tell".

    Read are a row a record with a column a dimension ("0", "1", "2", "U"), and a row a record and
    dimension (`dimension`, `level`).

    Args:
        rows: record id -> row number of the records to look up.
    """
    path = ledger.path_of(Path(folder), "judgements")
    if not path.exists():
        return {}
    names = pa.array(sorted(rows), pa.string())
    table = ds.dataset(str(path), format="parquet").to_table(
        filter=ds.field("record_id").isin(names)
    )
    made: dict[int, dict[str, int | None]] = defaultdict(dict)
    for entry in table.to_pylist():
        given = (
            {entry["dimension"]: entry.get("level")}
            if "dimension" in entry
            else {name: entry.get(name) for name in QUALITY}
        )
        for name, level in given.items():
            known = int(level) if str(level) in ("0", "1", "2") else None
            made[rows[entry["record_id"]]][name] = known
    return dict(made)
