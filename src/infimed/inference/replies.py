"""What a judging model is handed and what it wrote: quoted material, and JSON among other words.

Shared by curation's judge (of records) and evaluation's (of answers). Invariants: material that is
quoted cannot close its own frame; reading a reply never raises anything but `RepeatedKey`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

MOST_OBJECTS: Final = 64
"""Objects looked at in one reply; what comes after is not read."""
CUT: Final = " [cut here by the reviewer's tool, not by the author]"

_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_REFUSAL = re.compile(
    r"^\W*(?:i['’]?m (?:very )?sorry|sorry|i (?:can ?not|can['’]t|am unable|['’]?m unable|won['’]t|must decline)"
    r"|as an ai\b|unfortunately,? i|i apologi[sz]e|抱歉|对不起|很遗憾|我(?:无法|不能))",
    re.IGNORECASE,
)


class RepeatedKey(ValueError):
    """A JSON object names a key twice."""


def without_thoughts(text: str) -> str:
    """A reply without its reasoning in ``<think>`` tags."""
    return _THOUGHT.sub(" ", text)


def refuses(text: str) -> bool:
    """Whether a reply begins by declining, in English or Chinese."""
    return _REFUSAL.search(text) is not None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in pairs:
        name = key.strip().lower()
        if name in made:
            raise RepeatedKey(name)
        made[name] = value
    return made


def json_objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects in a reply, fenced or not, in order; their keys in lower case.

    Raises:
        RepeatedKey: an object names a key twice.
    """
    decoder = json.JSONDecoder(object_pairs_hook=_once)
    at = 0
    for _ in range(MOST_OBJECTS):
        at = text.find("{", at)
        if at < 0:
            return
        try:
            value, at = decoder.raw_decode(text, at)
        except (json.JSONDecodeError, RecursionError):
            at += 1
            continue
        if isinstance(value, dict):
            yield value


def unmarked(text: str) -> str:
    """Text that can neither close nor open a frame."""
    return text.replace("<<<", "‹‹‹").replace(">>>", "›››")


def framed(name: str, text: str, most: int) -> str:
    """Text as quoted material ``<<<NAME ... NAME>>>``; past `most` characters its middle is cut out."""
    if len(text) > most:
        text = text[: most - most // 2] + CUT + " " + text[len(text) - most // 2 :]
    return f"<<<{name}\n{unmarked(text)}\n{name}>>>"


def text_tokens(text: str) -> int:
    """A rough count of tokens: one per Chinese character, one per four others."""
    wide = sum(char >= "\u2e80" for char in text)
    return wide + -(-(len(text) - wide) // 4)
