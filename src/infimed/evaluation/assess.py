"""Answers of one way of asking: extraction, then metrics. Pure, and total over any text.

Two scorings stand side by side: the corrected one (`score`, the first metric of each kind of sample)
and MedEvalKit's (`medevalkit`), which reads the raw text by its own rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from infimed.core.statistics import Combine, ratio_of_sums
from infimed.evaluation import extract
from infimed.evaluation.extract import Extraction
from infimed.evaluation.judging.scores import WHOLE, judged_rows
from infimed.evaluation.judging.verdicts import Judged, Verdicts
from infimed.evaluation.medevalkit.verdict import verdict
from infimed.evaluation.metrics.registry import METRICS
from infimed.evaluation.report import MEDEVALKIT, SCORE
from infimed.evaluation.sample import Sample
from infimed.evaluation.spec import TaskSpec
from infimed.inference.requests import Response

Floats = NDArray[np.float64]
Status = Literal["ok", "truncated", "error", "missing"]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer as it was read.

    Attributes:
        text: what was written. parsed: what was read out of it (the option's text for a choice), or
            None. rule: which extraction rule fired. status: of the response.
    """

    text: str
    parsed: str | None
    rule: str
    status: Status


@dataclass(frozen=True, slots=True)
class Assessment:
    """How one way of answering did on all samples.

    Attributes:
        answers: per sample. measures: metric -> rows [samples, k], all zero for samples of a kind that
            the metric is not for. `SCORE` and `MEDEVALKIT` are among them.
    """

    answers: tuple[Answer, ...]
    measures: dict[str, Floats]

    def scores(self, metric: str = SCORE) -> list[float | None]:
        """Value of each sample, None where it has none."""
        values = ratio_of_sums(self.measures[metric]).tolist()
        return [None if value != value else value for value in values]

    def rows(self, metric: str) -> Floats:
        """Rows [samples, k] of a metric; without any weight where it was not measured."""
        return self.measures.get(metric, np.zeros((len(self.answers), 2)))


def combine_of(metric: str, spec: TaskSpec | None = None, kinds: Sequence[str] = ()) -> Combine:
    """How rows of a metric are summed up; the score's as those of the first metric of all `kinds`."""
    if metric == SCORE and spec is not None:
        firsts = {METRICS[spec.metrics_of(kind)[0]].combine for kind in kinds}
        return firsts.pop() if len(firsts) == 1 else ratio_of_sums
    return METRICS[metric].combine if metric in METRICS else ratio_of_sums


def read_answer(sample: Sample, spec: TaskSpec, text: str) -> Extraction:
    """The answer in a text, by the extractor of the sample's kind."""
    name = spec.extractor(sample.kind)
    if name == "letter":
        found = extract.letter(text, sample.options)
        value = None if found.value is None else sample.options[int(found.value)]
        return Extraction(value, found.rule)
    if name == "closed":
        return extract.closed(text, expects_yes_no=sample.yes_no)
    if name == "yes_no":
        return extract.yes_no(text)
    return extract.short(text) if name == "short" else extract.whole(text)


def _answer(sample: Sample, spec: TaskSpec, response: Response | None) -> Answer:
    if response is None:
        return Answer("", None, extract.UNPARSED, "missing")
    failed = response.outcome == "error"
    found = extract.NOTHING if failed else read_answer(sample, spec, response.text)
    return Answer(response.text, found.value, found.rule, response.outcome)


def _accuracy(samples: Sequence[Sample], said: Sequence[str]) -> Floats:
    """An option is right by being it, a decision by its polarity, a word by exact match."""
    pairs = [
        (
            (extract.polarity(text) or text, extract.polarity(s.gold) or s.gold)
            if s.yes_no
            else (text, s.gold)
        )
        for s, text in zip(samples, said, strict=True)
    ]
    rows = METRICS["accuracy"].measure([text for text, _ in pairs], [gold for _, gold in pairs])
    for at, sample in enumerate(samples):
        if sample.kind == "choice":
            rows[at, 0] = float(said[at] == sample.gold)
    return rows


def assess(
    samples: Sequence[Sample],
    spec: TaskSpec,
    responses: Sequence[Response | None],
    verdicts: Verdicts | None = None,
) -> Assessment:
    """Score the responses to samples; a failed or missing one is wrong in every metric, not left out.

    Args:
        verdicts: a judge's, for the metrics that are read from them. Without, these have no weight:
            no value, which is not 0.

    Raises:
        UsageError: a metric of the task needs a package that is not installed.
    """
    count = len(samples)
    answers = [_answer(s, spec, r) for s, r in zip(samples, responses, strict=True)]
    parsed = [answer.parsed or "" for answer in answers]
    judged: Sequence[Sequence[Judged]] = verdicts.samples if verdicts else [()] * count
    measures: dict[str, Floats] = {}
    score = np.zeros((count, 2))
    for kind in dict.fromkeys(sample.kind for sample in samples):
        members = [at for at, sample in enumerate(samples) if sample.kind == kind]
        own, said = [samples[at] for at in members], [parsed[at] for at in members]
        golds = [sample.gold for sample in own]
        for number, name in enumerate(spec.metrics_of(kind)):
            if name == "accuracy":
                rows = _accuracy(own, said)
            elif METRICS[name].judged:
                rows = judged_rows(name, [judged[at] for at in members])
            else:
                rows = METRICS[name].measure(said, golds)
            whole = measures.setdefault(name, np.zeros((count, rows.shape[1])))
            whole[members] = rows
            if not number:
                score[members] = rows
    if verdicts is not None and any(spec.judged_by(sample.kind) in WHOLE for sample in samples):
        measures.setdefault("judge", judged_rows("judge", judged))
    theirs = [verdict(s, spec, a.text) for s, a in zip(samples, answers, strict=True)]
    table = np.array(theirs, dtype=np.float64).reshape(count, 2)
    return Assessment(tuple(answers), {SCORE: score, MEDEVALKIT: table, **measures})
