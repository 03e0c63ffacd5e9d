"""Metrics that are models: what they are handed and where their values go, with stand-in packages."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from infimed.core.errors import UsageError
from infimed.evaluation.metrics import learned
from infimed.evaluation.metrics.registry import METRICS
from infimed.evaluation.runner import evaluate, score
from infimed.inference.stubs import constant
from tests.evaluation.fakes import clinic

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


@pytest.mark.parametrize("name", ["radgraph_f1", "ratescore", "green", "bertscore"])
def test_a_missing_package_is_named_with_its_extra_at_first_use_only(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("radgraph", "RaTEScore", "green_score", "bert_score"):
        monkeypatch.setitem(sys.modules, module, None)
    for loader in (learned._radgraph, learned._ratescore, learned._green):
        loader.cache_clear()
    metric = METRICS[name]
    assert metric.domain and metric.direction == "higher" and metric.extra
    with pytest.raises(UsageError) as caught:
        metric.measure(["clear"], ["clear"])
    wanted = "repository" if name == "green" else f"infimed[{metric.extra}]"
    assert wanted in str(caught.value)


@pytest.mark.parametrize("name", ["radgraph_f1", "ratescore", "green", "bertscore"])
def test_a_task_may_be_scored_by_them_with_intervals(
    name: str, packages: None, tmp_path: Path
) -> None:
    head = "name: mine\ntitle: T\nsource: {dataset: d}\nwhere: {task: [report]}\ncontrols: []\n"
    file = tmp_path / "mine.yaml"
    file.write_text(head + f"metrics: {{report: [{name}, rouge_l]}}\n")
    shards = clinic()
    evaluate(constant("effusion"), shards, [str(file)], tmp_path, label="model")
    cell = score(tmp_path, shards, [str(file)], ["model"]).tasks[0].cell("model")
    assert cell.estimate.mean == 8.0 and cell.estimate.groups > 1  # the stand-in gives its length
