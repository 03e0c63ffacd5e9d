"""Sentences a task may add to its question, by id. An id's text never changes; add a new one.

Our own checkpoints were taught the plain question (and options with a one-line instruction, see
`infimed.model.processing`), so the default adds nothing. A choice never gets one: whoever renders its
options says how to answer. A model that was not taught our questions says how to answer where the task
does not (`infimed.inference.prompting`).
"""

from __future__ import annotations

from collections.abc import Sequence

from infimed.data.record import Message
from infimed.evaluation.medevalkit.prompts import ENDINGS
from infimed.inference.prompting import SHORT, SHORT_ZH, with_sentence

SUFFIXES: dict[str, str] = {
    "none": "",
    "yes_no": "\nAnswer with yes or no.",
    "short": f"\n{SHORT}",
    "short_zh": f"\n{SHORT_ZH}",
    "medevalkit_yes_no": f"\n{ENDINGS['yes_no', 'en'][0]}",
    "medevalkit_open": f"\n{ENDINGS['open', 'en'][0]}",
}


def with_suffix(messages: Sequence[Message], suffix_id: str) -> tuple[Message, ...]:
    """Add the sentence to the last user turn."""
    return with_sentence(messages, SUFFIXES[suffix_id].removeprefix("\n"))
