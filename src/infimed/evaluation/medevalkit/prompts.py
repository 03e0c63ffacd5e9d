"""MedEvalKit's prompts, in English and Chinese, plain and with an answer box (its "reasoning" mode).

Source of the sentences: alibaba-damo-academy/MedEvalKit at 9b12e3b, utils/question_formats.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Language = Literal["en", "zh"]

ENDINGS: dict[tuple[str, str], tuple[str, str]] = {
    ("choice", "en"): (
        "Answer with the option's letter from the given choices directly.",
        'Answer with the option\'s letter from the given choices and put the letter in one "\\boxed{}".',
    ),
    ("choice", "zh"): (
        "请直接使用给定选项中的选项字母来回答该问题。",
        '请直接使用给定选项中的选项字母来回答该问题,并将答案包裹在"\\boxed{}"里',
    ),
    ("yes_no", "en"): (
        "Please output 'yes' or 'no'(no extra output).",
        'Please output "yes" or "no" and put the answer in one "\\boxed{}".',
    ),
    ("yes_no", "zh"): (
        "请输出'是'或'否'(不要有任何其它输出)。",
        "请输出'是'或'否'，并将答案放在一个'\\boxed{}'中。",
    ),
    ("closed", "en"): (
        "Answer the question using a single word or phrase.",
        'Answer the question using a single word or phrase and put the answer in one "\\boxed{}".',
    ),
    ("closed", "zh"): (
        "请用一个单词或者短语回答该问题。",
        "请用一个单词或者短语回答该问题，并将答案放在一个'\\boxed{}'中。",
    ),
    ("open", "en"): (
        "Please answer the question concisely.",
        'Please answer the question concisely and put the answer in one "\\boxed{}".',
    ),
    ("open", "zh"): (
        "请简要回答该问题。",
        "请简要回答该问题，并将答案放在一个'\\boxed{}'中。",
    ),
}
_HEADS = {"en": ("Question: ", "Options: "), "zh": ("问题： ", "选项： ")}


def get_multiple_choice_prompt(
    question: str, choices: Sequence[str], is_reasoning: bool = False, lang: Language = "en"
) -> str:
    """Question, options one a line as given, and the ending. Letters are the caller's business."""
    asked, listed = _HEADS[lang]
    lines = ["", asked + question, listed, *choices, ENDINGS["choice", lang][is_reasoning]]
    return "\n".join(lines)


def get_judgement_prompt(question: str, is_reasoning: bool = False, lang: Language = "en") -> str:
    """A yes/no question."""
    return f"{question}\n{ENDINGS['yes_no', lang][is_reasoning]}"


def get_close_ended_prompt(question: str, is_reasoning: bool = False, lang: Language = "en") -> str:
    """A question answered by a word or phrase."""
    return f"{question}\n{ENDINGS['closed', lang][is_reasoning]}"


def get_open_ended_prompt(question: str, is_reasoning: bool = False, lang: Language = "en") -> str:
    """A question answered freely."""
    return f"{question}\n{ENDINGS['open', lang][is_reasoning]}"


def get_report_generation_prompt() -> str:
    """The request for a report; the braces are literal."""
    return (
        "You are a helpful assistant. Please generate a report for the given images, including both "
        "findings and impressions. Return the report in the following format: Findings: {} "
        "Impression: {}."
    )
