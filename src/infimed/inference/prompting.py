"""How a model that we did not train is asked: system turn, lettered options, and how to answer.

Our own checkpoints were taught the plain question, so they get none of this. Every sentence is part of
the rendered turns, and so of every request key. A sentence follows the language of the question.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from infimed.data.record import Message, Record
from infimed.inference.stubs import plain_conversation

SHORT: Final = "Answer with a word or a short phrase."
SHORT_ZH: Final = "请用一个词或短语回答。"
CHOICE: Final = "Answer with the letter of the right option."
CHOICE_ZH: Final = "请用正确选项的字母回答。"
SHORT_KINDS: Final = ("closed", "open")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")


def with_sentence(messages: Sequence[Message], sentence: str) -> tuple[Message, ...]:
    """Add a sentence on a line of its own to the last user turn; an empty one changes nothing."""
    if not sentence:
        return tuple(messages)
    last = max(index for index, turn in enumerate(messages) if turn.role == "user")
    turn = messages[last]
    told = Message("user", (*turn.content, f"\n{sentence}"))
    return (*messages[:last], told, *messages[last + 1 :])


@dataclass(frozen=True, slots=True)
class PromptRecipe:
    """The sentences that a model is asked with.

    Attributes:
        system: a first turn, where the record brings none.
        choice, choice_zh: below the options of a choice question.
        short, short_zh: below a closed or open question of a task that says nothing itself.
    """

    system: str = ""
    choice: str = ""
    choice_zh: str = ""
    short: str = ""
    short_zh: str = ""

    def conversation(
        self, record: Record, option_order: Sequence[int] | None
    ) -> tuple[Message, ...]:
        """The turns of a record up to the question, options lettered below it."""
        turns = plain_conversation(record, option_order)
        if record.choices:
            turns = with_sentence(turns, self.choice_zh if _chinese(turns) else self.choice)
        if self.system and not any(turn.role == "system" for turn in turns):
            turns = (Message("system", (self.system,)), *turns)
        return turns

    def instruction(self, kind: str, messages: Sequence[Message]) -> str:
        """What a question of this kind says on how to answer, where its task says nothing."""
        if kind not in SHORT_KINDS:
            return ""
        return self.short_zh if _chinese(messages) else self.short


def _chinese(messages: Sequence[Message]) -> bool:
    return any(_HAN.search(turn.text) for turn in messages if turn.role == "user")


PLAIN: Final = PromptRecipe()
"""Nothing but the question and its lettered options."""
INSTRUCTED: Final = PromptRecipe("", CHOICE, CHOICE_ZH, SHORT, SHORT_ZH)
"""What a model is asked with that names no recipe of its own."""
