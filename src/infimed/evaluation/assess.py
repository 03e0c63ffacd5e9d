"""One answer to one sample: extraction, then metrics. Pure, and total over any text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from infimed.evaluation import extract
from infimed.evaluation.extract import Extraction
from infimed.evaluation.metrics import findings, refusal, words
from infimed.evaluation.sample import Sample
from infimed.evaluation.spec import TaskSpec
from infimed.inference.requests import Response

Weighted = tuple[float, float]
"""(value, weight); see `infimed.evaluation.metrics`."""
Status = Literal["ok", "truncated", "error", "missing"]

_TEXT: dict[str, Callable[[str, str], float]] = {
    "exact_match": words.exact_match,
    "token_f1": words.token_f1,
    "recall": words.recall,
    "rouge_l": words.rouge_l,
    "finding_exact": findings.finding_exact,
    "refusal": refusal.refusal,
}
_WEIGHTED: dict[str, Callable[[str, str], Weighted]] = {
    "finding_f1": findings.finding_f1,
    "side_f1": findings.side_f1,
}


@dataclass(frozen=True, slots=True)
class Assessment:
    """How one answer did.

    Attributes:
        text: what was written. parsed: what was read out of it (the option's text for a choice), or
            None. rule: which extraction rule fired. status: of the response.
        metrics: metric -> (value, weight). score: the metric that counts for this kind of sample.
    """

    text: str
    parsed: str | None
    rule: str
    status: Status
    metrics: dict[str, Weighted]
    score: Weighted


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


def _measure(metric: str, parsed: str | None, sample: Sample) -> Weighted:
    if metric in _WEIGHTED:
        return _WEIGHTED[metric](parsed or "", sample.gold)
    if parsed is None:
        return 0.0, 1.0
    if metric == "accuracy":
        right = (
            parsed == sample.gold
            if sample.kind == "choice"
            else words.exact_match(parsed, sample.gold)
        )
        return float(right), 1.0
    return _TEXT[metric](parsed, sample.gold), 1.0


def assess(sample: Sample, spec: TaskSpec, response: Response | None) -> Assessment:
    """Score a response; a failed or missing one is wrong in every metric, not left out."""
    failed = response is None or response.outcome == "error"
    text = "" if response is None else response.text
    found = extract.NOTHING if failed else read_answer(sample, spec, text)
    metrics: dict[str, Weighted] = {
        name: _measure(name, found.value, sample) for name in spec.metrics_of(sample.kind)
    }
    return Assessment(
        text=text,
        parsed=found.value,
        rule=found.rule,
        status="missing" if response is None else response.outcome,
        metrics=metrics,
        score=metrics[spec.metrics_of(sample.kind)[0]],
    )
