"""Report metrics that are models themselves: optional, loaded on first use, never part of a default.

Each needs its own package and downloads weights from its authors at first use; their values change with
the version of both, so report it with the score. None of them is trained on anything but what its
domain says. Missing packages raise with the command that installs them.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from infimed.core.errors import UsageError


def _package(module: str, metric: str, fix: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"the metric '{metric}' needs a package that is not installed", seen=module, fix=fix
        ) from error


@lru_cache(maxsize=1)
def _radgraph() -> Any:
    module = _package("radgraph", "radgraph_f1", "pip install 'infimed[radgraph]'")
    return module.F1RadGraph(reward_level="partial", model_type="radgraph-xl")


@lru_cache(maxsize=1)
def _ratescore() -> Any:
    return _package("RaTEScore", "ratescore", "pip install 'infimed[ratescore]'").RaTEScore()


@lru_cache(maxsize=1)
def _green() -> Any:
    module = _package(
        "green_score",
        "green",
        "install green_score from its authors' repository (it is not a release)",
    )
    return module.GREEN("StanfordAIMI/GREEN-radllama2-7b", output_dir=tempfile.gettempdir())


def _pairs(answers: Sequence[str], golds: Sequence[str]) -> tuple[list[int], list[str], list[str]]:
    """Places and texts of the pairs that have words on both sides; the others score 0."""
    places = [
        i for i, pair in enumerate(zip(answers, golds, strict=True)) if all(map(str.strip, pair))
    ]
    return places, [answers[i] for i in places], [golds[i] for i in places]


def _spread(places: Sequence[int], values: Sequence[float], count: int) -> list[float]:
    out = [0.0] * count
    for place, value in zip(places, values, strict=True):
        out[place] = float(value)
    return out


def radgraph_f1(answers: Sequence[str], golds: Sequence[str]) -> list[float]:
    """RadGraph-XL entities and whether they have a relation ("partial"), F1 per report.

    Raises:
        UsageError: the package is not installed.
    """
    scorer = _radgraph()
    places, said, right = _pairs(answers, golds)
    return _spread(places, scorer(hyps=said, refs=right)[1] if places else [], len(answers))


def ratescore(answers: Sequence[str], golds: Sequence[str]) -> list[float]:
    """RaTEScore of each report.

    Raises:
        UsageError: the package is not installed.
    """
    scorer = _ratescore()
    places, said, right = _pairs(answers, golds)
    return _spread(places, scorer.compute_score(said, right) if places else [], len(answers))


def green(answers: Sequence[str], golds: Sequence[str]) -> list[float]:
    """GREEN of each report; a language model of 7 billion parameters reads both.

    Raises:
        UsageError: the package is not installed.
    """
    scorer = _green()
    places, said, right = _pairs(answers, golds)
    return _spread(places, scorer(right, said)[2] if places else [], len(answers))


def bertscore(answers: Sequence[str], golds: Sequence[str]) -> list[float]:
    """F1 of BERTScore with roberta-large, layer 17, not rescaled.

    Raises:
        UsageError: the package is not installed.
    """
    module = _package("bert_score", "bertscore", "pip install 'infimed[bertscore]'")
    places, said, right = _pairs(answers, golds)
    if not places:
        return [0.0] * len(answers)
    f1 = module.score(said, right, model_type="roberta-large", num_layers=17, verbose=False)[2]
    return _spread(places, f1.tolist(), len(answers))
