"""What scoring and deciding cost, and that time is linear and memory constant. One table.

Generated ledgers (no shards: neither step opens one) of growing length, each in a process of its own:
one image a record, 3 % of the records with a note, 2 % dropped by a rule, a judge on a tenth of them, 12
sources × 5 modalities. The evaluator is the shipped one with evidence of a judge fitted on generated labels.

    python benchmarks/curation_scores.py [--records 100000 1000000]

Exit code 1 where a record costs half as much again in the longest ledger as in the shortest, or memory
grows by more than 150 bytes a record between them.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infimed.core.files import write_json
from infimed.curation import default_rubric, ledger
from infimed.curation.deciding import decide_ledger
from infimed.curation.findings import QUALITY
from infimed.curation.judge_scoring import fit_judge_scorer
from infimed.curation.judge_tables import JUDGEMENT_SCHEMA, JUDGEMENTS_FILE
from infimed.curation.score_pass import score_ledger
from infimed.curation.scoring import EXTRAS, Evaluator, default_evaluator
from infimed.curation.signals import SIGNALS_VERSION, ImageSignals, Signals, TextSignals
from infimed.curation.summary import CurationSummary
from infimed.data.record import question_record

PART = ledger.CHUNK_ROWS * ledger.CHUNKS_PER_ROW_GROUP


def judging() -> Evaluator:
    """The shipped evaluator with evidence of a judge that is mostly right."""
    random = np.random.default_rng(0)
    ok = random.random((2000, 5)) < 0.9
    said = np.where(
        random.random(ok.shape) < 0.85, np.where(ok, 2, 0), random.integers(0, 4, ok.shape)
    )
    said[:1000] = -1
    rules = random.normal(3.0, 1.0, (2000, 5, 1)) - 2.0 * ~ok[:, :, None]
    scorer = fit_judge_scorer(
        said, ok, random.normal(5, 1, (2000, 1)), names=QUALITY, extra_names=EXTRAS, plain=rules,
        plain_names=("rules",),
    )  # fmt: skip
    shipped = default_evaluator()
    return Evaluator(shipped.models, {"command": "benchmark"}, scorer)


def write_ledger(folder: Path, records: int) -> None:
    """A ledger of that many records, written a row group at a time."""
    random = np.random.default_rng(1)
    record = question_record(
        id="r", question="?", answer="yes", images=(), task="closed", source="s"
    )
    image = ImageSignals(
        "0" * 64,
        "",
        512,
        512,
        "0" * 64,
        b"\0" * 256,
        sharpness=2.6,
        least_sharpness=2.3,
        noise=1.5,
        std=50,
        spread=180,
        entropy=6.5,
    )
    pattern = Signals(TextSignals(words=9, medical_terms=2), (image,), "ct").to_row(0, record)
    one = ledger.table(ledger.SIGNALS, [pattern])
    names = {ledger.SIGNALS: [], ledger.FINDINGS: [], ledger.VERDICTS: []}
    writers = {
        name: pq.ParquetWriter(
            ledger.path_of(folder, name), ledger.SCHEMAS[name], compression="zstd"
        )
        for name in names
    }
    judged = pq.ParquetWriter(folder / JUDGEMENTS_FILE, JUDGEMENT_SCHEMA, compression="zstd")
    dropped = 0
    for begin in range(0, records, PART):
        rows = np.arange(begin, min(records, begin + PART))
        n = len(rows)
        ids = pa.array([f"r{row}" for row in rows.tolist()])
        table = one.take(pa.array(np.zeros(n, np.int64)))
        columns = {
            "row": pa.array(rows), "record_id": ids,
            "source": pa.array([f"source {row % 12}" for row in rows.tolist()]),
            "modality": pa.array([("ct", "mr", "xray", "us", "")[row % 5] for row in rows.tolist()]),
            "text_chars": pa.array(random.integers(20, 400, n).astype(np.int32)),
            "odd_words": pa.array(np.where(random.random(n) < 0.02, 0.1, 0.0)),
        }  # fmt: skip
        for name, column in columns.items():
            table = table.set_column(table.schema.get_field_index(name), name, column)
        writers[ledger.SIGNALS].write_table(table.cast(ledger.SCHEMAS[ledger.SIGNALS]))
        draw = random.random(n)
        found = [
            {"row": int(row), "record_id": f"r{row}", "rule": "accuracy.modality_word", "version": 1,
             "dimension": "accuracy", "severity": "drop" if at < 0.02 else "note", "where": "question",
             "evidence": "MRI", "start": -1, "end": -1}
            for row, at in zip(rows.tolist(), draw.tolist(), strict=True) if at < 0.05
        ]  # fmt: skip
        writers[ledger.FINDINGS].write_table(ledger.table(ledger.FINDINGS, found))
        keep = draw >= 0.02
        dropped += int((~keep).sum())
        reasons = [[] if kept else ["accuracy.modality_word"] for kept in keep.tolist()]
        writers[ledger.VERDICTS].write_table(
            pa.table([pa.array(rows), ids, pa.array(keep), pa.array(reasons, pa.list_(pa.string()))],
                     schema=ledger.SCHEMAS[ledger.VERDICTS])
        )  # fmt: skip
        levels = random.choice(["0", "1", "2", "2", "2", "2", "2", "U"], (n, 5))
        said = [
            {"row": int(row), "record_id": f"r{row}", "status": "ok", "judge": "j", "rubric": "r",
             "request": f"k{row}", **dict(zip(QUALITY, levels[at].tolist(), strict=True)),
             "accuracy_evidence": "the left lung"}
            for at, row in enumerate(rows.tolist()) if row % 10 == 0
        ]  # fmt: skip
        judged.write_table(pa.Table.from_pylist(said, schema=JUDGEMENT_SCHEMA))
    for writer in (*writers.values(), judged):
        writer.close()
    ledger.write_table(ledger.path_of(folder, ledger.COST), ledger.COST, [])
    rubric = default_rubric()
    summary = CurationSummary(records, records - dropped, dropped, 0, 1, {}, (), {}, 1.0, records, "made",
                              rubric.identity)  # fmt: skip
    key = {
        "data": "made",
        "records": records,
        "signals": SIGNALS_VERSION,
        "rubric": rubric.identity,
    }
    write_json(folder / ledger.SUMMARY_FILE,
               {"key": key, "summary": summary.to_dict(), "rubric": rubric.to_dict()})  # fmt: skip


def one(records: int) -> None:
    """Score and decide one ledger in this process; prints its figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write = subprocess.run(
            [sys.executable, __file__, "--write", name, str(records)], check=False
        )
        if write.returncode:
            raise SystemExit(write.returncode)
        base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begun = time.process_time()
        score_ledger(folder, judging())
        scored = time.process_time() - begun
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begun = time.process_time()
        made = decide_ledger(folder)
        decided = time.process_time() - begun
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(records, scored, decided, base, peak, after, made.by_score)


def main() -> int:
    """Run everything; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, nargs="+", default=[100_000, 300_000, 1_000_000])
    parser.add_argument("--one", type=int)
    parser.add_argument("--write", nargs=2)
    arguments = parser.parse_args()
    if arguments.write:
        write_ledger(Path(arguments.write[0]), int(arguments.write[1]))
        return 0
    if arguments.one:
        one(arguments.one)
        return 0
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(
        "records   score s  us/record   decide s  us/record   peak MiB scoring  deciding  dropped by score"
    )
    rows = []
    for records in arguments.records:
        run = [sys.executable, __file__, "--one", str(records)]
        said = subprocess.run(run, check=True, capture_output=True, text=True).stdout.split()
        n, scored, decided, _, peak, after, dropped = (float(word) for word in said)
        rows.append((n, scored, decided, peak, after))
        print(f"{n:9,.0f} {scored:8.1f} {1e6 * scored / n:10.1f} {decided:10.1f} {1e6 * decided / n:10.1f} "
              f"{peak / 1024:17.0f} {after / 1024:9.0f} {dropped:14,.0f}")  # fmt: skip
    first, last = rows[0], rows[-1]
    linear = (last[1] + last[2]) / last[0] <= 1.5 * (first[1] + first[2]) / first[0]
    grown = 1024 * (last[4] - first[4]) / max(1, last[0] - first[0])
    print(f"memory grows by {grown:.0f} bytes a record")
    held = linear and grown <= 150
    print("ok" if held else "FAIL")
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
