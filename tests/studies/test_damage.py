"""Damage of training records, and what filters leave."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from infimed.core.errors import DataError
from infimed.core.files import sha256_bytes
from infimed.studies.base import Clinic
from infimed.studies.clinic import clinic_records, splits_of
from infimed.studies.damage import Verdicts, counts_of, damage_records, kept, without_findings
from infimed.studies.definition import Damage

CLINIC = Clinic(
    modality="chest_radiograph", patients=20, seed=3, size=64,
    splits={"train": 0.5, "dev": 0.25, "test": 0.25},
)  # fmt: skip
PIXELS = np.zeros((64, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def records():
    """As an import would have them: images with the hash of their content."""
    return [
        replace(
            record,
            images=tuple(
                replace(ref, sha256=sha256_bytes(ref.locator.encode())) for ref in record.images
            ),
        )
        for record in clinic_records(CLINIC)
    ]


def damaged(records, seed=1, **settings):
    damage = Damage(**{"share": 0.3, "operators": (15, 16), "tasks": ("closed",), **settings})
    return damage_records(records, ["train"], damage, seed, lambda ref: PIXELS)


def test_patients_are_dealt_by_their_shares():
    splits = splits_of(CLINIC)
    assert [splits.count(name) for name in ("train", "dev", "test")] == [10, 5, 5]


def test_the_share_is_met_exactly_and_only_training_records_are_damaged(records):
    found = damaged(records)
    inside = [r for r in records if r.split == "train" and r.task == "closed"]
    assert len(found) == round(0.3 * len(inside))
    assert all(records[at].split == "train" and records[at].task == "closed" for at in found)
    assert all(one.record.messages != records[at].messages for at, one in found.items())


def test_no_damage_shows_an_image_of_another_split(records):
    found = damaged(records, operators=(20,), share=0.9)
    groups = {r.images[0].locator: r.split for r in records}
    assert {groups[one.record.images[0].locator] for one in found.values()} == {"train"}


def test_seeds_damage_otherwise_and_one_seed_always_alike(records):
    assert damaged(records) == damaged(records)
    assert set(damaged(records)) != set(damaged(records, seed=2))


def test_half_of_flipped_answers_are_labels_by_chance(records):
    found = damaged(records, operators=(16,), share=0.5)
    flipped = [one.record.answer != records[at].answer for at, one in found.items()]
    assert all(flipped)


def test_operators_that_apply_to_too_few_records_are_refused(records):
    with pytest.raises(DataError, match="apply to"):
        damaged(records, operators=(3,), share=1.0)


def test_withheld_facts_are_those_about_findings(records):
    record = next(r for r in records if "finding_present" in r.facts)
    left = without_findings(record)
    assert set(left.facts) <= {"modality", "anatomy", "view", "question_type"}
    assert left.messages == record.messages


def verdicts():
    train = np.array([True] * 8 + [False] * 2)
    dropped = np.array([True, True, True] + [False] * 6 + [True])
    score = np.linspace(0, 1, 10)
    return Verdicts(train, dropped, score, 0.5)


def test_filters_drop_training_records_alone():
    stays = {keep: kept(verdicts(), keep, 1) for keep in ("all", "random", "rules", "evaluator")}
    assert stays["all"].all()
    assert np.flatnonzero(~stays["rules"]).tolist() == [0, 1, 2]
    # The scores of the first five lie below the threshold.
    assert np.flatnonzero(~stays["evaluator"]).tolist() == [0, 1, 2, 3, 4]
    assert (~stays["random"]).sum() == 3 and stays["random"][8:].all()


def test_a_random_drop_follows_its_seed():
    drops = {tuple(kept(verdicts(), "random", seed)) for seed in range(20)}
    assert len(drops) > 5
    assert (kept(verdicts(), "random", 4) == kept(verdicts(), "random", 4)).all()


def test_counts_say_what_was_dropped():
    train, damaged_ = verdicts().train, np.array([True] * 2 + [False] * 8)
    assert counts_of(train, damaged_, kept(verdicts(), "rules", 1)) == {
        "train": 8, "damaged": 2, "dropped": 3, "dropped_damaged": 2,
    }  # fmt: skip
