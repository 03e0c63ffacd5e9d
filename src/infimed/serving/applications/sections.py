"""Findings and Impression in a report that a model writes: while it is written, and when it is complete.

A section is there where the model wrote its heading, and nowhere else: what has no heading is in neither.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Final

FINDINGS, IMPRESSION = "findings", "impression"
SECTIONS: Final = (FINDINGS, IMPRESSION)
_NAMES: Final = {
    "findings": FINDINGS,
    "finding": FINDINGS,
    "检查所见": FINDINGS,
    "影像所见": FINDINGS,
    "影像学表现": FINDINGS,
    "所见": FINDINGS,
    "impression": IMPRESSION,
    "impressions": IMPRESSION,
    "conclusion": IMPRESSION,
    "诊断意见": IMPRESSION,
    "诊断印象": IMPRESSION,
    "印象": IMPRESSION,
    "结论": IMPRESSION,
}
_ANY: Final = "|".join(sorted(_NAMES, key=len, reverse=True))
_BEGIN: Final = re.compile(rf"[\s*#]*({_ANY})[*\s]*[:：][*\s]*", re.IGNORECASE)
_INSIDE: Final = re.compile(
    rf"(?:^|(?<=[\n.。;；]))[\s*#]*({_ANY})[*\s]*[:：][*\s]*", re.IGNORECASE
)
_SENTENCE: Final = re.compile(r"(?<=[.;])\s+|(?<=[。；])\s*|\n+")
_NEGATED: Final = re.compile(
    r"^(?:no|not|without|absent|never|negative for)\b|\b(?:no evidence of|is not seen|are not seen|not visible)\b"
    r"|^(?:未|无|没有|不)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Sections:
    """What a text has under each heading, or None where there is no such heading or nothing below it.

    Attributes:
        before: text above the first heading.
    """

    findings: str | None
    impression: str | None
    before: str = ""

    @property
    def missing(self) -> list[str]:
        """Sections that the model did not give."""
        return [name for name in SECTIONS if getattr(self, name) is None]

    def structured(self) -> dict[str, Any]:
        """Sentences of the findings, each with whether it denies something, and items of the impression."""
        return {
            "findings": [
                {"text": one, "negated": bool(_NEGATED.search(one))}
                for one in sentences(self.findings or "")
            ],
            "impression": sentences(self.impression or ""),
            "missing": self.missing,
        }


def read_sections(text: str) -> Sections:
    """The sections of a complete report; text under a heading that comes twice is joined."""
    found: dict[str, list[str]] = {}
    hits = list(_INSIDE.finditer(text))
    for hit, following in zip_longest(hits, hits[1:]):
        own = text[hit.end() : following.start() if following else len(text)].strip()
        if own:
            found.setdefault(_NAMES[hit[1].lower()], []).append(own)
    joined = {name: "\n".join(parts) for name, parts in found.items()}
    before = text[: hits[0].start()] if hits else text
    return Sections(joined.get(FINDINGS), joined.get(IMPRESSION), before.strip())


def sentences(text: str) -> list[str]:
    """Sentences and items of a section, list marks left off; 1.5 mm is no end of one."""
    made = [re.sub(r"^(?:[-*•]|\d+[.)])\s+", "", one.strip()) for one in _SENTENCE.split(text)]
    return [one for one in made if one and not re.fullmatch(r"[\d.)*•-]+", one)]


@dataclass
class Splitter:
    """Says of every piece of a report that is being written which section it belongs to.

    A line's beginning waits while it may become a heading. Headings inside a line are found by `read_sections` only,
    when all is written.
    """

    part: str = ""
    _line: str = ""
    _held: bool = True
    _out: list[tuple[str, str]] = field(default_factory=list)

    def feed(self, piece: str) -> list[tuple[str, str]]:
        """(section, text) of what is certain now."""
        self._out = []
        for line in piece.splitlines(keepends=True):
            if not self._held:
                self._out.append((self.part, line))
            else:
                self._line += line
                self._decide()
            if line.endswith("\n"):
                self._flush()
                self._held = True
        return self._out

    def end(self) -> list[tuple[str, str]]:
        """What still waited."""
        self._out = []
        self._flush()
        return self._out

    def _decide(self) -> None:
        hit = _BEGIN.match(self._line)
        if hit is not None:
            self.part, self._line, self._held = (
                _NAMES[hit[1].lower()],
                self._line[hit.end() :],
                False,
            )
            self._flush()
            return
        begun = self._line.strip(" \t*#").lower()
        if not any(name.startswith(begun) or begun.startswith(name) for name in _NAMES) or len(
            begun
        ) > 2 + max(map(len, _NAMES)):
            self._held = False
            self._flush()

    def _flush(self) -> None:
        if self._line:
            self._out.append((self.part, self._line))
        self._line = ""
