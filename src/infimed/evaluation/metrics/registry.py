"""Every metric by name: what it measures, where it may be used, which direction is better.

A metric turns answers and gold texts into one row of numbers an answer, and sums of rows into a value:
a mean is (value, 1) with sum / count, a micro-averaged F1 is (weighted value, weight), the BLEU of a
set is its n-gram counts. So every metric is resampled by groups in the same way, and a metric of a whole
set has as honest an interval as a mean. No torch is imported here, and nothing optional before it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from infimed.core.errors import UsageError
from infimed.core.statistics import Combine, ratio_of_sums
from infimed.evaluation.metrics import (
    bleu,
    cider,
    findings,
    labels,
    learned,
    meteor,
    refusal,
    rouge,
    rubric,
    words,
)

Floats = NDArray[np.float64]
Texts = Sequence[str]
Measure = Callable[[Texts, Texts], Floats]
"""(answers [n], gold texts [n]) -> rows [n, k]. An answer that could not be read is ""."""

ANY = "short answers, any language"
TEXTS = "texts, English and Chinese"
ENGLISH = "texts, English"
REPORTS = "radiology reports, English"
CHEST = "chest X-ray reports, English"
PHANTOM = "phantom reports and captions"
JUDGE = "a judge (infimed judge)"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        title: what it measures. domain: texts it is meant for; elsewhere its value means little.
        measure, combine: see the module. source: who defined it.
        direction: which way is better. best: its value for a perfect answer.
        extra: the optional dependency it needs, "" for none.
        per_answer: whether an answer has a value of its own (needed to be the score of a task).
        judged: whether it comes from a judge's verdicts, see `evaluation.judging.scores`.
    """

    title: str
    domain: str
    measure: Measure
    source: str
    combine: Combine = ratio_of_sums
    direction: Literal["higher", "lower"] = "higher"
    best: float = 1.0
    extra: str = ""
    per_answer: bool = True
    judged: bool = False


def _table(rows: Sequence[tuple[float, ...]], width: int) -> Floats:
    return np.array(rows, dtype=np.float64).reshape(len(rows), width)


def _distinct(
    of: Callable[[str, str], tuple[float, ...]], width: int, answers: Texts, golds: Texts
) -> Floats:
    """Rows of a function of single pairs; equal pairs are computed once."""
    places: dict[tuple[str, str], int] = {}
    index = [places.setdefault(pair, len(places)) for pair in zip(answers, golds, strict=True)]
    return _table([of(*pair) for pair in places], width)[index].reshape(len(index), width)


def mean_of(function: Callable[[str, str], float]) -> Measure:
    """A mean of values of single answers."""
    return partial(_distinct, lambda answer, gold: (function(answer, gold), 1.0), 2)


def weighted_by(function: Callable[[str, str], tuple[float, float]]) -> Measure:
    """A mean of (value, weight) of single answers."""

    def row(answer: str, gold: str) -> tuple[float, float]:
        value, weight = function(answer, gold)
        return value * weight, weight

    return partial(_distinct, row, 2)


def together(function: Callable[[Texts, Texts], Sequence[float]]) -> Measure:
    """A mean of values that are computed for all answers at once."""

    def measure(answers: Texts, golds: Texts) -> Floats:
        return _table([(value, 1.0) for value in function(answers, golds)], 2)

    return measure


def _needs_judge(answers: Texts, golds: Texts) -> Floats:
    raise UsageError(
        "this metric is read from a judge's verdicts, not from texts",
        fix="infimed judge EVALUATION",
    )


_PAPINENI = "Papineni et al. 2002"
_LIN = "Lin 2004"

METRICS: dict[str, Metric] = {
    "accuracy": Metric(
        "share of right choices or decisions", "choice and closed questions", mean_of(words.exact_match), "",
    ),
    "exact_match": Metric("equal after normalising", ANY, mean_of(words.exact_match), ""),
    "contains": Metric("gold answer named in the answer", ANY, mean_of(words.contains), "MMMU, on word boundaries"),
    "token_f1": Metric("F1 of words", ANY, mean_of(words.token_f1), "Rajpurkar et al. 2016"),
    "precision": Metric("share of said words that are right", ANY, mean_of(words.precision), ""),
    "recall": Metric("share of gold words that were said", ANY, mean_of(words.recall), ""),
    "refusal": Metric(
        "says that it will not help", "requests to refuse, English and Chinese",
        mean_of(refusal.refusal), "",
    ),
    "label_f1": Metric("micro F1 of sets of labels", "sets of labels", weighted_by(labels.label_f1), ""),
    "hierarchical_f1": Metric(
        "micro F1 of labels with the levels above them", "labels in levels",
        weighted_by(labels.hierarchical_f1), "Kiritchenko et al. 2005",
    ),
    "rouge_1": Metric("ROUGE-1 F1", TEXTS, mean_of(rouge.rouge_1), _LIN),
    "rouge_2": Metric("ROUGE-2 F1", TEXTS, mean_of(rouge.rouge_2), _LIN),
    "rouge_l": Metric("ROUGE-L F1", TEXTS, mean_of(rouge.rouge_l), _LIN),
    **{
        f"bleu_{n}": Metric(
            f"BLEU-{n} of the set, not smoothed", TEXTS,
            partial(_distinct, bleu.ngram_counts, bleu.COUNTS), _PAPINENI,
            combine=partial(bleu.bleu_of_sums, order=n), per_answer=False,
        )
        for n in range(1, bleu.ORDERS + 1)
    },
    **{
        f"sentence_bleu_{n}": Metric(
            f"mean BLEU-{n} of answers, add-one smoothed", TEXTS,
            mean_of(partial(bleu.sentence_bleu, order=n)), "Lin & Och 2004",
        )
        for n in range(1, bleu.ORDERS + 1)
    },
    "meteor": Metric(
        "METEOR by form and stem", ENGLISH, mean_of(meteor.meteor), "Lavie & Agarwal 2007"
    ),
    "cider": Metric(
        "CIDEr-D against the task's gold texts", TEXTS, together(cider.cider), "Vedantam et al. 2015",
        best=10.0,
    ),
    "finding_f1": Metric("micro F1 of stated findings", PHANTOM, weighted_by(findings.finding_f1), ""),
    "side_f1": Metric(
        "micro F1 of findings with their side", PHANTOM, weighted_by(findings.side_f1), ""
    ),
    "finding_exact": Metric(
        "share with exactly the right findings", PHANTOM, mean_of(findings.finding_exact), ""
    ),
    "meteor_wordnet": Metric(
        "METEOR by form, stem and WordNet", ENGLISH, mean_of(meteor.meteor_wordnet),
        "Lavie & Agarwal 2007", extra="wordnet",
    ),
    "radgraph_f1": Metric(
        "RadGraph-XL entities and relations, partial F1", REPORTS,
        together(learned.radgraph_f1), "Delbrouck et al. 2024", extra="radgraph",
    ),
    "ratescore": Metric(
        "RaTEScore of medical entities", REPORTS, together(learned.ratescore),
        "Zhao et al. 2024", extra="ratescore",
    ),
    "green": Metric(
        "GREEN, errors found by a language model", CHEST, together(learned.green),
        "Ostmeier et al. 2024", extra="green_score (from its repository)",
    ),
    "bertscore": Metric(
        "BERTScore F1, roberta-large", ENGLISH, together(learned.bertscore),
        "Zhang et al. 2020", extra="bertscore",
    ),
    "judge": Metric(
        "share that a judge finds right", TEXTS, _needs_judge, "", extra=JUDGE, judged=True
    ),
    "rubric": Metric(
        "points of the criteria that a judge finds met", "conversations with a rubric", _needs_judge,
        "Arora et al. 2025", combine=rubric.clipped_ratio, extra=JUDGE, judged=True,
    ),
    "completeness": Metric(
        "share of needed statements that a judge finds in the answer", "answers with gold statements",
        _needs_judge, "Manes et al. 2024", extra=JUDGE, judged=True,
    ),
    "contradictions": Metric(
        "gold statements per answer that a judge finds contradicted", "answers with gold statements",
        _needs_judge, "Manes et al. 2024", direction="lower", best=0.0, extra=JUDGE, judged=True,
    ),
}  # fmt: skip
"""The first group is for short answers, then texts, then what needs a catalogue or a model."""

BUILT_IN = tuple(name for name, metric in METRICS.items() if not metric.extra)
"""Metrics that need nothing but this package."""
