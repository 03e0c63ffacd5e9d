"""Controls that ask the model itself: the same questions, shown or put in another way.

- ``image-swapped``: every image is another record's, of another group. A model that looks gives other
  answers; one that only knows the question does not.
- ``options-rotated``: choice questions with their options rotated through the letters.
- ``prior-only``: a grey picture and no question, only the options (or "Yes or no?"): what the model
  says before it knows what is asked.
- ``option-scoring``: not an answer in words but the likeliest of the options.

Which questions each can ask, and how, is a pure function of the samples and one fixed seed, so that
scoring rebuilds it offline. A control asks some of a task's questions or all, never others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from infimed.core.seeds import stream
from infimed.data.record import ImageRef, Message, Record
from infimed.evaluation.sample import LETTERS, SEED, Sample

Control = Literal["image-swapped", "options-rotated", "prior-only", "option-scoring"]
CONTROLS: tuple[str, ...] = get_args(Control)
SWAPPED, ROTATED, PRIOR, SCORED = "image-swapped", "options-rotated", "prior-only", "option-scoring"

Said = Literal["text", "letter"]
"""What is scored for an option: its text, or its letter."""

YES_NO = ("yes", "no")
YES_NO_ZH = ("是", "否")


@dataclass(frozen=True, slots=True)
class Variant:
    """A sample as a control asks it.

    Attributes:
        sample: with its own id, order of options, text and images. of: number of the plain sample.
        rotation: letters by which the options moved. images_of: id of the sample whose images are
            shown. choices: what is scored instead of an answer.
    """

    sample: Sample
    of: int
    rotation: int = 0
    images_of: str = ""
    choices: tuple[str, ...] = ()


def variants(
    control: str,
    samples: Sequence[Sample],
    *,
    rotations: int | None = None,
    said: Said = "text",
) -> list[Variant]:
    """The questions of a control, in the order of the samples; empty where it has none to ask.

    Args:
        rotations: orders of the options per question, the model's own included; None for all.
        said: what is scored for an option.
    """
    if control == SWAPPED:
        return _swapped(samples)
    if control == ROTATED:
        return [
            Variant(_rotated(sample, by), of, rotation=by)
            for of, sample in enumerate(samples)
            for by in offsets(len(sample.order), rotations)[1:]
        ]
    if control == PRIOR:
        asked = ((of, sample, _bare(sample)) for of, sample in enumerate(samples))
        return [
            Variant(replace(sample, record=bare), of)
            for of, sample, bare in asked
            if bare is not None
        ]
    scored = ((of, sample, _scored(sample, said)) for of, sample in enumerate(samples))
    return [Variant(sample, of, choices=choices) for of, sample, choices in scored if choices]


def why_none(control: str, samples: Sequence[Sample]) -> str:
    """Why a control has no question to ask, for the note under the table."""
    if control == SWAPPED:
        shows = any(sample.record.images for sample in samples)
        return (
            "no image of another patient or case could take the place of one"
            if shows
            else "the questions show no image"
        )
    if control == ROTATED:
        return "no question has options"
    return "no question has options or is answered by yes or no"


def offsets(options: int, rotations: int | None) -> list[int]:
    """By how many letters the options move in each order, 0 first: all, or so many, evenly spread."""
    orders = options if rotations is None else min(options, rotations)
    return [turn * options // orders for turn in range(orders)] if orders else [0]


def rotate(order: Sequence[int], by: int) -> tuple[int, ...]:
    """The order that begins `by` options later."""
    return (*order[by:], *order[:by])


def _rotated(sample: Sample, by: int) -> Sample:
    return replace(sample, id=f"{sample.id}@{by}", order=rotate(sample.order, by))


def _scored(sample: Sample, said: Said) -> tuple[str, ...]:
    if sample.order:
        texts = sample.options if said == "text" else tuple(LETTERS[: len(sample.order)])
        return texts if all(text.strip() for text in texts) else ()
    return yes_no_words(sample)


def yes_no_words(sample: Sample) -> tuple[str, ...]:
    """Both decisions in the language of the gold answer; empty where it is none."""
    if not sample.yes_no:
        return ()
    return YES_NO if sample.gold.isascii() else YES_NO_ZH


def _bare(sample: Sample) -> Record | None:
    """The record without its question: images and options stay, a decision is asked for as such."""
    record, words = sample.record, yes_no_words(sample)
    if words:
        text = "Yes or no?" if words == YES_NO else "是或否？"
    elif sample.order:
        text = ""
    else:
        return None
    shown = tuple(range(len(record.images)))
    user = Message("user", (*shown, text) if text else shown or ("",))
    return replace(record, messages=(user, Message("assistant", (sample.gold,))))


_Shown = tuple[tuple[str, ...], str]
"""Keys of the images of a question, and its group."""


def _shown(sample: Sample) -> _Shown:
    return tuple(_key(image) for image in sample.record.images), sample.group


def _key(image: ImageRef) -> str:
    return image.sha256 or image.locator


def _swapped(samples: Sequence[Sample]) -> list[Variant]:
    owner: dict[_Shown, int] = {}
    for number, sample in enumerate(samples):
        if sample.record.images:
            owner.setdefault(_shown(sample), number)
    partner = swap_partners(list(owner))
    found = []
    for of, sample in enumerate(samples):
        other = partner.get(_shown(sample)) if sample.record.images else None
        if other is None:
            continue
        donor = samples[owner[other]]
        record = replace(sample.record, images=donor.record.images)
        found.append(Variant(replace(sample, record=record), of, images_of=donor.id))
    return found


def swap_partners(shown: Sequence[_Shown]) -> dict[_Shown, _Shown]:
    """Whose images stand in for whose: as many images, another group, no image in common.

    All questions about the same images get the same others. Sets of images are ordered by groups, the
    groups by a fixed seed, and every set takes the place of the one a block further: a derangement
    wherever no group holds more than half of the sets. Sets without a partner are left out.
    """
    found: dict[_Shown, _Shown] = {}
    for size in sorted({len(keys) for keys, _ in shown}):
        own = [one for one in shown if len(one[0]) == size]
        members: dict[str, list[_Shown]] = {}
        for one in own:
            members.setdefault(one[1], []).append(one)
        names = list(members)
        drawn = stream(SEED, "swap", size).permutation(len(names)).tolist()
        ring = [one for at in drawn for one in members[names[at]]]
        after: dict[str, int] = {}  # first place behind a group's block
        for place, one in enumerate(ring):
            after[one[1]] = place + 1
        shift = min(max(map(len, members.values())), len(ring) // 2)
        for place, one in enumerate(ring):
            start = place + max(1, shift)
            if ring[start % len(ring)][1] == one[1]:
                start = after[one[1]]
            for step in range(len(ring)):
                other = ring[(start + step) % len(ring)]
                if other[1] == one[1]:
                    if len(names) == 1:
                        break
                elif not set(other[0]) & set(one[0]):
                    found[one] = other
                    break
    return found
