"""Make `src/infimed/curation/words.txt.gz`: words that occur in medical texts, for spotting misspellings.

    python scripts/make_vocabulary.py medquad pubmedqa medxpertqa k_qa mts_dialog

Arguments are folders or files of JSON, JSON lines (also .gz) or CSV; every string in them is read.
A word enters when at least two documents use it; words of eight or more documents are marked as
common (first line group). Only single words are kept, in alphabetical order: no text of the
sources. The shipped list was made from MedQuAD (CC BY 4.0), PubMedQA, MedXpertQA and K-QA (MIT) and
MTS-Dialog (CC BY 4.0); none of them is used to report the corruption benchmark.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OUT = Path(__file__).parents[1] / "src/infimed/curation/words.txt.gz"
KNOWN, COMMON = 2, 8
WORD = re.compile(r"[A-Za-z]+")


def strings(value: Any) -> Iterator[str]:
    """All strings inside a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def documents(file: Path) -> Iterator[str]:
    """The documents of one file."""
    if file.suffix == ".csv":
        with file.open(newline="", encoding="utf-8") as handle:
            for row in csv.reader(handle):
                yield " ".join(row)
        return
    opened = gzip.open if file.suffix == ".gz" else open
    with opened(file, "rt", encoding="utf-8") as handle:
        text = handle.read()
    try:
        value = json.loads(text)
        items = value.values() if isinstance(value, dict) else value
        for item in items:
            yield " ".join(strings(item))
    except json.JSONDecodeError:
        for line in text.splitlines():
            if line.strip():
                yield " ".join(strings(json.loads(line)))


def main() -> None:
    """Read the sources named on the command line and write the list."""
    counts: Counter[str] = Counter()
    for name in sys.argv[1:]:
        path = Path(name)
        files = [path] if path.is_file() else sorted(path.rglob("*"))
        for file in files:
            if file.suffix in (".csv", ".json", ".jsonl", ".gz"):
                for text in documents(file):
                    counts.update({word.lower() for word in WORD.findall(text) if len(word) > 1})
    common = sorted(word for word, count in counts.items() if count >= COMMON)
    known = sorted(word for word, count in counts.items() if KNOWN <= count < COMMON)
    text = "\n".join([*common, "", *known]) + "\n"
    OUT.write_bytes(gzip.compress(text.encode("ascii"), 9, mtime=0))
    print(f"{len(common)} common and {len(known)} further words, {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
