"""A judge's words as levels, or the reason why they are none.

Invariant: never raises, whatever was written; a level is "0", "1", "2" or "U", and U stays U. An
answer that lacks a criterion or invents a level is garbage as a whole: half a judgement would have to
be guessed to the full.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from infimed.curation.findings import QUALITY, shorten
from infimed.data.privacy.identifiers import redact_text
from infimed.inference.replies import RepeatedKey, json_objects, refuses, without_thoughts
from infimed.inference.requests import Response

LEVELS: Final = ("0", "1", "2", "U")
JudgementStatus = Literal["ok", "refused", "garbage", "truncated", "timeout", "error"]
JUDGEMENT_STATUSES: Final = ("ok", "refused", "garbage", "truncated", "timeout", "error")


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge said of one record.

    Attributes:
        status: "ok" where there are levels; else why there are none.
        levels: dimension -> "0", "1", "2" or "U"; empty unless ok.
        evidence: dimension -> the words it quoted, shortened and without identifiers; '' where it gave none.
        quoted: dimension -> whether the evidence stands in the record's text word by word (a
            region of the image does not); None without evidence.
        detail: what was wrong, without identifiers.
    """

    status: JudgementStatus
    levels: Mapping[str, str] = field(default_factory=dict)
    evidence: Mapping[str, str] = field(default_factory=dict)
    quoted: Mapping[str, bool | None] = field(default_factory=dict)
    detail: str = ""


def _level(value: object) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, str) and value.strip().upper() in LEVELS:
        return value.strip().upper()
    return None


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" \"'“”‘’`.")


def _shown(text: str) -> str:
    """A judge's words as they are kept: it may quote what the record should not have said."""
    return shorten(redact_text(text)[0])


def parse_judgement(text: str, record_text: str = "") -> Judgement:
    """Levels from what a judge wrote.

    Accepts a JSON object alone, in a code fence or among other words; of several complete ones the
    last holds. A level may stand alone or as ``{"level": ..., "evidence": ...}``.

    Args:
        record_text: the record's text, in which quoted evidence is looked up.
    """
    said = without_thoughts(text)
    problem = "no JSON object"
    found: Judgement | None = None
    haystack = _plain(record_text)
    try:
        for value in json_objects(said):
            read = _read(value, haystack)
            if isinstance(read, Judgement):
                found = read
            elif problem == "no JSON object" or any(name in value for name in QUALITY):
                problem = read
    except RepeatedKey as error:
        return Judgement("garbage", detail=shorten(f"'{error}' is judged twice"))
    if found is not None:
        return found
    if problem == "no JSON object" and refuses(said):
        return Judgement("refused", detail=_shown(said))
    return Judgement("garbage", detail=_shown(problem))


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
        evidence[name] = _shown(words) if isinstance(words, str) else ""
        needle = _plain(words) if isinstance(words, str) else ""
        quoted[name] = needle in haystack if needle else None
    return Judgement("ok", levels, evidence, quoted)


def judgement_of(response: Response, record_text: str = "") -> Judgement:
    """The judgement in a response; a response that is none keeps its status."""
    if response.status not in ("ok", "truncated"):
        return Judgement(response.status, detail=_shown(response.error or response.text))
    parsed = parse_judgement(response.text, record_text)
    if response.status == "truncated" and parsed.status == "garbage":
        return Judgement("truncated", detail="cut at the limit of tokens")
    return parsed
