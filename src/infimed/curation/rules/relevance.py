"""Relevance: is it a medical image, and does the question need it?"""

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
    sample,
    span,
    with_image,
)
from infimed.curation.signals import Signals
from infimed.data.record import Record

_GENERAL = re.compile(
    r"\s*(?:how do you|how can you (?:tell|determine|diagnose)|how would you (?!describe|characteri[sz]e|classify|grade)"
    r"|why (?:is|are|do|does)\b(?!.*\bthis\b)"
    r"|what (?:is|are) the (?:definition|function|symptoms?|causes?|treatments?|risk factors?|prevalence)\b"
    r"|what (?:causes|does the word|does the term)|define\b|which (?:drug|gene|vitamin|enzyme|hormone)\b)",
    re.IGNORECASE,
)
_POINTS_AT_IMAGE = re.compile(
    r"\b(?:this|these|the (?:lesions?|mass(?:es)?|abnormality|findings?)|here|above"
    r"|shown|seen|visible|image|picture|scan|film|slice|figure|depicted|pictured|arrow)\b",
    re.IGNORECASE,
)


def _blank_image(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    for index, image in enumerate(signals.images):
        if image.problem:
            continue
        if image.std < limits["min_std"]:
            return Hit(
                f"image {index}", "the image is one grey value", image.std, limits["min_std"]
            )
        if image.mode_share > limits["max_mode_share"]:
            return Hit(
                f"image {index}",
                "almost all pixels share one grey value",
                image.mode_share,
                limits["max_mode_share"],
            )
    return None


def _noise_image(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    for index, image in enumerate(signals.images):
        if (
            not image.problem
            and image.std > 0
            and image.noise > limits["max_noise_share"] * image.std
            and image.noise > 10
        ):
            share = image.noise / image.std
            return Hit(
                f"image {index}",
                "noise without a picture",
                round(share, 4),
                limits["max_noise_share"],
            )
    return None


def _figure_page(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    if signals.modality == "ECG":
        return None
    for index, image in enumerate(signals.images):
        if image.problem or image.white_share < limits["min_white"]:
            continue
        if image.axis_lines:
            return Hit(
                f"image {index}",
                "white page with the axes of a chart",
                image.white_share,
                limits["min_white"],
            )
        if image.two_tone >= limits["min_two_tone"] and image.edges >= limits["min_edges"]:
            return Hit(
                f"image {index}",
                "white page with the strokes of print",
                image.two_tone,
                limits["min_two_tone"],
            )
    return None


def _flat_graphic(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    for index, image in enumerate(signals.images):
        if (
            not image.problem
            and image.std >= 4
            and image.entropy < limits["min_entropy"]
            and image.noise < 0.3
        ):
            return Hit(
                f"image {index}", "drawn areas of few colours", image.entropy, limits["min_entropy"]
            )
    return None


def _no_medical_words(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    text = signals.text
    if text.words < limits["min_words"] or text.medical_terms > limits["max_terms"]:
        return None
    return Hit(
        "record", record.response or record.question, text.medical_terms, limits["max_terms"]
    )


def _image_not_needed(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    if not record.images or record.task not in ("open", "closed", "choice"):
        return None
    match = _GENERAL.match(record.question)
    if match is None or _POINTS_AT_IMAGE.search(record.question):
        return None
    return span("question", match)


def _answer_in_question(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    if (
        record.task != "open"
        or not record.images
        or signals.text.response_words < limits["min_words"]
    ):
        return None
    answer = record.response.strip().rstrip(".").casefold()
    at = record.question.casefold().find(answer)
    if at < 0 or re.search(r"\bor\b", record.question):
        return None
    return Hit("question", record.question[at : at + len(answer)], start=at, end=at + len(answer))


RULES: Final = (
    Rule(
        "relevance.blank_image", 1, "relevance", "drop",
        "The image is empty: one grey value everywhere.",
        _blank_image,
        Example(sample(), (CLEAN_IMAGE,)),
        with_image(std=0.0, mode_share=1.0),
        {
            "min_std": Threshold(3.0, "grey-level standard deviation"),
            "max_mode_share": Threshold(0.985, "share of pixels within 2 of the commonest value"),
        },
        needs="look",
    ),
    Rule(
        "relevance.noise_image", 1, "relevance", "drop",
        "The image is noise: what varies is not correlated from pixel to pixel.",
        _noise_image,
        Example(sample(), (CLEAN_IMAGE,)),
        with_image(std=50.0, noise=49.0),
        {"max_noise_share": Threshold(0.8, "noise over total standard deviation")},
        needs="look",
    ),
    Rule(
        "relevance.figure_page", 1, "relevance", "drop",
        "The image is a chart or a page of text, not a medical image.",
        _figure_page,
        Example(sample(), (CLEAN_IMAGE,)),
        with_image(white_share=0.9, two_tone=0.97, edges=0.12),
        {
            "min_white": Threshold(0.6, "share of white pixels"),
            "min_two_tone": Threshold(0.85, "share of black or white pixels"),
            "min_edges": Threshold(0.08, "share of pixels with a step of 40 grey levels"),
        },
        needs="look",
    ),
    Rule(
        "relevance.flat_graphic", 1, "relevance", "drop",
        "The image is a drawing or logo: flat areas of few colours, no texture.",
        _flat_graphic,
        Example(sample(), (CLEAN_IMAGE,)),
        with_image(entropy=0.9, noise=0.05, std=60.0),
        {"min_entropy": Threshold(1.2, "bits of the grey histogram")},
        needs="look",
    ),
    Rule(
        "relevance.no_medical_words", 1, "relevance", "note",
        "The text has no medical vocabulary.",
        _no_medical_words,
        Example(caption("Chest radiograph with a right pleural effusion and a normal heart.")),
        Example(caption("Quarterly revenue rose in every market that the company serves today.")),
        {
            "min_words": Threshold(12, "words below which vocabulary proves nothing"),
            "max_terms": Threshold(0, "medical words"),
        },
    ),
    Rule(
        "relevance.image_not_needed", 1, "relevance", "note",
        "The question asks for general knowledge and does not point at the image.",
        _image_not_needed,
        Example(sample("How large is the heart in this image?", "Enlarged", "open")),
        Example(sample("How do you determine cardiomegaly?", "Cardiothoracic ratio", "open")),
    ),
    Rule(
        "relevance.answer_in_question", 1, "relevance", "note",
        "The answer is written in the question.",
        _answer_in_question,
        Example(sample("Where is the mass?", "right upper lobe", "open")),
        Example(sample("Where in the right upper lobe is the mass?", "right upper lobe", "open")),
        {"min_words": Threshold(2, "words of the answer")},
    ),
)  # fmt: skip
