"""MedEvalKit's multiple choice: never abstains, so an empty answer means the first option."""

from __future__ import annotations

import string
from collections.abc import Sequence
from difflib import SequenceMatcher

from infimed.evaluation.medevalkit.responses import parse_response


def find_most_similar_index(options: Sequence[str], text: str) -> int:
    """Index of the option with the highest `difflib` ratio to the text; 0 where all are 0."""
    ratios = [SequenceMatcher(None, option, text).ratio() for option in options]
    return ratios.index(max(ratios)) if ratios else 0


def judge_multi_choice(choices: Sequence[str], answer: str, response: str) -> bool:
    """Whether a response names the option.

    Args:
        choices: options as they were shown, with their letters ("A. edema").
        answer: letter of the right option, or its text.

    Raises:
        AttributeError: the response is None, as in the original.
    """
    letters = string.ascii_lowercase[: len(choices)]
    response = response.lower()
    blocks = response.split("\n\n")
    last = blocks[-1].split(".")[0]
    if blocks[0] in [*letters]:
        response = blocks[0]
    elif last in [*letters]:
        response = last
    response = parse_response(response).strip().replace("\n", "")
    options = [choice.lower() for choice in choices]
    right = answer.strip().lower()
    said = response.split(".")[0].split(":")[-1]
    if said == right:
        return True
    if len(said) == 1 and said in letters:
        return options[letters.index(said)] == right
    if said in options:
        return len(right) == 1 and right in letters and options[letters.index(right)] == said
    nearest = find_most_similar_index(options, response)
    return right in (letters[nearest], options[nearest])
