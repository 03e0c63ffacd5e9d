"""What an operator is: a small pure function that damages one record in one known way.

Invariant: the same record, context, random stream and severity give the same damage; an operator
never changes its input, and returns None where its damage would make no sense (a caption without a
side word has no sides to swap). The clean twin is the input itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from infimed.curation.signals import record_modality
from infimed.data.record import Facts, ImageRef, Message, Record

Kind = Literal["text", "image", "pair", "dataset"]
"""What is damaged: the text, the pixels, how the two belong together, or the set of records."""

Pixels: TypeAlias = NDArray[np.uint8]
Severity = Literal[1, 2, 3]

CAPTION_LIKE: Final = frozenset({"caption", "report", "dialogue", "text"})
ANSWERED: Final = frozenset({"closed", "open", "choice"})

_CHINESE = re.compile(r"[\u4e00-\u9fff]")


@dataclass(frozen=True, slots=True)
class Corrupted:
    """A damaged record.

    Attributes:
        record: the record as damaged. images: image number -> new pixels (uint8 RGB [H, W, 3]) or
            new stored bytes. beside: whether the clean twin stays in the set (a copy, a rival
            answer); otherwise the damaged record takes its place.
    """

    record: Record
    images: Mapping[int, Pixels | bytes] = field(default_factory=dict)
    beside: bool = False


@dataclass(frozen=True)
class Context:
    """What an operator may look at besides the record: pixels, and other clean records.

    Attributes:
        pixels: decodes an image. others: clean records of the same set.
    """

    pixels: Callable[[ImageRef], Pixels]
    others: Sequence[Record]

    def other(
        self, random: np.random.Generator, wanted: Callable[[Record], bool], tries: int = 400
    ) -> Record | None:
        """A record that `wanted` accepts, searched from a random place on; None within `tries`."""
        count = len(self.others)
        if not count:
            return None
        start, step = int(random.integers(count)), 1 + 2 * int(random.integers(50))
        for index in range(min(count, tries)):
            record = self.others[(start + index * step) % count]
            if wanted(record):
                return record
        return None


Apply = Callable[[Record, Context, np.random.Generator, int], Corrupted | None]


@dataclass(frozen=True, slots=True)
class Operator:
    """One way of damaging a record.

    Attributes:
        number: in the catalogue; 33 and above are this project's additions. name: in words.
        dimensions: where a judge should see the damage. kind: what is damaged.
        held_out: kept out of every tuning of rules and evaluator. apply: the damage.
    """

    number: int
    name: str
    dimensions: tuple[str, ...]
    kind: Kind
    apply: Apply
    held_out: bool = False


def chinese(text: str) -> bool:
    """Whether a text is mainly Chinese."""
    return len(_CHINESE.findall(text)) * 3 >= max(1, len(text.strip()))


def pick(random: np.random.Generator, options: Sequence[str]) -> str:
    """One of the options, uniformly."""
    return options[int(random.integers(len(options)))]


def last_answer(record: Record) -> int:
    """Index of the last assistant turn, -1 when there is none."""
    return max(
        (i for i, turn in enumerate(record.messages) if turn.role == "assistant"), default=-1
    )


def first_question(record: Record) -> int:
    """Index of the first user turn, -1 when there is none."""
    return next((i for i, turn in enumerate(record.messages) if turn.role == "user"), -1)


def with_turn(record: Record, index: int, text: str) -> Record:
    """A copy whose turn `index` says `text`; the images of the turn stay in front of it."""
    turn = record.messages[index]
    shown = tuple(part for part in turn.content if isinstance(part, int))
    turns = list(record.messages)
    turns[index] = Message(turn.role, (*shown, text))
    return replace(record, messages=tuple(turns))


def with_response(record: Record, text: str) -> Record:
    """A copy whose last assistant turn says `text`."""
    return with_turn(record, last_answer(record), text)


def with_question(record: Record, text: str) -> Record:
    """A copy whose first user turn says `text`."""
    return with_turn(record, first_question(record), text)


def with_answer(record: Record, text: str) -> Record:
    """A copy whose last turn and gold answer are `text`."""
    changed = with_response(record, text)
    return replace(changed, answer=text) if record.answer is not None else changed


def edited(record: Record, edit: Callable[[str], str], *, answer: bool = True) -> Record | None:
    """A copy with `edit` applied to the last assistant turn, or None when nothing changes.

    With `answer`, a gold answer equal to that turn follows it, as a faulty source would have it.
    """
    if last_answer(record) < 0:
        return None
    before = record.response
    after = edit(before)
    if after == before:
        return None
    if answer and record.answer is not None and record.answer.strip() == before.strip():
        return with_answer(record, after)
    return with_response(record, after)


def with_image_facts(record: Record, index: int, facts: Facts) -> Record:
    """A copy in which image `index` has other acquisition facts."""
    images = list(record.images)
    images[index] = replace(images[index], facts=dict(facts))
    return replace(record, images=tuple(images))


def family(record: Record) -> str:
    """What tells images of two records apart: modality family, else the body region, else ''."""
    modality = record_modality(record)
    if modality:
        return modality
    region = record.facts.get("anatomy")
    return region if isinstance(region, str) else ""


def image_number(record: Record, random: np.random.Generator) -> int:
    """One of the record's images, uniformly."""
    return int(random.integers(len(record.images)))
