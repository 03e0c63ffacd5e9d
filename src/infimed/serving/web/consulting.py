"""The fourth tab at work: a conversation. It is kept here turn by turn; a turn is kept when it is answered, or stopped.

What a rule wrote is never shown as the model's. An urgent warning stands in its red box until the conversation ends, and
the talk only says that it came; what is sent on with the next message has it whole, as the API's own clients do.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import gradio as gr

from infimed.serving.applications.updates import Delta, Result
from infimed.serving.web import parts
from infimed.serving.web.acting import (
    STOPPED,
    Acting,
    Changes,
    Stream,
    hidden,
    images_of,
    links,
    noticed,
    text_of,
)
from infimed.serving.web.holding import Kept, Pending
from infimed.serving.web.images import said
from infimed.serving.web.results import AUTOMATIC, RULE, without_warning
from infimed.serving.web.session import Event

TALK_FORGOTTEN = (
    "This conversation is no longer there: the page was not used for a while. Begin a new one."
)


WARNED = "urgent signs. See “Urgent”."

Turn = dict[str, str]
"""Who said what (`role`, `text`), and of an answer: `warned`, a warning that came with it, which the text begins with;
`by`, who wrote the rest of it, where it was not the model."""


@dataclass
class Consulting(Acting):
    """See the module."""

    name = "consult"
    p: parts.ConsultParts

    async def asked(self, message: Any, shown: Any, which: Any, request: gr.Request) -> Stream:
        """A message is sent."""
        event, p = self.sessions.event(request), self.p
        kept, text = event.kept, text_of(message)
        needed = {
            TALK_FORGOTTEN: bool(kept.talk) or not text_of(shown).strip(),
            "Write a message first.": bool(text.strip()),
        }
        if lacking := self.lacking(kept, which, needed):
            yield {self.problem: said(lacking)}
            return
        talk = [*kept.talk, {"role": "user", "text": text}]
        turn = kept.pending = Pending(text, about=kept.about.get(self.name))
        messages = [{"role": turn["role"], "text": turn["text"]} for turn in talk]
        body = {"messages": messages, "images": images_of(kept), "stream": True}
        typed = self.typed(kept, conversation=spoken(talk))
        yield {
            **self.begun(event.kept),
            p.talk: spoken(talk),
            p.message: "",
            **hidden(*p.downloads.all),
        }
        try:
            async with aclosing(self._answered(event, body, talk, turn, typed)) as made:
                async for changes in made:
                    yield changes
        except Exception as error:
            kept.pending = None
            failed = self.failed(event, error)
            self._back(kept, turn)
            yield {**failed, p.about: noticed(self.name, kept), p.talk: spoken(kept.talk), p.message: text}  # fmt: skip

    async def _answered(
        self,
        event: Event,
        body: dict[str, Any],
        talk: list[Turn],
        turn: Pending,
        typed: dict[str, str],
    ) -> Stream:
        kept, p = event.kept, self.p
        written: dict[str, str] = {}
        async with aclosing(event.updates("consult", body)) as updates:
            async for update in updates:
                if isinstance(update, Delta):
                    written[update.part] = written.get(update.part, "") + update.text
                    turn.written = "\n\n".join(written.values())
                    turn.warned = written.get("escalation", "")
                    so_far = answer(turn.written, turn.warned)
                    yield {p.talk: spoken([*talk, so_far]), **self._urgent(turn.warned)}
                elif isinstance(update, Result):
                    whole, warned = str(update.value["message"]) or "…", str(update.value.get("escalation") or "")  # fmt: skip
                    if kept.pending is not turn:  # stopped meanwhile
                        return
                    asked_back = bool(update.value.get("lacking"))
                    kept.talk, kept.pending = [*talk, answer(whole, warned, asked_back)], None
                    done = self.finished(event, typed, update.value)
                    yield {
                        p.talk: spoken(kept.talk),
                        **self._urgent(warned),
                        **links(p.downloads, done),
                        **self.ended(),
                    }

    def _urgent(self, text: str) -> Changes:
        return {self.p.urgent: gr.update(value=text, visible=True)} if text else {}

    async def halted(self, message: Any, request: gr.Request) -> Changes:
        """A running answer was stopped: what was written of it stays, and of nothing the message comes back."""
        event, p = self.sessions.event(request), self.p
        kept = event.kept
        turn, kept.pending = kept.pending, None
        typing = text_of(message)
        if turn is not None and turn.written.strip():
            cut = answer(f"{turn.written.rstrip()}{STOPPED}", turn.warned)
            kept.talk = [*kept.talk, {"role": "user", "text": turn.text}, cut]
        elif turn is not None:
            typing = typing or turn.text
            self._back(kept, turn)
        return {
            **self.ended(),
            self.problem: said(""),
            p.about: noticed(self.name, kept),
            p.talk: spoken(kept.talk),
            p.message: typing,
        }

    def _back(self, kept: Kept, turn: Pending) -> None:
        """Nothing came of a message: the last answer on the page is the one before it."""
        kept.about.pop(self.name, None)
        if turn.about is not None:
            kept.about[self.name] = turn.about

    async def anew(self, request: gr.Request) -> Changes:
        """A new conversation."""
        kept = self.sessions.event(request).kept
        kept.talk, kept.pending = [], None
        kept.about.pop(self.name, None)
        p = self.p
        return {
            **self.ended(),
            p.talk: "",
            self.problem: said(""),
            **hidden(p.about, p.urgent, *p.downloads.all),
        }


def answer(text: str, warned: str, asked_back: bool = False) -> Turn:
    """A turn of the other side.

    Args:
        warned: the warning that the text begins with, or "". asked_back: whether a rule asked for what is lacking.
    """
    made = {"role": "assistant", "text": text}
    if warned:
        made["warned"] = warned
    if asked_back:
        made["by"] = AUTOMATIC
    return made


def spoken(talk: list[Turn]) -> str:
    """A conversation as one text; the same warning is named once."""
    said: list[str] = []
    warned = ""
    for turn in talk:
        text, new = turn["text"], turn.get("warned", "")
        if new:
            text = without_warning(text, new)
        if new and new != warned:
            said.append(f"{RULE}: {WARNED}")
        warned = new or warned
        if text.strip():
            name = "You" if turn["role"] == "user" else turn.get("by", "Model")
            said.append(f"{name}: {text}")
    return "\n\n".join(said)
