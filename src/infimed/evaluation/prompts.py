"""Sentences a task may add to its question, by id. An id's text never changes; add a new one.

Our own checkpoints were taught the plain question (and options with a one-line instruction, see
`infimed.model.processing`), so the default adds nothing. A choice never gets one: whoever renders its
options says how to answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from infimed.data.record import Message
from infimed.evaluation.medevalkit.prompts import ENDINGS

SUFFIXES: dict[str, str] = {
    "none": "",
    "yes_no": "\nAnswer with yes or no.",
    "short": "\nAnswer with a word or a short phrase.",
    "short_zh": "\n请用一个词或短语回答。",
    "medevalkit_yes_no": f"\n{ENDINGS['yes_no', 'en'][0]}",
    "medevalkit_open": f"\n{ENDINGS['open', 'en'][0]}",
}


def with_suffix(messages: Sequence[Message], suffix_id: str) -> tuple[Message, ...]:
    """Add the sentence to the last user turn."""
    suffix = SUFFIXES[suffix_id]
    if not suffix:
        return tuple(messages)
    last = max(index for index, turn in enumerate(messages) if turn.role == "user")
    turn = messages[last]
    return (*messages[:last], Message("user", (*turn.content, suffix)), *messages[last + 1 :])
