"""Readability: can the text be read, and can the image be seen?"""

from __future__ import annotations

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
    search,
    span,
    turns,
    with_image,
)
from infimed.curation.signals import Signals
from infimed.curation.text_signals import MARKUP, mojibake, odd_word, words_of
from infimed.data.record import Record


def _mojibake(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    count = signals.text.mojibake
    if count <= limits["max_sequences"]:
        return None
    for where, text in turns(record):
        if mojibake(text):
            start = next((i for i, c in enumerate(text) if ord(c) > 127), 0)
            begin, end = max(0, start - 10), min(len(text), start + 30)
            return Hit(where, text[begin:end], count, limits["max_sequences"], begin, end)
    return Hit("choices", " | ".join(record.choices), count, limits["max_sequences"])


def _markup(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    if signals.text.markup <= limits["max_tags"]:
        return None
    found = search(record, MARKUP)
    if found is None:
        return None
    return span(found[0], found[1], value=signals.text.markup, threshold=limits["max_tags"])


def _controls(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    if signals.text.controls <= limits["max_characters"]:
        return None
    for where, text in turns(record):
        for index, character in enumerate(text):
            if not character.isprintable() and character not in "\n\t\r \u3000\xa0\u2009\u202f":
                return Hit(
                    where,
                    f"U+{ord(character):04X}",
                    signals.text.controls,
                    limits["max_characters"],
                    index,
                    index + 1,
                )
    return Hit("record", "unprintable characters", signals.text.controls, limits["max_characters"])


def _repetition(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    text = signals.text
    if text.longest_run >= limits["max_run"]:
        return Hit(
            "record",
            f"one word {text.longest_run} times in a row",
            text.longest_run,
            limits["max_run"],
        )
    if text.repeated_trigrams <= limits["max_share"]:
        return None
    longest = max((turn for _, turn in turns(record)), key=len, default="")
    if len(words_of(longest).said) < limits["min_words"]:
        return None
    return Hit("record", longest, text.repeated_trigrams, limits["max_share"])


def _character_noise(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    text = signals.text
    if text.odd_words <= limits["max_share"]:
        return None
    odd = [token for _, turn in turns(record) for token in turn.split() if odd_word(token)]
    if len(odd) < limits["min_odd"]:
        return None
    return Hit("record", " ".join(odd[:6]), text.odd_words, limits["max_share"])


def _no_letters(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    if signals.text.language or not signals.text.text_chars:
        return None
    return Hit("record", record.question or record.response)


def _small_image(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    for index, image in enumerate(signals.images):
        side = min(image.width, image.height)
        if not image.problem and side < limits["min_side"]:
            return Hit(
                f"image {index}", f"{image.width} x {image.height} pixels", side, limits["min_side"]
            )
    return None


def _elongated_image(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    for index, image in enumerate(signals.images):
        if image.problem or not image.height:
            continue
        ratio = max(image.width, image.height) / min(image.width, image.height)
        if ratio > limits["max_ratio"]:
            return Hit(
                f"image {index}",
                f"{image.width} x {image.height} pixels",
                ratio,
                limits["max_ratio"],
            )
    return None


def _blurred_image(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    for index, image in enumerate(signals.images):
        # 0 means that there was no edge to measure on; that is another rule's business.
        if not image.problem and 0 < image.sharpness < limits["min_sharpness"]:
            return Hit(
                f"image {index}",
                "the strongest edges are blurred",
                image.sharpness,
                limits["min_sharpness"],
            )
    return None


def _low_contrast(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    for index, image in enumerate(signals.images):
        if not image.problem and image.std >= 3.0 and image.spread < limits["min_spread"]:
            return Hit(f"image {index}", "almost no contrast", image.spread, limits["min_spread"])
    return None


def _over_exposed(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    for index, image in enumerate(signals.images):
        if not image.problem and image.bright_share > limits["max_bright"] and image.edges < 0.02:
            return Hit(
                f"image {index}", "washed out to white", image.bright_share, limits["max_bright"]
            )
    return None


def _under_exposed(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    for index, image in enumerate(signals.images):
        if not image.problem and image.dark_share > limits["max_dark"]:
            return Hit(f"image {index}", "almost all black", image.dark_share, limits["max_dark"])
    return None


_GOOD = "Axial CT of the abdomen showing a 12 mm simple cyst in the left kidney."

RULES: Final = (
    Rule(
        "readability.mojibake", 1, "readability", "drop",
        "Text that was decoded with the wrong character table.",
        _mojibake,
        Example(caption("Contrast‐enhanced CT, lesion of 5 µm, patient’s left kidney at 37 °C.")),
        Example(caption("The patientâ€™s left kidney shows a cyst.")),
        {"max_sequences": Threshold(0, "wrongly decoded sequences")},
    ),
    Rule(
        "readability.markup", 1, "readability", "drop",
        "HTML, entities or LaTeX commands left in the text.",
        _markup,
        Example(caption("Nodule < 5 mm & effusion > 2 cm in the right lung.")),
        Example(caption("Nodule <b>5 mm</b> in the right&nbsp;lung.")),
        {"max_tags": Threshold(0, "tags, entities and commands")},
    ),
    Rule(
        "readability.control_characters", 1, "readability", "drop",
        "Unprintable or private-use characters in the text.",
        _controls,
        Example(caption(_GOOD)),
        Example(caption(_GOOD.replace("CT", "C\x00T\x07"))),
        {"max_characters": Threshold(0, "unprintable characters")},
    ),
    Rule(
        "readability.repetition", 1, "readability", "drop",
        "Words or phrases repeated over and over.",
        _repetition,
        Example(caption(_GOOD)),
        Example(caption("There is a cyst in the kidney. " * 5)),
        {
            "max_run": Threshold(4, "one word this often in a row"),
            "max_share": Threshold(0.4, "share of repeated 3-grams", {}, {"dialogue": 0.5}),
            "min_words": Threshold(18, "words below which repetition proves nothing"),
        },
    ),
    Rule(
        "readability.character_noise", 1, "readability", "drop",
        "Words damaged by character recognition: digits or symbols inside, no vowels.",
        _character_noise,
        Example(caption("T2-weighted MRI at L4/L5, SpO2 98 %, FEV1 low, 3D view, p53 positive.")),
        Example(caption("Ax1al CT sh0wing a s|mple cyst in the l3ft k1dney.")),
        {
            "max_share": Threshold(0.08, "share of words that no language spells so"),
            "min_odd": Threshold(2, "such words at least"),
        },
    ),
    Rule(
        "readability.no_letters", 1, "readability", "drop",
        "The text has no letters at all.",
        _no_letters,
        Example(sample()),
        Example(sample("?? 12 --", "34")),
    ),
    Rule(
        "readability.small_image", 1, "readability", "drop",
        "The image has too few pixels to show a finding.",
        _small_image,
        Example(sample(), (CLEAN_IMAGE,)),
        with_image(width=20, height=30),
        {"min_side": Threshold(48, "pixels of the shorter side")},
        needs="pixels",
    ),
    Rule(
        "readability.elongated_image", 1, "readability", "note",
        "The image is a strip; squashed to a square it is distorted beyond reading.",
        _elongated_image,
        Example(sample(), (CLEAN_IMAGE,)),
        with_image(width=1200, height=200),
        {"max_ratio": Threshold(4.0, "longer over shorter side")},
        needs="pixels",
    ),
    Rule(
        "readability.blurred_image", 1, "readability", "drop",
        "Even the strongest edges are blurred, noise or not.",
        _blurred_image,
        Example(sample(), (CLEAN_IMAGE,)),
        with_image(sharpness=1.1, noise=20.0),
        {
            "min_sharpness": Threshold(
                1.7,
                "fine over coarse gradient; 3 sharp, 1 fully blurred",
                {"CT": 1.95, "MR": 1.95, "OP": 1.9, "SM": 1.9, "PT": 1.1},
            )
        },
        needs="look",
    ),
    Rule(
        "readability.low_contrast", 1, "readability", "drop",
        "The grey values span so little that nothing can be told apart.",
        _low_contrast,
        Example(sample(), (CLEAN_IMAGE,)),
        with_image(spread=14.0, std=4.0),
        {"min_spread": Threshold(24.0, "grey levels between the 0.5th and 99.5th percentile")},
        needs="look",
    ),
    Rule(
        "readability.over_exposed", 1, "readability", "drop",
        "The image is washed out to white.",
        _over_exposed,
        Example(sample(), (CLEAN_IMAGE,)),
        with_image(bright_share=0.9, edges=0.001),
        {"max_bright": Threshold(0.7, "share of saturated pixels", {"SM": 0.9})},
        needs="look",
    ),
    Rule(
        "readability.under_exposed", 1, "readability", "drop",
        "The image is black but for a few pixels.",
        _under_exposed,
        Example(sample(), (CLEAN_IMAGE,)),
        with_image(dark_share=0.99),
        {"max_dark": Threshold(0.97, "share of black pixels", {"US": 0.985, "PT": 0.99})},
        needs="look",
    ),
)  # fmt: skip
