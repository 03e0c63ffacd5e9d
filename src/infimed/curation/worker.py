"""A curation process: `run`, started by `infimed.curation.workers` in an interpreter of its own.

Reads one JSON line that names shards, folder of the parts and rubric, then one question a line: to
measure a chunk, or to show whole groups of records to one data-set rule. It answers with one JSON line,
for a chunk once its part is on disk. It ends when its input ends, so a parent that dies takes its
workers along. Numbers, names and findings pass between the two: no pickle, no pixels.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, NoReturn


def main() -> int:
    """Serve chunks until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which closes us
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not break the protocol
    with answers:
        try:
            return _serve(json.loads(sys.stdin.readline()), answers)
        except BrokenPipeError:
            return 1  # the parent is gone


def _serve(job: dict[str, Any], answers: IO[str]) -> int:
    import cv2
    import pyarrow as pa

    from infimed.core.errors import InfiMedError
    from infimed.curation import ledger
    from infimed.curation.engine import chunk_maker, finished_signals
    from infimed.curation.judging import Examiner
    from infimed.curation.rubric import Rubric
    from infimed.data.shards import open_shards

    cv2.setNumThreads(1)
    pa.set_cpu_count(1)
    shards = open_shards(job["shards"])
    out, size = Path(job["out"]), int(job["chunk_rows"])
    parts = ledger.Parts(out, job["key"])
    rubric = Rubric.from_dict(job["rubric"])
    maker = chunk_maker(
        shards, rubric, out, parts, size, reuse=job["reuse"], old_rubric=job["old_rubric"]
    )
    examiner: Examiner | None = None
    for line in sys.stdin:
        asked, answer = json.loads(line), dict[str, Any]()
        try:
            if "chunk" in asked:
                begin = asked["chunk"] * size
                end = min(begin + size, len(shards))
                parts.write(asked["chunk"], maker.chunk(begin, end))
                answer["records"] = end - begin
            else:
                examiner = examiner or Examiner(shards, rubric, finished_signals(out, parts, size))
                found = examiner.look(asked["rule"], asked["rows"], asked["own"])
                answer["findings"] = [(row, asdict(finding)) for row, finding in found]
        except InfiMedError as error:
            answer["error"] = {"what": error.what, "where": error.where, "fix": error.fix}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    return 0


def run() -> NoReturn:
    """Serve, then end at once: all parts are on disk, and the parent waits while an interpreter is taken apart."""
    code = main()
    sys.stderr.flush()
    os._exit(code)
