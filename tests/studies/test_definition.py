"""Studies are checked when they are read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from infimed.core.errors import DataError, UsageError
from infimed.studies.cells import distinct, plan
from infimed.studies.definition import load_study, parse_study, study_names
from tests.studies.fakes import STUDY, tiny_study

TRAINED = [
    "filter", "filter-flipped", "resolution", "packing", "packing-longer", "weighting", "stages", "schedule",
    "reducers", "seeing",
]  # fmt: skip


def test_the_studies_the_ledger_and_the_planted_one_ship_in_order():
    assert study_names() == [*TRAINED, "ledger", "planted", "planted-gap"]


@pytest.mark.parametrize("name", [*TRAINED, "planted", "planted-gap"])
def test_every_shipped_study_plans_valid_recipes(name):
    study = load_study(name)
    for preset, variant in study.presets.items():
        planned = plan([study], preset, "test")
        assert len(planned) == len(variant.arms) * len(variant.seeds)
        assert study.refutes and study.question and (study.claim or study.planted)


@pytest.mark.parametrize("name", TRAINED)
def test_nano_has_three_seeds_and_mini_two(name):
    for preset, variant in load_study(name).presets.items():
        assert len(variant.seeds) >= {"nano": 3, "mini": 2}[preset]


def test_the_studies_on_real_data_are_there():
    assert [n for n in study_names() if "mini" in load_study(n).presets] == [
        "filter",
        "resolution",
        "seeing",
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("reference: a", "reference: z", "there is no arm 'z'"),
        ("{arm: c, against: a}", "{arm: c, against: bb}", "did you mean b"),
        ("gives {difference} over", "is better than", "must show its figure"),
        ("seeds: [1, 2, 3]", "seeds: [1, 1]", "seeds must differ"),
        ("name: c, label", "name: b, label", "arm names must differ"),
        ("compare: {arm: b, against: a}", "compare: {arm: b, against: c}", "among the comparisons"),
        ("{arm: c, against: a}", "{arm: c, against: a, measure: 3}", "numbered from 0"),
        ("label: arm a}", "label: arm a, way: image-zeroed}", "not among the ways"),
        ("label: arm a}", "label: arm a, damage: {share: 0.1, operators: [99]}}", "no operator 99"),
        ("label: arm a}", "label: arm a, lable: x}", "lable"),
        ("name: tiny", "name: tiny\nledger: [filter]", "presets with arms, or ledger"),
        ("number: 1", "number: [", "not valid YAML"),
    ],
)
def test_a_mistake_in_a_study_is_named(old, new, message):
    with pytest.raises(DataError, match=message):
        parse_study(STUDY.replace(old, new, 1 if "compare:" not in old else -1), "x.yaml")


def test_an_unknown_study_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="did you mean: filter"):
        load_study("filtre")


def test_an_own_file_is_read(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(STUDY)
    assert load_study(str(file)) == tiny_study()
    with pytest.raises(UsageError, match="no such study file"):
        load_study(str(tmp_path / "other.yaml"))


def test_the_example_of_the_docs_is_a_study():
    page = Path(__file__).parents[2] / "docs" / "study-files.md"
    text = re.search(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.S).group(1)
    study = parse_study(text, "docs")
    cells = distinct(plan([study], "nano", "test"))
    assert len(cells) == 6
    assert {cell.recipe.stages[0].decay for cell in cells} == {0.1, 0.5}
