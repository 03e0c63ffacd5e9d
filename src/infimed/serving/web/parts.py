"""The page's layout: what there is, where it stands and what it is called. No behaviour.

Texts of users and models are shown by components that set text, never HTML: text boxes, bars (`Label`) and choices
(`Radio`). Gradio's `Chatbot` is none of them: it writes HTML even with Markdown switched off. Static sentences of ours are
the only Markdown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import gradio as gr

from infimed.serving.web.viewer import IMAGE_TYPES, PRESETS

GONE: Final[Literal["hidden"]] = "hidden"
"""Of a part that is not shown: it stays in the page. One that is taken out (False) and put in again at once can get lost in
Gradio's browser code, which applies the second change before the first. Rows and columns cannot be hidden so: their
parts are, one by one."""

ONE_SENT = "Image of this question"
ALL_SENT = "All {count} images are sent with the question; choose which to view"
SURE, LIKELY = "How sure", "How likely"


def when(there: bool) -> Literal["hidden"] | bool:
    """Whether a part is shown, as Gradio wants it."""
    return True if there else GONE


def text_out(label: str, name: str, lines: int = 2, **more: Any) -> Any:
    """A text that was written for the user: can be selected and copied, grows with its content."""
    settings = {"interactive": False, "buttons": ["copy"], "elem_classes": ["written"], **more}
    return gr.Textbox(label=label, elem_id=name, lines=lines, max_lines=30, **settings)


def notice(label: str, name: str) -> Any:
    """A sentence of ours that has to be read before the answer below it; hidden until there is one."""
    return gr.Textbox(
        label=label, show_label=False, container=False, interactive=False, visible=GONE, elem_id=name, elem_classes=["notice"], lines=1, max_lines=6
    )  # fmt: skip


def about(name: str) -> Any:
    """Which images the answer of a tab is about."""
    return notice("Images of this answer", f"{name}-about")


def go(label: str, name: str) -> tuple[Any, Any]:
    """The button that asks, and the one that stops."""
    with gr.Row(elem_classes=["going"]):
        ask = gr.Button(label, variant="primary", elem_id=name, elem_classes=["go"])
        stop = gr.Button("Stop", elem_id=f"{name}-stop", visible=GONE, elem_classes=["stop"])
    return ask, stop


@dataclass
class Downloads:
    """Three ways to take a result along."""

    text: Any
    json: Any
    sr: Any

    @classmethod
    def made(cls, name: str) -> Downloads:
        """The row for an application; hidden until there is a result."""
        with gr.Row(elem_id=f"{name}-downloads", elem_classes=["downloads"]):
            buttons = [
                gr.Button(label, size="sm", link="#", elem_id=f"{name}-as-{kind}", visible=GONE)
                for kind, label in (("text", "Save as text"), ("json", "Save as JSON"), ("sr", "Save as structured JSON"))
            ]  # fmt: skip
        return cls(*buttons)

    @property
    def all(self) -> list[Any]:
        """All parts, for outputs."""
        return [self.text, self.json, self.sr]


@dataclass
class ViewerParts:
    """The images."""

    drop: Any
    problem: Any
    which: Any
    picture: Any
    facts: Any
    frame: Any
    preset: Any
    center: Any
    width: Any
    remove: Any
    remove_all: Any

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
        label="Problem", elem_id="problem", elem_classes=["problem"], visible=GONE, interactive=False
    )  # fmt: skip
    with gr.Column(elem_id="viewer"):
        which = gr.Radio(label=ONE_SENT, choices=[], elem_id="which", elem_classes=["chips"], visible=GONE)  # fmt: skip
        picture = gr.Image(
            label="Image", elem_id="picture", interactive=False, visible=GONE, buttons=["fullscreen"], show_label=False,
            alt_text="The chosen image",
        )  # fmt: skip
        facts = gr.Textbox(
            label="About this image", elem_id="facts", interactive=False, visible=GONE, show_label=False, container=False, lines=2, max_lines=3
        )  # fmt: skip
        frame = gr.Slider(label="Image of this file", minimum=1, maximum=2, step=1, value=1, elem_id="frame", visible=GONE)  # fmt: skip
        preset = gr.Radio(label="Window", choices=list(PRESETS), elem_id="preset", elem_classes=["chips"], visible=GONE)  # fmt: skip
        with gr.Row():
            center = _window("Window centre (brightness)", "center")
            width = _window("Window width (contrast)", "width")
        with gr.Row():
            remove = gr.Button("Remove this image", size="sm", elem_id="remove", visible=GONE)
            remove_all = gr.Button("Remove all images", size="sm", elem_id="remove-all", visible=GONE)  # fmt: skip
    return ViewerParts(
        drop, problem, which, picture, facts, frame, preset, center, width, remove, remove_all
    )


def _window(label: str, name: str) -> Any:
    return gr.Slider(
        label=label, minimum=0, maximum=1, elem_id=name, min_width=140, buttons=[], visible=GONE
    )


@dataclass
class AskParts:
    """The first tab."""

    question: Any
    choices: Any
    ask: Any
    stop: Any
    about: Any
    unsure: Any
    reveal: Any
    answer: Any
    bars: Any
    sure: Any
    downloads: Downloads
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
    of_images = about("ask")
    unsure = gr.Markdown(
        "### Not sure enough to answer\nThe model is less sure than the limit that was set for this server. Look at the image yourself, "
        "or ask in other words.",
        container=False, elem_id="unsure", elem_classes=["care"], visible=GONE,
    )  # fmt: skip
    reveal = gr.Button("Show what it would have said", size="sm", elem_id="reveal", visible=GONE)
    answer = text_out("Answer", "answer")
    bars = gr.Label(label=SURE, elem_id="bars", show_heading=False, visible=GONE)
    sure = gr.Textbox(label="How sure this answer is", show_label=False, container=False, interactive=False, elem_id="sure", visible=GONE, lines=2, max_lines=4)  # fmt: skip
    downloads = Downloads.made("ask")
    method = gr.Radio(
        label="Where did the model look?",
        choices=[
            ("By hiding parts (slower, more direct)", "occlusion"),
            ("By gradient (quicker, rougher)", "gradient"),
        ],
        value="occlusion",
        elem_id="method",
        visible=GONE,
        elem_classes=["chips"],
    )
    look = gr.Button("Show it on the image", size="sm", elem_id="look", visible=GONE)
    note = gr.Textbox(label="About where the model looked", show_label=False, container=False, interactive=False, elem_id="note", visible=GONE, lines=2, max_lines=6)  # fmt: skip
    overlay = gr.Image(
        label="Where the model looked", show_label=False, interactive=False, elem_id="overlay", visible=GONE, buttons=["fullscreen"],
        alt_text="The image with the parts that the answer depends on in bright colours",
    )  # fmt: skip
    near = gr.Textbox(label="Most alike in the training data", interactive=False, elem_id="near", visible=GONE, lines=1, max_lines=8)  # fmt: skip
    near_pictures = gr.Gallery(
        label="The same, as pictures", visible=GONE, elem_id="near-pictures", columns=5, height="auto", buttons=[], interactive=False
    )  # fmt: skip
    return AskParts(
        question, choices, ask, stop, of_images, unsure, reveal, answer, bars, sure, downloads, method, look, overlay, note, near, near_pictures
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
    about: Any
    empty: Any
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
            prior_name = gr.Textbox(label="Earlier image", elem_id="prior-name", visible=GONE, interactive=False)  # fmt: skip
            prior_remove = gr.Button("Remove the earlier image", size="sm", visible=GONE, elem_id="prior-remove")  # fmt: skip
    draft, stop = go("Draft the report", "draft")
    of_images = about("report")
    empty = notice("What is missing", "report-empty")
    findings = text_out("Findings (a draft: change what is wrong)", "findings", 5, interactive=True)
    impression = text_out("Impression (a draft: change what is wrong)", "impression", 3, interactive=True)  # fmt: skip
    comparison = text_out("Compared with the earlier image", "comparison", visible=GONE, interactive=True)  # fmt: skip
    rest = text_out(
        "Written without a heading: neither findings nor impression", "rest", visible=GONE
    )
    return ReportParts(
        indication, language, prior, prior_name, prior_remove, draft, stop, of_images, empty, findings, impression, comparison, rest, Downloads.made("report")
    )  # fmt: skip


@dataclass
class DifferentialParts:
    """The third tab."""

    candidates: Any
    history: Any
    question: Any
    rank: Any
    stop: Any
    about: Any
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
    of_images = about("differential")
    unsure = gr.Markdown(
        "### Cannot tell\nNone of these is likely enough on these images.",
        container=False, elem_id="rank-unsure", elem_classes=["care"], visible=GONE,
    )  # fmt: skip
    bars = gr.Label(label=LIKELY, elem_id="rank-bars", show_heading=False, visible=GONE)
    reasons = text_out("For and against, in the model's words: not checked", "reasons", 6)
    return DifferentialParts(candidates, history, question, rank, stop, of_images, unsure, bars, reasons, Downloads.made("differential"))  # fmt: skip


@dataclass
class ConsultParts:
    """The fourth tab."""

    about: Any
    talk: Any
    urgent: Any
    message: Any
    send: Any
    stop: Any
    anew: Any
    downloads: Downloads


def consult_tab() -> ConsultParts:
    """A conversation."""
    of_images = about("consult")
    urgent = gr.Textbox(
        label="Urgent", elem_id="urgent", elem_classes=["problem"], visible=GONE, interactive=False, lines=2, max_lines=12
    )  # fmt: skip
    talk = text_out("Conversation", "talk", 8, placeholder="Describe the complaint, or ask about the image.")  # fmt: skip
    message = gr.Textbox(label="Your message", lines=1, max_lines=8, elem_id="message")
    send, stop = go("Send", "send")
    anew = gr.Button("New conversation", size="sm", elem_id="anew")
    return ConsultParts(
        of_images, talk, urgent, message, send, stop, anew, Downloads.made("consult")
    )
