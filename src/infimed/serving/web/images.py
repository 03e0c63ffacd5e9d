"""What happens when images are added, chosen, scrolled, windowed or removed: events of the left half of the page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import gradio as gr

from infimed.serving.media import Look
from infimed.serving.refusals import Refusal
from infimed.serving.web.holding import Held
from infimed.serving.web.parts import ALL_SENT, GONE, ONE_SENT, ViewerParts, when
from infimed.serving.web.results import of_images
from infimed.serving.web.session import Event, Sessions
from infimed.serving.web.viewer import (
    PRESETS,
    Viewer,
    images_of,
    preset_of,
    told,
    window_range,
)

Updates = dict[Any, Any]


@dataclass
class Images:
    """See the module. Every event returns what changes, by part.

    Attributes:
        abouts: of every tab, where it says which images its answer is about.
    """

    sessions: Sessions
    viewer: Viewer
    parts: ViewerParts
    abouts: dict[str, Any]

    async def uploaded(self, payload: Any, request: gr.Request) -> Updates:
        """Files were dropped or chosen; the last of them is shown."""
        event = self.sessions.event(request)
        kept, most = event.kept, event.service.settings.limits.images
        try:
            taken = await self.viewer.take(event, payload)
            if not taken:
                raise Refusal("image_missing")
            if len(kept.images) + len(taken) > most:
                raise Refusal("too_many_images", detail=f"at most {most}")
            self.sessions.holding.make_room(kept, sum(len(held.url) for held in taken))
            kept.images += taken
            shown = await self._shown(event, len(kept.images) - 1)
        except Exception as error:
            return {self.parts.drop: None, **self._answers(event), **self._problem(event, error)}
        return {self.parts.drop: None, **shown}

    async def chosen(self, which: Any, request: gr.Request) -> Updates:
        """Another image of the page."""
        return await self._moved(request, which)

    async def scrolled(self, which: Any, number: Any, request: gr.Request) -> Updates:
        """Another frame or slice, counted from 1."""
        return await self._moved(request, which, frame=max(0, int(_number(number)) - 1))

    async def windowed(self, which: Any, center: Any, width: Any, request: gr.Request) -> Updates:
        """Another window, by the sliders."""
        window = (_number(center), max(_number(width), 1e-6))
        return await self._moved(request, which, window=window)

    async def preset(self, which: Any, name: Any, request: gr.Request) -> Updates:
        """Another window, by its name."""
        return await self._moved(request, which, window=PRESETS.get(str(name)))

    async def removed(self, which: Any, request: gr.Request) -> Updates:
        """The chosen image goes."""
        event = self.sessions.event(request)
        images = event.kept.images
        if (at := placed(which, images)) is not None:
            del images[at]
        return await self._moved(request, len(images) - 1)

    async def emptied(self, request: gr.Request) -> Updates:
        """All images go."""
        self.sessions.event(request).kept.images.clear()
        return await self._moved(request, -1)

    def _answers(self, event: Event) -> Updates:
        """What every tab that shows an answer says of its images now."""
        kept = event.kept
        return {
            about: said(of_images(name, kept.about[name], kept.images))
            for name, about in self.abouts.items()
            if name in kept.about
        }

    async def _moved(self, request: gr.Request, which: Any, **view: Any) -> Updates:
        event = self.sessions.event(request)
        images = event.kept.images
        at = placed(which, images)
        if at is None:
            gone = which is not None and which != -1
            p = self.parts
            gone_too = (p.frame, p.preset, p.center, p.width, p.remove, p.remove_all)
            return {
                **self._answers(event),
                p.which: gr.update(choices=[], value=None, visible=GONE),
                p.picture: gr.update(value=None, visible=GONE),
                p.facts: gr.update(value="", visible=GONE),
                **{part: gr.update(visible=GONE) for part in gone_too},
                p.problem: said(FORGOTTEN if gone else ""),
            }
        before = images[at].view
        images[at].moved(**view)
        try:
            return await self._shown(event, at)
        except Exception as error:
            images[at].view = before
            return self._problem(event, error)

    async def _shown(self, event: Event, at: int) -> Updates:
        """All controls for an image, and its picture."""
        held, p = event.kept.images[at], self.parts
        look = await self.viewer.look(event, held)
        count = len(event.kept.images)
        label = ALL_SENT.format(count=count) if count > 1 else ONE_SENT
        return {
            **self._answers(event),
            p.problem: gr.update(visible=GONE),
            p.which: gr.update(choices=images_of(event.kept), value=at, label=label, visible=True),
            p.remove_all: gr.update(visible=when(count > 1)),
            p.picture: gr.update(value=self.viewer.picture(event, look.png), visible=True),
            p.facts: gr.update(value=told(held, look), visible=True),
            p.remove: gr.update(visible=True),
            p.frame: gr.update(
                visible=when(look.frames > 1),
                minimum=1,
                maximum=max(2, look.frames),
                value=look.frame + 1,
            ),
            **self._windows(held, look),
        }

    def _windows(self, held: Held, look: Look) -> Updates:
        p = self.parts
        if look.window is None or held.first.window is None:
            return {part: gr.update(visible=GONE) for part in (p.preset, p.center, p.width)}
        span = window_range(held.first)
        names = list(PRESETS) if look.units == "HU" else list(PRESETS)[:1]
        center, width = look.window
        return {
            p.preset: gr.update(choices=names, value=preset_of(held), visible=True),
            p.center: gr.update(
                minimum=min(span.center[0], center), maximum=max(span.center[1], center), step=span.step, value=center, visible=True
            ),
            p.width: gr.update(
                minimum=span.width[0], maximum=max(span.width[1], width), step=span.step, value=width, visible=True
            ),
        }  # fmt: skip

    def _problem(self, event: Event, error: Exception) -> Updates:
        return {self.parts.problem: said(event.problem(error))}


FORGOTTEN = "The image is no longer there: the page was not used for a while, or the connection was lost. Add it again."


def said(problem: str) -> Any:
    """A problem on the page; "" for none."""
    return gr.update(value=problem, visible=when(bool(problem)))


def placed(which: Any, images: list[Held]) -> int | None:
    """The place of the chosen image, as the page says it; None where there is none."""
    if isinstance(which, int) and not isinstance(which, bool) and 0 <= which < len(images):
        return which
    return None


def _number(value: Any) -> float:
    """What a slider says; a slider of ours says numbers only."""
    number = isinstance(value, int | float) and math.isfinite(value)
    return max(-1e9, min(1e9, float(value))) if number else 0.0
