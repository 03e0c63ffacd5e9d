"""Groups of names, and the page that lists every task."""

from __future__ import annotations

import pytest

from infimed.core.errors import UsageError
from infimed.evaluation.catalogue import lines, markdown
from infimed.evaluation.groups import choose, groups
from infimed.evaluation.origin import UNVERIFIED
from infimed.evaluation.spec import load_task, task_names
from tests.conftest import REPOSITORY


def test_a_group_is_its_tasks_in_order_each_once() -> None:
    chosen = choose("pubmedqa, text ,k_qa")
    assert chosen.names[0] == "pubmedqa" and chosen.names[-1] == "k_qa"
    assert len(set(chosen.names)) == len(chosen.names)
    assert set(groups()["text"]) <= set(chosen.names)


def test_what_is_also_named_is_not_only_the_groups() -> None:
    for text in ("pubmedqa,text", "text,pubmedqa"):
        assert "pubmedqa" not in choose(text).by_group
    assert "pubmedqa" in choose("text").by_group


def test_every_member_of_a_group_is_a_task_and_no_group_is_named_like_one() -> None:
    for name, members in groups().items():
        assert name not in task_names()
        assert set(members) <= set(task_names()), name


def test_a_wrong_name_suggests_a_task_or_a_group() -> None:
    with pytest.raises(UsageError, match="did you mean: medevalkit"):
        choose("medevalkt")
    with pytest.raises(UsageError, match="did you mean: slake_en"):
        choose("slake_en_")


def test_the_page_of_tasks_is_the_commands_output() -> None:
    assert (REPOSITORY / "docs" / "tasks.md").read_text(encoding="utf-8") == markdown()


def test_a_task_lists_modality_size_licence_access_and_languages() -> None:
    (slake,) = lines(["slake_zh"])
    assert (slake.size, slake.license, slake.access, slake.languages) == (
        "1,033",
        "CC-BY-4.0",
        "open",
        "zh",
    )
    assert slake.modality == "CT, MR, XR" and slake.kinds == "closed, open"
    assert lines(["path_vqa"])[0].size == "?"


def test_every_benchmark_states_its_revision_licence_and_size_with_who_says_so() -> None:
    for name in task_names():
        spec = load_task(name)
        if not spec.layouts:
            continue
        for stated in (spec.source.revision, spec.source.license, spec.source.questions):
            assert stated is not None and stated.source, name
        assert spec.source.hub or spec.source.revision.value == UNVERIFIED  # type: ignore[union-attr]
