"""The third tab at work: possible diagnoses, ranked, with what speaks for and against them."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import gradio as gr

from infimed.serving.applications.updates import Delta, Result
from infimed.serving.web import parts
from infimed.serving.web.acting import (
    Acting,
    Stream,
    hidden,
    images_of,
    lines_of,
    links,
    text_of,
)
from infimed.serving.web.images import said
from infimed.serving.web.parts import when
from infimed.serving.web.results import UNCALIBRATED, only_scores, ranked, reasons


@dataclass
class Ranking(Acting):
    """See the module."""

    name = "differential"
    p: parts.DifferentialParts

    async def asked(
        self, candidates: Any, history: Any, question: Any, which: Any, request: gr.Request
    ) -> Stream:
        """The candidates are ranked."""
        event, p = self.sessions.event(request), self.p
        names = lines_of(candidates)
        said_of = [text_of(history), text_of(question)]
        plain = {" ".join(name.split()).casefold() for name in names}
        needed = {
            "Give at least two possible diagnoses, one a line.": len(names) >= 2,
            "A diagnosis is there twice.": len(plain) == len(names),
            "Add an image, a history or a question first.": bool(event.kept.images) or any(text.strip() for text in said_of),
        }  # fmt: skip
        if lacking := self.lacking(event.kept, which, needed):
            yield {self.problem: said(lacking)}
            return
        body = {
            "candidates": names,
            "history": text_of(history),
            "question": text_of(question),
            "images": images_of(event.kept),
            "stream": True,
        }
        typed = self.typed(
            event.kept, candidates="\n".join(names), history=said_of[0], question=said_of[1]
        )
        yield {
            **self.begun(event.kept),
            p.reasons: gr.update(value="", placeholder="Weighing the candidates …"),
            **hidden(p.bars, p.unsure, *p.downloads.all),
        }
        written: dict[str, str] = {}
        try:
            async with aclosing(event.updates("differential", body)) as updates:
                async for update in updates:
                    if isinstance(update, Delta):
                        written[update.part] = written.get(update.part, "") + update.text
                        yield {p.reasons: "\n".join(f"{k}: {v}" for k, v in written.items())}
                    elif isinstance(update, Result):
                        done = self.finished(event, typed, update.value)
                        scores = only_scores("differential", done.result)
                        label = UNCALIBRATED if scores else parts.LIKELY
                        yield {
                            p.bars: gr.update(value=ranked(done.result), label=label, visible=True),
                            p.unsure: gr.update(visible=when(bool(done.result.get("abstained")))),
                            p.reasons: gr.update(value=reasons(done.result), placeholder=""),
                            **links(p.downloads, done),
                            **self.ended(),
                        }
        except Exception as error:
            yield self.failed(event, error, p.reasons)
