"""Task files: all that ship are valid, mistakes are named, and the field language works."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from infimed.core.errors import DataError, UsageError
from infimed.evaluation.spec import TaskSpec, load_task, matches, parse_task, task_names
from tests.conftest import REPOSITORY
from tests.evaluation.fakes import clinic

MINIMAL = """
name: mine
title: Mine
source: {dataset: d}
where: {task: [closed]}
"""


@pytest.mark.parametrize("name", task_names())
def test_every_shipped_task_is_valid(name: str) -> None:
    spec = load_task(name)
    assert spec.name == name
    assert all(spec.metrics_of(kind) and spec.extractor(kind) for kind in spec.kinds)


def test_a_task_takes_five_lines() -> None:
    assert parse_task(MINIMAL, "mine.yaml").max_new_tokens == 32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("metricz: {closed: [accuracy]}", "metrics"),
        ("where: {colour: [red]}", "unknown field 'colour'"),
        ("where: {task: [kaption]}", "unknown kind of record"),
        ("prompt: shout", "unknown prompt"),
        ("metrics: {closed: [vibes]}", "metrics.closed"),
        ("max_new_tokens: 0", "max_new_tokens"),
        ("title: [", "not valid YAML"),
        ("where: {}", "which records are asked"),
        ("source: {dataset: d, acess: open}", "did you mean: access"),
        ("source: {dataset: d, license: MIT}", "say who states it: {value: MIT, source: ...}"),
        ("source: {dataset: d, access: open}", "state revision with its source"),
        (
            "layouts: [{files: {test: [t.json]}, questoin: q, answer: a}]",
            "did you mean: question",
        ),
        ("- 1", "not valid YAML"),
    ],
)
def test_a_mistake_in_a_task_file_is_named(change: str, message: str) -> None:
    key = change.partition(":")[0]
    lines = [line for line in MINIMAL.splitlines() if not line.startswith(f"{key}:")]
    with pytest.raises(DataError, match=message):
        parse_task("\n".join([*lines, change]), "mine.yaml")


def test_a_file_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(DataError):
        parse_task("just text", "mine.yaml")


PUBLISHED = """
name: mine
title: Mine
source:
  dataset: d
  access: open
  revision: {value: unverified, source: not fetched}
  license: {value: unverified, source: not read}
  questions: {value: 3, source: counted}
layouts: [{files: {test: [t.json]}, question: q, answer: a}]
"""


def test_a_benchmark_asks_what_it_builds_and_its_kinds_are_known() -> None:
    spec = parse_task(PUBLISHED, "mine.yaml")
    assert spec.where == {"source": ["mine"]} and spec.kinds == ("closed", "open")


@pytest.mark.parametrize(
    "commit", ["main", "v1.0", "98e6ac0", "98E6AC0CB9B7B2CD2C991B85A50762EDC4AEDC68"]
)
def test_a_revision_is_a_full_commit_or_unverified(commit: str) -> None:
    text = PUBLISHED.replace(
        "{value: unverified, source: not fetched}", f"{{value: {commit}, source: s}}"
    )
    with pytest.raises(DataError, match="40 hex digits"):
        parse_task(text, "mine.yaml")


def test_nothing_is_stated_without_a_source() -> None:
    for text in (
        PUBLISHED.replace(", source: counted", ""),
        PUBLISHED.replace("source: counted", "source: ''"),
        PUBLISHED.replace("  license: {value: unverified, source: not read}\n", ""),
    ):
        with pytest.raises(DataError):
            parse_task(text, "mine.yaml")


def test_a_task_file_outside_the_package_is_a_task(tmp_path: Path) -> None:
    file = tmp_path / "any.yaml"
    file.write_text(PUBLISHED)
    assert load_task(str(file)).name == "mine"
    with pytest.raises(UsageError, match="no such task file"):
        load_task(str(tmp_path / "none.yaml"))
    taken = tmp_path / "taken.yaml"
    taken.write_text(PUBLISHED.replace("name: mine", "name: slake_en"))
    with pytest.raises(DataError, match="ships with InfiMed"):
        load_task(str(taken))


def test_an_unknown_task_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean: phantom_closed"):
        load_task("phantom_close")


def test_fields_match_by_value_list_and_type() -> None:
    record = clinic(1)[0]
    listed = replace(record, facts={"question_types": ["POS", "PLANE"], "small": True, "count": 1})
    assert matches(listed, {"facts.question_types": ["PLANE"], "task": ["closed"]})
    assert not matches(listed, {"facts.question_types": ["ORGAN"]})
    assert not matches(listed, {"facts.absent": ["x"]})
    assert matches(listed, {"facts.small": [True]}) and not matches(listed, {"facts.small": [1]})
    assert matches(listed, {"facts.count": [1]}) and not matches(listed, {"facts.count": [True]})


def test_columns_and_metrics_do_not_change_what_is_asked_and_questions_do() -> None:
    spec = load_task("phantom_closed")
    cosmetic = TaskSpec.model_validate(
        {**spec.model_dump(), "title": "Other", "breakdowns": [], "subsets": {}}
    )
    asked = TaskSpec.model_validate({**spec.model_dump(), "max_new_tokens": 9})
    assert cosmetic.asked_sha256 == spec.asked_sha256 != asked.asked_sha256


def test_the_example_of_a_benchmark_is_valid_and_short() -> None:
    guide = (REPOSITORY / "docs" / "adding-a-benchmark.md").read_text(encoding="utf-8")
    example = guide.partition("```yaml\n")[2].partition("```")[0]
    assert parse_task(example, "docs").kinds == ("choice",)
    assert len(example.splitlines()) < 30


def test_the_example_in_the_guide_is_valid() -> None:
    guide = (REPOSITORY / "docs" / "evaluation.md").read_text(encoding="utf-8")
    example = guide.partition("```yaml\n")[2].partition("```")[0]
    assert parse_task(example, "docs/evaluation.md").name == "chest_presence"
