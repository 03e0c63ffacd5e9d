"""The first tab at work: a question, its answer, and where the model looked."""

from __future__ import annotations

import asyncio
import io
import time
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from infimed.serving.applications.updates import Delta, Result
from infimed.serving.evidence.requests import parse_evidence
from infimed.serving.web import parts
from infimed.serving.web.acting import (
    Acting,
    Changes,
    Stream,
    hidden,
    images_of,
    lines_of,
    links,
    text_of,
)
from infimed.serving.web.holding import Finished
from infimed.serving.web.images import FORGOTTEN, placed, said
from infimed.serving.web.parts import GONE, when
from infimed.serving.web.results import UNCALIBRATED, bars, near_lines, only_scores, sureness
from infimed.serving.web.session import Event

LOOK = "Show it on the image"
LOOKING = "Looking … {seconds} s (this can take a minute on a CPU)"
CAPTION = "Bright colours: the answer depends on these parts. That does not make it right."
NOT_ASKED = "This image was added after the question. Ask again, then look."
OTHER_VIEW = "The map lies over the image as it was when the question was asked; it is shown differently now."
ONE_OF = "The question was about {count} images; this map is of the chosen one alone."


@dataclass
class Asking(Acting):
    """See the module."""

    name = "ask"
    p: parts.AskParts

    async def asked(self, question: Any, choices: Any, which: Any, request: gr.Request) -> Stream:
        """The question is asked."""
        event, p = self.sessions.event(request), self.p
        text, options = text_of(question), lines_of(choices)
        needed = {"Write a question first.": bool(text.strip()), "Give at least two possible answers, or none.": len(options) != 1}  # fmt: skip
        if lacking := self.lacking(event.kept, which, needed):
            yield {self.problem: said(lacking)}
            return
        body = {
            "question": text,
            "images": images_of(event.kept),
            "stream": True,
            **({"choices": options} if options else {}),
        }
        typed = self.typed(event.kept, question=text, choices="\n".join(options))
        shown = [(held, held.view) for held in event.kept.images]
        hides = event.service.applications.calibration is not None
        yield {
            **self.begun(event.kept),
            p.answer: gr.update(value="", visible=True, placeholder="Looking at the images …" if shown else "Writing …"),
            **hidden(p.unsure, p.reveal, p.bars, p.sure, p.method, p.look, p.note, p.overlay, p.near, p.near_pictures, *p.downloads.all),
        }  # fmt: skip
        written = ""
        try:
            async with aclosing(event.updates("ask", body)) as updates:
                async for update in updates:
                    if isinstance(update, Delta):
                        written += update.text
                        if not hides:  # whether it is sure enough is known at the end
                            yield {p.answer: written}
                    elif isinstance(update, Result):
                        for held, view in shown:
                            held.answered = view
                        done = self.finished(event, typed, update.value)
                        yield {**self._answered(event, done), **self.ended()}
        except Exception as error:
            yield self.failed(event, error, p.answer)

    def _answered(self, event: Event, done: Finished) -> Changes:
        p, result = self.p, done.result
        unsure = bool(result.get("abstained"))
        levels = bars(result)
        label = UNCALIBRATED if only_scores("ask", result) else parts.SURE
        here = event.service.answerer.fingerprint_of == "weights"  # not behind another server
        can_look = here and bool(event.kept.images) and bool(str(result["answer"]).strip())
        return {
            p.unsure: gr.update(visible=when(unsure)),
            p.reveal: gr.update(visible=when(unsure)),
            p.answer: gr.update(value=str(result["answer"]), visible=when(not unsure), placeholder="The model wrote nothing."),
            p.bars: gr.update(value=levels, label=label, visible=when(levels is not None and not unsure)),
            p.sure: gr.update(value=sureness(result), visible=True),
            p.method: gr.update(visible=when(can_look)),
            p.look: gr.update(visible=when(can_look)),
            **links(p.downloads, done),
        }  # fmt: skip

    def revealed(self) -> list[Any]:
        """An answer that is not sure enough is shown all the same: button, answer, bars."""
        return [gr.update(visible=GONE), gr.update(visible=True), gr.update(visible=True)]

    async def looked(self, method: Any, which: Any, request: gr.Request) -> Stream:
        """Where did the model look?"""
        event, p = self.sessions.event(request), self.p
        yield {
            self.problem: said(""),
            p.look: gr.update(interactive=False, value=LOOKING.format(seconds=0)),
            **hidden(p.note, p.overlay, p.near, p.near_pictures),
        }
        again = {p.look: gr.update(interactive=True, value=LOOK)}
        finding = asyncio.ensure_future(self._evidence(event, text_of(method), which))
        began = time.monotonic()
        try:
            while not (await asyncio.wait({finding}, timeout=1.0))[0]:
                seconds = round(time.monotonic() - began)
                yield {p.look: gr.update(interactive=False, value=LOOKING.format(seconds=seconds))}
            yield {**finding.result(), **again}
        except Exception as error:
            yield {self.problem: said(event.problem(error)), **again}
        finally:
            finding.cancel()  # where the page was closed meanwhile

    async def _evidence(self, event: Event, method: str, which: Any) -> Changes:
        done, images, p = event.kept.finished.get("ask"), event.kept.images, self.p
        at = placed(which, images)
        if done is None or at is None:
            return {self.problem: said(FORGOTTEN)}
        view = images[at].answered
        if view is None:
            return {self.problem: said(NOT_ASKED)}
        held, service = replace(images[at], view=view), event.service  # as the model got it
        body = {
            "image": held.asked().model_dump(),
            "question": done.asked["question"],
            "answer": str(done.result["answer"]),
            "method": method,
        }
        with service.gate.admit(event.client):
            asked = await event.read(parse_evidence, body)
            found = await service.evidence.look(asked, event.noted)
            near = []
            if service.evidence.index is not None:
                source = await self.viewer.source(event, held)
                near = await service.evidence.nearest(source, event.noted)
        changes: Changes = {}
        notes = [sentence(found.note) if found.note else CAPTION]
        if not found.note:
            look = await self.viewer.look(event, held)
            png = await asyncio.to_thread(lambda: found.png(pixels_of(look.png)))
            changes[p.overlay] = gr.update(value=self.viewer.picture(event, png), visible=True)
            if view != images[at].view:
                notes.append(OTHER_VIEW)
        asked_of = sum(image.answered is not None for image in images)
        if asked_of > 1:
            notes.append(ONE_OF.format(count=asked_of))
        changes[p.note] = gr.update(value=" ".join(notes), visible=when(bool(notes)))
        if near:
            changes[p.near] = gr.update(value=near_lines(near), visible=True)
            pictures = [(self.viewer.picture(event, n.thumbnail), "") for n in near if n.thumbnail]
            changes[p.near_pictures] = gr.update(value=pictures, visible=when(bool(pictures)))
        return changes


def sentence(text: str) -> str:
    """A note as a sentence."""
    return f"{text[:1].upper()}{text[1:]}."


def pixels_of(png: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A picture of ours as RGB uint8 [H, W, 3]."""
    with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
        return np.asarray(image.convert("RGB"), np.uint8)
