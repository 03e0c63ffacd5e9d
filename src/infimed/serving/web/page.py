"""The page as a whole: the images on one side, the four tabs on the other, and every event wired.

Every event takes its values as the browser sent them (`preprocess=False`) and checks them itself: Gradio's own checks print
what they refuse.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any

import gradio as gr

from infimed.serving.service import Service
from infimed.serving.web import parts
from infimed.serving.web.acting import Acting
from infimed.serving.web.images import Images
from infimed.serving.web.session import Sessions
from infimed.serving.web.viewer import Viewer

TABS = (("ask", "Ask"), ("report", "Report"), ("differential", "Differential"), ("consult", "Consult"))  # fmt: skip

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
                    label="Problem", elem_id="answer-problem", elem_classes=["problem"], visible=False, interactive=False
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
        looking = Images(sessions, viewer, seen)
        acting = Acting(sessions, viewer, seen.which, problem)
        _wire_viewer(looking, seen)
        _wire_ask(acting, ask)
        _wire_report(acting, report)
        _wire_rest(acting, differential, consult)

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


def _wire_viewer(looking: Images, seen: parts.ViewerParts) -> None:
    _on(seen.drop.upload, looking.uploaded, [seen.drop], seen.all, show_progress="minimal")
    _on(seen.which.input, looking.chosen, [seen.which], seen.all)
    _on(seen.remove.click, looking.removed, [seen.which], seen.all)
    last = {"trigger_mode": "always_last"}  # while a slider moves, only its newest place matters
    _on(seen.frame.input, looking.scrolled, [seen.which, seen.frame], seen.all, **last)
    _on(seen.preset.input, looking.preset, [seen.which, seen.preset], seen.all, **last)
    for slider in (seen.center, seen.width):
        _on(slider.input, looking.windowed, [seen.which, seen.center, seen.width], seen.all, **last)


def _stoppable(go: Any, stop: Any, problem: Any, events: list[Any]) -> None:
    """Stop ends a running answer; the buttons change places again."""

    def stopped() -> list[Any]:
        return [gr.update(visible=True), gr.update(visible=False), gr.update(visible=False)]

    _on(stop.click, stopped, [], [go, stop, problem], cancels=events, queue=False)


def _wire_ask(acting: Acting, ask: parts.AskParts) -> None:
    outputs = [
        ask.ask, ask.stop, acting.problem, ask.unsure, ask.reveal, ask.answer, ask.bars, ask.sure, ask.evidence, ask.note, ask.overlay,
        ask.near, ask.near_pictures, *ask.downloads.all,
    ]  # fmt: skip
    inputs = [ask.question, ask.choices]
    handler = acting.ask(ask)
    events = [_on(on, handler, inputs, outputs) for on in (ask.ask.click, ask.question.submit)]
    _stoppable(ask.ask, ask.stop, acting.problem, events)

    def revealed() -> list[Any]:
        return [gr.update(visible=False), gr.update(visible=True), gr.update(visible=True)]

    _on(ask.reveal.click, revealed, [], [ask.reveal, ask.answer, ask.bars])
    _on(
        ask.look.click,
        acting.evidence(ask),
        [ask.method, acting.which],
        [acting.problem, ask.look, ask.note, ask.overlay, ask.near, ask.near_pictures],
    )


def _wire_report(acting: Acting, report: parts.ReportParts) -> None:
    outputs = [
        report.draft, report.stop, acting.problem, report.findings, report.impression, report.comparison, *report.downloads.all,
    ]  # fmt: skip
    inputs = [report.indication, report.language]
    handler = acting.report(report)
    events = [
        _on(on, handler, inputs, outputs) for on in (report.draft.click, report.indication.submit)
    ]
    _stoppable(report.draft, report.stop, acting.problem, events)
    prior = [report.prior, report.prior_name, report.prior_remove, acting.problem]
    _on(report.prior.upload, acting.prior_added(report), [report.prior], prior, show_progress="minimal")  # fmt: skip
    _on(report.prior_remove.click, acting.prior_removed(report), [], prior)
    for name in ("findings", "impression", "comparison"):
        box = getattr(report, name)
        _on(box.input, acting.edited(name), [box], [], trigger_mode="always_last")


def _wire_rest(
    acting: Acting, differential: parts.DifferentialParts, consult: parts.ConsultParts
) -> None:
    ranked = [
        differential.rank, differential.stop, acting.problem, differential.unsure, differential.bars, differential.reasons,
        *differential.downloads.all,
    ]  # fmt: skip
    inputs = [differential.candidates, differential.history, differential.question]
    event = _on(differential.rank.click, acting.differential(differential), inputs, ranked)
    _stoppable(differential.rank, differential.stop, acting.problem, [event])
    said = [
        consult.send, consult.stop, acting.problem, consult.talk, consult.urgent, consult.message, *consult.downloads.all,
    ]  # fmt: skip
    handler = acting.consult(consult)
    events = [
        _on(on, handler, [consult.message], said)
        for on in (consult.send.click, consult.message.submit)
    ]
    _stoppable(consult.send, consult.stop, acting.problem, events)
    _on(consult.anew.click, acting.anew(consult), [], [consult.talk, consult.urgent, consult.downloads.row])  # fmt: skip
