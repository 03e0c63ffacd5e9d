"""Ledgers of records whose defects are known, judged by the stub judge; no image and no rule speaks.

The tables are written as a curation would write them, so that thousands of records cost a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from infimed.core.files import write_json
from infimed.curation import default_rubric, ledger
from infimed.curation.findings import QUALITY, Finding, decide
from infimed.curation.judge_parsing import Judgement, parse_judgement
from infimed.curation.judge_tables import (
    JUDGEMENT_SCHEMA,
    JUDGEMENTS_FILE,
    judgement_row,
    write_merged,
)
from infimed.curation.labels import store_labels
from infimed.curation.scoring import Evaluator, default_evaluator
from infimed.curation.signals import SIGNALS_VERSION, Signals, TextSignals
from infimed.curation.stub_judge import Clinic, StubJudge
from infimed.curation.summary import CurationSummary
from infimed.data.record import question_record

LABELLED = {
    "a / ct": (0.06, 0.10, 0.08, 0.04, 0.05),
    "a / xray": (0.03, 0.06, 0.05, 0.04, 0.04),
    "b / us": (0.10, 0.15, 0.08, 0.08, 0.08),
}
HELD_OUT = {
    "a / ct": (0.15, 0.20, 0.10, 0.08, 0.10),
    "a / xray": (0.01, 0.03, 0.02, 0.01, 0.01),
    "b / us": (0.05, 0.05, 0.15, 0.08, 0.02),
}
SHARES = {"a / ct": 0.5, "a / xray": 0.3, "b / us": 0.2}


def elsewhere() -> Evaluator:
    """The shipped one, as if it had been fitted on real records."""
    return replace(default_evaluator(), made_by={"data": "a clinic"})


def heard(judge: StubJudge, clinic: Clinic, random: np.random.Generator) -> list[Judgement]:
    """What the judge says of each record, as words, read back by the parser."""
    return [parse_judgement(judge.text(row, random)) for row in judge.codes(clinic, random)]


def write_ledger(
    folder: Path,
    strata: Sequence[str],
    log_length: np.ndarray | None = None,  # type: ignore[type-arg]
    findings: Mapping[int, Sequence[Finding]] | None = None,
) -> Path:
    """A finished ledger of records r0, r1, ... of these "source / modality" and lengths of text."""
    folder.mkdir(parents=True, exist_ok=True)
    lengths = np.full(len(strata), 5.0) if log_length is None else log_length
    signals, verdicts, found = [], [], []
    for row, (stratum, length) in enumerate(zip(strata, lengths.tolist(), strict=True)):
        source, modality = stratum.split(" / ")
        record = question_record(
            id=f"r{row}", question="Is it?", answer="yes", images=(), task="closed", source=source
        )
        text = TextSignals(text_chars=max(0, round(np.expm1(length))), words=3, medical_terms=1)
        signals.append(Signals(text, (), modality).to_row(row, record))
        said = list((findings or {}).get(row, ()))
        verdicts.append(ledger.verdict_row(decide(record.id, row, said)))
        found += [ledger.finding_row(row, record.id, one) for one in said]
    tables = {ledger.SIGNALS: signals, ledger.VERDICTS: verdicts, ledger.FINDINGS: found}
    for name, rows in tables.items():
        ledger.write_table(ledger.path_of(folder, name), name, [ledger.table(name, rows)])
    ledger.write_table(ledger.path_of(folder, ledger.COST), ledger.COST, [])
    rubric = default_rubric()
    kept = sum(line["keep"] for line in verdicts)
    summary = CurationSummary(
        len(strata), kept, len(strata) - kept, 0, 0, {}, (), {}, 1.0, len(strata), "made",
        rubric.identity,
    )  # fmt: skip
    key = {
        "data": "made", "records": len(strata), "signals": SIGNALS_VERSION, "rubric": rubric.identity,
    }  # fmt: skip
    write_json(
        folder / ledger.SUMMARY_FILE,
        {"key": key, "summary": summary.to_dict(), "rubric": rubric.to_dict()},
    )
    return folder


def write_judgements(folder: Path, said: Mapping[int, Judgement]) -> None:
    """The judgements of these rows beside a ledger."""
    rows = [
        judgement_row(row, f"r{row}", one, 0.5, "stub", "rubric", f"key {row}")
        for row, one in said.items()
    ]
    write_merged(folder / JUDGEMENTS_FILE, JUDGEMENT_SCHEMA, rows, keep=False)


def write_labels(folder: Path, ok: Mapping[int, Sequence[bool]], rater: str = "anna") -> None:
    """One rater's labels of these rows: 0 where a dimension is not ok, else 2."""
    store_labels(
        folder,
        [
            {"row": row, "record_id": f"r{row}", "rater": rater, "dimension": name,
             "level": 2 if good else 0, "comment": ""}
            for row, each in ok.items()
            for name, good in zip(QUALITY, each, strict=True)
        ],
    )  # fmt: skip


def kept(folder: Path) -> np.ndarray:  # type: ignore[type-arg]
    """Whether each record is kept, by row."""
    return np.asarray(pq.read_table(folder / "verdicts.parquet")["keep"].to_numpy(), bool)
