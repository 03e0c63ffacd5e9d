"""Numbers of others: each has its source, its place and a task that exists."""

from __future__ import annotations

from pathlib import Path

import pytest

from infimed.core.errors import DataError, UsageError
from infimed.evaluation.compare.published import parse_published, reported, shipped
from infimed.evaluation.spec import task_names

OWN = """
sources:
  ours: {title: Our paper, read: we wrote it}
tables:
  - source: ours
    place: Table 2
    metric: accuracy
    columns: {PubMedQA: {tasks: [pubmedqa]}}
    rows: {our-model: {PubMedQA: 71.5}}
"""


def test_every_number_states_its_source_place_and_metric() -> None:
    numbers = shipped().numbers()
    assert len(numbers) == 48
    for one in numbers:
        assert one.cited.title and one.cited.read and one.place and one.metric
        assert set(one.tasks) <= set(task_names()), one
        assert 0 < one.value < 100


def test_numbers_are_found_by_task() -> None:
    found = reported(["slake_en", "vqa_rad", "vqa_rad_disjoint"])
    assert [one.model for one in found["vqa_rad"]] == sorted(
        (one.model for one in found["vqa_rad"]), key=str.lower
    )
    assert {one.model: one.value for one in found["slake_en"]}["Lingshu-7B"] == 83.1
    assert found["vqa_rad_disjoint"] == ()


def test_a_users_own_file_is_added(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(OWN)
    (one,) = reported(["pubmedqa"], tmp_path / "own.yaml")["pubmedqa"]
    assert (one.model, one.value, one.cited.title) == ("our-model", 71.5, "Our paper")
    with pytest.raises(UsageError, match="no such file"):
        reported(["pubmedqa"], tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("source: ours", "source: our", "did you mean 'ours'"),
        ("71.5", "715", "not per cent"),
        ("{PubMedQA: 71.5}", "{MedQA: 71.5}", "no column 'MedQA'"),
        ("place: Table 2", "where: Table 2", "tables.0.place"),
        ("title: Our paper, ", "", "title"),
        ("tasks: [pubmedqa]", "tasks: []", "tasks"),
        ("sources:", "sources: [", "YAML"),
    ],
)
def test_a_number_without_its_source_is_refused(old: str, new: str, message: str) -> None:
    assert old in OWN
    with pytest.raises(DataError, match=r"own\.yaml") as error:
        parse_published(OWN.replace(old, new), "own.yaml")
    assert message in str(error.value)
