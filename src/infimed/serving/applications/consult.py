"""*consult*: a conversation with a lay person or a colleague.

Before the model says anything, rules look for urgent signs in the user's words (`urgent`), and the text that
sends the user to an emergency department comes first, whatever the model goes on to say. Where a complaint lacks
what every answer needs (`wanting`), it is asked back instead of guessed at, unless something urgent was said.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from infimed.data.record import Message
from infimed.serving.applications import presets
from infimed.serving.applications.requests import ConsultRequest
from infimed.serving.applications.session import Session, Written
from infimed.serving.applications.updates import Delta, Result, Update
from infimed.serving.applications.urgent import Said, escalation, urgent_signs
from infimed.serving.applications.wanting import ask_back, wanting
from infimed.serving.media import Shown

ESCALATION, MESSAGE = "escalation", "message"
_ENDS: tuple[str, ...] = ("?", "？")


async def consult(
    session: Session, asked: ConsultRequest, images: Sequence[Shown]
) -> AsyncGenerator[Update, None]:
    """See the module."""
    session.place = "messages"
    said = [turn.text for turn in asked.messages if turn.role == "user"]
    answers = [turn.text for turn in asked.messages if turn.role == "assistant"]
    language = presets.language_of(said[-1])
    urgent = await asyncio.to_thread(signs, said)
    warning = escalation(urgent, language)
    lacking = [] if urgent else await asyncio.to_thread(wanting, said, answers, len(images))
    if warning is not None:
        yield Delta(warning, ESCALATION)
    if lacking:
        message, asks = ask_back(lacking, language), True
        yield Delta(message, MESSAGE)
    else:
        message = ""
        shown, tokens = turns(asked, len(images)), presets.PRESETS["consult"].new_tokens
        async with aclosing(session.write(shown, images, tokens, part=MESSAGE)) as updates:
            async for update in updates:
                if isinstance(update, Written):
                    message = update.done.text
                else:
                    yield update
        asks = message.rstrip().endswith(_ENDS)
    yield Result(
        {
            "message": f"{warning}\n\n{message}".rstrip() if warning is not None else message,
            "asks_back": asks,
            "lacking": [want.key for want in lacking],
            "urgent": [{"sign": one.sign.name[language], "said": one.said} for one in urgent],
            "escalation": warning,
        }
    )


def signs(said: Sequence[str]) -> list[Said]:
    """Urgent signs of all the user's messages, each as it was said last."""
    found = {one.sign.key: one for text in said for one in urgent_signs(text)}
    return list(found.values())


def turns(asked: ConsultRequest, images: int) -> tuple[Message, ...]:
    """The conversation as the model was taught to see one: images first, in the user's first message."""
    first = next(at for at, turn in enumerate(asked.messages) if turn.role == "user")
    return tuple(
        Message(turn.role, (*range(images), turn.text) if at == first else (turn.text,))
        for at, turn in enumerate(asked.messages)
    )
