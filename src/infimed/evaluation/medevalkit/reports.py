"""MedEvalKit's separate script for reports, without CIDEr, RaTEScore and GREEN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from infimed.evaluation.medevalkit.rouge import rouge
from infimed.evaluation.medevalkit.words import bleu, tokenize
from infimed.evaluation.metrics.meteor import Synonyms, meteor_of


def reference(findings: str, impression: str) -> str:
    """The reference text; an impression that ends with a full stop gets a second one."""
    return f"Findings: {findings} Impression: {impression}."


def report_scores(
    samples: Sequence[Mapping[str, str]], *, synonyms: Synonyms | None = None
) -> dict[str, float]:
    """Means over the samples; an empty response is skipped in the sums and counted in the divisor.

    Args:
        samples: with findings, impression and response.
        synonyms: WordNet's words for a word; the original needs them, the result is the same
            where no match depends on one.

    Raises:
        ZeroDivisionError: there is no sample.
    """
    sums = dict.fromkeys(
        ("meteor", "bleu1", "bleu2", "bleu3", "bleu4", "rouge1", "rouge2", "rougeL"), 0.0
    )
    for sample in samples:
        said = sample["response"]
        if not said:
            continue
        right = reference(sample["findings"], sample["impression"])
        sums["meteor"] += meteor_of(tokenize(said), tokenize(right), synonyms)
        for n in (1, 2, 3, 4):
            sums[f"bleu{n}"] += bleu(said, right, n)
        rouges = rouge(said, right)[0]
        for name in ("1", "2", "L"):
            sums[f"rouge{name}"] += rouges[f"rouge-{name.lower()}"]["f"]
    return {name: value / len(samples) for name, value in sums.items()}
