"""The second tab at work: a draft, an earlier image to compare with, and what the user changes by hand."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import gradio as gr

from infimed.serving.applications.updates import Delta, Result
from infimed.serving.web import parts
from infimed.serving.web.acting import (
    Acting,
    Changes,
    Stream,
    hidden,
    images_of,
    links,
    text_of,
)
from infimed.serving.web.images import said
from infimed.serving.web.parts import GONE, when
from infimed.serving.web.results import NO_REPORT, no_report, seen, without_heading
from infimed.serving.web.session import Event

PRIOR_FORGOTTEN = "The earlier image is no longer there: the page was not used for a while. Add it again."  # fmt: skip
NOTHING = "The model wrote nothing here."


@dataclass
class Reporting(Acting):
    """See the module."""

    name = "report"
    p: parts.ReportParts

    async def asked(
        self, indication: Any, language: Any, prior_name: Any, which: Any, request: gr.Request
    ) -> Stream:
        """A report is drafted."""
        event, p = self.sessions.event(request), self.p
        prior = event.kept.prior
        needed = {
            PRIOR_FORGOTTEN: prior is not None or not text_of(prior_name),
            "Add an image first.": bool(event.kept.images),
        }
        if lacking := self.lacking(event.kept, which, needed):
            yield {self.problem: said(lacking)}
            return
        body = {
            "images": images_of(event.kept),
            "prior": prior.asked().model_dump() if prior is not None else None,
            "indication": text_of(indication),
            "language": text_of(language),
            "stream": True,
        }
        typed = self.typed(event.kept, indication=text_of(indication))
        if prior is not None:
            typed["earlier_image"] = seen([prior])
        yield {
            **self.begun(event.kept),
            p.findings: gr.update(value="", placeholder="Looking at the images …"),
            p.impression: gr.update(value="", placeholder="Looking at the images …"),
            p.comparison: gr.update(value="", visible=when(prior is not None)),
            p.rest: gr.update(value="", visible=GONE),
            **hidden(p.empty, *p.downloads.all),
        }
        try:
            async with aclosing(self._written(event, body, typed, text_of(language))) as made:
                async for changes in made:
                    yield changes
        except Exception as error:
            yield self.failed(event, error, p.findings, p.impression)

    async def _written(
        self, event: Event, body: dict[str, Any], typed: dict[str, str], language: str
    ) -> Stream:
        p = self.p
        boxes = {"findings": p.findings, "impression": p.impression, "comparison": p.comparison}
        written = dict.fromkeys([*boxes, "rest"], "")
        async with aclosing(event.updates("report", body)) as updates:
            async for update in updates:
                if isinstance(update, Delta):
                    part = update.part if update.part in boxes else "rest"
                    written[part] += update.text
                    if part in boxes:
                        yield {boxes[part]: written[part]}
                    elif written[part].strip():
                        yield {p.rest: gr.update(value=written[part], visible=True)}
                elif isinstance(update, Result):
                    result = {"language": language, **update.value}
                    done = self.finished(event, typed, result)
                    rest = without_heading(result)
                    texts = {
                        box: gr.update(value=str(result.get(name) or ""), placeholder=NOTHING)
                        for name, box in boxes.items()
                    }
                    yield {
                        **texts,
                        p.empty: said(NO_REPORT if no_report(result) else ""),
                        p.rest: gr.update(value=rest, visible=when(bool(rest))),
                        **links(p.downloads, done),
                        **self.ended(),
                    }

    def edited(self, name: str) -> Callable[..., Any]:
        """The handler of a section that is rewritten by hand: downloads have the new text."""

        async def edited(text: Any, request: gr.Request) -> None:
            event = self.sessions.event(request)
            done = event.kept.finished.get("report")
            if done is None:
                return
            most = event.service.settings.limits.prompt_characters
            if text_of(text) == str(done.result.get(name) or ""):
                done.edited.pop(name, None)
            else:
                done.edited[name] = text_of(text)[:most]

        return edited

    async def prior_added(self, payload: Any, request: gr.Request) -> Changes:
        """An earlier image was chosen."""
        event, p = self.sessions.event(request), self.p
        try:
            held = (await self.viewer.take(event, payload))[0]
            self.sessions.holding.make_room(event.kept, len(held.url))
        except Exception as error:
            return {p.prior: gr.update(value=None), self.problem: said(event.problem(error))}
        event.kept.prior = held
        return {
            self.problem: said(""),
            p.prior: gr.update(visible=GONE),
            p.prior_name: gr.update(value=held.name, visible=True),
            p.prior_remove: gr.update(visible=True),
        }

    async def prior_removed(self, request: gr.Request) -> Changes:
        """It goes."""
        p = self.p
        self.sessions.event(request).kept.prior = None
        return {
            p.prior: gr.update(visible=True, value=None),
            p.prior_name: gr.update(value="", visible=GONE),
            **hidden(p.prior_remove),
        }
