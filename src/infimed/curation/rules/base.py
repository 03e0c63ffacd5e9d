"""What a rule is, and the records its examples are made of.

A rule is data around one pure check. The check sees the record, its signals and the limits that
hold for its modality and task, and returns a `Hit` or None; identity, dimension and severity are
added by `Rule.apply`, so a check cannot misreport them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from infimed.curation.findings import Dimension, Finding, Hit, Severity, shorten
from infimed.curation.shortcuts import Cued
from infimed.curation.signals import ImageLevel, ImageSignals, Signals, record_modality
from infimed.curation.text_signals import measure_text
from infimed.data.privacy.identifiers import redact_text
from infimed.data.record import ImageRef, Message, Record, Task, question_record

Limits = Mapping[str, float]
"""Threshold name -> value, already resolved for the record's modality and task."""

Check = Callable[[Record, Signals, Limits], Hit | None]

CLEAN_IMAGE: Final = ImageSignals(
    sha256="0" * 64,
    width=512,
    height=512,
    pixel_hash="0" * 64,
    mean=90.0,
    std=55.0,
    spread=230.0,
    mode_share=0.2,
    dark_share=0.15,
    bright_share=0.01,
    white_share=0.03,
    two_tone=0.4,
    edges=0.01,
    entropy=6.8,
    sharpness=2.6,
    noise=1.5,
)
"""Signals of an ordinary radiological image, for examples."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """A number a rule compares with; the task's value wins over the modality's.

    Attributes:
        value: default. meaning: what it limits, with its unit. by_modality: family -> value.
        by_task: task -> value.
    """

    value: float
    meaning: str
    by_modality: Mapping[str, float] = field(default_factory=dict)
    by_task: Mapping[str, float] = field(default_factory=dict)

    def at(self, modality: str, task: str) -> float:
        """The value that holds for a modality family and a task."""
        return self.by_task.get(task, self.by_modality.get(modality, self.value))


@dataclass(frozen=True, slots=True)
class Example:
    """A record and the signals of its images; the tests run the rule on it."""

    record: Record
    images: tuple[ImageSignals, ...] = ()

    def signals(self) -> Signals:
        """The example's signals, its text measured as any other."""
        return Signals(measure_text(self.record), self.images, record_modality(self.record))


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule over one record.

    Attributes:
        id: "dimension.name". version: rises when its meaning changes. catches: one sentence.
        passes, fails: examples that the tests run. needs: how much of an image it must have measured.
    """

    id: str
    version: int
    dimension: Dimension
    severity: Severity
    catches: str
    check: Check
    passes: Example
    fails: Example
    thresholds: Mapping[str, Threshold] = field(default_factory=dict)
    needs: ImageLevel = "none"

    def limits(self, modality: str, task: str) -> dict[str, float]:
        """All thresholds resolved for a modality family and a task."""
        return {name: t.at(modality, task) for name, t in self.thresholds.items()}

    def apply(self, record: Record, signals: Signals, limits: Limits) -> Finding | None:
        """The rule's finding on a record, or None."""
        hit = self.check(record, signals, limits)
        return None if hit is None else finding(self, hit)


def finding(rule: Any, hit: Hit) -> Finding:
    """A rule's hit with the rule's identity (`Rule` or `DataSetRule`)."""
    return Finding(
        rule=rule.id,
        version=rule.version,
        dimension=rule.dimension,
        severity=rule.severity,
        where=hit.where,
        evidence=shorten(redact_text(hit.evidence)[0]),  # a ledger quotes no identifier
        value=None if hit.value is None else round(float(hit.value), 6),
        threshold=hit.threshold,
        start=hit.start,
        end=hit.end,
    )


def span(where: str, match: re.Match[str], **numbers: float) -> Hit:
    """A hit whose evidence is a regular expression's match."""
    return Hit(where, match.group(0), start=match.start(), end=match.end(), **numbers)


def turns(record: Record) -> tuple[tuple[str, str], ...]:
    """(where, text) of every turn; the first question and last answer by their names.

    A dozen rules ask for the turns of one record in a row, so the last answer is kept.
    """
    global _last_turns
    known, made = _last_turns
    if known is not record:
        made = _turns(record)
        _last_turns = (record, made)  # one assignment: threads see a whole pair
    return made


_last_turns: tuple[Record | None, tuple[tuple[str, str], ...]] = (None, ())


def _turns(record: Record) -> tuple[tuple[str, str], ...]:
    first = next((i for i, turn in enumerate(record.messages) if turn.role == "user"), -1)
    last = max(
        (i for i, turn in enumerate(record.messages) if turn.role == "assistant"), default=-1
    )
    names = {last: "response", first: "question"}
    pairs = enumerate(record.messages)
    return tuple((names.get(i, f"message {i}"), turn.text) for i, turn in pairs)


def search(record: Record, pattern: re.Pattern[str] | Cued) -> tuple[str, re.Match[str]] | None:
    """The first match in the turns, then in the choices."""
    places = [*turns(record), *((f"choice {i}", text) for i, text in enumerate(record.choices))]
    for where, text in places:
        if match := pattern.search(text):
            return where, match
    return None


_IMAGE = ImageRef("example.png", "0" * 64, 512, 512)


def choice_key(text: str) -> str:
    """A choice without case, spacing and closing punctuation; signs and symbols stay."""
    return " ".join(text.casefold().split()).rstrip(" .;,")


def sample(
    question: str = "Is there a pleural effusion?",
    answer: str = "Yes",
    task: Task = "closed",
    *,
    choices: tuple[str, ...] = (),
    images: int = 1,
    image_facts: Mapping[str, Any] | None = None,
    **common: Any,
) -> Record:
    """A small record for examples."""
    ref = replace(_IMAGE, facts=dict(image_facts or {}))
    return question_record(
        id="example", question=question, answer=answer, images=(ref,) * images, task=task,
        choices=choices, **common,
    )  # fmt: skip


def caption(text: str, **common: Any) -> Record:
    """A caption record for examples."""
    return sample("Describe the image.", text, "caption", **common)


def with_turns(*messages: tuple[str, str], **common: Any) -> Record:
    """A record with the given (role, text) turns and one image on the first."""
    made = tuple(Message(role, (text,)) for role, text in messages)  # type: ignore[arg-type]
    shown = (Message(made[0].role, (0, *made[0].content)), *made[1:])
    return Record(id="example", images=(_IMAGE,), messages=shown, task="dialogue", **common)


def with_image(**changes: Any) -> Example:
    """An ordinary record whose image has the given signals."""
    return Example(sample(), (replace(CLEAN_IMAGE, **changes),))
