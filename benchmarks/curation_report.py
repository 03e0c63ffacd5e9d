"""Time and memory of the curation report over a long ledger.

Writes a ledger of generated numbers (no images: pictures of the few records shown are made on the fly),
then the report, in a process of its own, and prints seconds and the peak resident memory:

    python benchmarks/curation_report.py --records 1000000
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infimed.core.files import write_json
from infimed.curation import default_rubric, ledger
from infimed.curation.label_export import export_labels
from infimed.curation.report import write_curation_report
from infimed.curation.signals import SIGNALS_VERSION, ImageSignals, TextSignals
from infimed.curation.summary import CurationSummary, RuleCount
from infimed.data.record import ImageRef, Record, question_record

BATCH = 20_000
RULES = (
    ("readability.blurred_image", "readability", "drop", 0.03),
    ("completeness.placeholder", "completeness", "drop", 0.02),
    ("duplication.exact", "duplication", "drop", 0.05),
    ("relevance.image_not_needed", "relevance", "note", 0.04),
)


class Generated:
    """Records and noise pictures by number."""

    def __init__(self, records: int) -> None:
        self.records = records

    def __len__(self) -> int:
        return self.records

    def record(self, number: int) -> Record:
        """A question about one image."""
        ref = ImageRef(f"{number % 2000}", f"{number % 2000:064x}", 256, 256)
        return question_record(
            id=f"r{number}",
            question="Is there an effusion, see Fig. ??",
            answer="no",
            images=(ref,),
            task="closed",
        )

    def pixels(self, ref: ImageRef) -> NDArray[np.uint8]:
        """Noise."""
        made = np.random.default_rng(int(ref.sha256, 16)).integers(0, 255, (256, 256, 1))
        return np.repeat(made.astype(np.uint8), 3, axis=2)


def write_ledger(out: Path, records: int) -> None:
    """A ledger of `records` rows with four rules that speak."""
    random = np.random.default_rng(0)
    spoken = {rule: random.random(records) < share for rule, _, _, share in RULES}
    modality = np.array(["CT", "MR", "XR", "US"])[random.integers(0, 4, records)]
    sharp = np.round(random.normal(2.6, 0.4, records), 3)
    text, image = TextSignals(), ImageSignals("")
    text_row = {**asdict(text), "modalities": []}
    image_row = asdict(image)

    def signal_tables():  # type: ignore[no-untyped-def]
        for begin in range(0, records, BATCH):
            rows = []
            for row in range(begin, min(records, begin + BATCH)):
                shown = {**image_row, "sha256": f"{row % 2000:064x}", "width": 256, "height": 256,
                         "std": 50.0, "spread": 200.0, "entropy": 6.0, "sharpness": float(sharp[row]),
                         "pixel_hash": f"{row:064x}"}  # fmt: skip
                rows.append({**text_row, "row": row, "record_id": f"r{row}", "task": "closed",
                             "source": "generated", "modality": str(modality[row]), "images": [shown]})  # fmt: skip
            yield ledger.table(ledger.SIGNALS, rows)

    def finding_tables():  # type: ignore[no-untyped-def]
        for begin in range(0, records, BATCH):
            rows = []
            for row in range(begin, min(records, begin + BATCH)):
                for rule, dimension, severity, _ in RULES:
                    if spoken[rule][row]:
                        rows.append({"row": row, "record_id": f"r{row}", "rule": rule, "version": 1, "dimension": dimension,
                                     "severity": severity, "where": "question", "evidence": "x", "value": float(sharp[row]),
                                     "threshold": 1.7, "start": 26, "end": 33})  # fmt: skip
            yield ledger.table(ledger.FINDINGS, rows)

    def verdict_tables():  # type: ignore[no-untyped-def]
        for begin in range(0, records, BATCH):
            rows = []
            for row in range(begin, min(records, begin + BATCH)):
                reasons = [
                    rule
                    for rule, _, severity, _ in RULES
                    if severity == "drop" and spoken[rule][row]
                ]
                rows.append(
                    {"row": row, "record_id": f"r{row}", "keep": not reasons, "reasons": reasons}
                )
            yield ledger.table(ledger.VERDICTS, rows)

    def cost_tables():  # type: ignore[no-untyped-def]
        for begin in range(0, records, BATCH):
            n = min(BATCH, records - begin)
            numbers = {
                name: pa.array(np.ones(n, np.float32))
                for name in ("decode_ms", "image_ms", "text_ms", "rules_ms")
            }
            ids = pa.array([f"r{row}" for row in range(begin, begin + n)])
            yield pa.table(
                {"row": np.arange(begin, begin + n), "record_id": ids, **numbers},
                schema=ledger.SCHEMAS[ledger.COST],
            )

    for name, tables in (
        (ledger.SIGNALS, signal_tables()), (ledger.FINDINGS, finding_tables()),
        (ledger.VERDICTS, verdict_tables()), (ledger.COST, cost_tables()),
    ):  # fmt: skip
        ledger.write_table(ledger.path_of(out, name), name, tables)
    dropped = np.any([spoken[r] for r, _, s, _ in RULES if s == "drop"], axis=0)
    rubric = default_rubric()
    counts = tuple(
        RuleCount(r, d, s, int(spoken[r].sum()), int(spoken[r].sum()), ()) for r, d, s, _ in RULES
    )
    summary = CurationSummary(
        records, int((~dropped).sum()), int(dropped.sum()), 0, 2000,
        {d: int(spoken[r].sum()) for r, d, s, _ in RULES if s == "drop"}, counts, {}, 1.0, records, "generated", rubric.identity,
    )  # fmt: skip
    key = {
        "data": "generated",
        "records": records,
        "signals": SIGNALS_VERSION,
        "rubric": rubric.identity,
    }
    write_json(
        out / ledger.SUMMARY_FILE,
        {"key": key, "summary": summary.to_dict(), "rubric": rubric.to_dict()},
    )


def measure(out: Path, records: int) -> None:
    """Write the report and a review sample; print seconds and memory."""
    started = time.perf_counter()
    write_curation_report(out, Generated(records), out / "report.html")
    reported = time.perf_counter()
    export_labels(out, Generated(records), out / "labels", 200)
    ended = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    size = (out / "report.html").stat().st_size / 1e6
    print(
        f"{records:>9,} records: report {reported - started:6.2f} s ({size:.2f} MB), "
        f"review sample {ended - reported:6.2f} s, peak memory {peak:.2f} GiB"
    )


def main() -> None:
    """Parse, write, measure in a fresh process each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure(given.measure, given.records[0])
        return
    for records in given.records:
        with tempfile.TemporaryDirectory() as folder:
            write_ledger(Path(folder), records)
            subprocess.run(
                [sys.executable, __file__, "--measure", folder, "--records", str(records)],
                check=True,
            )


if __name__ == "__main__":
    main()
