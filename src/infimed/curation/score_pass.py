"""Score a ledger: one pass over signals and findings, no image opened.

First every record's evidence is read, part by part: P(ok) by the rules at the evaluator's own base rate,
and how much judge and grounding gap speak for a defect. Then the base rates of these records are found,
over all and per source and modality (`base_rates`), from a seeded draw of records. Last every part is
given its probabilities at those base rates and written.

Invariants: the table follows from ledger, judgements, gaps and evaluator alone; a killed pass goes on
behind its finished parts (``scores.parts``) to the same bytes. Memory: one part and one draw a stratum,
however many records there are. Cost: see ``benchmarks/curation_scores.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infimed.core.files import atomic_open, read_json, sha256_file, write_json
from infimed.curation import ledger
from infimed.curation.base_rates import Rates, find_rates, matrix
from infimed.curation.engine import read_summary
from infimed.curation.evidence import Weighed, weigh
from infimed.curation.findings import DIMENSIONS, QUALITY
from infimed.curation.grounding_table import GROUNDING_FILE
from infimed.curation.judge_tables import JUDGEMENTS_FILE
from infimed.curation.label_shift import shift_prior
from infimed.curation.score_features import LedgerFeatures
from infimed.curation.score_table import SCHEMA
from infimed.curation.scoring import DROPPED, Evaluator

PARTS: Final = "scores.parts"
PART_ROWS: Final = ledger.CHUNK_ROWS * ledger.CHUNKS_PER_ROW_GROUP
VERSION: Final = 1

_PART: Final = "weighed"
_RATIOS: Final = ("ratio", "ratio_low", "ratio_high")

OnProgress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Scored:
    """What a pass did.

    Attributes:
        records, judged: scored, and how many of them a judge gave levels. evaluator: its identity.
        fresh: False where the scores were there already.
        base_rates: share of records ok in each dimension, over all.
    """

    records: int
    judged: int
    evaluator: str
    fresh: bool
    base_rates: Mapping[str, float]


def score_ledger(
    folder: Path, evaluator: Evaluator, *, on_progress: OnProgress | None = None
) -> Scored:
    """Write ``scores.parquet`` beside a ledger; nothing where it is there and up to date.

    Raises:
        DataError: no finished ledger, a damaged table, or the disk is full.
    """
    folder = Path(folder)
    records = read_summary(folder).records
    report = on_progress or (lambda n: None)
    key = _key(folder, evaluator)
    stamp = folder / ledger.SCORED_FILE
    target = ledger.path_of(folder, ledger.SCORES)
    if stamp.is_file() and target.is_file():
        stored = read_json(stamp)
        if stored.get("key") == key:
            report(records)
            return Scored(
                records, stored["judged"], evaluator.identity, False, stored["base_rates"]
            )
    parts = ledger.Parts(folder, key, PARTS)
    begins = range(0, records, PART_ROWS)
    features = LedgerFeatures.of(folder, evidence=evaluator.evidence is not None)
    for number, begin in enumerate(begins):
        end = min(records, begin + PART_ROWS)
        if not parts.done(number, _PART):
            parts.write(number, {_PART: _stored(weigh(evaluator, features.read(begin, end)))})
        report(end - begin)
    rates = find_rates(partial(parts.read, _PART), len(begins), evaluator)
    # While the table is replaced there must be no stamp that names it.
    stamp.unlink(missing_ok=True)
    judged = 0
    with (
        atomic_open(target) as handle,
        pq.ParquetWriter(handle, SCHEMA, compression="zstd") as writer,
    ):
        for number in range(len(begins)):
            part = parts.read(_PART, number)
            judged += int(part["judged"].to_numpy().sum())
            writer.write_table(finished(part, rates, evaluator))
    base_rates = dict(zip(DIMENSIONS, rates.rules[""].tolist(), strict=True))
    write_json(
        stamp,
        {
            "key": key, "records": records, "judged": judged, "base_rates": base_rates,
            "evaluator": evaluator.to_dict(),
        },
    )  # fmt: skip
    parts.remove()
    return Scored(records, judged, evaluator.identity, True, base_rates)


def up_to_date(folder: Path, evaluator: Evaluator) -> bool:
    """Whether the scores beside a ledger are this evaluator's, of its findings and evidence as they are."""
    stamp = Path(folder) / ledger.SCORED_FILE
    return (
        stamp.is_file()
        and ledger.path_of(Path(folder), ledger.SCORES).is_file()
        and read_json(stamp).get("key") == _key(Path(folder), evaluator)
    )


def _key(folder: Path, evaluator: Evaluator) -> dict[str, Any]:
    """What the scores follow from. Judgements and gaps count only for an evaluator that knows them."""
    tables = (JUDGEMENTS_FILE, GROUNDING_FILE) if evaluator.evidence is not None else ()
    return {
        "version": VERSION,
        "ledger": read_json(folder / ledger.SUMMARY_FILE)["key"],
        "evaluator": evaluator.identity,
        "evidence": {
            name: sha256_file(folder / name) for name in tables if (folder / name).is_file()
        },
    }


def _stored(part: Weighed) -> pa.Table:
    """A part's evidence as a table."""
    bits = 1 << np.arange(len(DIMENSIONS))
    columns: dict[str, Any] = {
        "row": part.rows, "record_id": pa.array(part.record_ids, pa.string()),
        "stratum": pa.array(part.strata, pa.string()), "judged": part.judged, "heard": part.heard,
        "drops": part.drops @ bits, "gates": part.gates @ bits,
    }  # fmt: skip
    for at, name in enumerate(DIMENSIONS):
        columns[f"rules_{name}"] = part.rules[:, at]
        columns[f"strongest_{name}"] = pa.array(part.strongest[name], pa.string())
    for kind, ratios in zip(_RATIOS, part.ratios or (), strict=False):
        for at, name in enumerate(QUALITY):
            columns[f"{kind}_{name}"] = ratios[:, at]
    return pa.table(columns)


def _flags(part: pa.Table, kind: str) -> NDArray[np.bool_]:
    bits = 1 << np.arange(len(DIMENSIONS))
    return (part[kind].to_numpy()[:, None] & bits) > 0


def finished(part: pa.Table, rates: Rates, evaluator: Evaluator) -> pa.Table:
    """A part's rows of ``scores.parquet``, at the base rates of the data."""
    strata = part["stratum"].to_pylist()
    rules = matrix(part, "rules", DIMENSIONS)
    for at, name in enumerate(DIMENSIONS):
        if name not in evaluator.models:
            continue
        after = np.array([rates.rules[stratum][at] for stratum in strata])
        rules[:, at] = shift_prior(rules[:, at], evaluator.models[name].prior, after)
    drops, gates = _flags(part, "drops"), _flags(part, "gates")
    closed = np.where(gates, 0.0, np.where(drops, DROPPED, 1.0))
    factor = closed.prod(axis=1)
    p_rules = rules.prod(axis=1) * factor
    dimensions, p_ok = rules, p_rules
    low: Any = pa.nulls(len(rules), pa.float64())
    high: Any = low
    if evaluator.evidence is not None:
        outside = rules[:, len(QUALITY) :].prod(axis=1) * factor
        made = [
            evaluator.evidence.posterior(matrix(part, kind, QUALITY), rates.joints, strata)
            for kind in _RATIOS
        ]
        p_ok = made[0][0] * outside
        dimensions = np.hstack([made[0][1], rules[:, len(QUALITY) :]])
        low = np.minimum(made[1][0] * outside, p_ok)
        high = np.maximum(made[2][0] * outside, p_ok)
    dimensions = dimensions * closed
    weakest = np.argmin(dimensions, axis=1)
    strongest = np.empty(len(rules), object)
    for at, name in enumerate(DIMENSIONS):
        mine = weakest == at
        if mine.any():
            strongest[mine] = np.array(part[f"strongest_{name}"].to_pylist(), object)[mine]
    return pa.table(
        [
            part["row"], part["record_id"], part["stratum"], pa.array(p_ok), low, high,
            pa.array(p_rules), *(pa.array(dimensions[:, at]) for at in range(len(DIMENSIONS))),
            pa.array([DIMENSIONS[at] for at in weakest], pa.string()),
            pa.array(strongest.tolist(), pa.string()), part["judged"],
            pa.array([evaluator.identity] * len(rules), pa.string()),
        ],
        schema=SCHEMA,
    )  # fmt: skip
