"""Short questions about one phantom image: presence, side, size, count, place, modality.

Invariants (with the lots of `drawing_lots`): the answer to a presence or side question is yes with
probability 1/2 whatever its wording; the right option of a choice question is equally likely to be
any of its options; modality questions are at most a quarter of the closed and of the choice ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from infimed.data.phantom.catalogue import MODALITIES, FindingKind
from infimed.data.phantom.truth import Finding, ImageTruth, size_bucket
from infimed.data.phantom.wording import (
    article_for,
    length,
    on_side,
    region,
    regions,
    size_options,
    subject,
)
from infimed.data.record import (
    Fact,
    Facts,
    ImageRef,
    Message,
    Record,
    Split,
    Task,
    question_record,
)

SOURCE = "phantom"
LICENSE = "Apache-2.0"
SIDES = ("left", "right")
STATED_SHARE = 0.15
"""Share of presence questions that state the patient's age and sex (which tell nothing)."""


@dataclass
class Questioner:
    """Writes records about one image (or a pair), numbering them.

    Attributes:
        truth: the image asked about. images: its reference (prior and current for comparisons).
        split: which part the patient is in. rng: the stream of question choices.
    """

    truth: ImageTruth
    images: tuple[ImageRef, ...]
    split: Split
    rng: np.random.Generator
    made: int = field(default=0)

    def pick(self, options: tuple[str, ...] | list[str]) -> str:
        """One of the options, uniformly."""
        return options[int(self.rng.integers(len(options)))]

    def facts(
        self, question_type: str, kind: FindingKind | None = None, finding: Finding | None = None
    ) -> Facts:
        """What is known of a question: modality, patient, and the finding asked about."""
        modality = self.truth.kind
        facts: dict[str, Fact] = {
            "modality": modality.name,
            "anatomy": modality.anatomy,
            "view": self.truth.acquisition.view,
            "age": self.truth.age,
            "sex": self.truth.sex,
            "question_type": question_type,
        }
        if kind is not None:
            fraction = finding.size_fraction if finding is not None else kind.midpoint
            facts |= {
                "finding": kind.name,
                "finding_present": finding is not None,
                "finding_size_fraction": fraction,
                "finding_size_mm": round(fraction * modality.field_mm, 3),
                "small": kind.small,
            }
            if finding is not None:
                facts["side"] = modality.side_of(finding.half)
        return facts

    def common(self, suffix: str) -> dict[str, Any]:
        """Fields every record of this image shares."""
        self.made += 1
        return {
            "id": f"{self.truth.image_id}-{self.made:02d}-{suffix}",
            "images": self.images,
            "source": SOURCE,
            "license": LICENSE,
            "split": self.split,
            "group": self.truth.patient_id,
        }

    def ask(
        self,
        suffix: str,
        task: Task,
        question: str,
        answer: str,
        facts: Facts,
        choices: tuple[str, ...] = (),
        reason: str = "",
    ) -> Record:
        """One question and its answer; with a reason the reply says first what is seen.

        A reply such as "On the left, so no." teaches the two steps of a yes/no question one by one:
        find it, then compare. The gold answer stays "no".
        """
        record = question_record(
            task=task,
            question=question,
            answer=answer,
            choices=choices,
            facts=facts,
            **self.common(suffix),
        )
        if not reason:
            return record
        said = Message("assistant", (f"{reason}, so {answer}.",))
        return replace(record, messages=(record.messages[0], said))


def presence(asker: Questioner, kind: FindingKind) -> Record:
    """Is it there: yes in half of the cases."""
    finding = asker.truth.finding(kind.key)
    name = kind.with_article
    question = asker.pick(
        [f"Is there {name}?", f"Does this image show {name}?", f"Is {name} visible?"]
    )
    if asker.rng.random() < STATED_SHARE:
        question = f"This is {subject(asker.truth)}. {question}"
    return asker.ask(
        "presence",
        "closed",
        question,
        "yes" if finding else "no",
        asker.facts("presence", kind, finding),
        reason=f"On the {asker.truth.kind.side_of(finding.half)}" if finding else "Not seen",
    )


def side_closed(asker: Questioner, kind: FindingKind, finding: Finding) -> Record:
    """Is it on the named side: yes in half of the cases."""
    asked = asker.pick(SIDES)
    side = asker.truth.kind.side_of(finding.half)
    question = f"Is the {kind.name} {on_side(asker.truth.kind, asked)}?"
    return asker.ask(
        "side",
        "closed",
        question,
        "yes" if asked == side else "no",
        asker.facts("laterality", kind, finding),
        reason=f"On the {side}",
    )


def side_open(asker: Questioner, kind: FindingKind, finding: Finding) -> Record:
    """On which side it is: left or right."""
    modality = asker.truth.kind
    where = (
        "On which of the patient's sides" if modality.radiological else "In which half of the image"
    )
    question = f"{where} is the {kind.name}, left or right?"
    return asker.ask(
        "which-side",
        "open",
        question,
        modality.side_of(finding.half),
        asker.facts("laterality", kind, finding),
    )


def modality_closed(asker: Questioner) -> Record:
    """Is this such an image: yes in half of the cases."""
    own = asker.truth.kind
    yes = bool(asker.rng.integers(2))
    others = [modality for modality in MODALITIES if modality.key != own.key]
    asked = own if yes else others[int(asker.rng.integers(len(others)))]
    question = f"Is this {asked.article} {asked.name}?"
    return asker.ask(
        "modality",
        "closed",
        question,
        "yes" if yes else "no",
        asker.facts("modality"),
        reason=own.name[0].upper() + own.name[1:],
    )


def modality_open(asker: Questioner) -> Record:
    """What kind of image it is; for MRI sometimes which sequence."""
    if asker.truth.modality == "brain_mri" and asker.rng.random() < 0.5:
        return asker.ask(
            "sequence",
            "open",
            "Which MRI sequence is this?",
            asker.truth.acquisition.view,
            asker.facts("modality"),
        )
    return asker.ask(
        "modality",
        "open",
        "What kind of image is this?",
        asker.truth.kind.name,
        asker.facts("modality"),
    )


def size_question(asker: Questioner, kind: FindingKind, finding: Finding) -> Record:
    """How large: an open answer in mm, or one of three ranges."""
    modality, facts = asker.truth.kind, asker.facts("size", kind, finding)
    question = f"How large is the {kind.name}?"
    if asker.rng.random() < 0.5:
        return asker.ask("size", "open", question, length(modality, finding.size_fraction), facts)
    options = size_options(modality, kind)
    return asker.ask(
        "size",
        "choice",
        question,
        options[size_bucket(kind, finding.size_fraction)],
        facts,
        options,
    )


def count_question(asker: Questioner, kind: FindingKind, finding: Finding) -> Record:
    """How many: a number."""
    return asker.ask(
        "count",
        "open",
        f"How many {kind.plural} are there?",
        str(finding.count),
        asker.facts("count", kind, finding),
    )


def place_choice(asker: Questioner, kind: FindingKind, finding: Finding) -> Record:
    """Which of four regions."""
    modality = asker.truth.kind
    right = region(modality, modality.side_of(finding.half), finding.level)
    where = (
        "region, named from the patient's side,"
        if modality.radiological
        else "quarter of the image"
    )
    question = f"In which {where} is the {kind.name}?"
    return asker.ask(
        "place",
        "choice",
        question,
        right,
        asker.facts("location", kind, finding),
        regions(modality),
    )


def modality_choice(asker: Questioner) -> Record:
    """Which of four modalities."""
    own = asker.truth.kind
    others = [modality.name for modality in MODALITIES if modality.key != own.key]
    drawn = [others[int(index)] for index in asker.rng.permutation(len(others))[:3]]
    options = tuple(sorted([own.name, *drawn]))
    return asker.ask(
        "modality",
        "choice",
        "Which kind of image is this?",
        own.name,
        asker.facts("modality"),
        options,
    )


def finding_choice(asker: Questioner) -> Record | None:
    """Which of the modality's four findings: asked only where exactly one is present."""
    if len(asker.truth.findings) != 1:
        return None
    modality, finding = asker.truth.kind, asker.truth.findings[0]
    kind = modality.kind(finding.key)
    options = tuple(sorted(other.name for other in modality.findings))
    question = asker.pick(["Which finding does this image show?", "Which abnormality is present?"])
    return asker.ask(
        "finding", "choice", question, kind.name, asker.facts("finding", kind, finding), options
    )


def finding_side_choice(asker: Questioner) -> Record | None:
    """Which finding on which side: a present one against an absent one, each on both sides."""
    modality = asker.truth.kind
    absent = [kind for kind in modality.findings if asker.truth.finding(kind.key) is None]
    if not absent or not asker.truth.findings:
        return None
    finding = asker.truth.findings[int(asker.rng.integers(len(asker.truth.findings)))]
    kind, other = modality.kind(finding.key), absent[int(asker.rng.integers(len(absent)))]
    options = tuple(
        sorted(f"{one.name} {on_side(modality, side)}" for one in (kind, other) for side in SIDES)
    )
    answer = f"{kind.name} {on_side(modality, modality.side_of(finding.half))}"
    return asker.ask(
        "which",
        "choice",
        "Which statement about this image is right?",
        answer,
        asker.facts("finding", kind, finding),
        options,
    )


def _some(items: list[FindingKind], number: int, rng: np.random.Generator) -> list[FindingKind]:
    return [items[int(index)] for index in rng.permutation(len(items))[:number]]


def image_questions(asker: Questioner, sizes_fair: bool) -> Iterator[Record]:
    """All short questions about one image.

    Args:
        sizes_fair: whether sizes were drawn evenly over the ranges (not so where the image belongs
            to a pair in which findings grew or shrank).
    """
    modality, rng = asker.truth.kind, asker.rng
    large = [kind for kind in modality.findings if not kind.small]
    small = [kind for kind in modality.findings if kind.small]
    for kind in [*small, *_some(large, 2, rng)]:
        yield presence(asker, kind)
    present = [kind for kind in modality.findings if asker.truth.finding(kind.key)]
    found = {finding.key: finding for finding in asker.truth.findings}
    for kind in _some(present, 2, rng):
        yield side_closed(asker, kind, found[kind.key])
    for kind in _some(present, 1, rng):
        yield side_open(asker, kind, found[kind.key])
    yield modality_closed(asker) if rng.random() < 0.75 else modality_open(asker)
    if sizes_fair:
        for kind in _some([kind for kind in present if not kind.small], 1, rng):
            yield size_question(asker, kind, found[kind.key])
    for kind in [kind for kind in present if kind.small]:
        yield count_question(asker, kind, found[kind.key])
    which = finding_choice(asker) or finding_side_choice(asker)
    if which is not None:
        yield which
    for kind in _some([kind for kind in present if kind.free_level], 1, rng):
        yield place_choice(asker, kind, found[kind.key])
    if rng.random() < 0.25:
        yield modality_choice(asker)


def kind_phrase(truth: ImageTruth, words: str) -> str:
    """`words` with the article it needs, for sentences about the image."""
    return f"{article_for(words)} {words}"
