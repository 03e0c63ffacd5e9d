"""The counts of a ledger, from its tables: for whoever changes verdicts after the curation.

Equal to what the curation itself counted (a test compares them). Read column by column; about 20 bytes a
finding and 1 byte a record are held.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infimed.curation import ledger
from infimed.curation.findings import DIMENSIONS
from infimed.curation.ledger_columns import batches, read_decisions
from infimed.curation.rubric import default_rubric
from infimed.curation.summary import EXAMPLES, CurationSummary, RuleCount

_COLUMNS: Final = ["row", "record_id", "rule", "dimension", "severity"]


def recount(
    folder: Path, summary: CurationSummary, rubric: Mapping[str, Any] | None
) -> CurationSummary:
    """`summary` with every count that follows from verdicts and findings made anew.

    Args:
        rubric: `Rubric.to_dict()` of the ledger, for the order and severity of rules; the default one
            when None. Rules that it does not name come last, by name.
    """
    decisions = read_decisions(folder, 0)
    rules = (rubric or default_rubric().to_dict())["rules"]
    codes: dict[str, int] = {}
    dimension_of: dict[str, str] = {}
    examples: dict[str, dict[int, str]] = defaultdict(dict)
    held: list[tuple[np.ndarray[Any, Any], ...]] = []
    for batch in batches(folder, ledger.FINDINGS, _COLUMNS):
        encoded = pc.dictionary_encode(batch["rule"])
        names = encoded.dictionary.to_pylist()
        table = np.array([codes.setdefault(name, len(codes)) for name in names], np.int32)
        place = encoded.indices.to_numpy()
        dropping = pc.equal(batch["severity"], "drop").to_numpy(zero_copy_only=False)
        rows = batch["row"].to_numpy()
        for code, name in enumerate(names):
            mine = np.flatnonzero(place == code)
            dimension_of.setdefault(name, batch["dimension"][int(mine[0])].as_py())
            for at in mine.tolist():
                if len(examples[name]) == EXAMPLES:
                    break
                examples[name].setdefault(int(rows[at]), batch["record_id"][at].as_py())
        held.append((rows, table[place] if len(table) else place.astype(np.int32), dropping))
    rows = np.concatenate([one[0] for one in held]) if held else np.zeros(0, np.int64)
    rule = np.concatenate([one[1] for one in held]) if held else np.zeros(0, np.int32)
    dropping = np.concatenate([one[2] for one in held]) if held else np.zeros(0, bool)
    spoken = np.unique(np.stack([rows, rule], axis=1), axis=0)
    dropped = np.unique(np.stack([rows[dropping], rule[dropping]], axis=1), axis=0)
    _, first, several = np.unique(dropped[:, 0], return_index=True, return_counts=True)
    alone = Counter(dropped[first[several == 1], 1].tolist())
    records_of = Counter(spoken[:, 1].tolist())
    place_of = {name: at for at, name in enumerate(DIMENSIONS)}
    by_code = np.array([place_of.get(dimension_of[name], -1) for name in codes], np.int64)
    pairs = np.unique(np.stack([dropped[:, 0], by_code[dropped[:, 1]]], axis=1), axis=0)
    noted = np.unique(rows)
    kept = int(decisions.keep.sum())
    records = int(decisions.exists.sum())
    order = {name: at for at, name in enumerate(rules)}
    found = tuple(
        RuleCount(
            name,
            dimension_of[name],
            rules.get(name, {}).get("severity", "drop"),
            records_of[codes[name]],
            alone[codes[name]],
            tuple(examples[name].values()),
        )
        for name in sorted(codes, key=lambda name: (order.get(name, len(order)), name))
    )
    return replace(
        summary,
        records=records,
        kept=kept,
        dropped=records - kept,
        noted=int(decisions.keep[noted].sum()),
        dimensions={
            name: int((pairs[:, 1] == at).sum()) for at, name in enumerate(DIMENSIONS)
        },
        rules=found,
        strata=_strata(folder, decisions.keep),
    )  # fmt: skip


def _strata(folder: Path, keep: np.ndarray[Any, Any]) -> dict[str, tuple[int, int]]:
    columns = ["source", "modality", "task"]
    counted: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for batch in batches(folder, ledger.SIGNALS, ["row", *columns]):
        grouped = (
            pa.table(
                {**{c: batch[c] for c in columns}, "keep": keep[batch["row"].to_numpy()]}
            )
            .group_by(columns)
            .aggregate([("keep", "count"), ("keep", "sum")])
        )  # fmt: skip
        for line in grouped.to_pylist():
            pair = counted[
                " / ".join((line["source"] or "?", line["modality"] or "?", line["task"]))
            ]
            pair[0] += line["keep_count"]
            pair[1] += line["keep_sum"] or 0
    return {name: (a, b) for name, (a, b) in sorted(counted.items())}
