"""MedEvalKit's copy of MMMU's own parser: the last letter named, else the option text, else a guess."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from infimed.evaluation.medevalkit.responses import extract, extract_boxed_content

_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)


def parse_multi_choice_response(
    response: str,
    all_choices: Sequence[str],
    index2ans: Mapping[str, str],
    *,
    rng: random.Random | None = None,
) -> str:
    """The letter that a response names, or a random one.

    Args:
        all_choices: the letters. index2ans: letter -> option text.
        rng: draws the guess; the original uses the global generator, seeded once with 42 for a whole
            run, so the default is the first draw of such a generator.
    """
    inside = extract_boxed_content(response)
    text = inside if inside != "None" else extract(response, "answer")
    for mark in ",.!?;:'":
        text = text.strip(mark)
    text = f" {text} "
    for form in ("({})", " {} "):
        found = [letter for letter in all_choices if form.format(letter) in text]
        if found:
            return max(found, key=lambda letter: text.rfind(form.format(letter)))
    lower = text.lower()
    if len(text.split()) > 5:
        named = [letter for letter, option in index2ans.items() if option.lower() in lower]
        if named:
            return max(named, key=lambda letter: lower.rfind(index2ans[letter].lower()))
    return (rng or random.Random(42)).choice(all_choices)


def normalize_str(text: str) -> list[str | float]:
    """A number rounded to two decimals, else lower-case text; one character gets a space beside it."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def extract_numbers(text: str) -> list[str]:
    """Numbers with commas, then in scientific notation, then simple ones; one may be found twice."""
    return [hit for pattern in _NUMBERS for hit in pattern.findall(text)]


def eval_open(gold: str | Sequence[str], predictions: str | Sequence[str | float]) -> bool:
    """Whether a gold answer is inside a predicted string, or equal to a predicted number.

    The validation script hands over the raw response, whose single characters are then compared:
    every open question is wrong.
    """
    golds = [gold] if isinstance(gold, str) else gold
    accepted = [value for text in golds for value in normalize_str(text)]
    return any(
        any(isinstance(value, str) and value in said for value in accepted)
        if isinstance(said, str)
        else said in accepted
        for said in predictions
    )


def evaluate(
    samples: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, str], dict[str, float]] | dict[str, float]:
    """Verdict per sample id, and accuracy; without samples the accuracy alone, of 0.

    The test script calls it with two arguments, which is a TypeError.
    """
    if not samples:
        return {"acc": 0}
    verdicts = {}
    for sample in samples:
        gold, said = sample["answer"], sample["parsed_pred"]
        if sample["question_type"] == "multiple-choice":
            right = said in gold if isinstance(gold, list) else said == gold
        else:
            right = eval_open(gold, said)
        verdicts[sample["id"]] = "Correct" if right else "Wrong"
    count = sum(verdict == "Correct" for verdict in verdicts.values())
    return verdicts, {"acc": count / len(samples)}
