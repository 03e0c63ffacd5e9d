"""What the page remembers: the images and the last results of each open page, in memory and bounded.

A page belongs to one client (a key, or an address where there are none); another client that names it finds
nothing. What is not used for half an hour is forgotten, and so is everything when the page is closed.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from infimed.serving.media import Look
from infimed.serving.protocol import ImageUrl
from infimed.serving.refusals import Refusal

IDLE_SECONDS: Final = 1800.0
PAGES: Final = 512


@dataclass(frozen=True)
class View:
    """What of an image is looked at; None for what the file itself says."""

    frame: int | None = None
    window: tuple[float, float] | None = None


@dataclass
class Held:
    """An image of a page.

    Attributes:
        name: its file's, as the user's machine gave it: text, never a path. url: the image as a data: URL.
        first: as it looked before anything was chosen. answered: as it was looked at when the last question was asked
            that was answered; None where it was not there. key: tells it from every other, also from the same file added again.
    """

    name: str
    url: str = field(repr=False)
    first: Look
    view: View = View()
    answered: View | None = None
    key: object = field(default_factory=object, repr=False, compare=False)

    def asked(self) -> ImageUrl:
        """The image as a request has it: what the model gets is what is looked at."""
        window = None if self.view.window is None else list(self.view.window)
        return ImageUrl(url=self.url, frame=self.view.frame, window=window)

    def moved(self, **view: Any) -> None:
        """Look at another frame, or through another window."""
        self.view = replace(self.view, **view)


@dataclass(frozen=True)
class Finished:
    """A result that can be downloaded.

    Attributes:
        token: names it in an address; cannot be guessed. name: of the application.
        asked: what was put in, as text by field. result: as the application gave it.
        edited: sections that the user has rewritten.
    """

    token: str
    name: str
    asked: dict[str, str]
    result: dict[str, Any]
    edited: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class About:
    """Which images an answer on the page is about, without keeping them.

    Attributes:
        keys: of the images, in order. names: theirs, as the page shows them.
    """

    keys: tuple[object, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, images: Sequence[Held]) -> About:
        """The images as they are now."""
        return cls(tuple(held.key for held in images), tuple(held.name for held in images))


@dataclass
class Pending:
    """A message that is being answered, and what is written so far.

    Attributes:
        about: the images of the answer before it, which is the last one again where nothing comes of this.
        warned: the warning that the text begins with.
    """

    text: str
    written: str = ""
    about: About | None = None
    warned: str = ""


@dataclass
class Kept:
    """All of one page.

    Attributes:
        finished: the last result of each tab. about: of each tab that shows an answer, which images it is about.
    """

    images: list[Held] = field(default_factory=list)
    prior: Held | None = None
    finished: dict[str, Finished] = field(default_factory=dict)
    about: dict[str, About] = field(default_factory=dict)
    talk: list[dict[str, str]] = field(default_factory=list)
    pending: Pending | None = None
    touched: float = 0.0

    @property
    def bytes(self) -> int:
        """Of its images, encoded."""
        held = [*self.images, self.prior] if self.prior else self.images
        return sum(len(image.url) for image in held if image is not None)


class Holding:
    """The pages that are open. For one event loop."""

    def __init__(self, most_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.most_bytes, self._clock = most_bytes, clock
        self._pages: OrderedDict[tuple[str, str], Kept] = OrderedDict()

    def page(self, client: str, session: str) -> Kept:
        """What is kept for a page; makes room when there are too many."""
        now = self._clock()
        for key in [k for k, kept in self._pages.items() if now - kept.touched > IDLE_SECONDS]:
            del self._pages[key]
        kept = self._pages.setdefault((client, session), Kept())
        kept.touched = now
        self._pages.move_to_end((client, session))
        while len(self._pages) > PAGES:
            self._pages.popitem(last=False)
        return kept

    def make_room(self, kept: Kept, more: int) -> None:
        """Forget the pages that were not used for longest until `more` bytes fit.

        Raises:
            Refusal: they do not fit beside what this page holds itself.
        """
        if kept.bytes + more > self.most_bytes:
            raise Refusal("image_bytes", detail="the images of this page are too large together")
        for key, other in list(self._pages.items()):
            if sum(page.bytes for page in self._pages.values()) + more <= self.most_bytes:
                break
            if other is not kept:
                del self._pages[key]

    def forget(self, session: str) -> None:
        """A page was closed."""
        for key in [key for key in self._pages if key[1] == session]:
            del self._pages[key]

    def finish(self, kept: Kept, name: str, asked: dict[str, str], result: dict[str, Any]) -> Finished:  # fmt: skip
        """Keep the last result of an application for downloads."""
        done = kept.finished[name] = Finished(secrets.token_urlsafe(16), name, asked, result)
        return done

    def finished(self, client: str, token: str) -> Finished | None:
        """The result behind an address of this client, or None."""
        for (owner, _), kept in self._pages.items():
            if owner == client:
                for done in kept.finished.values():
                    if secrets.compare_digest(done.token.encode(), token.encode()):
                        return done
        return None
