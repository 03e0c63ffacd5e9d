"""Metrics that are models: what they are handed and where their values go, with stand-in packages."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from infimed.evaluation.metrics import learned

ANSWERS, GOLDS = ["clear", "", "effusion"], ["clear lungs", "normal", "effusion"]


class Scorer:
    """Gives each text its length, in every calling convention of the packages."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        self.settings = settings

    def __call__(
        self, refs: list[str], hyps: list[str]
    ) -> tuple[float, list[float], list[float], list[str]]:
        values = [float(len(text)) for text in hyps]
        return 0.0, values, values, refs

    def compute_score(self, said: list[str], right: list[str]) -> list[float]:
        return [float(len(text)) for text in said]


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    def score(said: list[str], right: list[str], **settings: Any) -> tuple[Any, Any, Any]:
        return None, None, np.array([len(text) for text in said])

    monkeypatch.setitem(sys.modules, "radgraph", SimpleNamespace(F1RadGraph=Scorer))
    monkeypatch.setitem(sys.modules, "RaTEScore", SimpleNamespace(RaTEScore=Scorer))
    monkeypatch.setitem(sys.modules, "green_score", SimpleNamespace(GREEN=Scorer))
    monkeypatch.setitem(sys.modules, "bert_score", SimpleNamespace(score=score))
    loaders = (learned._radgraph, learned._ratescore, learned._green)
    for loader in loaders:
        loader.cache_clear()
    yield
    for loader in loaders:
        loader.cache_clear()


@pytest.mark.parametrize("name", ["radgraph_f1", "ratescore", "green", "bertscore"])
def test_empty_texts_score_zero_and_the_others_keep_their_places(name: str, packages: None) -> None:
    metric = getattr(learned, name)
    assert metric(ANSWERS, GOLDS) == [5.0, 0.0, 8.0]
    assert metric(["", " "], ["x", "y"]) == [0.0, 0.0]
    assert metric([], []) == []
