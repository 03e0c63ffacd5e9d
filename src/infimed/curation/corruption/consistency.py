"""Operators 15-19: question, choices, answer and explanation no longer agree."""

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
    edited,
    pick,
    with_answer,
    with_question,
    with_response,
)
from infimed.data.record import Record
from infimed.matching.text import normalise, normalise_answer

_SIDES = re.compile(r"\b(?:left|right)\b|[左右]", re.IGNORECASE)
_OTHER_SIDE: Final = {"left": "right", "right": "left", "左": "右", "右": "左"}
_YES_NO = re.compile(r"\b(?:yes|no)\b", re.IGNORECASE)
_ZH_YES_NO: Final = {
    "是": "不是",
    "不是": "是",
    "有": "没有",
    "没有": "有",
    "否": "是",
    "对": "不对",
    "不": "是",
    "存在": "不存在",
}
_FIRST_NO = re.compile(r"\b[Nn]o (?=[a-z])|\bwithout (?=[a-z])|未见|没有")
_NEGATABLE = re.compile(
    r"\b(?:showing|shows?|demonstrat\w+|reveal\w+|with|there is|there are)(?: an?| the)? (?!no\b|abnormality)",
    re.IGNORECASE,
)
_LEADING = re.compile(r"(?:(?<=Findings: )|(?<=\. ))(?P<first>[A-Z])(?=[a-z-]+ [a-z]+,)")
_REASONS: Final = (
    "This follows from the appearance of the structures in the image.",
    "The contours and the density were compared with the other side.",
    "Looking at the image step by step, the relevant region was examined first.",
    "The signs that matter here are easy to recognise.",
)
_CONCLUSIONS: Final = (
    "Therefore, the answer is {}.", "So the answer is {}.", "Hence the correct answer is {}.", "Thus: {}.",
    "In conclusion, {}.",
)  # fmt: skip
_ZH_CONCLUSIONS: Final = ("因此答案是{}。", "所以正确答案为{}。", "综上，答案是{}。")


def swap_sides(
    record: Record, context: Context, random: np.random.Generator, severity: int
) -> Corrupted | None:
    """Left for right: in the answer, or in the question where the answer has no side."""

    def swap(text: str) -> str:
        def one(match: re.Match[str]) -> str:
            word = match.group(0)
            new = _OTHER_SIDE[word.lower()]
            return new.capitalize() if word[0].isupper() else new

        return _SIDES.sub(one, text, count=0 if severity > 1 else 1)

    made = edited(record, swap)
    if made is not None:
        return (
            None if made.task == "choice" and made.answer not in made.choices else Corrupted(made)
        )
    question = swap(record.question)
    if (
        question == record.question
        or record.task == "choice"
        or "or right" in record.question
        or "or left" in record.question
    ):
        return None
    return Corrupted(with_question(record, question))


def flipped_polarity(text: str) -> str:
    """The text with its last yes or no turned round; unchanged where it has none."""
    if chinese(text):
        bare = text.strip().rstrip("。.")
        return _ZH_YES_NO.get(bare, text)
    found = list(_YES_NO.finditer(text))
    if not found:
        return text
    match = found[-1] if len(text.split()) < 12 else found[0]
    word = match.group(0)
    new = "no" if word.lower() == "yes" else "yes"
    new = new.capitalize() if word[0].isupper() else new
    return text[: match.start()] + new + text[match.end() :]


def flip_negation(
    record: Record, context: Context, random: np.random.Generator, severity: int
) -> Corrupted | None:
    """A denial becomes a statement or the other way round; severity 3 flips every one."""
    if record.task == "choice":
        return None
    if record.task == "closed":
        if not record.answer:
            return None
        flipped = flipped_polarity(record.response)
        if flipped == record.response:
            return None
        made = with_response(record, flipped)
        return Corrupted(replace(made, answer=flipped_polarity(record.answer)))
    count = 0 if severity == 3 else 1

    def edit(text: str) -> str:
        if random.random() < 0.5 and _NEGATABLE.search(text):
            return _NEGATABLE.sub(
                lambda m: re.sub(r" (?:an?|the) $", " ", m.group(0)) + "no ", text, count=count
            )
        if random.random() < 0.5 and _LEADING.search(text):
            return _LEADING.sub(lambda m: "No " + m["first"].lower(), text, count=count)
        if _FIRST_NO.search(text):

            def affirm(m: re.Match[str]) -> str:
                word = m.group(0)
                return "with " if word.startswith("without") else "可见" if chinese(word) else ""

            out = _FIRST_NO.sub(affirm, text, count=count)
            return re.sub(r"(?<=[.:] )[a-z]", lambda m: m.group(0).upper(), out)
        return _NEGATABLE.sub(
            lambda m: re.sub(r" (?:an?|the) $", " ", m.group(0)) + "no ", text, count=count
        )

    made_text = edited(record, edit)
    return None if made_text is None else Corrupted(made_text)


def letter_against_text(
    record: Record, context: Context, random: np.random.Generator, severity: int
) -> Corrupted | None:
    """A wrong letter before the right text (1), the right letter before a wrong text (2), no such letter (3)."""
    if record.task != "choice" or record.answer not in record.choices or len(record.choices) > 20:
        return None
    gold = record.choices.index(record.answer)
    other = int(random.choice([i for i in range(len(record.choices)) if i != gold]))
    letter, text = {
        1: (other, record.answer),
        2: (gold, record.choices[other]),
        3: (len(record.choices) + int(random.integers(1, 3)), record.answer),
    }[severity]
    form = pick(random, ("{}. {}", "{}) {}", "({}) {}", "Answer: {}. {}"))
    return Corrupted(with_response(record, form.format(chr(65 + letter), text)))


def other_answer(record: Record, context: Context, random: np.random.Generator) -> str | None:
    """An answer of the same form that is not the record's."""
    gold = record.answer or record.response
    if record.task == "choice":
        rest = [choice for choice in record.choices if choice != gold]
        return pick(random, rest) if rest else None
    flipped = flipped_polarity(gold)
    if flipped != gold and len(gold.split()) <= 2:
        return flipped
    swapped = _SIDES.sub(lambda m: _OTHER_SIDE[m.group(0).lower()], gold)
    if swapped != gold and random.random() < 0.5:
        return swapped
    question, own = normalise(record.question), normalise_answer(gold)

    def fits(r: Record) -> bool:
        return (
            r.task == record.task
            and normalise(r.question) == question
            and normalise_answer(r.answer or r.response) != own
        )

    rival = context.other(random, fits, tries=4000)
    if rival is None:
        kind = record.facts.get("question_type")
        rival = context.other(
            random,
            lambda r: (
                r.task == record.task
                and kind is not None
                and r.facts.get("question_type") == kind
                and chinese(r.question) == chinese(record.question)
                and not set(normalise_answer(r.answer or r.response).split()) & set(own.split())
            ),
        )
    return None if rival is None else rival.answer or rival.response


def contradicting_explanation(
    record: Record, context: Context, random: np.random.Generator, severity: int
) -> Corrupted | None:
    """The gold answer, an explanation, and another answer at its end."""
    if record.task not in ("closed", "open", "choice") or not record.answer:
        return None
    other = other_answer(record, context, random)
    if other is None:
        return None
    gold = record.answer
    if chinese(record.question):
        end = pick(random, _ZH_CONCLUSIONS).format(other.rstrip("。."))
        return Corrupted(with_response(record, f"{gold}。从图像可以判断。{end}"))
    reasons = " ".join(_REASONS[int(i)] for i in random.permutation(len(_REASONS))[:severity])
    end = pick(random, _CONCLUSIONS).format(other.rstrip("."))
    return Corrupted(
        with_response(record, f"{gold[0].upper()}{gold[1:].rstrip('.')}. {reasons} {end}")
    )


def rival_answer(
    record: Record, context: Context, random: np.random.Generator, severity: int
) -> Corrupted | None:
    """The same question about the same image once more, with another answer."""
    if record.task not in ("closed", "open", "choice") or not record.images or not record.answer:
        return None
    other = other_answer(record, context, random)
    if other is None or normalise_answer(other) == normalise_answer(record.answer):
        return None
    made = with_answer(record, other)
    if severity == 1:
        made = with_question(made, made.question.rstrip("?") + " ?")
    return Corrupted(replace(made, id=f"{record.id}-rival"), beside=True)


OPERATORS: Final = (
    Operator(15, "left and right swapped", ("consistency", "accuracy"), "text", swap_sides),
    Operator(16, "negation flipped", ("consistency", "accuracy"), "text", flip_negation),
    Operator(17, "letter against answer text", ("consistency",), "text", letter_against_text, held_out=True),
    Operator(18, "explanation ends in another answer", ("consistency",), "text", contradicting_explanation),
    Operator(19, "same image and question, another answer", ("consistency",), "dataset", rival_answer),
)  # fmt: skip
