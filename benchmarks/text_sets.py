"""Bring SLAKE (questions only) and the MIRAGE multiple-choice sets into ``records.jsonl``.

    python benchmarks/text_sets.py slake SLAKE_FOLDER OUT      # train.json validate.json test.json
    python benchmarks/text_sets.py mirage MIRAGE_FOLDER OUT    # medqa/ medmcqa/ mmlu/

OUT then holds ``records.jsonl`` for ``infimed data import OUT --out SHARDS``. The files hold no images;
the corruption benchmark then runs the operators that need none. ``--part report`` or ``--part tune``
takes every second group of questions (by hash), so that what a rule was tuned on is not reported.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from infimed.core.files import atomic_open
from infimed.data.record import Record, question_record


def slake(folder: Path) -> Iterator[Record]:
    """SLAKE questions, English and Chinese; one group an image."""
    for split in ("train", "validate", "test"):
        for item in json.loads((folder / f"{split}.json").read_text(encoding="utf-8")):
            closed = item["answer_type"].strip() == "CLOSED"
            yield question_record(
                id=f"slake-{item['qid']}",
                question=item["question"],
                answer=item["answer"],
                images=(),
                task="closed" if closed else "open",
                source="slake",
                license="CC-BY-4.0",
                group=item["img_name"],
                facts={
                    "modality": item["modality"],
                    "anatomy": item["location"],
                    "question_type": item["content_type"],
                },
            )


def mirage(folder: Path) -> Iterator[Record]:
    """MedQA-US, MedMCQA (dev) and the medical parts of MMLU as choice records without an image."""
    number = 0
    for file in sorted((folder / "medqa").rglob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            item = json.loads(line)
            choices = tuple(item["options"][key] for key in sorted(item["options"]))
            yield _choice(f"medqa-{number}", item["question"], choices, item["answer"], "medqa")
            number += 1
    for file in sorted((folder / "medmcqa").rglob("dev.json")):
        for line in file.read_text(encoding="utf-8").splitlines():
            item = json.loads(line)
            choices = tuple(item[f"op{key}"] for key in "abcd")
            answer = choices[int(item["cop"]) - 1]
            yield _choice(f"medmcqa-{item['id']}", item["question"], choices, answer, "medmcqa")
    for file in sorted((folder / "mmlu").rglob("*.csv")):
        with file.open(newline="", encoding="utf-8") as handle:
            for row, cells in enumerate(csv.reader(handle)):
                if len(cells) != 6 or cells[5].strip() not in "ABCD" or not cells[5].strip():
                    continue
                choices = tuple(cells[1:5])
                answer = choices["ABCD".index(cells[5].strip())]
                yield _choice(f"{file.stem}-{row}", cells[0], choices, answer, "mmlu")


def _choice(id: str, question: str, choices: tuple[str, ...], answer: str, source: str) -> Record:
    return question_record(
        id=id, question=question, answer=answer, images=(), task="choice", choices=choices,
        source=source, license="MIT", group=id,
    )  # fmt: skip


def part_of(record: Record) -> str:
    """Which half a record belongs to, by the hash of its group."""
    digest = hashlib.blake2b(record.group.encode(), digest_size=1).digest()[0]
    return "tune" if digest % 2 else "report"


def main() -> None:
    """Write the records named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=("slake", "mirage"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--part", choices=("all", "tune", "report"), default="all")
    arguments = parser.parse_args()
    read = {"slake": slake, "mirage": mirage}[arguments.name]
    kept = refused = 0
    arguments.out.mkdir(parents=True, exist_ok=True)
    with atomic_open(arguments.out / "records.jsonl", "w") as handle:
        for record in read(arguments.folder):
            if arguments.part not in ("all", part_of(record)):
                continue
            if record.problem() is not None:
                refused += 1
                continue
            handle.write(record.to_json() + "\n")
            kept += 1
    print(f"{kept} records, {refused} refused")


if __name__ == "__main__":
    main()
