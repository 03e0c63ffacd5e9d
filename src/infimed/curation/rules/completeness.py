"""Completeness: is everything there that the question and its answer need?"""

from __future__ import annotations

import re
from typing import Final

from infimed.curation.findings import Hit
from infimed.curation.rules.base import (
    CLEAN_IMAGE,
    Example,
    Limits,
    Rule,
    Threshold,
    caption,
    choice_key,
    sample,
    search,
    span,
    turns,
    with_image,
)
from infimed.curation.shortcuts import Cued
from infimed.curation.signals import ImageSignals, Signals
from infimed.curation.text_signals import PLACEHOLDER
from infimed.data.record import Record

_SECTION = re.compile(r"\b(?P<name>findings|impression|conclusion)\s*:\s*", re.IGNORECASE)
_ENDINGS = {
    "bracket": "a bracket is opened and never closed",
    "connective": "the text ends in a connective",
    "comma": "the text ends in a comma or a hyphen",
    "ellipsis": "the text ends in an ellipsis",
}
_SIZE_QUESTION = Cued(
    r"\b(?:how (?:large|big|long|wide)|what (?:is the )?(?:size|diameter|length|width))\b",
    "how ", "what ",
)  # fmt: skip
_MEASURED = re.compile(r"\b\d+(?:\.\d+)?\s?(?:mm|cm|µm|um)\b", re.IGNORECASE)


def _short_response(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    words = signals.text.response_words
    # "+", "-" or "%" alone is no word but may be an answer; only the empty text has none.
    if words >= limits["min_words"] or (limits["min_words"] <= 1 and record.response.strip()):
        return None
    return Hit("response", record.response.strip() or "empty", words, limits["min_words"])


def _short_question(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    words = signals.text.question_words
    if words >= limits["min_words"]:
        return None
    return Hit("question", record.question.strip() or "empty", words, limits["min_words"])


def _cut_text(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    ending = signals.text.ending
    if not ending or signals.text.response_words < limits["min_words"]:
        return None
    text = record.response.rstrip()
    start = max(0, len(text) - 40)
    return Hit("response", f"{_ENDINGS[ending]}: …{text[start:]}", start=start, end=len(text))


def _placeholder(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    if signals.text.placeholders <= limits["max_placeholders"]:
        return None
    found = search(record, PLACEHOLDER)
    if found is None:
        return None
    return span(
        found[0], found[1], value=signals.text.placeholders, threshold=limits["max_placeholders"]
    )


def _image_number(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    asked, there = signals.text.max_image_number, len(record.images)
    # A single multi-panel figure numbers its own panels, so one image proves nothing above two.
    if asked <= there or not there or asked > there + limits["max_panels"]:
        return None
    if there == 1 and not re.search(
        r"\b(?:both|two|second|compar\w+)\b", record.question, re.IGNORECASE
    ):
        return None
    return Hit(
        "question", f"the text speaks of image {asked}, the record has {there}", asked, there
    )


def _broken_reference(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    shown = {part for turn in record.messages for part in turn.content if isinstance(part, int)}
    there = set(range(len(record.images)))
    if shown == there:
        return None
    missing, unused = sorted(shown - there), sorted(there - shown)
    what = (
        f"images {missing} are asked for but absent"
        if missing
        else f"images {unused} are never shown"
    )
    return Hit("record", what, len(shown), len(there))


def _image_missing(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    if record.images or not signals.text.image_words:
        return None
    from infimed.curation.lexicon import IMAGE_WORDS

    for where, text in turns(record):
        if match := IMAGE_WORDS.search(text):
            return span(where, match, value=0.0, threshold=1.0)
    return None


def _few_choices(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    if record.task != "choice":
        return None
    distinct = len({choice_key(choice) for choice in record.choices if choice.strip()})
    if distinct >= limits["min_choices"]:
        return None
    return Hit("choices", " | ".join(record.choices) or "none", distinct, limits["min_choices"])


def _gold_choice(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    if record.task != "choice" or not record.choices:
        return None
    answer = record.answer or record.response
    if choice_key(answer) in map(choice_key, record.choices):
        return None
    return Hit("choices", f"{answer!r} is not among {' | '.join(record.choices)}")


def _empty_choice(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    blank = [i for i, choice in enumerate(record.choices) if not choice.strip()]
    return Hit(f"choice {blank[0]}", "empty choice", float(len(blank)), 0.0) if blank else None


def _empty_section(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    if record.task not in ("report", "dialogue", "text"):
        return None
    text = record.response
    heads = list(_SECTION.finditer(text))
    ends = [*(head.start() for head in heads[1:]), len(text)]
    for head, end in zip(heads, ends, strict=False):
        body = text[head.end() : end]
        if len(re.findall(r"\w+", body)) < limits["min_words"]:
            return span("response", head, value=len(body.split()), threshold=limits["min_words"])
    return None


def _unreadable_image(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    for index, image in enumerate(signals.images):
        if image.problem:
            return Hit(f"image {index}", image.problem)
    return None


def _missing_scale(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    if record.task not in ("open", "choice", "closed") or not _SIZE_QUESTION.search(
        record.question
    ):
        return None
    measured = _MEASURED.search(record.response)
    if not measured or _MEASURED.search(record.question):
        return None
    if any(image.facts.get("pixel_spacing_mm") for image in record.images):
        return None
    return span("response", measured)


_GOOD_CAPTION = "Axial CT of the abdomen showing a simple cyst in the left kidney."

RULES: Final = (
    Rule(
        "completeness.short_response", 1, "completeness", "drop",
        "The answer, caption or report is empty or too short for its task.",
        _short_response,
        Example(sample(answer="Yes")),
        Example(caption("Chest film.")),
        {"min_words": Threshold(1, "words (Chinese: characters) in the response", {}, {"caption": 3, "report": 5})},
    ),
    Rule(
        "completeness.short_question", 1, "completeness", "drop",
        "The question is empty or a single word.",
        _short_question,
        Example(sample("What plane?", "axial", "open")),
        Example(sample("Effusion", "Yes")),
        {"min_words": Threshold(2, "words in the question", {}, {"caption": 0, "report": 0, "dialogue": 1, "text": 0})},
    ),
    Rule(
        "completeness.cut_text", 1, "completeness", "drop",
        "The text stops in the middle of a sentence.",
        _cut_text,
        Example(caption("Axial CT of the abdomen (portal phase) showing a cyst")),
        Example(caption("Axial CT of the abdomen showing a simple cyst in the")),
        {"min_words": Threshold(3, "words below which an ending proves nothing")},
    ),
    Rule(
        "completeness.placeholder", 1, "completeness", "drop",
        "A template placeholder or unresolved reference was left in the text.",
        _placeholder,
        Example(caption(_GOOD_CAPTION)),
        Example(caption("Axial CT of the abdomen showing a cyst, as in Fig. ?? above.")),
        {"max_placeholders": Threshold(0, "unresolved placeholders in all turns and choices")},
    ),
    Rule(
        "completeness.image_number", 1, "completeness", "drop",
        "The text speaks of an image that the record does not have.",
        _image_number,
        Example(sample("Compare image 1 and image 2: is the effusion larger?", "Yes", images=2)),
        Example(sample("Compare image 1 and image 2: is the effusion larger?", "Yes", images=1)),
        {"max_panels": Threshold(6, "numbers this far above the image count are taken for case numbers")},
    ),
    Rule(
        "completeness.broken_reference", 1, "completeness", "drop",
        "A turn shows an image that is not attached, or an attached image is never shown.",
        _broken_reference,
        Example(sample()),
        Example(Record(id="example", images=(), messages=sample().messages, task="closed", answer="Yes")),
    ),
    Rule(
        "completeness.image_missing", 1, "completeness", "drop",
        "The text asks about an image, and the record has none.",
        _image_missing,
        Example(sample("Which organ produces insulin?", "The pancreas", "text", images=0)),
        Example(sample("What is shown in this image?", "A lung", "open", images=0)),
    ),
    Rule(
        "completeness.few_choices", 1, "completeness", "drop",
        "A choice question has fewer than two different choices.",
        _few_choices,
        Example(sample("Which organ is shown?", "liver", "choice", choices=("liver", "spleen"))),
        Example(sample("Which organ is shown?", "liver", "choice", choices=("liver", "Liver "))),
        {"min_choices": Threshold(2, "different choices")},
    ),
    Rule(
        "completeness.gold_choice", 1, "completeness", "drop",
        "The gold answer is none of the choices: the right option is missing.",
        _gold_choice,
        Example(sample("Which organ is shown?", "liver", "choice", choices=("liver", "spleen", "kidney"))),
        Example(sample("Which organ is shown?", "heart", "choice", choices=("liver", "spleen", "kidney"))),
    ),
    Rule(
        "completeness.empty_choice", 1, "completeness", "drop",
        "One of the choices has no text.",
        _empty_choice,
        Example(sample("Which organ is shown?", "liver", "choice", choices=("liver", "spleen"))),
        Example(sample("Which organ is shown?", "liver", "choice", choices=("liver", "spleen", " "))),
    ),
    Rule(
        "completeness.empty_section", 1, "completeness", "drop",
        "A report announces a section and leaves it empty.",
        _empty_section,
        Example(sample("Write the report.", "Findings: Clear lungs. Impression: Normal.", "report")),
        Example(sample("Write the report.", "Findings: The lungs are clear. Impression:", "report")),
        {"min_words": Threshold(1, "words in a section")},
    ),
    Rule(
        "completeness.unreadable_image", 1, "completeness", "drop",
        "An image is missing, truncated or damaged.",
        _unreadable_image,
        Example(sample(), (CLEAN_IMAGE,)),
        Example(sample(), (ImageSignals("0" * 64, problem="the image data ends too early"),)),
        needs="pixels",
    ),
    Rule(
        "completeness.missing_scale", 1, "completeness", "note",
        "A size in mm or cm is asked of an image whose scale is not known.",
        _missing_scale,
        Example(sample("How large is the cyst?", "12 mm", "open", image_facts={"pixel_spacing_mm": [0.7, 0.7]})),
        Example(sample("How large is the cyst?", "12 mm", "open"), with_image().images),
    ),
)  # fmt: skip
