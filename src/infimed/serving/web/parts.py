"""The page's layout: what there is, where it stands and what it is called. No behaviour.

Texts of users and models are shown by components that set text, never HTML: text boxes, bars (`Label`) and choices
(`Radio`). Gradio's `Chatbot` is none of them: it writes HTML even with Markdown switched off. Static sentences of ours are
the only Markdown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from infimed.serving.web.viewer import PRESETS

IMAGE_TYPES = "PNG, JPEG, WebP, TIFF, BMP, DICOM or NIfTI"


def text_out(label: str, name: str, lines: int = 2, **more: Any) -> Any:
    """A text that was written for the user: can be selected and copied, grows with its content."""
    settings = {"interactive": False, "buttons": ["copy"], "elem_classes": ["written"], **more}
    return gr.Textbox(label=label, elem_id=name, lines=lines, max_lines=30, **settings)


def go(label: str, name: str) -> tuple[Any, Any]:
    """The button that asks, and the one that stops."""
    with gr.Row(elem_classes=["going"]):
        ask = gr.Button(label, variant="primary", elem_id=name, elem_classes=["go"])
        stop = gr.Button("Stop", elem_id=f"{name}-stop", visible=False, elem_classes=["stop"])
    return ask, stop


@dataclass
class Downloads:
    """Three ways to take a result along."""

    row: Any
    text: Any
    json: Any
    sr: Any

    @classmethod
    def made(cls, name: str) -> Downloads:
        """The row for an application; hidden until there is a result."""
        with gr.Row(visible=False, elem_id=f"{name}-downloads", elem_classes=["downloads"]) as row:
            buttons = [
                gr.Button(label, size="sm", link="#", elem_id=f"{name}-as-{kind}")
                for kind, label in (("text", "Save as text"), ("json", "Save as JSON"), ("sr", "Save as SR-like JSON"))
            ]  # fmt: skip
        return cls(row, *buttons)

    @property
    def all(self) -> list[Any]:
        """All parts, for outputs."""
        return [self.row, self.text, self.json, self.sr]


@dataclass
class ViewerParts:
    """The images."""

    drop: Any
    problem: Any
    group: Any
    which: Any
    picture: Any
    facts: Any
    frame: Any
    windows: Any
    preset: Any
    center: Any
    width: Any
    remove: Any

    @property
    def all(self) -> list[Any]:
        """All parts, for outputs."""
        return list(vars(self).values())


def viewer() -> ViewerParts:
    """The left half."""
    drop = gr.File(
        label=f"Images: {IMAGE_TYPES}",
        file_count="multiple",
        elem_id="drop",
        height=132,
    )
    problem = gr.Textbox(
        label="Problem", elem_id="problem", elem_classes=["problem"], visible=False, interactive=False
    )  # fmt: skip
    with gr.Column(visible=False, elem_id="viewer") as group:
        which = gr.Radio(label="Images of this question", choices=[], elem_id="which", elem_classes=["chips"])  # fmt: skip
        picture = gr.Image(
            label="Image", elem_id="picture", interactive=False, buttons=["fullscreen"], show_label=False,
            alt_text="The chosen image",
        )  # fmt: skip
        facts = gr.Textbox(
            label="About this image", elem_id="facts", interactive=False, show_label=False, container=False, lines=2, max_lines=3
        )  # fmt: skip
        frame = gr.Slider(label="Image of this file", minimum=1, maximum=2, step=1, value=1, elem_id="frame", visible=False)  # fmt: skip
        with gr.Column(visible=False, elem_id="windows") as windows:
            preset = gr.Radio(label="Window", choices=list(PRESETS), elem_id="preset", elem_classes=["chips"])  # fmt: skip
            with gr.Row():
                center = gr.Slider(label="Window centre (brightness)", minimum=0, maximum=1, elem_id="center", min_width=140)  # fmt: skip
                width = gr.Slider(label="Window width (contrast)", minimum=0, maximum=1, elem_id="width", min_width=140)  # fmt: skip
        remove = gr.Button("Remove this image", size="sm", elem_id="remove")
    return ViewerParts(
        drop, problem, group, which, picture, facts, frame, windows, preset, center, width, remove
    )


@dataclass
class AskParts:
    """The first tab."""

    question: Any
    choices: Any
    ask: Any
    stop: Any
    unsure: Any
    reveal: Any
    answer: Any
    bars: Any
    sure: Any
    downloads: Downloads
    evidence: Any
    method: Any
    look: Any
    overlay: Any
    note: Any
    near: Any
    near_pictures: Any


def ask_tab() -> AskParts:
    """A question, its answer, how sure it is, and why."""
    question = gr.Textbox(
        label="Your question", placeholder="For example: Is a pleural effusion visible?", lines=1, max_lines=8, elem_id="question"
    )  # fmt: skip
    with gr.Accordion("Choose among given answers", open=False):
        choices = gr.Textbox(label="Possible answers, one a line (2 to 20)", lines=3, elem_id="choices")  # fmt: skip
    ask, stop = go("Ask", "ask")
    with gr.Column(visible=False, elem_id="unsure") as unsure:
        gr.Markdown(
            "### Not sure enough to answer\nThe model is less sure than the limit that was set for this server. Look at the image yourself, "
            "or ask in other words.",
            container=False,
        )  # fmt: skip
        reveal = gr.Button("Show what it would have said", size="sm", elem_id="reveal")
    answer = text_out("Answer", "answer")
    bars = gr.Label(label="How sure", elem_id="bars", show_heading=False, visible=False)
    sure = gr.Textbox(show_label=False, container=False, interactive=False, elem_id="sure", visible=False, lines=2, max_lines=4)  # fmt: skip
    downloads = Downloads.made("ask")
    with gr.Column(visible=False, elem_id="evidence") as evidence:
        method = gr.Radio(
            label="Where did the model look?",
            choices=[("By hiding parts", "occlusion"), ("By gradient", "gradient")],
            value="occlusion",
            elem_id="method",
            elem_classes=["chips"],
        )
        look = gr.Button("Show it on the image", size="sm", elem_id="look")
        note = gr.Textbox(show_label=False, container=False, interactive=False, elem_id="note", visible=False, lines=2, max_lines=6)  # fmt: skip
        overlay = gr.Image(
            label="Bright colours: the answer depends on these parts", interactive=False, elem_id="overlay", visible=False, buttons=["fullscreen"],
            alt_text="The image with the parts that the answer depends on in bright colours",
        )  # fmt: skip
        near = gr.Textbox(label="Most alike in the training data", interactive=False, elem_id="near", visible=False, lines=1, max_lines=8)  # fmt: skip
        near_pictures = gr.Gallery(
            label="The same, as pictures", visible=False, elem_id="near-pictures", columns=5, height="auto", buttons=[], interactive=False
        )  # fmt: skip
    return AskParts(
        question, choices, ask, stop, unsure, reveal, answer, bars, sure, downloads, evidence, method, look, overlay, note, near, near_pictures
    )  # fmt: skip


@dataclass
class ReportParts:
    """The second tab."""

    indication: Any
    language: Any
    prior: Any
    prior_name: Any
    prior_remove: Any
    draft: Any
    stop: Any
    findings: Any
    impression: Any
    comparison: Any
    rest: Any
    downloads: Downloads


def report_tab() -> ReportParts:
    """A draft that is edited here."""
    indication = gr.Textbox(
        label="Indication or history (optional)", placeholder="For example: Cough for two weeks.", lines=1, max_lines=6, elem_id="indication"
    )  # fmt: skip
    with gr.Row():
        language = gr.Radio(
            label="Language", choices=[("English", "en"), ("中文", "zh")], value="en", elem_id="language", elem_classes=["chips"], min_width=140
        )  # fmt: skip
        with gr.Column(min_width=140):
            prior = gr.UploadButton("Add an earlier image to compare", size="sm", elem_id="prior", file_count="single")  # fmt: skip
            prior_name = gr.Textbox(label="Earlier image", elem_id="prior-name", visible=False, interactive=False)  # fmt: skip
            prior_remove = gr.Button("Remove the earlier image", size="sm", visible=False, elem_id="prior-remove")  # fmt: skip
    draft, stop = go("Draft the report", "draft")
    findings = text_out("Findings (a draft: change what is wrong)", "findings", 5, interactive=True)
    impression = text_out("Impression (a draft: change what is wrong)", "impression", 3, interactive=True)  # fmt: skip
    comparison = text_out("Compared with the earlier image", "comparison", visible=False, interactive=True)  # fmt: skip
    rest = text_out("Written without a heading: neither findings nor impression", "rest", visible=False)
    return ReportParts(
        indication, language, prior, prior_name, prior_remove, draft, stop, findings, impression, comparison, rest, Downloads.made("report")
    )  # fmt: skip


@dataclass
class DifferentialParts:
    """The third tab."""

    candidates: Any
    history: Any
    question: Any
    rank: Any
    stop: Any
    unsure: Any
    bars: Any
    reasons: Any
    downloads: Downloads


def differential_tab() -> DifferentialParts:
    """Candidates and how likely each is."""
    candidates = gr.Textbox(
        label="Possible diagnoses, one a line (2 to 20)", placeholder="Pneumonia\nPulmonary oedema\nAtelectasis", lines=4, max_lines=20, elem_id="candidates"
    )  # fmt: skip
    history = gr.Textbox(label="History (optional)", lines=1, max_lines=8, elem_id="history")
    question = gr.Textbox(label="Question (optional)", lines=1, max_lines=4, elem_id="differential-question")  # fmt: skip
    rank, stop = go("Rank them", "rank")
    with gr.Column(visible=False, elem_id="rank-unsure") as unsure:
        gr.Markdown("### Cannot tell\nNone of these is likely enough on these images.", container=False)  # fmt: skip
    bars = gr.Label(label="How likely", elem_id="rank-bars", show_heading=False, visible=False)
    reasons = text_out("For and against, in the model's words: not checked", "reasons", 6)
    return DifferentialParts(candidates, history, question, rank, stop, unsure, bars, reasons, Downloads.made("differential"))  # fmt: skip


@dataclass
class ConsultParts:
    """The fourth tab."""

    talk: Any
    urgent: Any
    message: Any
    send: Any
    stop: Any
    anew: Any
    downloads: Downloads


def consult_tab() -> ConsultParts:
    """A conversation."""
    urgent = gr.Textbox(
        label="Urgent", elem_id="urgent", elem_classes=["problem"], visible=False, interactive=False, lines=2, max_lines=12
    )  # fmt: skip
    talk = text_out("Conversation", "talk", 8, placeholder="Describe the complaint, or ask about the image.")  # fmt: skip
    message = gr.Textbox(label="Your message", lines=1, max_lines=8, elem_id="message")
    send, stop = go("Send", "send")
    anew = gr.Button("New conversation", size="sm", elem_id="anew")
    return ConsultParts(talk, urgent, message, send, stop, anew, Downloads.made("consult"))
