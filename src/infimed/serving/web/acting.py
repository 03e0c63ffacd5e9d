"""What the events of the four tabs have in common: how an answer begins, is stopped, ends or fails, and what is kept of it.

Every handler yields what changes, by part. While an answer is written the button that asks is replaced by the one that
stops; closing the page stops it too. Invariant: what the page shows is what is asked about; where an image, an earlier
image or a conversation is still on the screen and no longer here, nothing is asked.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, ClassVar

import gradio as gr

from infimed.serving.web import parts
from infimed.serving.web.door import PREFIX
from infimed.serving.web.holding import About, Finished, Kept
from infimed.serving.web.images import FORGOTTEN, placed, said
from infimed.serving.web.parts import GONE
from infimed.serving.web.results import NONE, of_images, seen
from infimed.serving.web.session import Event, Sessions
from infimed.serving.web.viewer import Viewer

Changes = dict[Any, Any]
Stream = AsyncGenerator[Changes, None]
HIDDEN = {"visible": GONE}
STOPPED = " … (stopped)"
"""Behind a text that was not written to its end, which could otherwise pass for a whole answer."""


@dataclass
class Acting:
    """See the module.

    Attributes:
        which: the choice of the image that is looked at. problem: where the tabs say what went wrong.
        go, stop: the buttons of this tab. about: says which images its answer is about, where that is not plain.
    """

    name: ClassVar[str]
    """Of the application."""

    sessions: Sessions
    viewer: Viewer
    which: Any
    problem: Any
    go: Any
    stop: Any
    about: Any

    def begun(self, kept: Kept) -> Changes:
        """An answer begins, about the images as they are now; what was there before is no result any more."""
        kept.finished.pop(self.name, None)
        kept.about[self.name] = About.of(kept.images)
        return {
            self.go: gr.update(**HIDDEN),
            self.stop: gr.update(visible=True),
            self.problem: said(""),
            self.about: noticed(self.name, kept),
        }

    def ended(self) -> Changes:
        """It is complete, or is not written any more."""
        return {self.go: gr.update(visible=True), self.stop: gr.update(**HIDDEN)}

    def failed(self, event: Event, error: Exception, *texts: Any) -> Changes:
        """It failed; none of its texts waits any more."""
        waiting = {text: gr.update(placeholder="") for text in texts}
        event.kept.about.pop(self.name, None)
        return {
            **self.ended(),
            **waiting,
            self.about: said(""),
            self.problem: said(event.problem(error)),
        }

    def lacking(self, kept: Kept, which: Any, needed: dict[str, bool]) -> str:
        """Why nothing can be asked now, as a sentence; "" where it can.

        Args:
            which: the image that the page shows. needed: a sentence for what has to be there first, and whether it is.
        """
        if which is not None and placed(which, kept.images) is None:
            return FORGOTTEN
        return next((sentence for sentence, there in needed.items() if not there), "")

    def typed(self, kept: Kept, **texts: str) -> dict[str, str]:
        """What is asked, by field, for downloads: with the images as they are looked at now."""
        return {**texts, "images": seen(kept.images) or NONE}

    def finished(self, event: Event, typed: dict[str, str], result: dict[str, Any]) -> Finished:
        """Keep a result for downloads."""
        return self.sessions.holding.finish(event.kept, self.name, typed, result)


def noticed(name: str, kept: Kept) -> Any:
    """Which images the answer of a tab is about, where they are not the ones on the page."""
    return said(of_images(name, kept.about.get(name), kept.images))


def stopped(*texts: Any) -> list[Any]:
    """The updates of a tab's texts when its answer is stopped: none waits, and the last that was begun says so."""
    made = [gr.update(placeholder="") for _ in texts]
    for at in reversed(range(len(texts))):
        text = text_of(texts[at])
        if text.strip():
            whole = text if text.endswith(STOPPED) else f"{text.rstrip()}{STOPPED}"
            made[at] = gr.update(value=whole, placeholder="")
            break
    return made


def links(downloads: parts.Downloads, done: Finished) -> Changes:
    """The buttons that save a result."""
    kinds = {downloads.text: "text", downloads.json: "json", downloads.sr: "sr"}
    place = f"{PREFIX}/result/{done.token}"
    return {part: gr.update(link=f"{place}/{kind}", visible=True) for part, kind in kinds.items()}


def hidden(*gone: Any) -> Changes:
    """Parts that are not shown for now.

    What has a value loses it: an update without a value is applied later than one with, so one that hides a part
    could undo one behind it that shows it.
    """
    made: Changes = {}
    for part in gone:
        if isinstance(part, gr.Textbox):
            made[part] = gr.update(value="", **HIDDEN)
        elif isinstance(part, gr.Label | gr.Image | gr.Gallery):
            made[part] = gr.update(value=None, **HIDDEN)
        else:
            made[part] = gr.update(**HIDDEN)
    return made


def images_of(kept: Kept) -> list[dict[str, Any]]:
    """The images of a request."""
    return [held.asked().model_dump() for held in kept.images]


def text_of(value: Any) -> str:
    """What a text box says; one of ours says text only."""
    return value if isinstance(value, str) else ""


def lines_of(value: Any) -> list[str]:
    """The lines of a text box that are not empty."""
    return [line.strip() for line in text_of(value).splitlines() if line.strip()]
