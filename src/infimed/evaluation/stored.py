"""Stored answers of one label, checked against the questions and read into a row of the table.

A row may cover some of the questions only (a control that cannot ask all of them); everything else
compares it with the model on those it covers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infimed.core.errors import DataError
from infimed.core.files import read_json
from infimed.evaluation.asked import TaskRecords, manifest_path, responses_path
from infimed.evaluation.assess import Answer, Assessment, Status, assess
from infimed.evaluation.controlled import ROTATED, SCORED, Variant, variants
from infimed.evaluation.extract import UNPARSED
from infimed.evaluation.judging.verdicts import Verdicts
from infimed.evaluation.sample import LETTERS, Sample, make_samples
from infimed.evaluation.spec import TaskSpec
from infimed.inference.option_scoring import confidences
from infimed.inference.requests import ChoiceScores, Response
from infimed.inference.responses import read_responses

Floats = NDArray[np.float64]
Members = NDArray[np.int64]


class AskedOtherwise(DataError):
    """A row that cannot stand beside the first: another model, other questions, or shown otherwise."""


@dataclass(frozen=True)
class RowResult:
    """One row of the table.

    Attributes:
        assessment: per question; of those not covered it says nothing.
        covered: numbers of the questions that the row answers, rising.
        rates: shares of unparsed, failed and truncated answers [questions, 3].
        confidence: of each answer in 0..1 [questions], NaN where there is none; None without any.
        turned: per question the answers in every order of its options, where they were asked.
    """

    assessment: Assessment
    covered: Members
    rates: Floats
    confidence: Floats | None = None
    turned: tuple[tuple[Turn, ...], ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every question is covered."""
        return len(self.covered) == len(self.assessment.answers)


@dataclass(frozen=True, slots=True)
class Turn:
    """An answer to a question whose options stand in another order.

    Attributes:
        parsed: text of the option that was chosen, or None. letter: where it stands. gold: letter of
            the right one. score: 1 when right.
    """

    parsed: str | None
    letter: str
    gold: str
    score: float


def rates_of(answers: Sequence[Answer]) -> Floats:
    """Whether each answer is unparsed, failed (or missing), truncated: [answers, 3] of 0 and 1."""
    failed = np.array([answer.status in ("error", "missing") for answer in answers], bool)
    unread = np.array([answer.parsed is None for answer in answers], bool)
    cut = np.array([answer.status == "truncated" for answer in answers], bool)
    return np.stack([unread & ~failed, failed, cut], axis=1).astype(np.float64)


def plain_row(
    samples: Sequence[Sample],
    spec: TaskSpec,
    said: Sequence[Response | None],
    verdicts: Verdicts | None = None,
) -> RowResult:
    """A row that answers every question, with what a judge said of the answers where one did."""
    found = assess(samples, spec, said, verdicts)
    return RowResult(found, np.arange(len(samples)), rates_of(found.answers))


def read_manifest(out: Path, spec: TaskSpec, label: str) -> dict[str, Any]:
    """What was asked under a label.

    Raises:
        DataError: nothing was, or the task has changed since.
    """
    path = manifest_path(out, spec.name, label)
    if not path.exists():
        raise DataError(
            f"'{label}' was not asked this task",
            where=str(path.parent),
            accepted=sorted(
                p.name.removesuffix(".run.json") for p in path.parent.glob("*.run.json")
            ),
            fix="ask it first: infimed eval RUN --tasks " + spec.name,
        )
    manifest: dict[str, Any] = read_json(path)
    if manifest.get("asked_sha256") != spec.asked_sha256:
        raise DataError(
            "the task has changed since these questions were asked",
            where=str(path),
            fix="ask again; what is unchanged comes from the stored answers",
        )
    return manifest


def answers_of(
    out: Path, spec: TaskSpec, label: str, manifest: dict[str, Any]
) -> list[Response | None]:
    """The stored answer to every request of a manifest, None where it is missing."""
    stored = read_responses(responses_path(out, spec.name, label))[0]
    return [stored.get(item["key"]) for item in manifest["requests"]]


def asked_samples(
    records: TaskRecords, spec: TaskSpec, manifest: dict[str, Any], where: str
) -> list[Sample]:
    """The samples a manifest names, rebuilt from the shards.

    Raises:
        DataError: the shards lack one of them, or would show its options otherwise.
    """
    by_id = {sample.id: sample for sample in make_samples(records.asked, spec)}
    samples = []
    for item in manifest["requests"]:
        sample = by_id.get(item["id"])
        if sample is None or list(sample.order) != item["order"]:
            raise _other_shards(where, item["id"])
        samples.append(sample)
    return samples


def _other_shards(where: str, seen: str) -> DataError:
    return DataError(
        "these shards do not hold the question that was asked",
        where=where,
        seen=seen,
        fix="score with the shards that were used for asking",
    )


def check_model(label: str, manifest: dict[str, Any], fingerprint: str, where: str) -> None:
    """Refuse a row that should be the first row's own model and is not.

    Raises:
        AskedOtherwise: it is another.
    """
    if manifest["model"] != fingerprint:
        raise AskedOtherwise(
            f"'{label}' asked another model than the first row",
            where=where,
            fix="ask both with the same checkpoint",
        )


def control_row(
    out: Path,
    spec: TaskSpec,
    label: str,
    manifest: dict[str, Any],
    samples: Sequence[Sample],
    model: RowResult,
    fingerprint: str,
    view: str,
) -> RowResult:
    """The row of a control that asked the model in another way.

    Args:
        fingerprint: of the model that was asked plainly. view: what it was shown.

    Raises:
        AskedOtherwise: it asked another model, other questions than the model was asked, or with
            images where the model had none, or without where it had them.
    """
    control, where = manifest["control"], str(manifest_path(out, spec.name, label))
    check_model(label, manifest, fingerprint, where)
    if (manifest["view"] == "none") != (view == "none"):
        raise AskedOtherwise(
            f"'{label}' was asked {'without' if view != 'none' else 'with'} images, unlike the first row",
            where=where,
            fix="ask both with --text-only, or both without it",
        )
    planned = variants(
        control, samples, rotations=manifest["rotations"], said=manifest["options_as"]
    )
    asked = [(item["id"], tuple(item["order"])) for item in manifest["requests"]]
    if [(one.sample.id, one.sample.order) for one in planned] != asked:
        raise AskedOtherwise(
            f"'{label}' was asked other questions than the model",
            where=where,
            fix="ask both with the same limit and shards",
        )
    said = answers_of(out, spec, label, manifest)
    if control == ROTATED:
        return _rotated_row(samples, spec, planned, said, model)
    confidence = None
    if control == SCORED:
        said, confidence = _decided(samples, planned, said)
    spread: list[Response | None] = [None] * len(samples)
    for one, response in zip(planned, said, strict=True):
        spread[one.of] = response
    found = assess(samples, spec, spread)
    covered = np.array([one.of for one in planned], np.int64)
    return RowResult(found, covered, rates_of(found.answers), confidence)


def _decided(
    samples: Sequence[Sample], planned: Sequence[Variant], said: Sequence[Response | None]
) -> tuple[list[Response | None], Floats]:
    """Answers by the likeliest option, written as an extractor reads them, and their confidences."""
    sure = np.full(len(samples), np.nan)
    answers: list[Response | None] = []
    for one, response in zip(planned, said, strict=True):
        if response is None or len(response.options) != len(one.choices):
            answers.append(response)
            continue
        best = ChoiceScores(response.id, response.options).best()
        sure[one.of] = confidences(response.options)[best]
        text = LETTERS[best] if one.sample.order else one.choices[best]
        answers.append(replace(response, text=text))
    return answers, sure


def _rotated_row(
    samples: Sequence[Sample],
    spec: TaskSpec,
    planned: Sequence[Variant],
    said: Sequence[Response | None],
    model: RowResult,
) -> RowResult:
    """Means over all orders of each question's options, the model's own order being the first."""
    turned = assess([one.sample for one in planned], spec, said)
    owners = np.array([one.of for one in planned], np.int64)
    orders = 1 + np.bincount(owners, minlength=len(samples)).astype(np.float64)[:, None]
    plain = model.assessment
    measures = {}
    for name, own in plain.measures.items():
        table = own.copy()
        if name in turned.measures:
            np.add.at(table, owners, turned.rows(name))
        measures[name] = table / orders
    rates = model.rates.copy()
    np.add.at(rates, owners, rates_of(turned.answers))
    first, later = plain.scores(), turned.scores()
    said_by: list[list[tuple[Sample, Answer, float]]] = [[] for _ in samples]
    for of in np.unique(owners).tolist():
        said_by[of].append((samples[of], plain.answers[of], first[of] or 0.0))
    for one, answer, score in zip(planned, turned.answers, later, strict=True):
        said_by[one.of].append((one.sample, answer, score or 0.0))
    answers = tuple(_together([answer for _, answer, _ in own]) for own in said_by)
    turns = tuple(tuple(_turn(*one) for one in own) for own in said_by)
    return RowResult(Assessment(answers, measures), np.unique(owners), rates / orders, None, turns)


def _turn(sample: Sample, answer: Answer, score: float) -> Turn:
    known = answer.parsed is not None and answer.parsed in sample.options
    letter = LETTERS[sample.options.index(str(answer.parsed))] if known else ""
    return Turn(answer.parsed, letter, sample.gold_letter, score)


_WORST: tuple[Status, ...] = ("missing", "error", "truncated", "ok")


def _together(answers: Sequence[Answer]) -> Answer:
    """The answers to one question in all orders as one, to be shown to people."""
    if not answers:
        return Answer("", None, UNPARSED, "missing")
    same = len({answer.parsed for answer in answers}) == 1
    status = min((answer.status for answer in answers), key=_WORST.index)
    return Answer(
        " | ".join(answer.text for answer in answers),
        answers[0].parsed if same else None,
        "same option in all orders" if same else "other options in other orders",
        status,
    )
