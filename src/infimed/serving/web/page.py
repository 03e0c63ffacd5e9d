"""The page as a whole: the images on one side, the four tabs on the other, and every event wired.

Every event takes its values as the browser sent them (`preprocess=False`) and checks them itself: Gradio's own checks print
what they refuse. All of them wait in Gradio's queue: its other way in is an address that the door does not pass on.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any

import gradio as gr

from infimed.serving.service import Service
from infimed.serving.web import parts
from infimed.serving.web.acting import stopped
from infimed.serving.web.asking import Asking
from infimed.serving.web.consulting import Consulting
from infimed.serving.web.images import Images
from infimed.serving.web.parts import GONE
from infimed.serving.web.ranking import Ranking
from infimed.serving.web.reporting import Reporting
from infimed.serving.web.session import Sessions
from infimed.serving.web.viewer import Viewer

Handler = Callable[..., Any] | Callable[..., AsyncGenerator[Any, None]]


def blocks(service: Service, sessions: Sessions, viewer: Viewer) -> gr.Blocks:
    """The page, ready to be mounted."""
    limits = service.settings.limits
    with gr.Blocks(
        title=f"InfiMed · {service.name}", analytics_enabled=False, delete_cache=(60, 600)
    ) as page:
        with gr.Row(elem_id="halves", equal_height=False):
            with gr.Column(scale=5, min_width=320, elem_id="images"):
                seen = parts.viewer()
            with gr.Column(scale=6, min_width=320, elem_id="answers"):
                problem = gr.Textbox(
                    label="Problem", elem_id="answer-problem", elem_classes=["problem"], visible=GONE, interactive=False
                )  # fmt: skip
                with gr.Tabs(elem_id="tabs"):
                    with gr.Tab("Ask", id="ask", elem_id="tab-ask"):
                        ask = parts.ask_tab()
                    with gr.Tab("Report", id="report", elem_id="tab-report"):
                        report = parts.report_tab()
                    with gr.Tab("Differential", id="differential", elem_id="tab-differential"):
                        differential = parts.differential_tab()
                    with gr.Tab("Consult", id="consult", elem_id="tab-consult"):
                        consult = parts.consult_tab()
        common = (sessions, viewer, seen.which, problem)
        abouts = {
            "ask": ask.about,
            "report": report.about,
            "differential": differential.about,
            "consult": consult.about,
        }
        _wire_viewer(Images(sessions, viewer, seen, abouts), [*seen.all, *abouts.values()])
        _wire_ask(Asking(*common, ask.ask, ask.stop, ask.about, ask))
        _wire_report(Reporting(*common, report.draft, report.stop, report.about, report))
        ranks = (differential.rank, differential.stop, differential.about)
        _wire_ranking(Ranking(*common, *ranks, differential))
        _wire_consult(Consulting(*common, consult.send, consult.stop, consult.about, consult))

        async def closed(request: gr.Request) -> None:
            session = str(request.session_hash or "")
            sessions.holding.forget(session)
            viewer.forget(session)

        page.unload(closed)
    page.queue(max_size=limits.requests, api_open=False, default_concurrency_limit=limits.requests)
    return page


def _on(trigger: Callable[..., Any], handler: Handler, inputs: list[Any], outputs: list[Any], **more: Any) -> Any:  # fmt: skip
    """An event; see the module."""
    settings = {
        "preprocess": False,
        "show_progress": "hidden",
        "api_visibility": "private",
        **more,
    }
    return trigger(handler, inputs, outputs, **settings)


def _wire_viewer(looking: Images, outputs: list[Any]) -> None:
    seen = looking.parts
    _on(seen.drop.upload, looking.uploaded, [seen.drop], outputs, show_progress="minimal")
    _on(seen.which.input, looking.chosen, [seen.which], outputs)
    _on(seen.remove.click, looking.removed, [seen.which], outputs)
    _on(seen.remove_all.click, looking.emptied, [], outputs)
    last = {"trigger_mode": "always_last"}  # while a slider moves, only its newest place matters
    _on(seen.frame.input, looking.scrolled, [seen.which, seen.frame], outputs, **last)
    _on(seen.preset.input, looking.preset, [seen.which, seen.preset], outputs, **last)
    for slider in (seen.center, seen.width):
        _on(slider.input, looking.windowed, [seen.which, seen.center, seen.width], outputs, **last)


def _stoppable(tab: Any, events: list[Any], texts: list[Any]) -> None:
    """Stop ends a running answer; the buttons change places again, and what was written says that it was cut.

    Args:
        tab: an `Acting`. texts: boxes that its answer is written into, in order.
    """

    def halted(*written: Any) -> list[Any]:
        buttons = [gr.update(visible=True), gr.update(visible=GONE), gr.update(visible=GONE)]
        return [*buttons, *stopped(*written)]

    _on(tab.stop.click, halted, texts, [tab.go, tab.stop, tab.problem, *texts], cancels=events)


def _wire_ask(tab: Asking) -> None:
    p = tab.p
    outputs = [
        p.ask, p.stop, tab.problem, p.about, p.unsure, p.reveal, p.answer, p.bars, p.sure, p.method, p.look, p.note, p.overlay, p.near, p.near_pictures,
        *p.downloads.all,
    ]  # fmt: skip
    inputs = [p.question, p.choices, tab.which]
    events = [_on(on, tab.asked, inputs, outputs) for on in (p.ask.click, p.question.submit)]
    _stoppable(tab, events, [p.answer])
    _on(p.reveal.click, tab.revealed, [], [p.reveal, p.answer, p.bars])
    shown = [tab.problem, p.look, p.note, p.overlay, p.near, p.near_pictures]
    _on(p.look.click, tab.looked, [p.method, tab.which], shown)


def _wire_report(tab: Reporting) -> None:
    p = tab.p
    outputs = [p.draft, p.stop, tab.problem, p.about, p.empty, p.findings, p.impression, p.comparison, p.rest, *p.downloads.all]  # fmt: skip
    inputs = [p.indication, p.language, p.prior_name, tab.which]
    events = [_on(on, tab.asked, inputs, outputs) for on in (p.draft.click, p.indication.submit)]
    _stoppable(tab, events, [p.rest, p.findings, p.impression, p.comparison])
    prior = [p.prior, p.prior_name, p.prior_remove, tab.problem]
    _on(p.prior.upload, tab.prior_added, [p.prior], prior, show_progress="minimal")
    _on(p.prior_remove.click, tab.prior_removed, [], prior)
    for name in ("findings", "impression", "comparison"):
        box = getattr(p, name)
        _on(box.input, tab.edited(name), [box], [], trigger_mode="always_last")


def _wire_ranking(tab: Ranking) -> None:
    p = tab.p
    outputs = [p.rank, p.stop, tab.problem, p.about, p.unsure, p.bars, p.reasons, *p.downloads.all]
    inputs = [p.candidates, p.history, p.question, tab.which]
    _stoppable(tab, [_on(p.rank.click, tab.asked, inputs, outputs)], [p.reasons])


def _wire_consult(tab: Consulting) -> None:
    p = tab.p
    outputs = [p.send, p.stop, tab.problem, p.about, p.talk, p.urgent, p.message, *p.downloads.all]
    inputs = [p.message, p.talk, tab.which]
    events = [_on(on, tab.asked, inputs, outputs) for on in (p.send.click, p.message.submit)]
    stopping = [p.send, p.stop, tab.problem, p.about, p.talk, p.message]
    _on(p.stop.click, tab.halted, [p.message], stopping, cancels=events)
    fresh = [p.send, p.stop, tab.problem, p.about, p.talk, p.urgent, *p.downloads.all]
    _on(p.anew.click, tab.anew, [], fresh, cancels=events)
