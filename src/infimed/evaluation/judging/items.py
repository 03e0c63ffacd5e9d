"""From a sample and an answer to a judge's questions: pure functions of text.

A judge sees the question, the reference (or one criterion, or one gold statement) and the answer, each
quoted in a frame it cannot leave; never an image, an id, a group, or who wrote the answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from infimed.core.errors import DataError
from infimed.data.record import Message
from infimed.evaluation import extract
from infimed.evaluation.judging.prompts import Aspect, JudgePrompt
from infimed.evaluation.sample import Sample
from infimed.evaluation.spec import TaskSpec
from infimed.inference.replies import framed
from infimed.inference.requests import Request, Response


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that a judge is asked of an answer.

    Attributes:
        aspect: what is asked. statement: the criterion or gold statement, "" for a whole answer.
        points: of a criterion; negative where meeting it is bad. tags: of a criterion.
    """

    aspect: Aspect
    statement: str = ""
    points: float = 1.0
    tags: tuple[str, ...] = ()


def items_of(sample: Sample, spec: TaskSpec) -> tuple[Item, ...]:
    """What a judge is asked of an answer to `sample`, in a fixed order; empty where nothing is.

    Raises:
        DataError: the record does not hold the rubric or statements that its task is judged by.
    """
    mode = spec.judged_by(sample.kind)
    if mode == "none":
        return ()
    facts = sample.record.facts
    if mode == "rubric":
        rubric = facts.get("rubric")
        if not isinstance(rubric, list) or not rubric:
            raise DataError(
                "the record has no rubric",
                where=sample.id,
                accepted="facts.rubric: a list of criteria",
            )
        return tuple(_criterion(entry, sample.id) for entry in rubric)
    if mode == "statements":
        must, nice = (_statements(facts, name, sample.id) for name in ("must_have", "nice_to_have"))
        if not must:
            raise DataError("the record has no statement that is needed", where=sample.id)
        return (
            *(Item("entails", text) for text in must),
            *(Item("contradicts", text) for text in (*must, *nice)),
        )
    return (Item(cast(Aspect, mode)),)


def _criterion(entry: object, where: str) -> Item:
    text = entry.get("criterion") if isinstance(entry, Mapping) else None
    points = entry.get("points") if isinstance(entry, Mapping) else None
    if (
        not isinstance(text, str)
        or not text.strip()
        or isinstance(points, bool)
        or not isinstance(points, int | float)
        or not math.isfinite(points)
    ):
        raise DataError(
            "not a criterion of a rubric", where=where, accepted="{criterion: text, points: number}"
        )
    tags = entry.get("tags") if isinstance(entry, Mapping) else None
    return Item(
        "criterion",
        text.strip(),
        float(points),
        tuple(map(str, tags)) if isinstance(tags, list) else (),
    )


def _statements(facts: Mapping[str, Any], name: str, where: str) -> tuple[str, ...]:
    found = facts.get(name)
    if found is None:
        return ()
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise DataError(f"'{name}' is not a list of statements", where=where)
    return tuple(dict.fromkeys(text.strip() for text in found if text.strip()))


def read_text(response: Response | None) -> str | None:
    """What a judge reads of a response: its text without reasoning; None where nothing was said."""
    if response is None or response.outcome == "error":
        return None
    return extract.whole(response.text).value


def judge_request(
    sample: Sample, item: Item, answer: str, prompt: JudgePrompt, *, id: str
) -> Request:
    """The request that asks `item` of an answer. Equal questions give equal requests, apart from `id`."""
    parts = [framed("QUESTION", sample.question, prompt.max_question_chars)]
    if item.aspect in ("answer", "report"):
        parts.append(framed("REFERENCE", _gold(sample), prompt.max_answer_chars))
    elif item.aspect == "criterion":
        parts.append(framed("CRITERION", item.statement, prompt.max_answer_chars))
    elif item.aspect in ("entails", "contradicts"):
        parts.append(framed("STATEMENT", item.statement, prompt.max_answer_chars))
    parts.append(framed("ANSWER", answer, prompt.max_answer_chars))
    asked = f"{prompt.questions[item.aspect]}\n\n{prompt.reply}"
    # The question stands on both sides: what is quoted has neither the first word nor the last.
    text = "\n\n".join([asked, *parts, asked])
    turns = (Message("system", (prompt.system,)), Message("user", (text,)))
    return Request(id, turns, (), prompt.max_new_tokens)


def _gold(sample: Sample) -> str:
    """The reference, with every alternative where there are several."""
    every = sample.record.facts.get("answers")
    if isinstance(every, list) and len(every) > 1:
        return "\n".join(f"- {text}" for text in every) + "\n(any one of these is right)"
    return sample.gold
