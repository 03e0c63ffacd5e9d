"""Everything that is measured of a record, once, before any rule is asked.

Invariant: signals are a pure function of the record's text and of its decoded pixels, rounded so
that they are the same whoever computes them; a rule never opens an image. `SIGNALS_VERSION` rises
whenever a number could change, and stored signals of another version are measured again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, Final, Literal

from infimed.curation.lexicon import LEXICON_VERSION, modality_family
from infimed.data.record import Record

SIGNALS_VERSION: Final = f"6.{LEXICON_VERSION}"


@dataclass(frozen=True, slots=True)
class ImageSignals:
    """What is measured of one image, from one decode. Grey values are 0..255.

    Attributes:
        sha256: key of the stored bytes. problem: why it could not be decoded, else ''.
        width, height: pixels as decoded. pixel_hash: BLAKE3 of the decoded
            pixels and their shape, three equal channels taken as one.
        fingerprint: 256 bytes that near-duplicates are proposed from (`matching.fingerprint`).
        mean, std: of the grey image. spread: 99.5th minus 0.5th percentile.
        mode_share: pixels within 2 of the commonest grey value.
        dark_share, bright_share: pixels at most 4, at least 251. white_share: at least 235.
        two_tone: pixels at most 64 or at least 235. edges: pixels with a step of 40 or more.
        entropy: of the grey histogram, bits.
        sharpness: gradient at fine over gradient at coarse scale on the strongest edges, measured
            along the edge's own direction so that noise averages out; about 3 sharp, 1 blurred.
        noise: standard deviation of the noise (Immerkaer 1996).
        colour: share of pixels whose channels differ by 30 or more.
        axis_lines: 1 for a long thin horizontal and vertical line (a chart's axes), else 0.
        least_sharpness: sharpness of the edges across the worst of four directions (motion blurs
            one of them); 0 where no direction has enough edges.
        flat: share of the pixels above 24 whose left neighbour has the same grey value.
        blocking: step across the borders of 8x8 blocks over the step inside them; 1 without JPEG
            blocks.
    """

    sha256: str
    problem: str = ""
    width: int = 0
    height: int = 0
    pixel_hash: str = ""
    fingerprint: bytes = b""
    mean: float = 0.0
    std: float = 0.0
    spread: float = 0.0
    mode_share: float = 0.0
    dark_share: float = 0.0
    bright_share: float = 0.0
    white_share: float = 0.0
    two_tone: float = 0.0
    edges: float = 0.0
    entropy: float = 0.0
    sharpness: float = 0.0
    noise: float = 0.0
    colour: float = 0.0
    axis_lines: int = 0
    least_sharpness: float = 0.0
    blocking: float = 1.0
    flat: float = 0.0


@dataclass(frozen=True, slots=True)
class TextSignals:
    """What is measured of a record's text.

    Attributes:
        language: "en", "zh" or "" (no letters). question_words, response_words: words, or
            characters of Chinese. text_chars: of all turns.
        placeholders: unresolved placeholders. markup: HTML tags and entities. mojibake: characters
            decoded with the wrong table. controls: unprintable characters.
        repeated_trigrams: share of word 3-grams of the longest turn that repeat an earlier one.
        longest_run: most consecutive repeats of one word. odd_words: share of words that no
            language spells so (digits inside, no vowel, symbols inside). words: of all turns.
        ending: how the response breaks off: '', "bracket", "connective", "comma", "ellipsis".
        stopped: whether the response ends in a full stop or another closing mark.
        answer_polarity, response_polarity: 'yes', 'no' or ''.
        question_sides, response_sides: '', 'L', 'R' or 'LR'.
        modalities: modality families the text claims the image to be.
        image_words: whether the text speaks of an image. max_image_number: largest "image N".
        medical_terms: words of medical vocabulary. everyday_words: words of everyday pictures.
        misspelt: unknown words one small error away from a common one, and Chinese characters that
            are hardly ever written.
        loops: how often the end of the longest turn repeats the same words. foreign: 'fr', 'de',
            'es', 'it', 'pt', 'ja' where the response is in that language, 'en' or 'zh' where it is
            in the other one than the question, else ''.
        claims: what the record states about its one image; see `statements`.
        question_key, answer_key, content_key: hashes of the normalised question, the answer, and
            of all turns with choices.
    """

    language: str = ""
    question_words: int = 0
    response_words: int = 0
    words: int = 0
    text_chars: int = 0
    placeholders: int = 0
    markup: int = 0
    mojibake: int = 0
    controls: int = 0
    repeated_trigrams: float = 0.0
    longest_run: int = 0
    odd_words: float = 0.0
    ending: str = ""
    stopped: bool = False
    answer_polarity: str = ""
    response_polarity: str = ""
    question_sides: str = ""
    response_sides: str = ""
    modalities: tuple[str, ...] = ()
    image_words: bool = False
    max_image_number: int = 0
    medical_terms: int = 0
    everyday_words: int = 0
    misspelt: int = 0
    loops: int = 0
    foreign: str = ""
    claims: tuple[str, ...] = ()
    question_key: str = ""
    answer_key: str = ""
    content_key: str = ""


_TEXT: Final = tuple(f.name for f in fields(TextSignals))
_IMAGE: Final = tuple(f.name for f in fields(ImageSignals))
_text_values, _image_values = attrgetter(*_TEXT), attrgetter(*_IMAGE)

ImageLevel = Literal["none", "pixels", "look"]
"""How much of an image is measured: nothing, and it is never opened; size, pixel hash and
fingerprint; or everything, how it looks included."""

IMAGE_LEVELS: Final[tuple[ImageLevel, ...]] = ("none", "pixels", "look")
"""From least to most; what is measured on one level is the same on the next."""

UNMEASURED: Final = TextSignals(text_chars=-1)
"""The text signals of a record that could not be read or measured."""

DAMAGED: Final = "damaged_record"
"""Fact of the stand-in for a stored record that cannot be read; its value says why."""


@dataclass(frozen=True, slots=True)
class Signals:
    """All signals of a record: its text, its images in order, its modality family by facts."""

    text: TextSignals
    images: tuple[ImageSignals, ...] = ()
    modality: str = ""

    @property
    def limits_modalities(self) -> tuple[str, ...]:
        """The modality families whose limits hold: see `limits_modalities`."""
        return limits_modalities(self.modality, self.text.modalities)

    def to_row(self, row: int, record: Record) -> dict[str, Any]:
        """A ledger row; `from_row` inverts it."""
        values = dict(zip(_TEXT, _text_values(self.text), strict=True))
        values["modalities"] = list(self.text.modalities)
        values["claims"] = list(self.text.claims)
        images = [dict(zip(_IMAGE, _image_values(i), strict=True)) for i in self.images]
        return {
            "row": row,
            "record_id": record.id,
            "task": record.task,
            "source": record.source,
            "modality": self.modality,
            **values,
            "images": images,
        }

    @staticmethod
    def from_row(row: Mapping[str, Any]) -> Signals:
        """Inverse of `to_row`."""
        text = {name: row[name] for name in _TEXT}
        text["modalities"] = tuple(text["modalities"])
        text["claims"] = tuple(text["claims"])
        images = tuple(ImageSignals(**image) for image in row["images"])
        return Signals(TextSignals(**text), images, row["modality"])


def fact_modalities(record: Record) -> frozenset[str]:
    """Modality families that the headers and facts of a record state."""
    found = {modality_family(record.facts.get("modality"))}
    found.update(modality_family(image.facts.get("modality")) for image in record.images)
    return frozenset(found - {""})


def limits_modalities(modality: str, claimed: Sequence[str]) -> tuple[str, ...]:
    """The modality families whose limits hold; a rule objects only where all of them make it object.

    Most public captions come without a header, and their ultrasound is as soft as any. But a text may
    be wrong about its image, so it can only spare a record that the general limits would drop.

    Args:
        modality: the family by facts and headers. claimed: the families the text claims.
    Returns:
        The family of the facts; where they are silent, '' (general), and the one the text claims.
    """
    return (modality,) if modality or len(claimed) != 1 else ("", claimed[0])


def record_modality(record: Record) -> str:
    """The record's one modality family, '' when unknown or mixed."""
    families = fact_modalities(record)
    return next(iter(families)) if len(families) == 1 else ""
