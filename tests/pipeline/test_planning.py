"""Stages pick records by task and by facts; a selection that finds nothing is named."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from infimed.core.errors import DataError, RecipeError
from infimed.core.recipe import Data, LearningRate, Stage
from infimed.data.importing import import_data
from infimed.data.record import ImageRef, question_record
from infimed.data.shards import open_shards
from infimed.packing.overlong import Exchanges
from infimed.pipeline.index import Index, index_of, read_index
from infimed.pipeline.planning import stage_job, stage_samples
from infimed.training.optimizer import factor

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
        source=np.array(["a", "a", "b", "b"]),
        train=np.array(train),
        image_key=np.array([0, 1, 2, -1]),
        text_tokens=10 * ones,
        target_tokens=ones,
        trunk_tokens=2 * ones,
        images=np.array([1, 1, 1, 0]),
        exchanges=Exchanges(np.zeros(5, np.int64), *np.zeros((5, 0), np.int64)),
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
        ({"mixture": {"b": 1}, "mixture_of": "source"}, [2, 3]),
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


def test_source_that_no_record_has_is_named_even_beside_one_that_is_there():
    with pytest.raises(RecipeError, match="no training record has this source"):
        stage_samples(index(), stage(mixture={"a": 1, "c": 1}, mixture_of="source"))


def test_the_decay_phase_has_a_mixture_and_a_rate_of_its_own():
    changes = {"schedule": "warmup-stable-decay", "decay": 0.5, "warmup": 0.0}
    made = stage_job(index(), stage(row_tokens=48, epochs=6, **changes), 64, 1)
    job = stage_job(
        index(), stage(row_tokens=48, epochs=6, decay_mixture={"text": 1}, **changes), 64, 1
    )
    switch = len(made.plan.rows) - round(len(made.plan.rows) / 2)
    assert job.plan.switch == switch and len(job.plan.rows) == len(made.plan.rows)
    later = {r for row in job.plan.rows[switch:] for d in row.documents for r in d.records}
    assert later == {3}
    first = list(job.plan.rows[:switch])
    assert first == list(made.plan.rows[:switch])
    rates = [factor(step, job.steps, job.stage, job.decay_from) for step in range(job.steps)]
    assert all(rate == 1 for rate in rates[: job.decay_from + 1])
    assert all(a > b for a, b in pairwise(rates[job.decay_from :]))


def test_a_decay_mixture_that_no_row_can_hold_is_refused():
    changes = {"schedule": "warmup-stable-decay", "decay_mixture": {"text": 1}}
    columns = replace(index(), text_tokens=np.array([10, 10, 10, 999]))
    with pytest.raises(DataError, match="decay mixture"):
        stage_job(columns, stage(mixture={"closed": 1}, epochs=9, **changes), 64, 1)


@pytest.mark.parametrize(
    ("consents", "licenses", "trained"),
    [([], [], 3), (["research"], [], 1), (["research", "any"], [], 2), (["any"], ["cc0"], 1)],
)
def test_consent_and_licence_decide_what_is_trained_on(
    tmp_path, processor, consents, licenses, trained
):
    lines = [
        question_record(
            id=name, question="Is it?", answer="yes", task="closed", source="s", group=name,
            images=(), license=license, facts=facts,
        ).to_json()
        for name, license, facts in (
            ("one", "cc0", {"consent": "research"}),
            ("two", "cc0", {"consent": "any"}),
            ("three", "other", {}),
        )
    ]  # fmt: skip
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "records.jsonl").write_text("\n".join(lines) + "\n")
    import_data(tmp_path / "in", tmp_path / "shards", reader="records", workers=1)
    data = Data(root=tmp_path, consents=consents, licenses=licenses)
    shards = open_shards(tmp_path / "shards")
    found = read_index(shards, processor, tmp_path / "plan", data, kept=None)
    assert int(found.train.sum()) == trained
    again = index_of(list(shards), processor, data)
    assert again.train.tolist() == found.train.tolist()
    assert again.facts == found.facts
    assert again.text_tokens.tolist() == found.text_tokens.tolist()


def test_images_whose_size_is_not_known_yet_are_planned_as_large_ones(processor):
    records = [
        question_record(
            id=str(size), question="Is it?", answer="yes", task="closed",
            images=(ImageRef(f"{size}.png", width=size, height=size),),
        )
        for size in (0, 32, 640)
    ]  # fmt: skip
    plain = index_of(records, processor, Data(root="x"))
    tiled = index_of(records, processor.with_grid(32, 16, 4), Data(root="x"))
    assert plain.images.tolist() == [1, 1, 1]
    assert tiled.images.tolist() == [5, 1, 5]


def test_stages_that_tile_alike_share_an_index():
    alike = [stage(tiles=4, row_tokens=200), stage(tiles=4, row_tokens=300, visual_tokens=9)]
    assert alike[0].tiling == alike[1].tiling != stage().tiling
    assert stage().tiling == stage(image_size=64).tiling
    assert alike[0].tiling != stage(tiles=4, row_tokens=200, image_size=64).tiling
