"""The leakage part of `matching.py`: a planted benchmark copy, and what must not match.

The benchmark is the test part of VQA-RAD (images and questions) and MedQA with MedMCQA (choice
questions without images). The data set is the rest of VQA-RAD with one changed copy of every
benchmark record planted in it. The paraphrases come from the small rules below, which share no
word list with the matcher.
"""

from __future__ import annotations

import itertools
import json
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from infimed.core.seeds import stream
from infimed.data.readers import vqa_rad
from infimed.data.record import ImageRef, Message, Record, question_record
from infimed.matching.leakage import Leak, find_leaks, read_side
from matching import SEED, cropped_anyhow, encoded, windowed

Row = Callable[..., None]


@dataclass
class Memory:
    """Records and pixels in memory, with the interface of shards."""

    records: list[Record] = field(default_factory=list)
    images: dict[str, NDArray[np.uint8]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.records)

    def record(self, number: int) -> Record:
        return self.records[number]

    def pixels(self, ref: ImageRef) -> NDArray[np.uint8]:
        grey = self.images[ref.locator]
        return np.repeat(grey[:, :, None], 3, axis=2)


CHANGES = {
    "JPEG q40": lambda image, rng: encoded(40)(image, rng),
    "cropped": cropped_anyhow,
    "mirrored": lambda image, rng: np.ascontiguousarray(image[:, ::-1]),
    "inverted": lambda image, rng: 255 - image,
    "windowed": windowed,
    "cropped and JPEG q50": lambda image, rng: encoded(50)(cropped_anyhow(image, rng), rng),
    "cropped, windowed and JPEG q50": lambda image, rng: encoded(50)(
        windowed(cropped_anyhow(image, rng), rng), rng
    ),
}

SYNONYMS = {
    "presents": "comes in", "physician": "doctor", "elevated": "raised", "shows": "reveals",
    "most likely": "most probable", "next step": "next measure", "examination": "exam",
    "complains of": "reports", "history of": "background of", "man": "gentleman", "woman": "lady",
    "treatment": "therapy", "cause": "reason", "increased": "higher", "diagnosis": "disease",
    "associated": "linked", "because": "since", "commonly": "often", "best": "optimal",
    "abnormality": "anomaly", "lesion": "focus", "located": "situated", "type": "kind",
}  # fmt: skip

OPENINGS = (
    (re.compile(r"^(?:is|are) there (?:any |an? )?(.*)\?$", re.I), "Can you make out {0}?"),
    (re.compile(r"^(?:is|are) (the .*)\?$", re.I), "Tell me whether {0}."),
    (re.compile(r"^what (?:is|are) (.*)\?$", re.I), "Name {0}."),
    (re.compile(r"^where (?:is|are) (.*)\?$", re.I), "In which place is {0}?"),
    (re.compile(r"^which of the following (.*)$", re.I), "Pick the one that {0}"),
)


def paraphrase(text: str, lots: random.Random) -> str:
    """The same question in other words: opening, synonyms, dropped articles, sentences exchanged."""
    text = text.strip()
    for pattern, pattern_text in OPENINGS:
        if match := pattern.match(text):
            text = pattern_text.format(match.group(1))
            break
    for word, other in SYNONYMS.items():
        text = re.sub(rf"\b{word}\b", other, text)
    words = [w for w in text.split() if w not in ("the", "a", "an") or lots.random() < 0.5]
    sentences = re.split(r"(?<=[.!?]) ", " ".join(words))
    if len(sentences) > 3:
        sentences[1], sentences[2] = sentences[2], sentences[1]
    return " ".join(sentences)


def _clinical(data: Path) -> tuple[list[Record], dict[str, NDArray[np.uint8]]]:
    folder = data / "vqa_rad"
    options = {"split_file": str(data / "vqa_rad_split.json")}
    records = [item for item in vqa_rad.read(folder, options) if isinstance(item, Record)]
    images = {
        ref.locator: np.asarray(cv2.imread(str(folder / ref.locator), cv2.IMREAD_GRAYSCALE))
        for record in records
        for ref in record.images
    }
    return records, images


def _choices(data: Path) -> list[Record]:
    made = []
    medqa = data / "mirage/medqa/data_clean/questions/US/4_options/phrases_no_exclude_test.jsonl"
    for number, line in enumerate(medqa.read_text(encoding="utf-8").splitlines()):
        item = json.loads(line)
        made.append(
            ("medqa", number, item["question"], tuple(item["options"].values()), item["answer"])
        )
    medmcqa = (data / "mirage/medmcqa/data/dev.json").read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(medmcqa):
        item = json.loads(line)
        options = tuple(str(item[name]) for name in ("opa", "opb", "opc", "opd"))
        made.append(("medmcqa", number, item["question"], options, options[int(item["cop"]) - 1]))
    return [
        question_record(id=f"{name}-{number}", question=question, answer=answer, images=(),
                        task="choice", choices=choices)
        for name, number, question, choices, answer in made
    ]  # fmt: skip


def _reworded(record: Record, lots: random.Random, refs: tuple[ImageRef, ...]) -> Record:
    question = paraphrase(record.question, lots)
    choices = list(record.choices)
    lots.shuffle(choices)
    messages = (
        Message("user", (*range(len(refs)), question)),
        *(turn for turn in record.messages if turn.role == "assistant"),
    )
    return replace(
        record, id=f"copy-{record.id}", messages=messages, choices=tuple(choices), images=refs
    )


def leakage_part(data: Path, row: Row) -> None:
    print("\nLeakage: a planted benchmark copy\n")
    lots = random.Random(SEED)
    rng = stream(SEED, "planted")
    records, images = _clinical(data)
    tested = [record for record in records if record.split == "test"]
    train = [record for record in records if record.split == "train"]
    for name, change in CHANGES.items():
        planted = Memory(list(train), dict(images))
        for record in tested:
            refs = []
            for ref in record.images:
                key = f"{name}/{ref.locator}"
                if key not in planted.images:
                    planted.images[key] = change(images[ref.locator], rng)
                refs.append(replace(ref, locator=key))
            planted.records.append(_reworded(record, lots, tuple(refs)))
        leaks = find_leaks(read_side(planted), read_side(Memory(tested, images)))
        pairs = {(leak.record_id, leak.other_id): leak for leak in leaks}
        own = [pairs.get((f"copy-{record.id}", record.id)) for record in tested]
        row(
            f"image {name}, question reworded: found",
            sum(p is not None for p in own),
            len(own),
            ">= 95 %",
        )
        both = sum(p is not None and p.kind == "image and question" for p in own)
        row("  of them recognised as the same question too", both, len(own))
        row("  other records of the data set called leaks",
            len({p.record_id for p in leaks if not p.record_id.startswith("copy-")}), len(train))  # fmt: skip
    _texts(_choices(data), lots, row)
    _must_not_match(data, records, images, row)


def _texts(asked: list[Record], lots: random.Random, row: Row) -> None:
    for name in ("medqa", "medmcqa"):
        part = [record for record in asked if record.id.startswith(name)]
        half = part[: len(part) // 2]
        rest = part[len(part) // 2 :]
        planted = Memory([*rest, *(_reworded(record, lots, ()) for record in half)])
        began = time.perf_counter()
        leaks = find_leaks(read_side(planted), read_side(Memory(half)))
        spent = 1e3 * (time.perf_counter() - began) / (len(planted) + len(half))
        found = {leak.other_id for leak in leaks if leak.record_id == f"copy-{leak.other_id}"}
        row(f"{name}, reworded and options shuffled: found", len(found), len(half), ">= 95 %")
        false = [leak for leak in leaks if not leak.record_id.startswith("copy-")]
        row(
            "  other questions of the same exam called leaks",
            len({p.record_id for p in false}),
            len(rest),
        )
        for leak in false[:3]:
            texts = {record.id: record.question for record in part}
            print(
                f"    {texts[leak.record_id][:90]!r} ~ {texts[leak.other_id][:90]!r} {leak.question_score}"
            )
        print(f"  {spent:.2f} ms a question")


def _must_not_match(
    data: Path, records: list[Record], images: dict[str, NDArray[np.uint8]], row: Row
) -> None:
    ours = read_side(Memory(records, images))
    for name, pattern in (("rocov2_ccby", "images/*"), ("bccd", "JPEGImages/*.jpg")):
        other = Memory()
        for number, file in enumerate(sorted((data / name).glob(pattern))):
            other.images[file.name] = np.asarray(cv2.imread(str(file), cv2.IMREAD_GRAYSCALE))
            ref = ImageRef(file.name)
            other.records.append(
                question_record(id=f"{name}-{number}", question="Describe the image.", answer="",
                                images=(ref,), task="caption")
            )  # fmt: skip
        leaks = find_leaks(ours, read_side(other))
        row(
            f"VQA-RAD records matched with {name}",
            len({leak.row for leak in leaks}),
            len(records),
            "<= 0.1 %",
        )
    group = [record.group for record in records]
    across: list[Leak] = [
        leak for leak in find_leaks(ours, ours)
        if leak.row < leak.other_row and group[leak.row] != group[leak.other_row]
    ]  # fmt: skip
    pairs = sum(1 for a, b in itertools.combinations(group, 2) if a != b)
    row("VQA-RAD pairs of different patients matched", len(across), pairs, "<= 0.1 %")
    for leak in across[:10]:
        print(f"    {leak}")
