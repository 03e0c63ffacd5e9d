"""A judge's words as levels, or the reason why they are none.

Invariant: never raises, whatever was written; a level is "0", "1", "2" or "U", and U stays U. An
answer that lacks a criterion or invents a level is garbage as a whole: half a judgement would have to
be guessed to the full.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from infimed.curation.findings import QUALITY, shorten
from infimed.inference.requests import Response

LEVELS: Final = ("0", "1", "2", "U")
JudgementStatus = Literal["ok", "refused", "garbage", "truncated", "timeout", "error"]
JUDGEMENT_STATUSES: Final = ("ok", "refused", "garbage", "truncated", "timeout", "error")
_MOST_OBJECTS: Final = 64

_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_REFUSAL = re.compile(
    r"^\W*(?:i['’]?m (?:very )?sorry|sorry|i (?:can ?not|can['’]t|am unable|['’]?m unable|won['’]t|must decline)"
    r"|as an ai\b|unfortunately,? i|i apologi[sz]e|抱歉|对不起|很遗憾|我(?:无法|不能))",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge said of one record.

    Attributes:
        status: "ok" where there are levels; else why there are none.
        levels: dimension -> "0", "1", "2" or "U"; empty unless ok.
        evidence: dimension -> the words it quoted, shortened; '' where it gave none.
        quoted: dimension -> whether the evidence stands in the record's text word by word (a
            region of the image does not); None without evidence.
        detail: what was wrong.
    """

    status: JudgementStatus
    levels: Mapping[str, str] = field(default_factory=dict)
    evidence: Mapping[str, str] = field(default_factory=dict)
    quoted: Mapping[str, bool | None] = field(default_factory=dict)
    detail: str = ""


class _Repeated(ValueError):
    """A JSON object names a key twice."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in pairs:
        name = key.strip().lower()
        if name in made:
            raise _Repeated(name)
        made[name] = value
    return made


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects in a text, fenced or not, in order."""
    decoder = json.JSONDecoder(object_pairs_hook=_once)
    at = 0
    for _ in range(_MOST_OBJECTS):
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


def _level(value: object) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, str) and value.strip().upper() in LEVELS:
        return value.strip().upper()
    return None


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" \"'“”‘’`.")


def parse_judgement(text: str, record_text: str = "") -> Judgement:
    """Levels from what a judge wrote.

    Accepts a JSON object alone, in a code fence or among other words; of several complete ones the
    last holds. A level may stand alone or as ``{"level": ..., "evidence": ...}``.

    Args:
        record_text: the record's text, in which quoted evidence is looked up.
    """
    said = _THOUGHT.sub(" ", text)
    problem = "no JSON object"
    found: Judgement | None = None
    haystack = _plain(record_text)
    try:
        for value in _objects(said):
            read = _read(value, haystack)
            if isinstance(read, Judgement):
                found = read
            elif problem == "no JSON object" or any(name in value for name in QUALITY):
                problem = read
    except _Repeated as error:
        return Judgement("garbage", detail=shorten(f"'{error}' is judged twice"))
    if found is not None:
        return found
    if problem == "no JSON object" and _REFUSAL.search(said):
        return Judgement("refused", detail=shorten(said))
    return Judgement("garbage", detail=shorten(problem))


def _read(value: Mapping[str, Any], haystack: str) -> Judgement | str:
    levels: dict[str, str] = {}
    evidence: dict[str, str] = {}
    quoted: dict[str, bool | None] = {}
    for name in QUALITY:
        if name not in value:
            return f"no level for {name}"
        entry: object = value[name]
        words: object = ""
        if isinstance(entry, Mapping):
            words, entry = entry.get("evidence", ""), entry.get("level")
        level = _level(entry)
        if level is None:
            return f"no such level of {name}: {json.dumps(entry)[:40]}"
        levels[name] = level
        evidence[name] = shorten(words) if isinstance(words, str) else ""
        needle = _plain(words) if isinstance(words, str) else ""
        quoted[name] = needle in haystack if needle else None
    return Judgement("ok", levels, evidence, quoted)


def judgement_of(response: Response, record_text: str = "") -> Judgement:
    """The judgement in a response; a response that is none keeps its status."""
    if response.status not in ("ok", "truncated"):
        return Judgement(response.status, detail=shorten(response.error or response.text))
    parsed = parse_judgement(response.text, record_text)
    if response.status == "truncated" and parsed.status == "garbage":
        return Judgement("truncated", detail="cut at the limit of tokens")
    return parsed
