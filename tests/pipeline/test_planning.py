"""Stages pick records by task and by facts; a selection that finds nothing is named."""

from __future__ import annotations

import json

import numpy as np
import pytest

from infimed.core.errors import DataError, RecipeError
from infimed.core.recipe import LearningRate, Stage
from infimed.pipeline.planning import Index, stage_samples

FACTS = [
    {"modality": "CT", "small": True},
    {"modality": "MRI"},
    {"modality": "CT", "small": False},
    {},
]


def index(train=(True, True, True, True)):
    ones = np.ones(4, dtype=np.int64)
    return Index(
        task=np.array(["closed", "closed", "caption", "text"]),
        train=np.array(train),
        image_key=np.array([0, 1, 2, -1]),
        text_tokens=10 * ones,
        target_tokens=ones,
        trunk_tokens=2 * ones,
        images=np.array([1, 1, 1, 0]),
        facts=tuple(json.dumps(f) for f in FACTS),
    )


def stage(**changes):
    values = {"name": "s", "image_size": 32, "visual_tokens": 16, "row_tokens": 64}
    return Stage(**{**values, "learning_rate": LearningRate(language=1e-3), **changes})


@pytest.mark.parametrize(
    ("changes", "rows"),
    [
        ({}, [0, 1, 2, 3]),
        ({"mixture": {"closed": 1}}, [0, 1]),
        ({"where": {"modality": ["CT"]}}, [0, 2]),
        ({"where": {"modality": ["CT", "MRI"]}}, [0, 1, 2]),
        ({"where": {"modality": ["CT"], "small": [True]}}, [0]),
        ({"mixture": {"closed": 2}, "where": {"modality": ["CT"]}}, [0]),
    ],
)
def test_stage_keeps_the_records_it_names(changes, rows):
    assert stage_samples(index(), stage(**changes)).row.tolist() == rows


def test_value_that_no_record_has_suggests_the_nearest():
    with pytest.raises(RecipeError, match="did you mean: MRI"):
        stage_samples(index(), stage(where={"modality": ["MRT"]}))


def test_task_that_no_record_has_is_named():
    with pytest.raises(RecipeError, match="report"):
        stage_samples(index(), stage(mixture={"report": 1}))


def test_nothing_left_to_train_on_says_where_to_look():
    with pytest.raises(DataError, match="curation"):
        stage_samples(index(train=(False,) * 4), stage())
