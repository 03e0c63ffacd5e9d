"""Verdicts by score: hard gates first, then a threshold a stratum that rejects are meant to deserve.

Every finding of severity drop is a gate, as before. Of the records that rules keep, the score drops those
whose P(ok) lies under the threshold of their source and modality: the largest below which the expected
share of defective records is at least the target precision. Where a part has few such records it leans
on its source, and this on all records (`calibration.stratum_thresholds`). Where no threshold reaches
the target, where people's labels contradict it, or where an evaluator of phantoms has no labels to bear it
out, nothing is dropped by score, and the decision says so.

A drop by score is a finding like any other, ``score.DIMENSION``: value P(ok), limit the threshold,
evidence in words. So report, explanation, labels and plans need to know nothing new; ``decision.json``
keeps thresholds, retained shares and labels by stratum, and no record. Decided again, or taken back, from
the same tables: the findings of rules stay as they are. Memory: about 100 bytes a record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infimed.core.errors import DataError, UsageError
from infimed.core.files import read_json, sha256_file, write_json
from infimed.core.statistics import wilson_interval
from infimed.curation import ledger
from infimed.curation.calibration import NOTHING, Floats, StratumThresholds, stratum_thresholds
from infimed.curation.decision import Decision, StratumDecision, read_decision
from infimed.curation.decision_words import evidence_of
from infimed.curation.engine import read_summary
from infimed.curation.findings import SCORE_RULES, Finding
from infimed.curation.ledger_columns import RowRanges, batches, rows_between
from infimed.curation.record_labels import labelled_records
from infimed.curation.recount import recount
from infimed.curation.score_features import source_of
from infimed.curation.score_pass import PART_ROWS, score_ledger
from infimed.curation.score_table import scored_by
from infimed.curation.scoring import Evaluator
from infimed.curation.summary import CurationSummary

TARGET_PRECISION: Final = 0.90
STEP: Final = 1e-4
"""P(ok) is looked at in steps of this, rounded up: thresholds are then numbers one can say."""
FEWEST_CONTRADICTING: Final = 10
"""Labelled records below a threshold that it takes to doubt it."""
EVEN: Final = 0.5
"""A record more likely in order than not is not dropped, whatever the company it keeps below a threshold;
a target under a half asks for less."""
ALL: Final = "all records"
VERSION: Final = 1

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Planned:
    """A decision before it is written: the decision, and which rows the score drops."""

    decision: Decision
    dropped: Flags
    thresholds: Mapping[str, float]


def decide_ledger(
    folder: Path,
    evaluator: Evaluator | None = None,
    *,
    target_precision: float = TARGET_PRECISION,
    on_progress: Callable[[int], None] | None = None,
) -> Decision:
    """Score a ledger where that is not done yet, and write the verdicts; the decision as it stands
    where nothing has changed since.

    Args:
        evaluator: who scores; the one that scored the ledger last when None.
        target_precision: share of the records dropped by score that should be defective, in (0, 1].

    Raises:
        DataError: no finished ledger, or no evaluator and no scores.
    """
    folder = Path(folder)
    score_ledger(folder, _evaluator(folder, evaluator), on_progress=on_progress)
    stands = read_decision(folder)
    if stands is not None and dict(stands.key) == _key(folder, target_precision):
        return stands
    planned = plan_decision(folder, target_precision=target_precision)
    write_decision(folder, planned)
    return planned.decision


def _evaluator(folder: Path, given: Evaluator | None) -> Evaluator:
    evaluator = given or scored_by(folder)
    if evaluator is None:
        raise DataError(
            "nothing scored this ledger yet",
            where=str(folder),
            fix="say who: --evaluator shipped, or a file of infimed curate train-evaluator",
        )
    return evaluator


def _key(folder: Path, target_precision: float) -> dict[str, Any]:
    labels = ledger.path_of(folder, "labels")
    return {
        "version": VERSION,
        "scores": read_json(folder / ledger.SCORED_FILE)["key"],
        "labels": sha256_file(labels) if labels.is_file() else "",
        "target_precision": target_precision,
    }


def plan_decision(folder: Path, *, target_precision: float = TARGET_PRECISION) -> Planned:
    """Thresholds and dropped rows from the scores beside a ledger; writes nothing.

    Raises:
        DataError: the ledger was not scored. UsageError: a target outside (0, 1].
    """
    if not 0 < target_precision <= 1:
        raise UsageError(
            "a target precision is a share", where="--target-precision", seen=target_precision,
            accepted="more than 0, at most 1",
        )  # fmt: skip
    folder = Path(folder)
    evaluator = _evaluator(folder, None)
    p, place, names = _scores(folder)
    gated = _gated(folder, len(p))
    free = ~gated
    strata = np.array(names, object)[place] if names else np.zeros(0, object)
    sources = np.array([source_of(name) for name in names], object)[place] if names else strata
    made = stratum_thresholds(
        p[free], p[free], strata[free].tolist(), target_precision, parents=sources[free].tolist()
    )
    labels = {row: bad for row, bad in labelled_records(folder).items() if free[row]}
    thresholds, dropped = {}, np.zeros(len(p), bool)
    found = []
    most = max(EVEN, 1 - target_precision)
    limits = {name: min(made.of(name), most) for name in names}
    tried = _tried(made, limits, labels, p, place, names)
    for at, name in enumerate(names):
        inside = place == at
        below = inside & free & (p < limits[name])
        if below.any():
            whose = "its" if tried[name][0] == name else f"the {tried[name][0]}'s"
            remark = _doubt(
                evaluator, whose, tried[name][1], int(below.sum()), limits[name], target_precision
            )
        else:
            remark = _unreached(p[inside & free], target_precision)
        thresholds[name] = NOTHING if remark else limits[name]
        if not remark:
            dropped |= below
        mine = {row: bad for row, bad in labels.items() if inside[row]}
        under = [bad for row, bad in mine.items() if below[row]]
        found.append(
            StratumDecision(
                name, int(inside.sum()), int((inside & gated).sum()),
                0 if remark else int(below.sum()), thresholds[name], _basis(made, name),
                None if remark else float(1 - p[below].mean()),
                len(mine), len(under), sum(under), remark,
            )
        )  # fmt: skip
    decision = Decision(
        _key(folder, target_precision), target_precision, evaluator.identity, made.pooled,
        tuple(sorted(found, key=lambda one: one.name)),
    )  # fmt: skip
    return Planned(decision, dropped, thresholds)


def _scores(folder: Path) -> tuple[Floats, NDArray[np.int32], list[str]]:
    """(P(ok) in steps [n], stratum of each record [n], names of the strata)."""
    names: dict[str, int] = {}
    values, places = [], []
    for batch in batches(folder, ledger.SCORES, ["row", "p_ok", "stratum"]):
        encoded = pc.dictionary_encode(batch["stratum"])
        codes = [names.setdefault(n, len(names)) for n in encoded.dictionary.to_pylist()]
        places.append(np.array(codes, np.int32)[encoded.indices.to_numpy()])
        values.append(np.ceil(batch["p_ok"].to_numpy() / STEP - 1e-9) * STEP)
    if not values:
        return np.zeros(0), np.zeros(0, np.int32), []
    return np.minimum(1.0, np.concatenate(values)), np.concatenate(places), list(names)


def _gated(folder: Path, records: int) -> Flags:
    """Which records a rule drops [records]."""
    gated = np.zeros(records, bool)
    for batch in batches(folder, ledger.FINDINGS, ["row", "rule", "severity"]):
        ours = pc.and_(
            pc.equal(batch["severity"], "drop"),
            pc.invert(pc.starts_with(batch["rule"], SCORE_RULES)),
        )
        gated[batch["row"].to_numpy()[ours.to_numpy(zero_copy_only=False)]] = True
    return gated


def _basis(made: StratumThresholds, name: str) -> str:
    parent = made.parent_of.get(name, "")
    if name in made.own:
        return name
    return parent if parent in made.parents else ALL


def _unreached(p: Floats, target: float) -> str:
    if not len(p):
        return "rules drop every record"
    worst = float(1 - p.min())
    if worst < target:
        return (
            f"the target is out of reach: of the worst record a defect is expected with {worst:.2f}"
        )
    return (
        "too few of its records are that bad to decide alone, and the level above misses the target"
    )


def _tried(
    made: StratumThresholds,
    limits: Mapping[str, float],
    labels: Mapping[int, bool],
    p: Floats,
    place: NDArray[np.int32],
    names: Sequence[str],
) -> dict[str, tuple[str, list[bool]]]:
    """Stratum -> (whose, whether each is defective) of the labelled records that speak of its threshold:
    its own below it or, where those are few, those of all strata that share its basis."""
    below: dict[str, list[bool]] = {}
    shared: dict[str, list[bool]] = {}
    for row, bad in labels.items():
        name = names[place[row]]
        if p[row] < limits[name]:
            below.setdefault(name, []).append(bad)
            shared.setdefault(_basis(made, name), []).append(bad)
    found = {}
    for name in names:
        basis, own = _basis(made, name), below.get(name, [])
        few = len(own) < FEWEST_CONTRADICTING
        found[name] = (basis, shared.get(basis, [])) if few else (name, own)
    return found


def _doubt(
    evaluator: Evaluator, whose: str, tried: Sequence[bool], below: int, limit: float, target: float
) -> str:
    """Why nothing is dropped although `below` records lie under the threshold; "" where nothing speaks
    against it.

    People's labels contradict where those below it are good so often that the target lies above Wilson's
    95 % interval. An evaluator of phantoms needs labels that do not: what looks like injected damage
    there is how sound records look elsewhere.
    """
    if len(tried) < FEWEST_CONTRADICTING:
        if not evaluator.of_phantoms:
            return ""
        return (
            f"{below} records lie below {limit:.4f}, but this evaluator knows phantoms only: fit one on these "
            f"shards (infimed curate train-evaluator --shards), or have {FEWEST_CONTRADICTING} of those labelled"
        )
    if wilson_interval(sum(tried), len(tried))[1] < target:
        return (
            f"people contradict: of {whose} {len(tried)} labelled records below {limit:.4f} "
            f"they call {sum(tried)} defective"
        )
    return ""


def write_decision(folder: Path, planned: Planned | None) -> CurationSummary:
    """Write findings, verdicts and counts; with None the rules' verdicts come back.

    While tables are replaced there is no summary that names them: killed then, `infimed curate run`
    makes the ledger's tables again from its signals.
    """
    folder = Path(folder)
    stored = read_json(folder / ledger.SUMMARY_FILE)
    records = read_summary(folder).records
    new = {name: folder / f"{name}.new" for name in (ledger.FINDINGS, ledger.VERDICTS)}
    ledger.write_table(new[ledger.FINDINGS], ledger.FINDINGS, _findings(folder, planned, records))
    ledger.write_table(new[ledger.VERDICTS], ledger.VERDICTS, _verdicts(folder, planned, records))
    (folder / ledger.SUMMARY_FILE).unlink()
    (folder / ledger.DECISION_FILE).unlink(missing_ok=True)
    for name, file in new.items():
        file.replace(ledger.path_of(folder, name))
    summary = recount(folder, CurationSummary.from_dict(stored["summary"]), stored.get("rubric"))
    write_json(folder / ledger.SUMMARY_FILE, {**stored, "summary": summary.to_dict()})
    if planned is not None:
        write_json(folder / ledger.DECISION_FILE, planned.decision.to_dict())
    return summary


def take_back(folder: Path) -> CurationSummary:
    """Let the rules alone decide again; scores stay.

    Raises:
        DataError: scores decided nothing here.
    """
    if read_decision(folder) is None:
        raise DataError("no score decided this ledger", where=str(folder))
    return write_decision(folder, None)


def _chunks(table: pa.Table, begin: int, end: int) -> Iterator[pa.Table]:
    """A table's rows of each chunk of records, so that row groups are those of the curation."""
    rows = table["row"].to_numpy()
    for first in range(begin, end, ledger.CHUNK_ROWS):
        low, high = np.searchsorted(rows, [first, min(end, first + ledger.CHUNK_ROWS)])
        yield table.slice(low, high - low)


def _findings(folder: Path, planned: Planned | None, records: int) -> Iterator[pa.Table]:
    """The findings of the rules, each record's followed by that of the score where it drops it."""
    for begin in range(0, records, PART_ROWS):
        end = min(records, begin + PART_ROWS)
        table = rows_between(folder, ledger.FINDINGS, begin, end)
        table = table.filter(pc.invert(pc.starts_with(table["rule"], SCORE_RULES)))
        if planned is not None and planned.dropped[begin:end].any():
            rows = np.flatnonzero(planned.dropped[begin:end]) + begin
            added = ledger.table(ledger.FINDINGS, list(_added(folder, planned, rows, table)))
            table = pa.concat_tables([table, added])
            order = np.argsort(table["row"].to_numpy(), kind="stable")
            table = table.take(pa.array(order))
        yield from _chunks(table.combine_chunks(), begin, end)


def _added(
    folder: Path, planned: Planned, rows: NDArray[np.int64], findings: pa.Table
) -> Iterator[dict[str, Any]]:
    first, last = int(rows[0]), int(rows[-1]) + 1
    chosen = pa.array(rows - first)
    scores = RowRanges(ledger.path_of(folder, ledger.SCORES)).read(first, last - first).take(chosen)
    words = evidence_of(folder, scores, findings, first, last)
    for line in scores.to_pylist():
        yield ledger.finding_row(
            line["row"],
            line["record_id"],
            Finding(
                f"{SCORE_RULES}{line['weakest']}", VERSION, line["weakest"], "drop", "record",
                words[line["row"]], round(float(line["p_ok"]), 6),
                round(planned.thresholds[line["stratum"]], 6),
            ),
        )  # fmt: skip


def _verdicts(folder: Path, planned: Planned | None, records: int) -> Iterator[pa.Table]:
    """The verdicts that follow from those findings."""
    added: dict[int, str] = {}
    if planned is not None:
        weakest = RowRanges(ledger.path_of(folder, ledger.SCORES))
        for begin in range(0, records, PART_ROWS):
            names = weakest.read(begin, PART_ROWS, ["weakest"])["weakest"]
            for row in (np.flatnonzero(planned.dropped[begin : begin + PART_ROWS])).tolist():
                added[begin + row] = SCORE_RULES + names[row].as_py()
    for begin in range(0, records, PART_ROWS):
        end = min(records, begin + PART_ROWS)
        table = rows_between(folder, ledger.VERDICTS, begin, end)
        reasons = [
            [name for name in said if not name.startswith(SCORE_RULES)]
            + ([added[row]] if row in added else [])
            for row, said in zip(
                table["row"].to_pylist(), table["reasons"].to_pylist(), strict=True
            )
        ]
        made = pa.table(
            [table["row"], table["record_id"], pa.array([not said for said in reasons]),
             pa.array(reasons, pa.list_(pa.string()))],
            schema=ledger.SCHEMAS[ledger.VERDICTS],
        )  # fmt: skip
        yield from _chunks(made.combine_chunks(), begin, end)


def recount_decision(folder: Path) -> None:
    """Count records by stratum again after some were taken out (`forgetting`); what was decided stands,
    and what people's labels said of it is as it was then."""
    decision = read_decision(folder)
    if decision is None or not ledger.path_of(folder, ledger.SCORES).is_file():
        return
    p, place, names = _scores(folder)
    gated = _gated(folder, len(p))
    by_score = np.zeros(len(p), bool)
    for batch in batches(folder, ledger.FINDINGS, ["row", "rule"]):
        ours = pc.starts_with(batch["rule"], SCORE_RULES).to_numpy(zero_copy_only=False)
        by_score[batch["row"].to_numpy()[ours]] = True
    strata = []
    for stratum in decision.strata:
        if stratum.name in names:
            inside = place == names.index(stratum.name)
            counts = (
                int(inside.sum()),
                int((inside & gated).sum()),
                int((inside & by_score).sum()),
            )
            strata.append(
                replace(stratum, records=counts[0], by_rules=counts[1], by_score=counts[2])
            )
    made = replace(decision, strata=tuple(strata))
    write_json(folder / ledger.DECISION_FILE, made.to_dict())
