"""From records to samples and requests: option order, image limit and blinding are decided here.

Pure functions of the records, the task and fixed seeds, so that scoring can rebuild offline what
was asked.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from infimed.core.seeds import stream
from infimed.data.record import ImageRef, Message, Record
from infimed.evaluation.extract import polarity
from infimed.evaluation.prompts import with_suffix
from infimed.evaluation.spec import TaskSpec, field_values
from infimed.inference.prompting import with_sentence
from infimed.inference.requests import Model, Request, blank_picture, picture_of

LETTERS = string.ascii_uppercase
SEED = 0
"""Seed of option order and of samples under a limit; part of no recipe, so scores stay comparable."""


View = Literal["images", "blank", "none"]
"""What a model is shown: the images, one grey picture for each, or nothing."""


class Shards(Protocol):
    """What evaluation needs of a shard set (`infimed.data.shards.ShardSet`)."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Record]: ...

    def pixels(self, ref: ImageRef) -> NDArray[np.uint8]:
        """uint8 RGB [H, W, 3] of an image."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One question with its gold answer.

    Attributes:
        id: unique in the task. record: the question. kind: its task (closed, choice, ...).
        gold: the right answer: the option's text for a choice, else answer or response.
        order: which option stands at each letter. group: what intervals cluster on.
        type: question type, "" where unknown. images_dropped: images past the task's limit.
    """

    id: str
    record: Record
    kind: str
    gold: str
    order: tuple[int, ...]
    group: str
    type: str
    images_dropped: int = 0

    @property
    def options(self) -> tuple[str, ...]:
        """Options in the order shown."""
        return tuple(self.record.choices[index] for index in self.order)

    @property
    def gold_letter(self) -> str:
        """Letter of the right option, or "" where there are none."""
        return LETTERS[self.options.index(self.gold)] if self.order else ""

    @property
    def yes_no(self) -> bool:
        """Whether the question is answered by yes or no, in English or Chinese."""
        return self.kind == "closed" and polarity(self.gold) is not None

    @property
    def question(self) -> str:
        """Text of the question; of a consultation every turn up to the answer, with its role."""
        turns = list(self.record.messages)
        if turns and turns[-1].role == "assistant":
            turns.pop()
        if len(turns) == 1:
            return turns[0].text
        return "\n\n".join(f"[{turn.role}]\n{turn.text}" for turn in turns)


def limited(records: Sequence[Record], name: str, limit: int | None) -> list[Record]:
    """At most `limit` records, drawn by a fixed seed, in their old order."""
    if limit is None or len(records) <= limit:
        return list(records)
    drawn = stream(SEED, "limit", name).permutation(len(records))[:limit]
    return [records[index] for index in sorted(drawn.tolist())]


def _option_order(record: Record, spec: TaskSpec) -> tuple[int, ...]:
    if record.task != "choice":
        return ()
    if not spec.shuffle_options:
        return tuple(range(len(record.choices)))
    drawn = stream(SEED, "options", record.id).permutation(len(record.choices))
    return tuple(int(index) for index in drawn)


def _with_images(record: Record, most: int) -> tuple[Record, int]:
    """The record with its first `most` images, and how many were left out."""
    dropped = len(record.images) - most
    if dropped <= 0:
        return record, 0
    turns = tuple(
        replace(turn, content=tuple(p for p in turn.content if isinstance(p, str) or p < most))
        for turn in record.messages
    )
    return replace(record, images=record.images[:most], messages=turns), dropped


def make_samples(records: Iterable[Record], spec: TaskSpec) -> list[Sample]:
    """Samples of selected records. A repeated record id gets ``#2``, ``#3``, ..."""
    seen: dict[str, int] = {}
    samples = []
    for record in records:
        count = seen[record.id] = seen.get(record.id, 0) + 1
        shown, dropped = _with_images(record, spec.max_images)
        images = [image.sha256 or image.locator for image in record.images]
        types = field_values(record, spec.type_field)
        samples.append(
            Sample(
                id=record.id if count == 1 else f"{record.id}#{count}",
                record=shown,
                kind=record.task,
                gold=record.answer if record.answer is not None else record.response,
                order=_option_order(record, spec),
                group=record.group or (images[0] if images else record.id),
                type=str(types[0]) if types else "",
                images_dropped=dropped,
            )
        )
    return samples


def make_request(
    sample: Sample, spec: TaskSpec, model: Model, shards: Shards, view: View = "images"
) -> Request:
    """The request for a sample, as `model` wants it rendered."""
    record = sample.record if view != "none" else _with_images(sample.record, 0)[0]
    messages: tuple[Message, ...] = model.conversation(record, sample.order or None)
    blank = blank_picture()
    pictures = tuple(
        blank if view == "blank" else picture_of(ref, shards.pixels) for ref in record.images
    )
    if sample.kind != "choice":
        messages = _with_instruction(messages, sample.kind, spec, model)
    return Request(sample.id, messages, pictures, spec.max_new_tokens, sample.options)


def _with_instruction(
    messages: tuple[Message, ...], kind: str, spec: TaskSpec, model: Model
) -> tuple[Message, ...]:
    """How to answer: what the task says, else what a model that was not taught our questions needs."""
    told = getattr(model, "instruction", None)
    if spec.prompt == "none" and told is not None:
        return with_sentence(messages, told(kind, messages))
    return with_suffix(messages, spec.prompt)
