"""*ask*: a question about images, answered with a confidence, or not answered.

With choices: every option is scored and the likeliest is the answer. Without: the model writes greedily, and the
confidence is the calibrated probability of what it wrote. An answer that is abstained from stays in the result,
so that whoever shows it decides how; nothing else is taken away.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from infimed.inference.reading import yes_no
from infimed.serving.applications import presets
from infimed.serving.applications.calibration import (
    Calibration,
    Judged,
    judge_options,
    judge_written,
)
from infimed.serving.applications.requests import AskRequest
from infimed.serving.applications.session import Session
from infimed.serving.applications.updates import Delta, Result, Update
from infimed.serving.media import Shown


async def ask(
    session: Session,
    asked: AskRequest,
    images: Sequence[Shown],
    calibration: Calibration | None,
) -> AsyncGenerator[Update, None]:
    """See the module."""
    session.place = "question"
    record = presets.question(asked.question, images, asked.choices or ())
    if asked.choices:
        shares = await session.shares(record, images)
        best = max(range(len(shares)), key=shares.__getitem__)
        judged, calibrated = judge_options(calibration, shares)
        yield Delta(asked.choices[best])
        listed = zip(asked.choices, calibrated, strict=True)
        yield _result(
            session,
            asked.choices[best],
            judged,
            [{"text": text, "probability": share} for text, share in listed],
        )
        return
    tokens = presets.PRESETS["ask"].new_tokens
    async with aclosing(session.write(session.turns(record), images, tokens)) as updates:
        async for update in updates:
            if isinstance(update, Delta):
                yield update
                continue
            judged = judge_written(calibration, update.first, update.done)
            if not session.sampling.greedy:
                judged = Judged(judged.raw)  # a calibration is fitted on greedy answers
            yield _result(session, update.done.text, judged, [])


def _result(
    session: Session, text: str, judged: Judged, choices: list[dict[str, object]]
) -> Result:
    if judged.abstained is not None:
        session.service.meters.abstentions.inc(judged.abstained)
    return Result(
        {
            "answer": text,
            "decision": None if choices else yes_no(text).value,
            "confidence": judged.confidence,
            "raw_probability": judged.raw,
            "threshold": judged.threshold,
            "abstained": judged.abstained,
            "choices": choices,
        }
    )
