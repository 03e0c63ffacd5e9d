"""Tier C: ask a judge about the records that rules leave uncertain, and keep what it said.

Reads a finished ledger and the shards; writes beside the ledger's tables

- ``judge.responses.jsonl``: every answer, append-only, keyed by content: cache and resume;
- ``judgements.parquet``: a row a judged record: status, levels, evidence, who judged by which rubric;
- ``judge_cost.parquet``: attempts, seconds, tokens and price of each, apart because time never repeats;
- ``judge.json``: counts by status and by level.

Invariants: each selected record gets exactly one row, whatever the judge did; a failure is a status,
never a level; "U" is unknown, never 0. Judging does not change a verdict by itself (see
`judge_scoring`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infimed.core.errors import DataError, UsageError
from infimed.core.files import canonical_json, read_json, write_json
from infimed.core.seeds import stream
from infimed.curation import ledger
from infimed.curation.engine import RecordSource
from infimed.curation.findings import QUALITY
from infimed.curation.judge_parsing import JUDGEMENT_STATUSES, LEVELS, judgement_of
from infimed.curation.judge_rubric import JudgeRubric, judge_request, shown_facts
from infimed.curation.judge_tables import (
    COST_SCHEMA,
    JUDGE_COST_FILE,
    JUDGEMENT_SCHEMA,
    JUDGEMENTS_FILE,
    cost_row,
    judgement_row,
    read_judgements,
    write_merged,
)
from infimed.data.record import Record
from infimed.inference.prices import Price
from infimed.inference.requests import Model, Request
from infimed.inference.responses import ask, keep_answers

RESPONSES_FILE: Final = "judge.responses.jsonl"
JUDGE_FILE: Final = "judge.json"
FAILURES_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Band:
    """Records whose P(ok) by the rules lies in [low, high] are asked about."""

    low: float = 0.05
    high: float = 0.95

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise UsageError(
                "a band is LOW,HIGH with 0 <= LOW <= HIGH <= 1",
                seen=f"{self.low},{self.high}",
                accepted="0.05,0.95",
            )

    @staticmethod
    def parse(text: str) -> Band:
        """``"0.1,0.9"`` as a band.

        Raises:
            UsageError: not two numbers in order between 0 and 1.
        """
        try:
            low, high = (float(part) for part in text.split(","))
        except ValueError as error:
            raise UsageError("a band is LOW,HIGH", seen=text, accepted="0.05,0.95") from error
        return Band(low, high)


@dataclass(frozen=True, slots=True)
class JudgeSummary:
    """What a judge run did.

    Attributes:
        selected: records in the band (after --limit). statuses: their judgements by status.
        levels: dimension -> level -> count, over the judgements that are ok.
        attempts, seconds, prompt_tokens, completion_tokens, price: of the distinct requests behind
            them, including those answered in earlier runs. currency: '' without a price.
        judge, rubric: who judged by what. failures: what the commonest failures said -> records.
    """

    selected: int
    statuses: Mapping[str, int]
    levels: Mapping[str, Mapping[str, int]]
    attempts: int
    seconds: float
    prompt_tokens: int
    completion_tokens: int
    price: float
    currency: str
    judge: str
    rubric: str
    failures: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)


def rule_scores(folder: Path) -> NDArray[np.float64]:
    """P(ok) of every record by the rules alone: [records], in row order.

    From the ledger's ``scores.parquet`` (`score_table`): p_rules, so that what a judge says does not
    change whom the same command asks about, or p_ok in a table of other make. Without it the verdicts stand in: 0 for a dropped record, 0.5 for one kept with a note, 1 for one that no
    rule objected to; so the default band then holds the records with a note.

    Raises:
        DataError: no ledger, or scores that do not belong to it.
    """
    verdicts = ledger.read_ledger(folder, ledger.VERDICTS, ["row", "keep"])
    rows = np.asarray(verdicts["row"].to_numpy(), np.int64)
    path = ledger.path_of(folder, ledger.SCORES)
    if path.is_file():
        name = "p_rules" if "p_rules" in pq.read_schema(path).names else "p_ok"
        table = pq.read_table(path, columns=["row", name])
        given = np.asarray(table["row"].to_numpy(), np.int64)
        scores = np.asarray(table[name].to_numpy(zero_copy_only=False), np.float64)
        order = np.argsort(given, kind="stable")
        if not np.array_equal(given[order], rows):
            raise DataError(
                "the scores are of another curation", where=str(path), fix="score the ledger again"
            )
        return scores[order]
    noted = np.unique(ledger.read_ledger(folder, ledger.FINDINGS, ["row"])["row"].to_numpy())
    keep = np.asarray(verdicts["keep"].to_numpy(zero_copy_only=False), bool)
    return np.where(keep, np.where(np.isin(rows, noted), 0.5, 1.0), 0.0)


def select_rows(
    p_ok: NDArray[np.float64], band: Band, limit: int | None = None, seed: int = 0
) -> NDArray[np.int64]:
    """Row numbers in the band, ascending. With `limit` a random part, which a larger limit contains.

    A score that is not a number is uncertain, so it is in the band.
    """
    inside = np.flatnonzero(np.isnan(p_ok) | ((p_ok >= band.low) & (p_ok <= band.high)))
    if limit is not None and limit < len(inside):
        inside = np.sort(stream(seed, "judge-limit").permutation(inside)[:limit])
    return np.asarray(inside, np.int64)


def record_text(record: Record) -> str:
    """All text of a record that a judge sees, in which its evidence is looked up."""
    facts = canonical_json(shown_facts(record))
    return "\n".join([*(turn.text for turn in record.messages), *record.choices, facts])


@dataclass(frozen=True)
class Plan:
    """What will be asked: row, record id and request of each selected record."""

    rows: tuple[int, ...]
    record_ids: tuple[str, ...]
    requests: tuple[Request, ...]
    p_ok: tuple[float, ...]


def plan(
    folder: Path,
    shards: RecordSource,
    rubric: JudgeRubric,
    *,
    band: Band,
    limit: int | None = None,
    seed: int = 0,
) -> Plan:
    """Select records and word their requests; opens no image.

    Raises:
        DataError: no ledger, or one of other shards.
    """
    check_same_data(folder, shards)
    scores = rule_scores(folder)
    rows = select_rows(scores, band, limit, seed).tolist()
    records = [shards.record(row) for row in rows]
    requests = tuple(
        judge_request(record, rubric, shards.pixels, id=str(row), seed=seed)
        for row, record in zip(rows, records, strict=True)
    )
    ids = tuple(record.id for record in records)
    return Plan(tuple(rows), ids, requests, tuple(scores[rows].tolist()))


def check_same_data(folder: Path, shards: RecordSource) -> None:
    """Raise a DataError when the ledger in `folder` was made from other shards."""
    ledger.read_ledger(folder, ledger.VERDICTS, ["row"])
    stored = read_json(folder / ledger.SUMMARY_FILE)
    seen = stored.get("key", {}).get("data") if isinstance(stored, dict) else None
    if seen != shards.data_hash:
        raise DataError(
            "the ledger was made from other shards",
            where=str(folder),
            seen=str(seen)[:16],
            accepted=shards.data_hash[:16],
            fix="give --shards the folder that was curated",
        )


def run_judge(
    folder: Path,
    shards: RecordSource,
    model: Model,
    planned: Plan,
    rubric: JudgeRubric,
    *,
    price: Price | None = None,
) -> JudgeSummary:
    """Ask about every planned record and write the tables.

    Judgements of other records, from an earlier run over the same data, are kept; a record judged
    again gets its newest row.

    Raises:
        DataError: another process is judging this ledger, or the disk is full.
    """
    answers = ask(model, planned.requests, folder / RESPONSES_FILE, title="judging")
    keys = [request.key(model.fingerprint) for request in planned.requests]
    responses = [answers[key] for key in keys]
    judgements = [
        judgement_of(response, record_text(shards.record(row)))
        for row, response in zip(planned.rows, responses, strict=True)
    ]
    judge = model.fingerprint[:16]
    rows = [
        judgement_row(row, record_id, judgement, p_ok, judge, rubric.identity, key)
        for row, record_id, judgement, p_ok, key in zip(
            planned.rows, planned.record_ids, judgements, planned.p_ok, keys, strict=True
        )
    ]
    paid: set[str] = set()
    costs = []
    for row, record_id, key, response in zip(
        planned.rows, planned.record_ids, keys, responses, strict=True
    ):
        # Equal records share a request: it is paid for once, under the first of them.
        costs.append(cost_row(row, record_id, response, price, shared=key in paid))
        paid.add(key)
    stamp = folder / JUDGE_FILE
    keep = stamp.is_file() and read_json(stamp).get("data") == shards.data_hash
    write_merged(folder / JUDGEMENTS_FILE, JUDGEMENT_SCHEMA, rows, keep=keep)
    write_merged(folder / JUDGE_COST_FILE, COST_SCHEMA, costs, keep=keep)
    summary = _summary(rows, costs, price.currency if price else "", judge, rubric.identity)
    write_json(stamp, {"data": shards.data_hash, **summary.to_dict()})
    return summary


def forget_judgements(folder: Path, data_before: str, data_after: str) -> None:
    """After rows were taken out of the tables (`forgetting`): the stored answers and the counts follow.

    An answer stays only where a judgement that is left stands on it; others are asked again where they
    are wanted. Safe to call again.
    """
    answers, stamp = folder / RESPONSES_FILE, folder / JUDGE_FILE
    if not answers.is_file() and not stamp.is_file():
        return
    judged = folder / JUDGEMENTS_FILE
    rows = read_judgements(folder).to_pylist() if judged.is_file() else []
    keep_answers(answers, {row["request"]: str(row["row"]) for row in reversed(rows)})
    stored = read_json(stamp) if stamp.is_file() else {}
    if stored.get("data") != data_before:
        return
    costs = pq.read_table(folder / JUDGE_COST_FILE, schema=COST_SCHEMA).to_pylist()
    made = _summary(rows, costs, stored["currency"], stored["judge"], stored["rubric"])
    write_json(stamp, {"data": data_after, **made.to_dict()})


def _summary(
    rows: Sequence[Mapping[str, Any]],
    costs: Sequence[Mapping[str, Any]],
    currency: str,
    judge: str,
    rubric: str,
) -> JudgeSummary:
    """Counts of judgements and costs, rows as in their tables."""
    statuses = Counter(row["status"] for row in rows)
    failures = Counter(f"{row['status']}: {row['detail']}" for row in rows if row["status"] != "ok")
    return JudgeSummary(
        selected=len(rows),
        statuses={name: statuses[name] for name in JUDGEMENT_STATUSES},
        levels={
            name: {level: sum(row[name] == level for row in rows) for level in LEVELS}
            for name in QUALITY
        },
        attempts=sum(cost["attempts"] for cost in costs),
        seconds=round(sum(cost["seconds"] for cost in costs), 3),
        prompt_tokens=sum(cost["prompt_tokens"] for cost in costs),
        completion_tokens=sum(cost["completion_tokens"] for cost in costs),
        price=sum(cost["price"] or 0.0 for cost in costs),
        currency=currency,
        judge=judge,
        rubric=rubric,
        failures=dict(failures.most_common(FAILURES_SHOWN)),
    )
