"""Two shortcuts to what a pattern finds in a text, without changing what it finds.

Most patterns of the rules match hardly ever, and trying one takes microseconds; most questions of a
set are asked of many images. So a pattern is tried only where one of its cues occurs (`Cued`), and
what was found in a short text is kept for the next record that says the same (`remembered`).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeVar

_Result = TypeVar("_Result")

REMEMBERED_CHARS: Final = 240
"""Longer texts hardly ever occur twice and are not kept."""

REMEMBERED_TEXTS: Final = 1 << 12
"""Texts kept by each function: 20 MB at most where words are kept, else 2."""


class Cued:
    """A pattern that ignores case behind a cheap look for one of its cues.

    Invariant: every match of the pattern in an ASCII text holds one of the cues once it is in lower
    case; a test derives that from the pattern itself. Other texts are always searched: some of their
    letters equal Latin ones where case is ignored.
    """

    __slots__ = ("cues", "pattern")

    def __init__(self, pattern: str, *cues: str, flags: int = re.IGNORECASE) -> None:
        self.pattern = re.compile(pattern, flags)
        self.cues = cues

    def hopeless(self, text: str) -> bool:
        """Whether the text certainly holds no match."""
        if not text.isascii():
            return False
        low = text.lower()
        return not any(map(low.__contains__, self.cues))

    def search(self, text: str) -> re.Match[str] | None:
        """As of `re.Pattern`."""
        return None if self.hopeless(text) else self.pattern.search(text)

    def finditer(self, text: str) -> Iterator[re.Match[str]]:
        """As of `re.Pattern`."""
        return iter(()) if self.hopeless(text) else self.pattern.finditer(text)


class Cues:
    """Which of several cued patterns may match a text, by one look for the cues of all of them."""

    __slots__ = ("_all", "_cues")

    def __init__(self, patterns: Iterable[Cued]) -> None:
        self._cues = tuple((i, cue) for i, cued in enumerate(patterns) for cue in cued.cues)
        self._all = tuple(sorted({i for i, _ in self._cues}))

    def among(self, text: str) -> Sequence[int]:
        """Positions of the patterns that are not hopeless, ascending."""
        if not text.isascii():
            return self._all
        low = text.lower()
        return sorted({i for i, cue in self._cues if cue in low})


def remembered(function: Callable[[str], _Result]) -> Callable[[str], _Result]:
    """A pure function of one text that keeps its results for short texts."""
    known = functools.lru_cache(maxsize=REMEMBERED_TEXTS)(function)

    @functools.wraps(function)
    def quick(text: str) -> _Result:
        return known(text) if len(text) <= REMEMBERED_CHARS else function(text)

    return quick
