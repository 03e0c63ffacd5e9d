"""What MedEvalKit's functions say and what ours say, for the same arguments.

A case is ``{"function": NAME, "args": [...]}`` with the name of a MedEvalKit function, as in the golden
values that its own code produced. `faithful` runs our reproduction of that function, `corrected` what
this package counts instead. Pure; nothing is asked of a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from infimed.evaluation import extract
from infimed.evaluation.medevalkit import (
    aggregates,
    choice,
    closed,
    healthbench,
    mmmu,
    open_ended,
    prompts,
    reports,
    responses,
    rouge,
    words,
)
from infimed.evaluation.metrics import bleu, rubric
from infimed.evaluation.metrics import rouge as our_rouge
from infimed.evaluation.metrics import words as our_words

Function = Callable[..., Any]
Row = Mapping[str, Any]

UNPARSED = "(unparsed)"


def _judge(question: str, said: str, gold: str) -> str:
    """The judge of the golden values, which finds every answer right."""
    return "<judge>0</judge>"


FAITHFUL: dict[str, Function] = {
    "utils.utils.extract": responses.extract,
    "utils.utils.parse_response": responses.parse_response,
    "utils.utils.find_most_similar_index": choice.find_most_similar_index,
    "utils.utils.judge_multi_choice": choice.judge_multi_choice,
    "utils.utils.judge_judgement": closed.judge_judgement,
    "utils.utils.judge_close_end_vqa": closed.judge_close_end_vqa,
    "utils.utils.judge_open_end_vqa": open_ended.judge_open_end_vqa,
    "utils.utils.tokenize": words.tokenize,
    "utils.utils.bleu": words.bleu,
    "utils.utils.rouge": rouge.rouge,
    "utils.utils.calculate_f1": words.calculate_f1,
    "utils.MMMU.eval_utils.parse_multi_choice_response": mmmu.parse_multi_choice_response,
    "utils.MMMU.eval_utils.normalize_str": mmmu.normalize_str,
    "utils.MMMU.eval_utils.extract_numbers": mmmu.extract_numbers,
    "utils.MMMU.eval_utils.eval_open": mmmu.eval_open,
    "utils.MMMU.eval_utils.evaluate": mmmu.evaluate,
    "utils.question_formats.get_multiple_choice_prompt": prompts.get_multiple_choice_prompt,
    "utils.question_formats.get_judgement_prompt": prompts.get_judgement_prompt,
    "utils.question_formats.get_close_ended_prompt": prompts.get_close_ended_prompt,
    "utils.question_formats.get_open_ended_prompt": prompts.get_open_ended_prompt,
    "utils.question_formats.get_report_generation_prompt": prompts.get_report_generation_prompt,
    "utils.HealthBench.utils.parse_json_to_dict": healthbench.parse_json_to_dict,
    "utils.HealthBench.utils._compute_clipped_stats": healthbench.compute_clipped_stats,
    "utils.HealthBench.utils.calculate_score": lambda rubric, grades: healthbench.calculate_score(
        rubric["points"], grades["criteria_met"]
    ),
    "utils.OmniMedVQA.cal_metrics": aggregates.omnimedvqa,
    "utils.MedXpertQA.cal_metrics": aggregates.medxpertqa,
    "utils.SuperGPQA.cal_metrics": aggregates.supergpqa,
    "utils.VQA_RAD.VQA_RAD.cal_metrics": aggregates.vqa_rad,
    "utils.PATH_VQA.PATH_VQA.cal_metrics": aggregates.path_vqa,
    "utils.SLAKE.SLAKE.cal_metrics": aggregates.slake,
    "Metrics_Compute/cal_report_metrics.py": reports.report_scores,
}


def name_of(function: str) -> tuple[str, bool]:
    """A function's name without its note in brackets, and whether the note says a judge was used."""
    name, _, note = function.partition(" (")
    return name, "use_llm_judge=True" in note


def faithful(function: str, args: Sequence[Any]) -> Any:
    """What MedEvalKit gives.

    Raises:
        KeyError: there is no such function. Exception: whatever the original raises.
    """
    name, judged = name_of(function)
    return FAITHFUL[name](*args, _judge) if judged else FAITHFUL[name](*args)


def _choice(options: Sequence[str], gold: str, response: str | None) -> bool:
    texts = [option.partition(".")[2].strip() for option in options]
    found = extract.letter(response or "", texts).value
    return found is not None and chr(ord("A") + int(found)) == gold


def _closed(gold: str, response: str) -> bool:
    right = extract.polarity(gold)
    said = extract.closed(response, expects_yes_no=right is not None).value
    return said is not None and bool(our_words.exact_match(said, right or gold))


def _open(gold: str, response: str) -> dict[str, float | bool]:
    said = extract.short(response).value or ""
    shared = our_words.overlap(said, gold)
    return {
        "em": bool(our_words.exact_match(said, gold)),
        **{f"bleu{n}": bleu.sentence_bleu(said, gold, n) for n in (1, 2, 3, 4)},
        "rouge1": our_rouge.rouge_1(said, gold),
        "rouge2": our_rouge.rouge_2(said, gold),
        "rougel": our_rouge.rouge_l(said, gold),
        "precision": shared.precision,
        "recall": shared.recall,
        "f1": shared.f1,
    }


def _f1(prediction: str, gold: str) -> tuple[float, float, float]:
    shared = our_words.overlap(prediction, gold)
    return shared.f1, shared.precision, shared.recall


def _letter(response: str, letters: Sequence[str], named: Mapping[str, str]) -> str:
    found = extract.letter(response, [named[letter] for letter in letters]).value
    return UNPARSED if found is None else letters[int(found)]


def _eval_open(gold: str | Sequence[Any], predictions: str | Sequence[Any]) -> bool:
    golds = [gold] if isinstance(gold, str) else gold
    said = [predictions] if isinstance(predictions, str) else predictions
    return any(our_words.contains(str(text), str(right)) for text in said for right in golds)


def _marked(response: str) -> str:
    return extract.marked(response)[0][1].lower() if response.strip() else ""


def _vqa(rows: Sequence[Row], *, judged: bool) -> dict[str, dict[str, float | None]]:
    """Accuracies and word scores of a set with open and closed questions; None where it has none."""
    is_open = [
        row.get("answer_type") == "OPEN"
        if "answer_type" in row
        else not extract.polarity(row["answer"])
        for row in rows
    ]
    verdicts: dict[bool, list[float]] = {True: [], False: []}
    scores = []
    for row, opened in zip(rows, is_open, strict=True):
        if not opened:
            verdicts[False].append(float(_closed(row["answer"], row["response"])))
            continue
        own = _open(row["answer"], row["response"])
        scores.append(own)
        verdicts[True].append(1.0 if judged else float(own["em"]))

    def mean(values: Sequence[float]) -> float | None:
        return fmean(values) if values else None

    return {
        "acc": {
            "total": mean([*verdicts[True], *verdicts[False]]),
            "open": mean(verdicts[True]),
            "close": mean(verdicts[False]),
        },
        "precision/recall/f1": {
            name: mean([float(own[name]) for own in scores])
            for name in ("precision", "recall", "f1")
        },
    }


def _grouped(rows: Sequence[Row], **fields: str) -> dict[str, Any]:
    """Accuracy over all rows and by the values of each field, under the field's own name."""
    right = [float(_choice(row["choices"], row["answer"], row["response"])) for row in rows]

    def by(field: str) -> dict[str, float]:
        names = dict.fromkeys(row[field] for row in rows)
        return {
            name: fmean([v for v, row in zip(right, rows, strict=True) if row[field] == name])
            for name in names
        }

    return {"acc": fmean(right), **{name: by(field) for name, field in fields.items()}}


def _evaluate(outputs: Mapping[str, Any], golds: Mapping[str, Any]) -> dict[str, Any]:
    right = {key: outputs.get(key) == gold["ground_truth"] for key, gold in golds.items()}
    return {"acc": fmean([float(value) for value in right.values()]) if right else None}


CORRECTED: dict[str, Function] = {
    "utils.utils.parse_response": _marked,
    "utils.utils.judge_multi_choice": _choice,
    "utils.utils.judge_judgement": _closed,
    "utils.utils.judge_close_end_vqa": _closed,
    "utils.utils.judge_open_end_vqa": _open,
    "utils.utils.calculate_f1": _f1,
    "utils.MMMU.eval_utils.parse_multi_choice_response": _letter,
    "utils.MMMU.eval_utils.eval_open": _eval_open,
    "utils.MMMU.eval_utils.evaluate": _evaluate,
    "utils.SuperGPQA.cal_metrics": lambda rows: _grouped(
        rows, field="field", difficulty="difficulty"
    ),
    "utils.HealthBench.utils.calculate_score": lambda items, grades: (
        rubric.rubric_score(items["points"], grades["criteria_met"]).score
    ),
}


def corrected(function: str, args: Sequence[Any]) -> Any:
    """What this package counts instead; None for a function that it has no other way for.

    Raises:
        KeyError: there is no such function.
    """
    name, judged = name_of(function)
    if name in (
        "utils.VQA_RAD.VQA_RAD.cal_metrics",
        "utils.PATH_VQA.PATH_VQA.cal_metrics",
        "utils.SLAKE.SLAKE.cal_metrics",
    ):
        return _vqa(args[0], judged=judged)
    if name not in CORRECTED:
        FAITHFUL[name]
        return None
    return CORRECTED[name](*args)


@dataclass(frozen=True, slots=True)
class Compared:
    """One case: what MedEvalKit gives (or which error it ends in) and what this package gives."""

    function: str
    args: Sequence[Any]
    medevalkit: Any
    corrected: Any


def compare(case: Mapping[str, Any]) -> Compared:
    """Both results of a case."""
    try:
        theirs = faithful(case["function"], case["args"])
    except (AttributeError, TypeError, ValueError, ZeroDivisionError) as error:
        theirs = f"{type(error).__name__}: {error}"
    ours = corrected(case["function"], case["args"])
    return Compared(case["function"], case["args"], theirs, ours)
