"""*report*: Findings and Impression of one to four images, and what changed since a prior one.

The model is asked as it was trained, and its text is read into sections; a section that it did not write is
said to be missing. `form: json` decodes under a JSON schema instead: the form is then certain, the content is
that of a model that was not trained so. The comparison is a question of its own about the prior and the first current
image, so that a prior cannot change what the report says of the current images.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Final

from infimed.serving.applications import presets
from infimed.serving.applications.requests import ReportRequest
from infimed.serving.applications.sections import Sections, Splitter, read_sections
from infimed.serving.applications.session import Session, Written
from infimed.serving.applications.updates import Delta, Result, Update
from infimed.serving.media import Shown
from infimed.serving.refusals import Refusal

COMPARISON: Final = "comparison"
HEADINGS: Final = {
    "en": {"findings": "Findings", "impression": "Impression", COMPARISON: "Comparison"},
    "zh": {"findings": "所见", "impression": "印象", COMPARISON: "与既往比较"},
}
NOT_GIVEN: Final = {"en": "not given by the model", "zh": "模型未给出"}
_TEXT: Final = {
    "type": "string"
}  # its length is limited by tokens; a bound here would be thousands of states
SCHEMA: Final[dict[str, object]] = {
    "type": "object",
    "properties": {"findings": _TEXT, "impression": _TEXT},
    "required": ["findings", "impression"],
    "additionalProperties": False,
}


async def report(
    session: Session, asked: ReportRequest, images: Sequence[Shown]
) -> AsyncGenerator[Update, None]:
    """See the module. The prior, where there is one, is the last of the images."""
    session.place = "indication"
    current = images[: len(asked.images)]
    text, cut, found = "", False, Sections(None, None)
    splitter = Splitter()
    async with aclosing(_first(session, asked, current)) as updates:
        async for update in updates:
            if isinstance(update, Written):
                text, cut = update.done.text, update.done.finish == "length"
                found = from_json(text) if asked.form == "json" else read_sections(text)
            elif asked.form == "text":
                for part, piece in splitter.feed(update.text):
                    yield Delta(piece, part)
    for part, piece in splitter.end():
        yield Delta(piece, part)
    comparison = None
    if asked.prior is not None:
        both = [images[-1], current[0]]
        turns = session.turns(presets.question(presets.CHANGED[asked.language], both))
        tokens = presets.COMPARISON_TOKENS
        async with aclosing(session.write(turns, both, tokens, part=COMPARISON)) as compared:
            async for update in compared:
                if isinstance(update, Written):
                    comparison = update.done.text or None
                else:
                    yield update
    yield Result(
        {
            "findings": found.findings,
            "impression": found.impression,
            "comparison": comparison,
            "text": whole(found, comparison, asked),
            "structured": {**found.structured(), COMPARISON: comparison},
            "written": text,
            "cut": cut,
        }
    )


def prompt(asked: ReportRequest) -> str:
    """The user turn's text: the indication, and the sentence that reports were trained with."""
    indication = asked.indication.strip()
    if indication and indication[-1] not in ".!?。！？":
        indication += "。" if asked.language == "zh" else "."
    return f"{indication} {presets.REPORT[asked.language]}".strip()


async def _first(
    session: Session, asked: ReportRequest, images: Sequence[Shown]
) -> AsyncGenerator[Delta | Written, None]:
    record = presets.question(prompt(asked), images)
    messages = record.messages[:-1]  # no "answer in a word": a report is none
    schema = SCHEMA if asked.form == "json" else None
    tokens = presets.PRESETS["report"].new_tokens
    try:
        async with aclosing(session.write(messages, images, tokens, schema=schema)) as updates:
            async for update in updates:
                yield update
    except Refusal as refusal:
        if refusal.param is not None and refusal.param.startswith("response_format"):
            refusal.param = "form"
        raise


def from_json(text: str) -> Sections:
    """The sections of a JSON answer; of one that was cut, none."""
    try:
        value: Any = json.loads(text)
        said = {name: str(value[name]).strip() or None for name in ("findings", "impression")}
    except (ValueError, KeyError, TypeError, RecursionError):
        return Sections(None, None, text)
    return Sections(said["findings"], said["impression"])


def whole(found: Sections, comparison: str | None, asked: ReportRequest) -> str:
    """The report to be read or copied; what is missing is named."""
    names, absent = HEADINGS[asked.language], NOT_GIVEN[asked.language]
    parts = [
        f"{names[name]}: {getattr(found, name) or f'({absent})'}"
        for name in ("findings", "impression")
    ]
    if asked.prior is not None:
        parts.append(f"{names[COMPARISON]}: {comparison or f'({absent})'}")
    return "\n\n".join([*([found.before] if found.before else []), *parts])
