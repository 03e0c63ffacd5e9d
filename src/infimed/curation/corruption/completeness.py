"""Operators 1-5 and 7: something that the question or its answer needs is gone, or too much is there."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

import numpy as np

from infimed.curation.corruption.base import (
    Context,
    Corrupted,
    Operator,
    chinese,
    image_number,
    with_answer,
    with_image_facts,
    with_response,
)
from infimed.data.record import Message, Record

_SHARES: Final = {1: (0.72, 0.9), 2: (0.45, 0.7), 3: (0.15, 0.4)}
_ENDS: Final = ".!?。！？;；,， "
_LENGTH = re.compile(r"(?P<v>\d+(?:\.\d+)?)\s?(?P<u>mm|cm|[µμu]m|毫米|厘米)(?![\w])")
_SIZE_WORDS = re.compile(
    r"\b(?:how (?:large|big|long|wide)|what (?:is the )?(?:size|diameter|length|width))\b|多大|大小|直径",
    re.IGNORECASE,
)
_SECOND_IMAGE = re.compile(
    r"\b(?:first|second|both|prior|two) (?:\w+ )?images?\b|\bimage 2\b", re.I
)
_TOKENS: Final = ("<image>", "<image>\n", "[image]", "<img>")


def truncate(
    record: Record, context: Context, random: np.random.Generator, severity: int
) -> Corrupted | None:
    """Cut a caption, report or longer answer in mid-sentence."""
    text = record.response.strip()
    pieces = list(text) if chinese(text) else text.split(" ")
    if len(pieces) < 6 or record.task == "choice":
        return None
    low, high = _SHARES[severity]
    keep = max(2, min(len(pieces) - 1, round(len(pieces) * float(random.uniform(low, high)))))
    cut = ("" if chinese(text) else " ").join(pieces[:keep]).rstrip(_ENDS)
    if not chinese(text) and random.random() < 0.4:
        word = pieces[keep].strip(_ENDS)
        if len(word) >= 5:
            cut += " " + word[: int(random.integers(2, len(word) - 1))]
    if len(cut) < 3 or cut == text:
        return None
    return Corrupted(with_response(record, cut))


def drop_image(
    record: Record, context: Context, random: np.random.Generator, severity: int
) -> Corrupted | None:
    """Lose one of k images and keep what refers to it: words (1), a token (2), a turn's part (3)."""
    if not record.images:
        return None
    lost = len(record.images) - 1
    kept = record.images[:lost]
    if severity == 3:
        return Corrupted(replace(record, images=kept))
    turns: list[Message] = []
    for turn in record.messages:
        parts = tuple(part for part in turn.content if part != lost)
        if severity == 2 and lost in turn.content:
            token = _TOKENS[int(random.integers(len(_TOKENS)))]
            shown = tuple(part for part in parts if isinstance(part, int))
            parts = (*shown, token + turn.text)
        turns.append(Message(turn.role, parts))
    if severity == 1:
        words = " ".join(turn.text for turn in record.messages)
        needed = (
            _SECOND_IMAGE
            if kept
            else re.compile(r"\b(?:this|the) (?:\w+ )?(?:image|scan|x-?ray)\b")
        )
        if not needed.search(words):
            return None
    return Corrupted(replace(record, images=kept, messages=tuple(turns)))


def drop_gold_option(
    record: Record, context: Context, random: np.random.Generator, severity: int
) -> Corrupted | None:
    """Remove the right option from the list; from severity 2 on one wrong option too."""
    if record.task != "choice" or record.answer not in record.choices:
        return None
    left = [choice for choice in record.choices if choice != record.answer]
    if severity >= 2 and len(left) > 2:
        left.pop(int(random.integers(len(left))))
    return Corrupted(replace(record, choices=tuple(left)))


def strip_scale(
    record: Record, context: Context, random: np.random.Generator, severity: int
) -> Corrupted | None:
    """A size question loses its unit in the answer (2, 3) or the pixel spacing of its image (1)."""
    if record.task not in ("open", "choice", "closed") or not _SIZE_WORDS.search(record.question):
        return None
    if not _LENGTH.search(record.response):
        return None
    spaced = [i for i, image in enumerate(record.images) if image.facts.get("pixel_spacing_mm")]
    if severity == 1 and spaced:
        made = record
        for index in spaced:
            facts = dict(record.images[index].facts)
            del facts["pixel_spacing_mm"]
            made = with_image_facts(made, index, facts)
        return Corrupted(made)

    def bare(text: str) -> str:
        return _LENGTH.sub(lambda match: match["v"], text)

    made = with_answer(record, bare(record.response))
    return Corrupted(replace(made, choices=tuple(map(bare, record.choices))))


def damage_file(
    record: Record, context: Context, random: np.random.Generator, severity: int
) -> Corrupted | None:
    """Cut the JPEG of one image; severity 3 leaves no byte."""
    if not record.images:
        return None
    import cv2

    number = image_number(record, random)
    pixels = context.pixels(record.images[number])
    data = cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    share = {1: random.uniform(0.6, 0.95), 2: random.uniform(0.1, 0.5), 3: 0.0}[severity]
    return Corrupted(record, {number: data[: int(len(data) * share)]})


def paste_compound(
    record: Record, context: Context, random: np.random.Generator, severity: int
) -> Corrupted | None:
    """The caption of a whole compound figure on the image of one panel."""
    if record.task not in ("caption", "report") or len(record.images) != 1:
        return None
    own = record.response.strip()
    panels = [own]
    for _ in range(severity):
        other = context.other(
            random,
            lambda r: (
                r.task == record.task
                and r.response.strip() not in panels
                and chinese(r.response) == chinese(own)
                and r.group != record.group
            ),
        )
        if other is None:
            break
        panels.append(other.response.strip())
    if len(panels) < 2:
        return None
    at = int(random.integers(len(panels)))
    panels[0], panels[at] = panels[at], panels[0]
    style = int(random.integers(4))
    labels = "ABCD" if style % 2 == 0 else "abcd"
    form = ("({}) {}", "{}. {}", "{}, {}", "({}) {}")[style]
    joined = " ".join(form.format(labels[i], text) for i, text in enumerate(panels))
    return Corrupted(with_response(record, joined))


OPERATORS: Final = (
    Operator(1, "text cut in mid-sentence", ("completeness",), "text", truncate),
    Operator(2, "one image lost, its token kept", ("completeness",), "pair", drop_image),
    Operator(3, "gold option removed", ("completeness",), "text", drop_gold_option, held_out=True),
    Operator(4, "scale or unit of a size question removed", ("completeness",), "text", strip_scale),
    Operator(5, "file empty or truncated", ("completeness",), "image", damage_file),
    Operator(
        7, "compound caption on one panel", ("accuracy", "completeness"), "text", paste_compound
    ),
)
