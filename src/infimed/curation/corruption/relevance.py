"""Operators 20-24: the image is not medical, not the one meant, or not needed."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from infimed.curation.corruption.base import (
    CAPTION_LIKE,
    Context,
    Corrupted,
    Operator,
    chinese,
    family,
    image_number,
    with_answer,
    with_question,
    with_response,
)
from infimed.curation.corruption.pictures import figure, landscape
from infimed.data.record import Record

GENERAL: Final = (
    ("What is the function of the pancreas?", "It produces insulin and digestive enzymes"),
    ("Which vitamin deficiency causes scurvy?", "Vitamin C"),
    ("What are the symptoms of appendicitis?", "Pain in the right lower abdomen, nausea and fever"),
    ("How is tuberculosis transmitted?", "Through the air"),
    ("Which hormone lowers blood sugar?", "Insulin"),
    ("What is the normal body temperature of an adult?", "About 37 °C"),
    ("Why is iodine added to table salt?", "To prevent goitre"),
    ("How many bones does an adult human have?", "206"),
    ("Who discovered X-rays?", "Wilhelm Conrad Roentgen"),
    ("Which drug is an antidote to heparin?", "Protamine sulfate"),
    ("What does MRI stand for?", "Magnetic resonance imaging"),
    ("Define pneumothorax.", "Air in the pleural space"),
)
GENERAL_ZH: Final = (
    ("胰腺的功能是什么？", "分泌胰岛素和消化酶"),
    ("缺乏哪种维生素会导致坏血病？", "维生素C"),
    ("结核病是如何传播的？", "通过空气传播"),
    ("成人有多少块骨头？", "206块"),
)
EVERYDAY: Final = (
    ("What is the weather like?", "Sunny with a few clouds over the hills", "A sunny day with a few clouds over green hills and a small village."),
    ("What animal is on the beach?", "A brown dog", "A brown dog runs along the beach with a stick in its mouth."),
    ("What colour is the car?", "Red", "A red car is parked in front of a yellow house next to a tall tree."),
    ("How many people are on the street?", "Three people", "Three people walk down a busy street past a row of small shops."),
    ("What is on the table?", "A pizza and two glasses of wine", "A large pizza and two glasses of wine on a wooden table in the garden."),
    ("Which team won the match?", "The home team", "The home team scored twice in the second half and won the football match."),
    ("What is the train doing?", "Leaving the station", "An old steam train leaves the station while children wave from the platform."),
    ("Is there a boat on the lake?", "Yes", "A small white boat lies on the quiet lake below snowy mountains."),
    ("What does the sign say?", "Stop", "A stop sign stands at the corner of two empty roads in the evening sun."),
    ("Is the window open?", "No", "A cat sleeps on a chair beside a closed window with blue curtains."),
    ("How did revenue develop?", "It rose by ten per cent", "Quarterly revenue rose by ten per cent in every market that the company serves."),
    ("What is the girl playing?", "The guitar", "A girl plays the guitar in the park while her friends sit on the grass."),
)  # fmt: skip
EVERYDAY_ZH: Final = (
    ("桌子上有什么？", "一个披萨和两杯酒", "花园的木桌上放着一个大披萨和两杯葡萄酒。"),
    ("汽车是什么颜色的？", "红色", "一辆红色的汽车停在黄色房子前面的大树旁。"),
    ("海滩上有什么动物？", "一只狗", "一只棕色的狗叼着木棍在海滩上奔跑。"),
    ("天气怎么样？", "晴天", "晴朗的天空下是绿色的山丘和一个小村庄。"),
)


def _swapped(record: Record, other: Record, number: int, keep_facts: bool) -> Corrupted:
    images = list(record.images)
    new = other.images[0]
    images[number] = replace(new, facts=images[number].facts) if keep_facts else new
    return Corrupted(replace(record, images=tuple(images)))


def swap_within(
    record: Record, context: Context, random: np.random.Generator, severity: int
) -> Corrupted | None:
    """The image of another patient, of the same modality; its own header comes with it from severity 2 on."""
    if not record.images:
        return None
    number = image_number(record, random)
    other = context.other(
        random,
        lambda r: (
            bool(r.images)
            and family(r) == family(record)
            and r.group != record.group
            and r.images[0].sha256 != record.images[number].sha256
        ),
    )
    return None if other is None else _swapped(record, other, number, severity == 1)


def swap_across(
    record: Record, context: Context, random: np.random.Generator, severity: int
) -> Corrupted | None:
    """The image of another modality (or region, where no modality is known).

    Severity 3 brings the header of the other image along; 1 and 2 only its pixels.
    """
    if not record.images or not family(record):
        return None
    number = image_number(record, random)
    other = context.other(
        random, lambda r: bool(r.images) and family(r) not in ("", family(record))
    )
    return None if other is None else _swapped(record, other, number, severity < 3)


def foreign_figure(
    record: Record, context: Context, random: np.random.Generator, severity: int
) -> Corrupted | None:
    """A chart, logo, diagram or page of text in place of the image."""
    if not record.images:
        return None
    number = image_number(record, random)
    ref = record.images[number]
    side = int(np.clip(min(ref.width, ref.height) or 256, 128, 768))
    return Corrupted(record, {number: figure(random, side, severity)})


def general_question(
    record: Record, context: Context, random: np.random.Generator, severity: int
) -> Corrupted | None:
    """A question of general knowledge beside the image."""
    if record.task != "open" or not record.images:
        return None
    pairs = GENERAL_ZH if chinese(record.question) else GENERAL
    question, answer = pairs[int(random.integers(len(pairs)))]
    return Corrupted(with_answer(with_question(record, question), answer))


def everyday_pair(
    record: Record, context: Context, random: np.random.Generator, severity: int
) -> Corrupted | None:
    """Everyday text (1), and an everyday picture with it (2, 3)."""
    pairs = EVERYDAY_ZH if chinese(record.question + record.response) else EVERYDAY
    question, answer, sentence = pairs[int(random.integers(len(pairs)))]
    facts = {k: v for k, v in record.facts.items() if k in ("modality", "anatomy", "view")}
    made = replace(record, facts=facts)
    if record.task in ("caption", "report"):
        made = with_response(made, sentence)
    elif record.task in CAPTION_LIKE or record.task == "choice":
        return None
    else:
        made = with_answer(with_question(made, question), answer)
        made = replace(made, task="closed" if answer in ("Yes", "No") else "open")
    if severity == 1 or not record.images:
        return Corrupted(made)
    ref = record.images[0]
    side = int(np.clip(min(ref.width, ref.height) or 256, 128, 768))
    return Corrupted(made, {i: landscape(random, side) for i in range(len(record.images))})


OPERATORS: Final = (
    Operator(20, "image of another patient, same modality", ("relevance", "accuracy"), "pair", swap_within),
    Operator(21, "image of another modality", ("relevance",), "pair", swap_across),
    Operator(22, "chart, logo or page as image", ("relevance",), "image", foreign_figure),
    Operator(23, "question needs no image", ("relevance",), "text", general_question, held_out=True),
    Operator(24, "non-medical pair", ("relevance",), "pair", everyday_pair),
)  # fmt: skip
