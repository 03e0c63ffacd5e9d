"""Judges without a model: they read the frames of a request as a fair reader would."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

from infimed.data.record import Record, question_record
from infimed.evaluation.judging.prompts import load_prompt
from infimed.evaluation.judging.verdicts import Judged, Verdicts, parse_verdict, questions
from infimed.evaluation.sample import Sample
from infimed.evaluation.spec import TaskSpec
from infimed.inference.requests import Request, Response
from infimed.inference.stubs import Scripted
from tests.evaluation.fakes import FakeShards


def frames(request: Request) -> dict[str, str]:
    """What stands in each frame of a request."""
    text = request.messages[-1].text
    return dict(re.findall(r"<<<([A-Z]+)\n(.*?)\n\1>>>", text, re.DOTALL))


def reply(verdict: object, reason: str = "as read") -> str:
    """A reply in the wanted form."""
    return json.dumps({"reason": reason, "verdict": verdict})


def aspect_of(request: Request) -> str:
    """Whether it is about a whole answer, a criterion or a statement."""
    shown = frames(request)
    if "CRITERION" in shown:
        return "criterion"
    if "STATEMENT" in shown:
        return (
            "contradicts" if "contradict the STATEMENT" in request.messages[-1].text else "entails"
        )
    return "whole"


def fair(request: Request) -> str:
    """Yes where the reference, criterion or statement stands in the answer word by word.

    A statement is contradicted by an answer that says "not: STATEMENT".
    """
    shown, aspect = frames(request), aspect_of(request)
    wanted = shown.get("REFERENCE") or shown.get("CRITERION") or shown.get("STATEMENT", "")
    there = wanted.lower() in shown["ANSWER"].lower()
    denied = f"not: {wanted.lower()}" in shown["ANSWER"].lower()
    if aspect == "contradicts":
        return reply("yes" if denied else "no")
    return reply("yes" if there and not denied else "no")


def judge(answer: Callable[[Request], str] = fair, name: str = "stub-judge") -> Scripted:
    """A judge that is a function of the request."""
    return Scripted(name, answer)


def open_records(count: int = 12) -> FakeShards:
    """Open questions of the user's own, two a patient, all in the test split."""
    return FakeShards(
        question_record(
            id=f"q{n}",
            question=f"What is shown in case {n}?",
            answer=("effusion", "nodule", "fracture")[n % 3],
            images=(),
            task="open",
            source="own",
            split="test",
            group=f"patient-{n // 2}",
        )
        for n in range(count)
    )


def rubric_record(n: int, criteria: list[tuple[str, float]], **facts: object) -> Record:
    """A consultation with a rubric, as HealthBench has them."""
    return question_record(
        id=f"c{n}",
        question=f"My chest hurts ({n}).",
        answer="\n".join(text for text, points in criteria if points > 0),
        images=(),
        task="report",
        source="healthbench",
        split="test",
        facts={
            "rubric": [{"criterion": t, "points": p, "tags": ["axis:x"]} for t, p in criteria],
            **facts,
        },
    )


def verdicts_of(
    samples: Sequence[Sample], spec: TaskSpec, responses: Sequence[Response]
) -> Verdicts | None:
    """Verdicts of a judge that takes a gold answer for perfect, and else what stands there word by word.

    None for a task whose score needs no judge.
    """
    if spec.judge not in ("rubric", "statements"):
        return None
    prompt = load_prompt()
    made: list[list[Judged]] = [[] for _ in samples]
    for one in questions(samples, spec, responses, prompt):
        answer, gold = responses[one.sample].text, samples[one.sample].gold
        if one.request is None:
            made[one.sample].append(Judged(one.item, "no", "empty"))
            continue
        good = one.item.aspect != "contradicts" and one.item.points > 0
        verdict, status, reason = parse_verdict(
            reply("yes" if good else "no") if answer == gold else fair(one.request)
        )
        made[one.sample].append(Judged(one.item, verdict, status, reason))
    return Verdicts("stub", "stub", prompt, tuple(map(tuple, made)))
