"""Operators 29-32 (contamination, privacy) and this project's additions from 33 on.

The additions cover defects that the catalogue leaves out and that real sources have.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

import numpy as np

from infimed.curation.corruption.base import (
    Context,
    Corrupted,
    Operator,
    Pixels,
    chinese,
    image_number,
    last_answer,
    pick,
    with_question,
    with_response,
)
from infimed.data.record import Message, Record

_NAMES: Final = ("SMITH^JOHN", "MUELLER^ANNA", "GARCIA^LUIS", "WANG^FANG", "JONES^MARY")
_HEADS: Final = (
    ("Is there", "Can you see"), ("Does this image show", "Is there"), ("What is", "Which is"), ("Where is", "In which place is"),
    ("Is this", "Would you say that this is"), ("How large is", "What is the size of"), ("Are there", "Do you see"),
    ("图中", "这张图里"), ("是否", "是不是"),
)  # fmt: skip


def reencoded(pixels: Pixels, random: np.random.Generator, severity: int) -> Pixels:
    """One mild change of a copy: JPEG, crop, flip or window."""
    import cv2

    height, width = pixels.shape[:2]
    kind = int(random.integers(4))
    if kind == 0:
        data = cv2.imencode(
            ".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90 - 20 * severity]
        )[1]
        return np.ascontiguousarray(
            np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)[:, :, ::-1]
        )
    if kind == 1:
        cut = max(1, round(min(height, width) * 0.015 * severity))
        return np.ascontiguousarray(pixels[cut:-cut, cut:-cut])
    if kind == 2:
        return np.ascontiguousarray(pixels[:, ::-1])
    gain = 1.0 + 0.1 * severity
    return np.clip((pixels.astype(np.float32) - 127) * gain + 127 + 5 * severity, 0, 255).astype(
        np.uint8
    )


def copied_image(
    record: Record, context: Context, random: np.random.Generator, severity: int
) -> Corrupted | None:
    """The record once more, its image re-encoded, cropped, flipped or windowed."""
    if not record.images:
        return None
    made = {
        i: reencoded(context.pixels(ref), random, severity) for i, ref in enumerate(record.images)
    }
    return Corrupted(replace(record, id=f"{record.id}-copy"), made, beside=True)


def copied_question(
    record: Record, context: Context, random: np.random.Generator, severity: int
) -> Corrupted | None:
    """The record once more, its options shuffled or its question worded otherwise."""
    if record.task not in ("closed", "open", "choice"):
        return None
    made = replace(record, id=f"{record.id}-paraphrase")
    for old, new in _HEADS:
        if made.question.startswith(old):
            made = with_question(made, new + made.question[len(old) :])
            break
    if record.choices:
        order = random.permutation(len(record.choices))
        made = replace(made, choices=tuple(record.choices[int(i)] for i in order))
    if made.question == record.question and made.choices == record.choices:
        return None
    return Corrupted(made, beside=True)


def burned_in(
    record: Record, context: Context, random: np.random.Generator, severity: int
) -> Corrupted | None:
    """A name, number and date drawn into the image, 8 to 24 pixels high."""
    if not record.images:
        return None
    import cv2

    number = image_number(record, random)
    pixels = np.ascontiguousarray(context.pixels(record.images[number]).copy())
    side = pixels.shape[0]
    size_px = {1: 8, 2: 14, 3: 24}[severity] * max(1.0, side / 512)
    scale = size_px / 22.0
    for line, text in enumerate(_identity(random)):
        at = (int(side * 0.03), int(side * 0.06 + line * size_px * 1.5))
        cv2.putText(
            pixels, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), 1, cv2.LINE_AA
        )
    return Corrupted(record, {number: pixels})


def _identity(random: np.random.Generator) -> tuple[str, str, str]:
    day, month, year = random.integers(1, 28), random.integers(1, 12), random.integers(1930, 2010)
    mrn = f"MRN {int(random.integers(10**6, 10**7))}"
    return f"NAME: {pick(random, _NAMES)}", mrn, f"DOB {day:02d}/{month:02d}/{year}"


def leaked_tag(
    record: Record, context: Context, random: np.random.Generator, severity: int
) -> Corrupted | None:
    """Identifiers of a private header tag copied into the facts (1) or the text (2, 3)."""
    name, mrn, born = _identity(random)
    if severity == 1:
        if not record.images:
            return None
        ref = record.images[0]
        leaked = replace(
            ref,
            facts={**ref.facts, "private_0009_1010": f"{name.removeprefix('NAME: ')} {mrn} {born}"},
        )
        return Corrupted(replace(record, images=(leaked, *record.images[1:])))
    return Corrupted(
        with_question(
            record, f"Patient {name.removeprefix('NAME: ')}, {mrn}, {born}. {record.question}"
        )
    )


def spoil_choices(
    record: Record, context: Context, random: np.random.Generator, severity: int
) -> Corrupted | None:
    """One option twice (1), an empty option (2), only one option left (3)."""
    if record.task != "choice" or len(record.choices) < 2:
        return None
    choices = list(record.choices)
    if severity == 3:
        return Corrupted(replace(record, choices=(record.answer or choices[0],)))
    at = int(random.choice([i for i, c in enumerate(choices) if c != record.answer]))
    if severity == 2:
        choices[at] = " "
    else:
        choices.append(choices[at].upper() if choices[at].islower() else choices[at] + ".")
    return Corrupted(replace(record, choices=tuple(choices)))


def spoil_turns(
    record: Record, context: Context, random: np.random.Generator, severity: int
) -> Corrupted | None:
    """An empty answer (1), the answer missing (2), two user turns in a row (3)."""
    at = last_answer(record)
    if at < 1:
        return None
    if severity == 1:
        return Corrupted(with_response(record, " "))
    if severity == 2:
        return Corrupted(
            replace(record, messages=(*record.messages[:at], *record.messages[at + 1 :]))
        )
    extra = Message("user", (pick(random, ("And?", "Please answer.", "Anything else?")),))
    return Corrupted(
        replace(record, messages=(*record.messages[:at], extra, *record.messages[at:]))
    )


def expose(pixels: Pixels, random: np.random.Generator, severity: int) -> Pixels:
    """Nearly white, nearly black, or nearly without contrast."""
    values = pixels.astype(np.float32)
    kind = int(random.integers(3))
    strength = {1: 1.0, 2: 1.6, 3: 2.5}[severity]
    if kind == 0:
        made = values + 150 * strength
    elif kind == 1:
        made = values * 0.05 / strength
    else:
        made = values * (0.07 / strength) + float(random.uniform(60, 180))
    return np.clip(made, 0, 255).astype(np.uint8)


def wrong_exposure(
    record: Record, context: Context, random: np.random.Generator, severity: int
) -> Corrupted | None:
    """An image washed out, far too dark or flat."""
    if not record.images:
        return None
    number = image_number(record, random)
    return Corrupted(
        record, {number: expose(context.pixels(record.images[number]), random, severity)}
    )


def empty_image(
    record: Record, context: Context, random: np.random.Generator, severity: int
) -> Corrupted | None:
    """One grey value, noise alone, a stamp of 24 pixels, or a strip."""
    if not record.images:
        return None
    import cv2

    number = image_number(record, random)
    kind = int(random.integers(4))
    pixels = context.pixels(record.images[number])
    if kind == 0:
        made = np.full_like(pixels, int(random.integers(256)))
    elif kind == 1:
        noise = random.normal(120, 20 * severity, pixels.shape[:2])
        made = np.repeat(np.clip(noise, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)
    elif kind == 2:
        made = np.asarray(cv2.resize(pixels, (24, 24), interpolation=cv2.INTER_AREA), np.uint8)
    else:
        made = np.ascontiguousarray(pixels[: max(8, pixels.shape[0] // (6 * severity))])
    return Corrupted(record, {number: made})


def stray_text(
    record: Record, context: Context, random: np.random.Generator, severity: int
) -> Corrupted | None:
    """What templates and conversions leave behind: fields, references, control characters."""
    if last_answer(record) < 0:
        return None
    words = record.question.split(" ")
    stray = {
        1: ("(Fig. ??)", "[citation needed]", "<xref>", "see \\ref{fig:2}"),
        2: ("{{finding}}", "{answer}", "TODO", "[insert finding]"),
        3: ("\x00", "\x07", "\ue000", "\x1b"),
    }[severity]
    words.insert(int(random.integers(1, len(words) + 1)), pick(random, stray))
    return Corrupted(with_question(record, " ".join(words)))


def impossible_words(
    record: Record, context: Context, random: np.random.Generator, severity: int
) -> Corrupted | None:
    """A physical or technical impossibility in a clause of its own, or an empty section."""
    if record.task not in ("caption", "report") or chinese(record.response):
        return None
    text = record.response.rstrip()
    if severity == 1:
        body = re.sub(r"\b(Impression|Conclusion):.*", r"\1:", text, flags=re.DOTALL)
        return None if body == text else Corrupted(with_response(record, body))
    added = {
        2: (
            "The oxygen saturation was 134 %.",
            "The ejection fraction was 155 %.",
            "The lesion measures 9000 HU.",
            "Blood pressure was 70/120 mmHg.",
        ),
        3: (
            "A T2-weighted CT was done before.",
            "The H&E stained MRI was unremarkable.",
            "Hounsfield units on the ultrasound were low.",
        ),
    }[severity]
    return Corrupted(with_response(record, f"{text} {pick(random, added)}"))


def exact_copy(
    record: Record, context: Context, random: np.random.Generator, severity: int
) -> Corrupted | None:
    """The record once more under another id; captions with one word changed from severity 2 on."""
    made = replace(record, id=f"{record.id}-again")
    if severity >= 2 and record.task in ("caption", "report") and not chinese(record.response):
        made = with_response(
            made,
            record.response.replace(" showing ", " which shows ").replace(
                ". No ", ". There is no ", 1
            ),
        )
    return Corrupted(made, beside=True)


OPERATORS: Final = (
    Operator(29, "benchmark image copied and changed", ("duplication",), "dataset", copied_image),
    Operator(30, "benchmark question paraphrased, options shuffled", ("duplication",), "dataset", copied_question),
    Operator(31, "name burned into the image", ("privacy",), "image", burned_in),
    Operator(32, "identifiers of a private tag leaked", ("privacy",), "text", leaked_tag),
    Operator(33, "options doubled, empty or alone", ("completeness", "consistency"), "text", spoil_choices),
    Operator(34, "turns empty, missing or out of order", ("completeness", "consistency"), "text", spoil_turns),
    Operator(35, "wrong exposure", ("readability", "relevance"), "image", wrong_exposure),
    Operator(36, "empty, noise, stamp or strip as image", ("relevance", "readability"), "image", empty_image),
    Operator(37, "template residue, control characters", ("completeness", "readability"), "text", stray_text),
    Operator(38, "impossible values, words or empty section", ("accuracy", "completeness"), "text", impossible_words),
    Operator(39, "record repeated", ("duplication",), "dataset", exact_copy),
)  # fmt: skip
