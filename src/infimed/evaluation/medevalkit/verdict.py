"""One answer as MedEvalKit would count it: the value of the `medevalkit` column.

What MedEvalKit does not survive (an empty open answer, no answer at all) is counted as its own
adapters do: as the empty answer, which is option A of a choice. Reports have no single score there;
here it is ROUGE-L of its report script.
"""

from __future__ import annotations

import random
from functools import lru_cache

from infimed.evaluation.medevalkit import choice, closed, mmmu
from infimed.evaluation.medevalkit.aggregates import answer_of
from infimed.evaluation.medevalkit.open_ended import exact
from infimed.evaluation.medevalkit.rouge import rouge_l
from infimed.evaluation.sample import LETTERS, Sample
from infimed.evaluation.spec import TaskSpec

_choice = lru_cache(maxsize=100_000)(choice.judge_multi_choice)


def verdict(sample: Sample, spec: TaskSpec, text: str) -> tuple[float, float]:
    """(value, weight) of an answer; the weight is 0 where MedEvalKit has no rule for the kind."""
    if spec.medevalkit == "none":
        return 0.0, 0.0
    if sample.kind == "choice":
        return float(_right_choice(sample, spec, text)), 1.0
    if sample.kind in ("closed", "open"):
        return float(_right_words(sample, spec, text)), 1.0
    if sample.kind == "report":
        both = text.strip(".") and sample.gold.strip(".")
        return (rouge_l(text, sample.gold) if both else 0.0), 1.0
    return 0.0, 0.0


def _right_choice(sample: Sample, spec: TaskSpec, text: str) -> bool:
    if spec.medevalkit == "mmmu":
        named = dict(zip(LETTERS, sample.options, strict=False))
        guess = random.Random(f"42 {sample.id}")
        said = mmmu.parse_multi_choice_response(text, list(named), named, rng=guess)
        return said == sample.gold_letter
    shown = tuple(f"{a}. {b}" for a, b in zip(LETTERS, sample.options, strict=False))
    return _choice(shown, sample.gold_letter, text)


def _right_words(sample: Sample, spec: TaskSpec, text: str) -> bool:
    if spec.medevalkit == "mmmu":
        return mmmu.eval_open(sample.gold, text)
    gold, said = sample.gold, answer_of(text)
    if spec.medevalkit == "common":
        gold, said = gold.lower().strip(), said.lower().strip()
        return closed.judge_judgement(gold, said) if gold in ("yes", "no") else exact(gold, said)
    if sample.kind == "open":
        return exact(gold, said)
    judged = closed.judge_judgement if gold in ("yes", "no") else closed.judge_close_end_vqa
    return judged(gold, said)
