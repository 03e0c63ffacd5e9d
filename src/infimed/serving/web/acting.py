"""What happens when the model is asked: events of the four tabs.

Every handler yields what changes, in the order of its outputs: the two buttons first, then the problem. While an answer is
written the button that asks is replaced by the one that stops; closing the page stops it too.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from infimed.serving.applications.updates import Delta, Result
from infimed.serving.evidence.requests import parse_evidence
from infimed.serving.refusals import Refusal
from infimed.serving.web import parts
from infimed.serving.web.door import PREFIX
from infimed.serving.web.holding import Finished, Kept
from infimed.serving.web.images import placed, said
from infimed.serving.web.results import bars, near_lines, ranked, reasons, seen, sureness
from infimed.serving.web.session import Event, Sessions
from infimed.serving.web.viewer import Viewer

Changes = dict[Any, Any]
Stream = AsyncGenerator[Changes, None]
HIDDEN = {"visible": False}


@dataclass
class Acting:
    """See the module.

    Attributes:
        which: the choice of the image that is looked at. problem: where the tabs say what went wrong.
    """

    sessions: Sessions
    viewer: Viewer
    which: Any
    problem: Any

    def ask(self, p: parts.AskParts) -> Callable[..., Stream]:
        """The handler of the first tab."""

        async def asked(question: Any, choices: Any, request: gr.Request) -> Stream:
            event = self.sessions.event(request)
            options = lines_of(choices)
            body = {
                "question": text_of(question),
                "images": images_of(event.kept),
                "stream": True,
                **({"choices": options} if options else {}),
            }
            hides = event.service.applications.calibration is not None
            yield {
                **self._begun(p.ask, p.stop),
                p.unsure: gr.update(**HIDDEN),
                p.answer: gr.update(value="", visible=True, placeholder="Looking at the images …"),
                **hidden(p.bars, p.sure, p.evidence, p.note, p.overlay, p.near, p.near_pictures, p.downloads.row),
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
                            typed = {"question": text_of(question), "choices": "\n".join(options)}
                            done = self._finished(event, "ask", typed, update.value)
                            yield self._answered(p, event, done)
            except Exception as error:
                yield self._failed(event, error, p.ask, p.stop)
            else:
                yield self._ended(p.ask, p.stop)

        return asked

    def _answered(self, p: parts.AskParts, event: Event, done: Finished) -> Changes:
        result = done.result
        unsure = bool(result.get("abstained"))
        levels = bars(result)
        here = event.service.answerer.fingerprint_of == "weights"  # not behind another server
        can_look = here and bool(event.kept.images)
        return {
            p.unsure: gr.update(visible=unsure),
            p.reveal: gr.update(visible=True),
            p.answer: gr.update(value=str(result["answer"]), visible=not unsure, placeholder=""),
            p.bars: gr.update(value=levels, visible=levels is not None and not unsure),
            p.sure: gr.update(value=sureness(result), visible=True),
            p.evidence: gr.update(visible=can_look),
            **links(p.downloads, done),
        }

    def evidence(self, p: parts.AskParts) -> Callable[..., Stream]:
        """The handler of "show it on the image"."""

        async def looked(method: Any, which: Any, request: gr.Request) -> Stream:
            event = self.sessions.event(request)
            yield {
                self.problem: said(""),
                p.look: gr.update(interactive=False, value="Looking …"),
                **hidden(p.note, p.overlay, p.near, p.near_pictures),
            }
            try:
                yield await self._evidence(p, event, text_of(method), which)
            except Exception as error:
                yield {self.problem: said(event.problem(error))}
            yield {p.look: gr.update(interactive=True, value="Show it on the image")}

        return looked

    async def _evidence(self, p: parts.AskParts, event: Event, method: str, which: Any) -> Changes:
        done, images = event.kept.finished.get("ask"), event.kept.images
        at = placed(which, images)
        if done is None or at is None:
            raise Refusal("invalid_value", detail="ask about an image first")
        held, service = images[at], event.service
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
        if found.note:
            changes[p.note] = gr.update(value=sentence(found.note), visible=True)
        else:
            look = await self.viewer.look(event, held)
            png = await asyncio.to_thread(lambda: found.png(pixels_of(look.png)))
            place = self.viewer.picture(event, png)
            changes[p.overlay] = gr.update(value=place, visible=True)
        if near:
            changes[p.near] = gr.update(value=near_lines(near), visible=True)
            pictures = [(self.viewer.picture(event, n.thumbnail), "") for n in near if n.thumbnail]
            changes[p.near_pictures] = gr.update(value=pictures, visible=bool(pictures))
        return changes

    def report(self, p: parts.ReportParts) -> Callable[..., Stream]:
        """The handler of the second tab."""
        boxes = {"findings": p.findings, "impression": p.impression, "comparison": p.comparison}

        async def asked(indication: Any, language: Any, request: gr.Request) -> Stream:
            event = self.sessions.event(request)
            prior = event.kept.prior
            body = {
                "images": images_of(event.kept),
                "prior": prior.asked().model_dump() if prior is not None else None,
                "indication": text_of(indication),
                "language": text_of(language),
                "stream": True,
            }
            yield {
                **self._begun(p.draft, p.stop),
                p.findings: gr.update(value="", placeholder="Looking at the images …"),
                p.impression: "",
                p.comparison: gr.update(value="", visible=prior is not None),
                p.downloads.row: gr.update(**HIDDEN),
            }
            written = dict.fromkeys(boxes, "")
            try:
                async with aclosing(event.updates("report", body)) as updates:
                    async for update in updates:
                        if isinstance(update, Delta):
                            part = update.part if update.part in boxes else "findings"
                            written[part] += update.text
                            yield {boxes[part]: written[part]}
                        elif isinstance(update, Result):
                            typed = {"indication": text_of(indication)}
                            result = {"language": text_of(language), **update.value}
                            done = self._finished(event, "report", typed, result)
                            texts = {
                                box: gr.update(value=str(result.get(name) or ""), placeholder="The model wrote nothing here.")
                                for name, box in boxes.items()
                            }  # fmt: skip
                            yield {**texts, **links(p.downloads, done)}
            except Exception as error:
                yield self._failed(event, error, p.draft, p.stop)
            else:
                yield self._ended(p.draft, p.stop)

        return asked

    def edited(self, name: str) -> Callable[..., Any]:
        """The handler of a section that is rewritten by hand: downloads have the new text."""

        async def typed(text: Any, request: gr.Request) -> None:
            event = self.sessions.event(request)
            done = event.kept.finished.get("report")
            if done is None:
                return
            most = event.service.settings.limits.prompt_characters
            if text_of(text) == str(done.result.get(name) or ""):
                done.edited.pop(name, None)
            else:
                done.edited[name] = text_of(text)[:most]

        return typed

    def prior_added(self, p: parts.ReportParts) -> Callable[..., Any]:
        """The handler of an earlier image."""

        async def added(payload: Any, request: gr.Request) -> Changes:
            event = self.sessions.event(request)
            try:
                held = (await self.viewer.take(event, payload))[0]
                self.sessions.holding.make_room(event.kept, len(held.url))
            except Exception as error:
                return {self.problem: said(event.problem(error))}
            event.kept.prior = held
            return {
                self.problem: said(""),
                p.prior: gr.update(visible=False),
                p.prior_name: gr.update(value=held.name, visible=True),
                p.prior_remove: gr.update(visible=True),
            }

        return added

    def prior_removed(self, p: parts.ReportParts) -> Callable[..., Any]:
        """The handler that takes it away."""

        async def removed(request: gr.Request) -> Changes:
            self.sessions.event(request).kept.prior = None
            return {p.prior: gr.update(visible=True, value=None), **hidden(p.prior_name, p.prior_remove)}  # fmt: skip

        return removed

    def differential(self, p: parts.DifferentialParts) -> Callable[..., Stream]:
        """The handler of the third tab."""

        async def asked(candidates: Any, history: Any, question: Any, request: gr.Request) -> Stream:  # fmt: skip
            event = self.sessions.event(request)
            typed = {
                "candidates": text_of(candidates),
                "history": text_of(history),
                "question": text_of(question),
            }
            body = {
                **typed,
                "candidates": lines_of(candidates),
                "images": images_of(event.kept),
                "stream": True,
            }
            yield {
                **self._begun(p.rank, p.stop),
                p.reasons: gr.update(value="", placeholder="Weighing the candidates …"),
                **hidden(p.bars, p.unsure, p.downloads.row),
            }
            written: dict[str, str] = {}
            try:
                async with aclosing(event.updates("differential", body)) as updates:
                    async for update in updates:
                        if isinstance(update, Delta):
                            written[update.part] = written.get(update.part, "") + update.text
                            texts = [f"{part}: {text}" for part, text in written.items()]
                            yield {p.reasons: "\n".join(texts)}
                        elif isinstance(update, Result):
                            done = self._finished(event, "differential", typed, update.value)
                            yield {
                                p.bars: gr.update(value=ranked(done.result), visible=True),
                                p.unsure: gr.update(visible=bool(done.result.get("abstained"))),
                                p.reasons: gr.update(value=reasons(done.result), placeholder=""),
                                **links(p.downloads, done),
                            }
            except Exception as error:
                yield self._failed(event, error, p.rank, p.stop)
            else:
                yield self._ended(p.rank, p.stop)

        return asked

    def consult(self, p: parts.ConsultParts) -> Callable[..., Stream]:
        """The handler of the fourth tab."""

        async def asked(message: Any, request: gr.Request) -> Stream:
            event = self.sessions.event(request)
            talk = event.kept.talk
            before = list(talk)
            talk.append({"role": "user", "text": text_of(message)})
            body = {"messages": list(talk), "images": images_of(event.kept), "stream": True}
            yield {
                **self._begun(p.send, p.stop),
                p.talk: spoken(talk),
                p.message: "",
                p.urgent: gr.update(**HIDDEN),
                p.downloads.row: gr.update(**HIDDEN),
            }
            written: dict[str, str] = {}
            try:
                async with aclosing(event.updates("consult", body)) as updates:
                    async for update in updates:
                        if isinstance(update, Delta):
                            written[update.part] = written.get(update.part, "") + update.text
                            urgent = written.get("escalation", "")
                            said_so_far = "\n\n".join(written.values())
                            yield {
                                p.talk: spoken([*talk, {"role": "assistant", "text": said_so_far}]),
                                **({p.urgent: gr.update(value=urgent, visible=True)} if urgent else {}),
                            }  # fmt: skip
                        elif isinstance(update, Result):
                            talk.append(
                                {"role": "assistant", "text": str(update.value["message"]) or "…"}
                            )
                            conversation = {
                                "conversation": "\n".join(
                                    f"{t['role']}: {t['text']}" for t in talk[:-1]
                                )
                            }
                            done = self._finished(event, "consult", conversation, update.value)
                            urgent = str(done.result.get("escalation") or "")
                            yield {
                                p.talk: spoken(talk),
                                p.urgent: gr.update(value=urgent, visible=bool(urgent)),
                                **links(p.downloads, done),
                            }  # fmt: skip
            except Exception as error:
                event.kept.talk = before
                yield {
                    **self._failed(event, error, p.send, p.stop),
                    p.talk: spoken(before),
                    p.message: text_of(message),
                }
            else:
                yield self._ended(p.send, p.stop)
            finally:
                if talk and talk[-1]["role"] == "user":  # stopped: nothing was answered
                    event.kept.talk = before

        return asked

    def anew(self, p: parts.ConsultParts) -> Callable[..., Any]:
        """The handler of a new conversation."""

        async def begun(request: gr.Request) -> Changes:
            self.sessions.event(request).kept.talk = []
            return {p.talk: "", **hidden(p.urgent, p.downloads.row)}

        return begun

    def _begun(self, go: Any, stop: Any) -> Changes:
        return {go: gr.update(**HIDDEN), stop: gr.update(visible=True), self.problem: said("")}

    def _ended(self, go: Any, stop: Any) -> Changes:
        return {go: gr.update(visible=True), stop: gr.update(**HIDDEN)}

    def _failed(self, event: Event, error: Exception, go: Any, stop: Any) -> Changes:
        return {**self._ended(go, stop), self.problem: said(event.problem(error))}

    def _finished(
        self, event: Event, name: str, typed: dict[str, str], result: dict[str, Any]
    ) -> Finished:
        asked = {**typed, "images": seen(event.kept.images)}
        if name == "report" and event.kept.prior is not None:
            asked["earlier_image"] = seen([event.kept.prior])
        return self.sessions.holding.finish(event.kept, name, asked, result)


def links(downloads: parts.Downloads, done: Finished) -> Changes:
    """The buttons that save a result."""
    kinds = {downloads.text: "text", downloads.json: "json", downloads.sr: "sr"}
    made = {part: gr.update(link=f"{PREFIX}/result/{done.token}/{kind}") for part, kind in kinds.items()}  # fmt: skip
    return {downloads.row: gr.update(visible=True), **made}


def hidden(*gone: Any) -> Changes:
    """Parts that are not shown for now."""
    return {part: gr.update(**HIDDEN) for part in gone}


def spoken(talk: list[dict[str, str]]) -> str:
    """A conversation as one text."""
    names = {"user": "You", "assistant": "Model"}
    return "\n\n".join(f"{names[turn['role']]}: {turn['text']}" for turn in talk)


def images_of(kept: Kept) -> list[dict[str, Any]]:
    """The images of a request."""
    return [held.asked().model_dump() for held in kept.images]


def text_of(value: Any) -> str:
    """What a text box says; one of ours says text only."""
    return value if isinstance(value, str) else ""


def lines_of(value: Any) -> list[str]:
    """The lines of a text box that are not empty."""
    return [line.strip() for line in text_of(value).splitlines() if line.strip()]


def sentence(text: str) -> str:
    """A note as a sentence."""
    return f"{text[:1].upper()}{text[1:]}."


def pixels_of(png: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A picture of ours as RGB uint8 [H, W, 3]."""
    with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
        return np.asarray(image.convert("RGB"), np.uint8)
