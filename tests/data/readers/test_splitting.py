"""Splits by group: whole groups, stable, close to their shares."""

from __future__ import annotations

import pytest

from infimed.core.errors import UsageError
from infimed.data.readers.base import ReadProblem
from infimed.data.readers.splitting import assign_splits
from infimed.data.record import question_record


def records(groups, each=3):
    return [
        question_record(
            id=f"{g}-{i}",
            question="?",
            answer="no",
            images=(),
            task="closed",
            source="s",
            group=f"g{g}",
        )
        for g in range(groups)
        for i in range(each)
    ]


def test_groups_stay_whole_and_shares_hold():
    items = list(assign_splits(iter(records(2000)), "train=0.8,test=0.2"))
    splits = {}
    for record in items:
        splits.setdefault(record.group, set()).add(record.split)
    assert all(len(found) == 1 for found in splits.values())
    share = sum(found == {"test"} for found in splits.values()) / len(splits)
    assert 0.17 < share < 0.23


def test_more_records_move_no_group():
    few = {r.group: r.split for r in assign_splits(iter(records(50)), "train=0.5,dev=0.2,test=0.3")}
    many = {
        r.group: r.split for r in assign_splits(iter(records(80)), "train=0.5,dev=0.2,test=0.3")
    }
    assert few.items() <= many.items()


def test_problems_pass_through():
    problem = ReadProblem("line 3", "broken")
    assert list(assign_splits(iter([problem]), "train=1")) == [problem]


@pytest.mark.parametrize("text", ["train=0.5", "train", "training-set=1", "train=x,test=0.2", ""])
def test_malformed_shares_are_refused(text):
    with pytest.raises(UsageError):
        list(assign_splits(iter([]), text))
