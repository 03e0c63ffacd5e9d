"""What headers and tables state of an image, put into words: a caption and a few plain questions.

A model learns to look fastest from texts that only the image can tell: with a frozen language model,
kind and body part of unseen images are read after a minute of such texts, where hundreds of steps on
questions teach it to answer without looking (docs/training.md). Most data sets state these facts
already; nothing has to be annotated. Nothing is guessed either: a fact that two records of one image
state differently is left out. Every yes/no question comes once with "yes" and once, for another
value, with "no", so that without the image it is worth nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from infimed.core.files import sha256_bytes
from infimed.data.record import Facts, ImageRef, Message, Record, Split, question_record

CAPTION_PROMPT: Final = "What kind of image is this?"
NAMES: Final = ("modality", "anatomy", "view", "plane")
"""Facts of a record or an image that are put into words; a side only if the image itself states it."""
SPLITS: Final = ("train", "dev")
"""Images that are described: those that may be trained on, never those that are asked about."""

KINDS: Final = {
    "CT": "CT image",
    "MR": "MR image",
    "MRI": "MRI image",
    "US": "ultrasound image",
    "CR": "radiograph",
    "DX": "radiograph",
    "XR": "X-ray image",
    "RF": "fluoroscopy image",
    "MG": "mammogram",
    "XA": "angiogram",
    "NM": "nuclear medicine image",
    "PT": "PET image",
    "OP": "ophthalmic photograph",
    "ES": "endoscopy image",
    "SM": "slide microscopy image",
    "GM": "microscopy image",
    "XC": "photograph",
    "OCT": "OCT image",
    "OPT": "OCT image",
    "IO": "intra-oral radiograph",
    "PX": "panoramic radiograph",
}
VIEWS: Final = {
    "PA": "PA",
    "AP": "AP",
    "LL": "left lateral",
    "RL": "right lateral",
    "LATERAL": "lateral",
    "LAT": "lateral",
}
PLANES: Final = ("axial", "coronal", "sagittal")

OPEN: Final[Mapping[str, Sequence[str]]] = {
    "modality": (
        "What imaging modality is this?",
        "How was this image taken?",
        "What type of image is this?",
    ),
    "anatomy": ("What part of the body is shown?", "Which part of the body was imaged?"),
    "view": ("What is the view of this image?", "How was this film taken?"),
    "plane": ("What is the plane of this image?", "In which plane was this image taken?"),
}
CLOSED: Final[Mapping[str, Sequence[str]]] = {
    "modality": ("Is this {a} {value}?", "Was this taken as {a} {value}?"),
    "anatomy": ("Is this an image of the {value}?", "Is the {value} shown?"),
    "view": ("Is this {a} {value} view?", "Is this {a} {value} film?"),
    "plane": ("Is this {a} {value} image?", "Is this in the {value} plane?"),
}


def article(words: str) -> str:
    """a or an."""
    return "an" if words[:1] in "aeiouAEIOU" or words.startswith(("MR", "X-")) else "a"


def worded(name: str, value: object) -> str:
    """A fact's value as said in a text; '' when there is no plain word for it."""
    text = str(value or "")
    if name == "modality":
        return KINDS.get(text, "")
    if name == "view":
        return VIEWS.get(text.upper(), "")
    if name == "plane":
        return text if text in PLANES else ""
    return text


def sentence(facts: Facts) -> str:
    """The facts as a sentence; '' when they state neither a known modality nor the body part."""
    kind, anatomy, view, plane = (worded(name, facts.get(name)) for name in NAMES)
    if not kind and not anatomy:
        return ""
    words = " ".join(word for word in (plane, view, kind or "image") if word)
    side = str(facts["side"]) if facts.get("side") in ("left", "right") else ""
    place = " ".join(word for word in (side, anatomy) if word)
    return f"{article(words).capitalize()} {words}{f' of the {place}' if anatomy else ''}."


@dataclass(frozen=True, slots=True)
class Stated:
    """What the records that show an image state of it, so far.

    Attributes:
        facts: what is stated; None for a fact that is stated in two ways.
        captioned: a caption or report describes the image already.
        source, license, split, group: of the first record that shows it.
    """

    facts: Mapping[str, str | None]
    captioned: bool
    source: str
    license: str
    split: Split
    group: str

    def records(
        self, sha256: str, image: ImageRef, values: Mapping[str, Sequence[str]]
    ) -> Iterator[Record]:
        """The caption, unless the image has one, and the questions, with ``described`` in their facts.

        Args:
            values: all values of each fact in the data set, for the questions answered "no".
        """
        known = {key: value for key, value in self.facts.items() if value is not None}
        common: dict[str, Any] = {
            "source": f"{self.source}:described",
            "license": self.license,
            "split": self.split,
            "group": self.group,
            "facts": {**known, "described": True},
        }
        name = f"described-{sha256[:32]}"
        text = sentence(known)
        if self.split not in SPLITS:
            return
        if text and not self.captioned:
            turns = (Message("user", (0, CAPTION_PROMPT)), Message("assistant", (text,)))
            yield Record(id=name, images=(image,), messages=turns, task="caption", **common)
        for fact in NAMES:
            value = worded(fact, known.get(fact))
            if not value:
                continue
            chance = int(sha256_bytes(f"{sha256} {fact}".encode())[:12], 16)
            others = [word for word in values.get(fact, ()) if word != value]
            asked = OPEN[fact][chance % len(OPEN[fact])]
            yield question_record(
                id=f"{name}-{fact}", question=asked, answer=value.removesuffix(" image"),
                images=(image,), task="open", **common,
            )  # fmt: skip
            if not others:
                continue
            for answer, said in (("yes", value), ("no", others[chance // 64 % len(others)])):
                form = CLOSED[fact][chance // 8 % len(CLOSED[fact])]
                yield question_record(
                    id=f"{name}-{fact}-{answer}", question=form.format(a=article(said), value=said),
                    answer=answer, images=(image,), task="closed", **common,
                )  # fmt: skip


def stated(record: Record, number: int, before: Stated | None) -> Stated:
    """What a stored record states of its image `number`, joined with what was stated before.

    Facts of the record hold for its image only where it shows a single one.
    """
    facts = dict(before.facts) if before else {}
    _join(facts, record.images[number].facts, (*NAMES, "side"))
    if len(record.images) == 1:
        _join(facts, record.facts, NAMES)
    captioned = record.task in ("caption", "report")
    if before is not None:
        return replace(before, facts=facts, captioned=before.captioned or captioned)
    return Stated(facts, captioned, record.source, record.license, record.split, record.group)


def all_values(images: Iterable[Stated]) -> dict[str, list[str]]:
    """The words for the values that a data set states of each fact; every plane once one is stated."""
    values: dict[str, set[str]] = {}
    for image in images:
        for name in NAMES:
            if word := worded(name, image.facts.get(name)):
                values.setdefault(name, set()).add(word)
    if "plane" in values:
        values["plane"].update(PLANES)  # few data sets state each of them
    return {name: sorted(words) for name, words in values.items()}


def descriptions(records: Iterable[Record]) -> Iterator[Record]:
    """What an import would add to these records, from what is known before any image is opened."""
    known: dict[str, Stated] = {}
    shown: dict[str, ImageRef] = {}
    for record in records:
        for number, image in enumerate(record.images):
            key = image.sha256 or image.locator
            shown.setdefault(key, image)
            known[key] = stated(record, number, known.get(key))
    values = all_values(known.values())
    for key, image_facts in known.items():
        yield from image_facts.records(sha256_bytes(key.encode()), shown[key], values)


def _join(facts: dict[str, str | None], found: Facts, names: Sequence[str]) -> None:
    """Add what is stated; what contradicts becomes None and stays so."""
    for name in names:
        value = found.get(name)
        if not isinstance(value, str) or not value:
            continue
        if facts.setdefault(name, value) != value:
            facts[name] = None
