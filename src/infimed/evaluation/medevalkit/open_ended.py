"""MedEvalKit's open questions."""

from __future__ import annotations

from infimed.evaluation.medevalkit.responses import parse_response
from infimed.evaluation.medevalkit.rouge import rouge
from infimed.evaluation.medevalkit.words import bleu, calculate_f1


def exact(answer: str, response: str) -> bool:
    """The "em" of `judge_open_end_vqa`, which is what counts as right. Nothing is normalised."""
    return parse_response(response) == answer.lower()


def judge_open_end_vqa(answer: str, response: str) -> dict[str, float | bool]:
    """Exact match, BLEU, ROUGE and word scores of one answer.

    The last three keys are mislabelled, as in the original: "precision" holds F1, "recall" holds
    precision, "f1" holds recall.

    Raises:
        ValueError: the parsed response is empty, or nothing but full stops.
        TypeError: it has no word.
    """
    right, said = answer.lower(), parse_response(response)
    bleus = {f"bleu{n}": bleu(said, right, n) for n in (1, 2, 3, 4)}
    rouges = rouge(said, right)[0]
    precision, recall, f1 = calculate_f1(said, right)  # type: ignore[misc]
    return {
        "em": said == right,
        **bleus,
        "rouge1": rouges["rouge-1"]["f"],
        "rouge2": rouges["rouge-2"]["f"],
        "rougel": rouges["rouge-l"]["f"],
        "precision": precision,
        "recall": recall,
        "f1": f1,
    }
