"""Records and answers that the report shows beside their images, and their thumbnails.

Which ones is a seeded draw, stated in the report. An image that cannot be read leaves a gap with
its reason, never a failed report.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infimed.core.errors import InfiMedError
from infimed.core.sampling import alternate, shuffled
from infimed.core.seeds import stream
from infimed.curation import ledger
from infimed.data.record import ImageRef, Record
from infimed.data.schema import LOCATOR_PREFIX
from infimed.data.shards import ShardSet
from infimed.data.thumbnails import THUMBNAIL, Thumbnail, thumbnails
from infimed.evaluation.metrics.findings import stated_findings
from infimed.evaluation.sources import JoinedShards
from infimed.pipeline.report_results import BLIND

KEPT, DROPPED = 8, 12
SHORT_ANSWERS, REPORTS = 20, 4
PER_RULE = 40
"""Findings of one rule among which examples are drawn."""
MARKED = ("closed", "choice", "open")
"""Kinds of question that an answer is simply right or wrong on."""


@dataclass(frozen=True)
class Objection:
    """One finding of a rule, as words."""

    rule: str
    dimension: str
    severity: str
    where: str
    measured: str
    evidence: str


@dataclass(frozen=True)
class CurationExample:
    """A kept or dropped record with its images, text and the rules that spoke."""

    id: str
    task: str
    keep: bool
    question: str
    answer: str
    images: tuple[Thumbnail, ...]
    objections: tuple[Objection, ...]


@dataclass(frozen=True)
class AnswerExample:
    """One question with the model's and the twin's answers.

    Attributes:
        mark: "right", "wrong", or "" where the score is not yes or no. score: of the answer in words.
        read_as: what was read out of the raw text; None when nothing could be.
    """

    id: str
    task: str
    kind: str
    type: str
    question: str
    options: tuple[str, ...]
    gold: str
    images: tuple[Thumbnail, ...]
    text: str
    read_as: str | None
    mark: str
    score: str
    twin: str | None
    twin_mark: str


def _measured(finding: dict[str, Any]) -> str:
    """``0.31 (limit 0.50)``, "" for a rule that compares words."""
    if finding["value"] is None:
        return ""
    limit = f" (limit {finding['threshold']:g})" if finding["threshold"] is not None else ""
    return f"{finding['value']:g}{limit}"


def _findings(folder: Path, column: str, value: Any, limit: int) -> list[dict[str, Any]]:
    """The first `limit` findings whose column has this value, without reading the whole table."""
    import pyarrow.dataset as ds

    table = ds.dataset(ledger.path_of(folder, ledger.FINDINGS), format="parquet")
    found: list[dict[str, Any]] = (
        table.scanner(filter=ds.field(column) == value).head(limit).to_pylist()
    )
    return found


def _example(shards: ShardSet, folder: Path, row: int, keep: bool) -> CurationExample:
    record = shards.record(row)
    objections = tuple(
        Objection(f["rule"], f["dimension"], f["severity"], f["where"], _measured(f), f["evidence"])
        for f in sorted(_findings(folder, "row", row, 12), key=lambda f: f["severity"] != "drop")
    )
    return CurationExample(
        record.id,
        record.task,
        keep,
        _question(record),
        record.response,
        thumbnails(shards, record.images, record.id, 128),
        objections,
    )


def _question(record: Record) -> str:
    options = "".join(f"\n· {choice}" for choice in record.choices)
    return record.question + options


def curation_examples(
    shards: ShardSet, folder: Path, rules: Sequence[str], seed: int
) -> tuple[list[CurationExample], list[CurationExample]]:
    """(kept, dropped) records.

    Args:
        rules: the rules that dropped something; each is shown in turn.
    """
    import pyarrow.dataset as ds

    per_rule = []
    for rule in rules:
        rows = [
            f["row"] for f in _findings(folder, "rule", rule, PER_RULE) if f["severity"] == "drop"
        ]
        per_rule.append(shuffled(list(dict.fromkeys(rows)), seed, "report", "dropped", rule))
    dropped = list(dict.fromkeys(alternate(per_rule, 3 * DROPPED)))[:DROPPED]

    drawn = stream(seed, "report", "kept").permutation(len(shards))[: 40 * KEPT]
    verdicts = ds.dataset(ledger.path_of(folder, ledger.VERDICTS), format="parquet")
    kept = [
        v["row"] for v in verdicts.take(drawn, columns=["row", "keep"]).to_pylist() if v["keep"]
    ]
    tasks: dict[str, list[int]] = defaultdict(list)
    for row in kept:
        tasks[shards.record(row).task].append(row)
    shown = alternate([tasks[name] for name in sorted(tasks)], KEPT)
    return (
        [_example(shards, folder, row, True) for row in shown],
        [_example(shards, folder, row, False) for row in dropped],
    )


@dataclass(frozen=True)
class _Place:
    """Where a sample's line is in the file, and what the draw looks at."""

    offset: int
    task: str
    kind: str
    type: str
    right: bool
    image: str


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    offset = 0
    with path.open("rb") as handle:
        for line in handle:
            yield offset, json.loads(line)
            offset += len(line)


def _places(path: Path, model: str) -> list[_Place]:
    return [
        _Place(
            offset,
            line["task"],
            line["kind"],
            line["type"],
            line["answers"][model]["score"] >= 1.0,
            " ".join(line["images"]),
        )
        for offset, line in _lines(path)
        if model in line["answers"]
    ]


def kinds_of_tasks(path: Path) -> dict[str, list[str]]:
    """Task -> kinds of its questions."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for _, line in _lines(path):
        found[line["task"]][line["kind"]] = None
    return {task: list(kinds) for task, kinds in found.items()}


def choose_answers(places: Sequence[_Place], seed: int) -> list[_Place]:
    """Half right and half wrong short answers, every task and question type in turn; some reports.

    An image is shown once where enough others are there.
    """

    def draw(pool: Sequence[_Place], count: int, name: str) -> list[_Place]:
        strata: dict[tuple[str, str], list[_Place]] = defaultdict(list)
        seen: set[str] = set()
        again = []
        for place in shuffled(pool, seed, "report", name):
            if place.image and place.image in seen:
                again.append(place)
                continue
            seen.add(place.image)
            strata[place.task, place.type].append(place)
        first = alternate([strata[key] for key in sorted(strata)], count)
        return first + again[: count - len(first)]

    short = [place for place in places if place.kind in MARKED]
    right = draw([p for p in short if p.right], SHORT_ANSWERS // 2, "right")
    wrong = draw([p for p in short if not p.right], SHORT_ANSWERS // 2, "wrong")
    mixed = alternate([wrong, right], SHORT_ANSWERS)
    longer = [place for place in places if place.kind not in MARKED]
    full = draw([p for p in longer if p.right], REPORTS // 2, "full")
    partly = draw([p for p in longer if not p.right], REPORTS // 2, "partly")
    return mixed + alternate([partly, full], REPORTS)


def answer_examples(
    shards: ShardSet | JoinedShards, path: Path, model: str, seed: int
) -> list[AnswerExample]:
    """The drawn samples of `samples.jsonl` with their answers and images."""
    chosen = choose_answers(_places(path, model), seed)
    made = []
    with path.open("rb") as handle:
        for place in chosen:
            handle.seek(place.offset)
            made.append(_answer_example(shards, json.loads(handle.readline()), model))
    return made


def _mark(line: dict[str, Any], answer: dict[str, Any]) -> str:
    if line["kind"] not in MARKED:
        return ""
    return "right" if answer["score"] >= 1.0 else "wrong"


def _score(line: dict[str, Any], answer: dict[str, Any]) -> str:
    """The score of a longer answer in words; finding F1 has no value where there is no finding."""
    if line["kind"] in MARKED:
        return ""
    if (
        not answer["score"]
        and not stated_findings(line["gold"])
        and not stated_findings(answer["text"])
    ):
        return "no finding stated, and none there"
    return f"score {answer['score']:.2f}"


def _answer_example(
    shards: ShardSet | JoinedShards, line: dict[str, Any], model: str
) -> AnswerExample:
    answer, twin = line["answers"][model], line["answers"].get(BLIND)
    refs = [_stored(shards, sha256) for sha256 in line["images"]]
    return AnswerExample(
        id=line["id"],
        task=line["task"],
        kind=line["kind"],
        type=line["type"],
        question=line["question"],
        options=tuple(line["options"]),
        gold=line["gold"],
        images=thumbnails(shards, refs, line["id"], THUMBNAIL),
        text=answer["text"],
        read_as=answer["parsed"],
        mark=_mark(line, answer),
        score=_score(line, answer),
        twin=twin["text"] if twin else None,
        twin_mark=_mark(line, twin) if twin else "",
    )


def _stored(shards: ShardSet | JoinedShards, sha256: str) -> ImageRef:
    try:
        facts = shards.image_facts(sha256)
    except InfiMedError:
        facts = {}
    return ImageRef(LOCATOR_PREFIX + sha256, sha256, facts=facts)
