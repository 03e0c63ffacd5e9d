"""Records as the curation report shows them: thumbnails, texts with the evidence marked, findings.

What a privacy rule objects to is never shown: its span in a text becomes blocks, its image a gap.
Texts stay plain strings here; the template escapes every piece of them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from infimed.core.sampling import alternate
from infimed.curation import ledger
from infimed.curation.distributions import Distribution, Near
from infimed.curation.findings import Finding
from infimed.curation.hiding import HIDDEN, REMARK, hidden_image, masked, shown_evidence, shown_id
from infimed.curation.ledger_columns import rows_of_ids, rows_where
from infimed.curation.rules.base import turns
from infimed.data.record import ImageRef, Record
from infimed.data.thumbnails import MOST_IMAGES, Thumbnail, alternative, thumbnail

SIDE: Final = 144
WINDOW: Final = 420
BEFORE: Final = 140
CLOSE: Final = 0.08
"""Share of a measure's axis within which a value counts as close to its limit."""
MOST_TWINS: Final = 1
_NAMED: Final = re.compile(r"\brecord (\S.*)$")


class Source(Protocol):
    """What examples need of a `ShardSet`."""

    def record(self, number: int, /) -> Record: ...

    def pixels(self, ref: ImageRef, /) -> NDArray[np.uint8]: ...


@dataclass(frozen=True)
class Piece:
    """A stretch of text; `mark` where a rule points at it."""

    text: str
    mark: bool = False


@dataclass(frozen=True)
class Said:
    """One text of a record under its name."""

    name: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Objection:
    """One finding in words; `shown` when its evidence is already marked in a text."""

    rule: str
    severity: str
    where: str
    measured: str
    evidence: str
    shown: bool


@dataclass(frozen=True)
class Twin:
    """The other record that a finding names: a duplicate's original, a rival answer."""

    id: str
    images: tuple[Thumbnail, ...]
    response: str


@dataclass(frozen=True)
class Card:
    """A record with its images, texts and findings.

    Attributes:
        first_image: hash of its first image. twins: other records that its findings name.
    """

    id: str
    task: str
    source: str
    keep: bool
    texts: tuple[Said, ...]
    images: tuple[Thumbnail, ...]
    objections: tuple[Objection, ...]
    first_image: str = ""
    twins: tuple[Twin, ...] = ()


@dataclass
class Cards:
    """Makes cards; thumbnails are made once for every image."""

    shards: Source
    out: Path
    _thumbnails: dict[str, Thumbnail] = field(default_factory=dict)

    def make(self, rows: Sequence[int]) -> dict[int, Card]:
        """Row -> card, for a few rows; their findings are read in one pass."""
        found = rows_where(self.out, ledger.FINDINGS, rows)
        verdicts = rows_where(self.out, ledger.VERDICTS, rows)
        findings = {row: [ledger.finding_of(line) for line in found[row]] for row in found}
        twins = self._named({named(f) for ours in findings.values() for f in ours} - {""})
        made = {}
        for row in dict.fromkeys(rows):
            if verdicts[row]:
                card = self._card(self.shards.record(row), findings[row], verdicts[row][0]["keep"])
                beside = [twins[named(f)] for f in findings[row] if named(f) in twins]
                made[row] = replace(card, twins=tuple(dict.fromkeys(beside))[:MOST_TWINS])
        return made

    def _named(self, ids: set[str]) -> dict[str, Twin]:
        """The records with these ids, as far as they are in the ledger."""
        rows = rows_of_ids(self.out, ids)
        found = rows_where(self.out, ledger.FINDINGS, rows.values())
        made = {}
        for record_id, row in rows.items():
            record = self.shards.record(row)
            ours = [ledger.finding_of(line) for line in found[row]]
            response = masked(record.response, "response", ours)
            made[record_id] = Twin(shown_id(record_id, ours), self._images(record, ours), response)
        return made

    def _card(self, record: Record, findings: Sequence[Finding], keep: bool) -> Card:
        ordered = sorted(findings, key=lambda f: f.severity != "drop")
        texts, marked = said(record, ordered)
        return Card(
            id=shown_id(record.id, ordered),
            task=record.task,
            source=record.source,
            keep=keep,
            texts=texts,
            images=self._images(record, ordered),
            objections=tuple(
                Objection(
                    f.rule, f.severity, f.where, measured(f.value, f.threshold),
                    shown_evidence(f, ordered), number in marked,
                )
                for number, f in enumerate(ordered)
            ),
            first_image=record.images[0].sha256 if record.images else "",
        )  # fmt: skip

    def _images(self, record: Record, findings: Sequence[Finding]) -> tuple[Thumbnail, ...]:
        made = []
        for number, ref in enumerate(record.images[:MOST_IMAGES]):
            alt = alternative(ref, shown_id(record.id, findings), number + 1, len(record.images))
            if hidden_image(number, findings):
                made.append(Thumbnail("", alt, problem=HIDDEN))
                continue
            known = self._thumbnails.get(ref.sha256)
            if known is None:
                known = self._thumbnails[ref.sha256] = thumbnail(self.shards, ref, alt, SIDE)
            made.append(replace(known, alt=alt))
        return tuple(made)


def named(finding: Finding) -> str:
    """The id of the other record that a finding's evidence ends in; "" where it names none."""
    match = _NAMED.search(finding.evidence) if finding.where == "data set" else None
    return match.group(1) if match else ""


def measured(value: float | None, threshold: float | None) -> str:
    """``0.31 (limit 0.50)``; "" for a rule that compares words."""
    if value is None:
        return ""
    return f"{value:.4g}" + (f" (limit {threshold:g})" if threshold is not None else "")


def said(record: Record, findings: Sequence[Finding]) -> tuple[tuple[Said, ...], set[int]]:
    """(the texts to show, the numbers of the findings whose evidence is marked in them).

    Question and response are always there, other turns where a finding points at them, choices where
    there are any.
    """
    texts = dict(turns(record))
    names = [n for n in ("question", "response") if texts.get(n)]
    for f in findings:
        if f.where in texts and f.where not in names and f.start >= 0:
            names.append(f.where)
    made: list[Said] = []
    marked: set[int] = set()
    for name in names:
        pieces, used = _pieces(texts[name], name, findings)
        marked |= used
        made.append(Said(name, pieces))
    if record.choices:
        pieces_of_choices: list[Piece] = []
        for number, choice in enumerate(record.choices):
            pieces, used = _pieces(choice, f"choice {number}", findings)
            marked |= used
            pieces_of_choices += [Piece("· "), *pieces, Piece("\n")]
        made.insert(min(1, len(made)), Said("choices", tuple(pieces_of_choices[:-1])))
    if record.answer is not None and record.answer != record.response:
        made.append(Said("answer", _pieces(record.answer, "answer", findings)[0]))
    return tuple(made), marked


def _pieces(
    text: str, name: str, findings: Sequence[Finding]
) -> tuple[tuple[Piece, ...], set[int]]:
    ours = [(number, f) for number, f in enumerate(findings) if f.where == name]
    shown = masked(text, name, findings)
    if shown == REMARK:
        return (Piece(shown),), set()
    text = shown
    marks = np.zeros(len(text), bool)
    used = set()
    for number, f in ours:
        if _spans(f, text):
            marks[f.start : f.end] = True
            used.add(number)
    begin, end = _window(marks)
    pieces = [Piece("…")] if begin else []
    edges = [begin, *(np.flatnonzero(np.diff(marks[begin:end])) + begin + 1).tolist(), end]
    for left, right in itertools.pairwise(edges):
        pieces.append(Piece(text[left:right], bool(marks[left])))
    if end < len(text):
        pieces.append(Piece("…"))
    return tuple(pieces), used


def _spans(finding: Finding, text: str) -> bool:
    return 0 <= finding.start < finding.end <= len(text)


def _window(marks: NDArray[np.bool_]) -> tuple[int, int]:
    """A stretch of at most `WINDOW` characters that holds the first mark."""
    if len(marks) <= WINDOW:
        return 0, len(marks)
    first = int(marks.argmax()) if marks.any() else 0
    begin = max(0, min(first - BEFORE, len(marks) - WINDOW))
    return begin, begin + WINDOW


def borderline(
    distributions: Iterable[Distribution], keep: bool, count: int
) -> list[tuple[Distribution, Near]]:
    """Records close to a limit, the measures in turn, each record once."""
    groups = []
    for distribution in distributions:
        side = distribution.kept if keep else distribution.dropped
        groups.append([(distribution, near) for near in side if near.distance <= CLOSE])
    taken: list[tuple[Distribution, Near]] = []
    rows: set[int] = set()
    for distribution, near in alternate(groups, sum(map(len, groups))):
        if near.row not in rows and len(taken) < count:
            rows.add(near.row)
            taken.append((distribution, near))
    return taken


def explained(distribution: Distribution, near: Near) -> str:
    """``Sharpness 1.72, limit 1.7: kept by 0.02``, with the rule that holds the limit."""
    gap = abs(near.value - near.limit)
    verdict = "inside" if near.keep else "beyond"
    return f"{distribution.measure.label} {near.value:.4g}, limit {near.limit:g}: {verdict} by {gap:.2g}"


def unlike(
    cards: Mapping[int, Card], rows: Sequence[int], count: int, *, fill: bool = True
) -> list[Card]:
    """At most `count` cards in order, each image once; with `fill` again where others run out."""
    taken: list[int] = []
    shown: set[str] = set()
    waiting: list[int] = []
    for row in rows:
        card = cards.get(row)
        if card is None:
            continue
        if card.first_image and card.first_image in shown:
            waiting.append(row)
            continue
        shown.add(card.first_image)
        taken.append(row)
    return [cards[row] for row in (taken + (waiting if fill else []))[:count]]
