"""Fit what a served model's confidences mean: ask it as *ask* does, on questions nothing was trained on.

Every question goes through the same preset, engine and precision as when it is served, so the raw probabilities are
those that a client causes. Which raw probability is taken, which map, and the threshold are chosen on these
questions alone; the curves that are drawn are of maps that did not see the question's patient or image. Where a data
set has no calibration split, half of the test split's patients or images are drawn for it and the others are left:
`measured_on` gives them. Needs the extra ``serve``. Cost: as much as asking the questions once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from infimed.core.calibration import (
    Fitted,
    ProbabilityMap,
    fit,
    folds,
    negative_log_likelihood,
    temperature_of_shares,
    threshold_for_coverage,
    threshold_for_risk,
)
from infimed.core.console import progress
from infimed.core.errors import DataError, UsageError
from infimed.core.reliability import reliability, risk_coverage
from infimed.core.seeds import stream
from infimed.data.shards import ShardSet
from infimed.evaluation.asked import collect
from infimed.evaluation.assess import assess
from infimed.evaluation.folder import trained_on
from infimed.evaluation.sample import Sample, limited, make_samples
from infimed.evaluation.spec import TaskSpec, load_task
from infimed.inference.local import LocalModel
from infimed.inference.requests import GREEDY, Response, picture_of
from infimed.serving.applications.calibration import (
    Calibration,
    KindCalibration,
    Target,
    judge,
    judge_options,
)
from infimed.serving.applications.presets import PRESETS
from infimed.serving.applications.session import Session
from infimed.serving.applications.signals import WRITTEN, Kind, Signal, kind_of, signals
from infimed.serving.engine import Engine
from infimed.serving.media import Shown
from infimed.serving.service import Service
from infimed.serving.settings import Settings
from infimed.serving.starting import around

ASKED_KINDS: Final = ("closed", "choice", "open")
CALIBRATION: Final = "calibration"
HALF: Final = 0.5
FEWEST: Final = 30
"""A kind of answer with fewer questions gets no calibration."""
TOGETHER: Final = 16
CLIENT: Final = "calibration"


@dataclass(frozen=True, slots=True)
class Question:
    """A question that is asked, and how its answer is scored."""

    spec: TaskSpec
    sample: Sample


@dataclass(frozen=True, slots=True)
class Answered:
    """A question with its answer.

    Attributes:
        kind: of the answer. text: what was said. right: whether it was. found: its raw probabilities.
        shares: of the options in the order shown, and `gold` the right one's number; of choices only.
    """

    question: Question
    kind: Kind
    text: str
    right: bool
    found: dict[Signal, float] = field(default_factory=dict)
    shares: tuple[float, ...] = ()
    gold: int = -1

    @property
    def group(self) -> str:
        """Patient or image."""
        return self.question.sample.group


@dataclass(frozen=True, slots=True)
class Asking:
    """Which questions a calibration is fitted on; see `Calibration`."""

    tasks: tuple[str, ...]
    split: str
    share: float


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Confidences that the map of the question's own fold gave, for curves."""

    confidence: tuple[float, ...]
    right: tuple[float, ...]
    groups: tuple[str, ...]


def decisive(names: Iterable[str]) -> tuple[str, ...]:
    """The tasks that ask questions with one right answer."""
    specs = ((name, load_task(name).kinds) for name in names)
    return tuple(name for name, kinds in specs if any(kind in ASKED_KINDS for kind in kinds))


def asking(
    run: Path, shards: ShardSet, tasks: Sequence[str], split: str = "", share: float | None = None
) -> Asking:
    """Which questions to fit on, by what the data has.

    Args:
        split: "" for the calibration split or, without one, half of the test split's groups.
        share: of the split's patients or images; None for all of a calibration split and half of another.

    Raises:
        UsageError: the model was trained on this split.
    """
    trained = trained_on(run)
    chosen = split or (CALIBRATION if _asked(shards, tasks, CALIBRATION) else "test")
    if chosen in trained:
        raise UsageError(
            "the model was trained on this split, so it says nothing of new questions",
            where="--split",
            seen=chosen,
            accepted="a split that recipe.yaml does not list under data.train_splits",
        )
    usual = 1.0 if chosen == CALIBRATION else HALF
    return Asking(tuple(tasks), chosen, usual if share is None else share)


def _asked(shards: ShardSet, tasks: Sequence[str], split: str) -> list[Question]:
    specs = [load_task(name).model_copy(update={"split": split}) for name in tasks]
    records = collect(shards, specs, ())
    return [
        Question(spec, sample)
        for spec in specs
        for sample in make_samples(records[spec.name].asked, spec)
        if sample.kind in ASKED_KINDS
    ]


def fitted_on(shards: ShardSet, chosen: Asking, limit: int | None = None) -> list[Question]:
    """The questions that a calibration is fitted on.

    Args:
        limit: at most so many of each task, by a seeded draw.

    Raises:
        DataError: there are none.
    """
    found = [
        question
        for question, inside in _parted(_asked(shards, chosen.tasks, chosen.split), chosen.share)
        if inside
    ]
    if not found:
        raise DataError(
            "no question to calibrate on",
            where=str(shards.path),
            seen=f"split {chosen.split}, tasks {', '.join(chosen.tasks) or 'none'}",
            fix="name tasks with --tasks and a split that was held out with --split",
        )
    kept: list[Question] = []
    for task in chosen.tasks:
        own = {q.sample.record.id: q for q in found if q.spec.name == load_task(task).name}
        records = limited([q.sample.record for q in own.values()], task, limit)
        kept += [own[record.id] for record in records]
    return kept


def measured_on(shards: ShardSet, calibration: Calibration, split: str = "test") -> list[Question]:
    """Questions of a split that the calibration was not fitted on."""
    asked = _asked(shards, calibration.tasks, split)
    if split != calibration.split:
        return asked
    return [question for question, inside in _parted(asked, calibration.share) if not inside]


def _parted(asked: Sequence[Question], share: float) -> list[tuple[Question, bool]]:
    """Each question with whether its patient or image is in the drawn share."""
    groups = sorted({question.sample.group for question in asked})
    order = stream(0, "calibration share").permutation(len(groups)).tolist()
    drawn = {groups[at] for at in order[: round(share * len(groups))]}
    return [(question, question.sample.group in drawn) for question in asked]


def answers(local: LocalModel, shards: ShardSet, asked: Sequence[Question]) -> list[Answered]:
    """Ask all of them as *ask* does, many at once, greedily."""
    service = around(local, "calibration", Settings())
    engine = service.answerer
    assert isinstance(engine, Engine)
    engine.begin()
    try:
        texts = asyncio.run(_ask_all(service, shards, asked))
    finally:
        engine.end()
    return _scored(asked, texts)


@dataclass(frozen=True, slots=True)
class _Said:
    text: str
    found: dict[Signal, float] = field(default_factory=dict)
    shares: tuple[float, ...] = ()


async def _ask_all(service: Service, shards: ShardSet, asked: Sequence[Question]) -> list[_Said]:
    room = asyncio.Semaphore(TOGETHER)
    with progress("calibration", len(asked), unit="questions") as advance:

        async def one(number: int, question: Question) -> _Said:
            async with room:
                said = await _ask(service, shards, number, question.sample)
            advance()
            return said

        return list(await asyncio.gather(*(one(*each) for each in enumerate(asked))))


async def _ask(service: Service, shards: ShardSet, number: int, sample: Sample) -> _Said:
    session = Session(service, {"request_id": f"{CLIENT}-{number}", "client": CLIENT}, GREEDY)
    local = session.local
    assert local is not None
    images = []
    for reference in sample.record.images:
        picture = picture_of(reference, shards.pixels)
        pixels = await asyncio.to_thread(picture.load)
        size = (pixels.shape[1], pixels.shape[0])
        images.append(Shown(picture.sha256, size, "", local.processor.views(pixels, size)))
    order = sample.order or None
    if order is not None:
        shares = await session.shares(sample.record, images, order)
        best = int(np.argmax(shares))
        return _Said(sample.options[best], {"options": shares[best]}, tuple(shares))
    turns = session.turns(sample.record)
    written = await session.written(turns, images, PRESETS["ask"].new_tokens)
    return _Said(written.done.text, signals(written.first, written.done))


def _scored(asked: Sequence[Question], said: Sequence[_Said]) -> list[Answered]:
    right: list[float | None] = [None] * len(asked)
    for name in dict.fromkeys(question.spec.name for question in asked):
        own = [at for at, question in enumerate(asked) if question.spec.name == name]
        samples = [asked[at].sample for at in own]
        responses = [Response(asked[at].sample.id, said[at].text) for at in own]
        scores = assess(samples, asked[own[0]].spec, responses).scores()
        for at, score in zip(own, scores, strict=True):
            right[at] = score
    made = []
    for question, words, score in zip(asked, said, right, strict=True):
        choice = bool(words.shares)
        gold = question.sample.options.index(question.sample.gold) if choice else -1
        made.append(
            Answered(
                question,
                "choice" if choice else kind_of(words.text),
                words.text,
                int(np.argmax(words.shares)) == gold if choice else score == 1.0,
                words.found,
                words.shares,
                gold,
            )
        )
    return made


def calibrate(
    local: LocalModel,
    shards: ShardSet,
    chosen: Asking,
    answered: Sequence[Answered],
    target: Target,
) -> tuple[Calibration, dict[Kind, HeldOut], list[str]]:
    """The calibration, curves by kind, and notes on kinds that got none.

    Raises:
        DataError: there is no kind with enough answers.
    """
    kinds: dict[Kind, KindCalibration] = {}
    curves: dict[Kind, HeldOut] = {}
    notes = []
    for kind in sorted({one.kind for one in answered}):
        own = [one for one in answered if one.kind == kind]
        groups = {one.group for one in own}
        if len(own) < FEWEST or len(groups) < 2:
            notes.append(f"{kind}: {len(own)} answers about {len(groups)} groups are too few")
            continue
        kinds[kind], curves[kind] = (_choices if kind == "choice" else _written)(own, target)
    if not kinds:
        raise DataError(
            "nothing can be calibrated",
            where=str(shards.path),
            seen="; ".join(notes),
            accepted=f"at least {FEWEST} answers of a kind, about two patients or images",
        )
    made = Calibration(
        model_hash=local.fingerprint,
        preset=PRESETS["ask"].id,
        data_sha256=shards.data_hash,
        split=chosen.split,
        share=chosen.share,
        tasks=chosen.tasks,
        kinds=kinds,
    )
    return made, curves, notes


def _written(own: Sequence[Answered], target: Target) -> tuple[KindCalibration, HeldOut]:
    """Answers in words: the raw probability that ranks best, and the map with the best held-out likelihood."""
    right = [float(one.right) for one in own]
    groups = [one.group for one in own]
    known = [name for name in WRITTEN if all(name in one.found for one in own)]
    aurc = {name: risk_coverage([one.found[name] for one in own], right).aurc for name in known}
    best = min(known, key=lambda name: aurc[name])
    raw = [one.found[best] for one in own]
    found = fit(raw, right, groups)
    sure = found.map.of(np.array(raw)).tolist()
    return _entry(
        best,
        found,
        raw,
        sure,
        right,
        groups,
        {str(name): value for name, value in aurc.items()},
        target,
    )


def _choices(own: Sequence[Answered], target: Target) -> tuple[KindCalibration, HeldOut]:
    """Choices: one temperature over the shares of the options."""
    right = [float(one.right) for one in own]
    groups = [one.group for one in own]
    raw = [max(one.shares) for one in own]
    fold = folds(groups)
    held = np.zeros(len(own))
    golds = {
        "raw": np.array([one.shares[one.gold] for one in own]),
        "temperature": np.zeros(len(own)),
    }
    for number in np.unique(fold):
        inside = [one for one, at in zip(own, fold, strict=True) if at != number]
        found = _temperature(inside)
        for at in np.flatnonzero(fold == number).tolist():
            shares = found.shares(own[at].shares)
            held[at], golds["temperature"][at] = max(shares), shares[own[at].gold]
    everything = np.ones(len(own))
    nll = {name: negative_log_likelihood(share, everything) for name, share in golds.items()}
    fitted = Fitted(_temperature(own), tuple(held.tolist()), nll)
    sure = [max(fitted.map.shares(one.shares)) for one in own]
    aurc = {"options": risk_coverage(raw, right).aurc}
    return _entry("options", fitted, raw, sure, right, groups, aurc, target)


def _temperature(own: Sequence[Answered]) -> ProbabilityMap:
    return temperature_of_shares([one.shares for one in own], [one.gold for one in own])


def _entry(
    signal: Signal,
    found: Fitted,
    raw: Sequence[float],
    sure: Sequence[float],
    right: Sequence[float],
    groups: Sequence[str],
    aurc: dict[str, float],
    target: Target,
) -> tuple[KindCalibration, HeldOut]:
    threshold: float | None
    if target.name == "coverage":
        threshold = threshold_for_coverage(sure, target.value)
    else:
        threshold = threshold_for_risk(sure, right, target.value)
    kept = np.array(sure) >= (np.inf if threshold is None else threshold)
    wrong = 1 - np.array(right)
    entry = KindCalibration(
        signal=signal,
        method=found.map.method,
        points=found.map.points,
        threshold=threshold,
        target=target,
        n=len(right),
        groups=len(set(groups)),
        accuracy=float(np.mean(right)),
        coverage=float(kept.mean()),
        risk=float(wrong[kept].mean()) if kept.any() else None,
        nll=found.nll,
        aurc=aurc,
        ece_raw=reliability(raw, right).ece,
        ece=reliability(found.held_out, right).ece,
    )
    return entry, HeldOut(found.held_out, tuple(right), tuple(groups))


def confidences(calibration: Calibration, answered: Sequence[Answered]) -> list[float | None]:
    """The confidence that a server would state for each; None for a kind without calibration."""
    made = []
    for one in answered:
        if one.kind == "choice":
            judged, _ = judge_options(calibration, one.shares)
        else:
            judged = judge(calibration, one.kind, one.found)
        made.append(judged.confidence)
    return made
