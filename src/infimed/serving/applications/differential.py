"""*differential*: the user's candidates and "cannot tell", ranked by how likely the model finds each as the answer.

Probabilities are those of option scoring, calibrated as choices are, and sum to 1 with "cannot tell". The
calibration knows choice questions whose right answer is among the options; where it is not, no number here says
so but "cannot tell". The texts for and against are the model's words about the likeliest candidates: they explain
nothing about how the probabilities came about.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from infimed.data.record import Message
from infimed.serving.applications import presets
from infimed.serving.applications.calibration import Calibration, judge_options
from infimed.serving.applications.requests import DifferentialRequest
from infimed.serving.applications.session import Session, Written
from infimed.serving.applications.updates import Result, Update
from infimed.serving.media import Shown
from infimed.serving.refusals import Refusal


async def differential(
    session: Session,
    asked: DifferentialRequest,
    images: Sequence[Shown],
    calibration: Calibration | None,
) -> AsyncGenerator[Update, None]:
    """See the module."""
    session.place = "history" if asked.history else "question"
    language = presets.language_of("".join([asked.question, asked.history, *asked.candidates]))
    options = with_cannot_tell(asked.candidates, language)
    text = f"{asked.history.strip()} {asked.question.strip() or presets.WHICH[language]}".strip()
    shares = await session.shares(presets.question(text, images, options), images)
    judged, calibrated = judge_options(calibration, shares)
    ranked = sorted(range(len(asked.candidates)), key=lambda at: -calibrated[at])
    listed: list[dict[str, Any]] = [
        {"name": asked.candidates[at], "probability": calibrated[at], "for": "", "against": ""}
        for at in ranked
    ]
    for entry in listed[: presets.EXPLAINED]:
        for side, sentence in (("for", presets.SPEAKS_FOR), ("against", presets.SPEAKS_AGAINST)):
            said = sentence[language].format(name=entry["name"])
            messages = _asked_about(asked.history.strip(), said, images)
            part = f"{side}: {entry['name']}"
            tokens = presets.PRESETS["differential"].new_tokens
            async with aclosing(session.write(messages, images, tokens, part=part)) as updates:
                async for update in updates:
                    if isinstance(update, Written):
                        entry[side] = update.done.text
                    else:
                        yield update
    # Cannot tell is the likeliest, or the likeliest is not likely enough.
    unsure = calibrated[-1] >= max(calibrated[:-1]) or bool(judged.abstained)
    if judged.abstained is not None:
        session.service.meters.abstentions.inc(unsure)
    yield Result(
        {
            "candidates": listed,
            "cannot_tell": calibrated[-1],
            "calibrated": judged.confidence is not None,
            "threshold": judged.threshold,
            "abstained": unsure,
            "texts": presets.MODEL_TEXT[language],
        }
    )


def with_cannot_tell(candidates: Sequence[str], language: str) -> tuple[str, ...]:
    """The candidates and "cannot tell".

    Raises:
        Refusal: it is among the candidates already.
    """
    added = presets.CANNOT_TELL[language]
    for at, name in enumerate(candidates):
        if name.strip().casefold() == added.casefold():
            detail = "'cannot tell' is always there"
            raise Refusal("invalid_value", param=f"candidates.{at}", detail=detail)
    return (*candidates, added)


def _asked_about(history: str, said: str, images: Sequence[Shown]) -> tuple[Message, ...]:
    """The turns of one question about a candidate; no "answer in a word"."""
    record = presets.question(f"{history} {said}".strip(), images)
    return record.messages[:-1]
