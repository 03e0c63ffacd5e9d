"""Rules on how an image looks: no fine detail, motion, JPEG blocks, or the colours of another modality."""

from __future__ import annotations

from typing import Final

from infimed.curation.findings import Hit
from infimed.curation.lexicon import modality_family
from infimed.curation.rules.base import (
    CLEAN_IMAGE,
    Example,
    Limits,
    Rule,
    Threshold,
    sample,
    with_image,
)
from infimed.curation.signals import Signals
from infimed.data.record import Record

_GREY: Final = frozenset({"CT", "MR", "XR"})
_COLOUR: Final = frozenset({"OP", "SM"})


def _no_detail(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    for index, image in enumerate(signals.images):
        if image.problem or not image.sharpness or image.std < 3:
            continue
        soft = image.sharpness < limits["soft_sharpness"]
        least = limits["soft_noise"] if soft else limits["min_noise"]
        if image.noise < least and image.sharpness < limits["max_sharpness"]:
            evidence = "neither grain nor detail at the scale of a pixel: blurred or blown up"
            return Hit(f"image {index}", evidence, image.noise, least)
    return None


def _motion(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    for index, image in enumerate(signals.images):
        if image.problem or image.noise > limits["max_noise"]:
            continue
        small = min(image.width, image.height) < limits["min_side"]
        if small or image.sharpness > limits["max_sharpness"]:
            continue
        if 0 < image.least_sharpness < limits["min_sharpness"]:
            evidence = "edges are blurred in one direction"
            return Hit(f"image {index}", evidence, image.least_sharpness, limits["min_sharpness"])
    return None


def _jpeg_blocks(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    for index, image in enumerate(signals.images):
        if not image.problem and image.blocking > limits["max_blocking"]:
            return Hit(
                f"image {index}",
                "steps at the borders of 8x8 blocks",
                image.blocking,
                limits["max_blocking"],
            )
    return None


def _colours(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    said = modality_family(record.facts.get("modality")) or signals.modality
    for index, image in enumerate(signals.images):
        if image.problem or not image.width:
            continue
        if said in _GREY and image.colour > limits["max_colour"]:
            evidence = f"a colour picture where {said} is meant"
            return Hit(f"image {index}", evidence, image.colour, limits["max_colour"])
        if said in _COLOUR and image.colour < limits["min_colour"]:
            evidence = f"a grey picture where a {'fundus photograph' if said == 'OP' else 'stained slide'} is meant"
            return Hit(f"image {index}", evidence, image.colour, limits["min_colour"])
    return None


def _header_modality(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    said = modality_family(record.facts.get("modality"))
    if not said:
        return None
    for index, image in enumerate(record.images):
        header = modality_family(image.facts.get("modality"))
        if header and header != said:
            return Hit(
                f"image {index}", f"the record is about {said}, the image's header says {header}"
            )
    return None


def _drawing(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    if signals.modality == "ECG":
        return None
    for index, image in enumerate(signals.images):
        if image.problem or image.flat < limits["min_flat"] or image.std < 3:
            continue
        # A scan with a clipped background is flat too, but is not made of few grey values.
        if image.white_share >= limits["min_white"] or image.colour >= limits["min_colour"]:
            evidence = "areas of exactly one colour: a drawing, chart or logo"
            return Hit(f"image {index}", evidence, image.flat, limits["min_flat"])
    return None


def _photograph(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    if signals.text.medical_terms > limits["max_medical"] or not signals.text.language:
        return None
    if signals.modality in ("OP", "SM", "ES"):
        return None
    for index, image in enumerate(signals.images):
        if not image.problem and image.colour >= limits["min_colour"]:
            evidence = "a colour picture, and not one medical word"
            return Hit(f"image {index}", evidence, image.colour, limits["min_colour"])
    return None


RULES: Final = (
    Rule(
        "relevance.photograph", 1, "relevance", "drop",
        "A colour picture with a text that has no medical word.",
        _photograph,
        Example(sample("Is there a nevus on the skin?"), (with_image(colour=0.9).images[0],)),
        Example(sample("What does the sign say?", "Stop", "open"), (with_image(colour=0.9).images[0],)),
        {
            "max_medical": Threshold(0, "medical words"),
            "min_colour": Threshold(0.35, "share of coloured pixels"),
        },
        needs="look",
    ),
    Rule(
        "relevance.drawing", 1, "relevance", "drop",
        "The image is drawn: areas of exactly one colour on white or in colour.",
        _drawing,
        Example(sample(), (CLEAN_IMAGE,)),
        with_image(flat=0.95, white_share=0.4),
        {
            "min_flat": Threshold(0.75, "share of lit pixels equal to their left neighbour"),
            "min_white": Threshold(0.25, "share of white pixels, or"),
            "min_colour": Threshold(0.03, "share of coloured pixels"),
        },
        needs="look",
    ),
    Rule(
        "readability.no_detail", 1, "readability", "drop",
        "The image has neither grain nor detail at the scale of a pixel: blurred, or blown up from a small copy.",
        _no_detail,
        Example(sample(), (CLEAN_IMAGE,)),
        with_image(noise=0.2, sharpness=2.2),
        {
            "min_noise": Threshold(0.24, "grey levels of noise and finest detail (Immerkaer)"),
            "soft_noise": Threshold(0.28, "the same, where the sharpest edges are soft"),
            "soft_sharpness": Threshold(2.15, "sharpness up to which edges are soft"),
            "max_sharpness": Threshold(2.7, "sharpness above which a clean image may be drawn or denoised"),
        },
        needs="look",
    ),
    Rule(
        "readability.motion", 4, "readability", "drop",
        "Edges are blurred in one direction, as by motion.",
        _motion,
        Example(sample(), (CLEAN_IMAGE,)),
        with_image(least_sharpness=1.02, noise=0.4, sharpness=2.2),
        {
            "min_sharpness": Threshold(
                # Ultrasound resolves across the beam far worse than along it, without any motion.
                1.3, "sharpness across the worst direction; 3 sharp, 1 fully blurred",
                {"CT": 1.1, "MR": 1.5, "OP": 1.6, "SM": 1.8, "US": 0.6},
            ),
            "min_side": Threshold(224, "pixels; in smaller images edges lie too close together"),
            "max_sharpness": Threshold(
                2.7,
                "sharpness of the sharpest edges above which nothing has moved",
                {"CT": 99, "MR": 99, "OP": 99, "SM": 99, "US": 99},
            ),
            "max_noise": Threshold(
                0.45,
                "grey levels of grain; motion takes grain away too",
                {"CT": 99, "MR": 99, "OP": 99, "SM": 99, "US": 99},
            ),
        },
        needs="look",
    ),
    Rule(
        "readability.jpeg_blocks", 1, "readability", "drop",
        "Compression has left 8x8 blocks.",
        _jpeg_blocks,
        Example(sample(), (CLEAN_IMAGE,)),
        with_image(blocking=4.0),
        {"max_blocking": Threshold(2.4, "step across block borders over the step inside blocks")},
        needs="look",
    ),
    Rule(
        "relevance.colours", 1, "relevance", "drop",
        "A colour picture where a grey modality is meant, or a grey one for a slide or fundus photograph.",
        _colours,
        Example(sample(facts={"modality": "CT"}), (CLEAN_IMAGE,)),
        Example(sample(facts={"modality": "CT"}), (with_image(colour=0.8).images[0],)),
        {
            "max_colour": Threshold(0.5, "share of coloured pixels of a grey modality"),
            "min_colour": Threshold(0.05, "share of coloured pixels of a slide or fundus photograph"),
        },
        needs="look",
    ),
    Rule(
        "relevance.header_modality", 1, "relevance", "drop",
        "The header of the image states another modality than the record.",
        _header_modality,
        Example(sample(facts={"modality": "CT"}, image_facts={"modality": "CT"})),
        Example(sample(facts={"modality": "CT"}, image_facts={"modality": "MR"})),
    ),
)  # fmt: skip
