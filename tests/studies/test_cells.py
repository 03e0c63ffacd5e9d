"""What decides a result decides a cell's key, and nothing else."""

from __future__ import annotations

from infimed.studies.base import load_base
from infimed.studies.cells import cell_of, distinct, plan
from infimed.studies.definition import load_study
from tests.studies.fakes import STUDY, tiny_study


def keys(study, preset="nano"):
    return {(one.arm, one.seed): one.cell.key for one in plan([study], preset, "test")}


def test_every_arm_and_seed_is_a_cell_of_its_own():
    found = keys(tiny_study())
    assert len(found) == 9 == len(set(found.values()))


def test_seeds_come_in_turn():
    assert [(p.seed, p.arm) for p in plan([tiny_study()], "nano", "test")][:4] == [
        (1, "a"), (1, "b"), (1, "c"), (2, "a"),
    ]  # fmt: skip


def test_names_and_words_are_no_part_of_a_key():
    other = STUDY.replace("name: tiny", "name: other").replace(
        "label: arm a", "label: another word"
    )
    assert keys(tiny_study()) == keys(tiny_study(other))


def test_what_decides_a_result_is_part_of_the_key():
    changed = [
        ("weighting: document", "weighting: sqrt"),
        ("label: arm a}", "label: arm a, blind: true}"),
        ("label: arm a}", "label: arm a, damage: {share: 0.1, operators: [16]}}"),
        ("reference: a", "reference: a\n    ways: [model, image-zeroed]"),
        ("reference: a", "reference: a\n    recipe: {stages.learn.epochs: 2}"),
    ]
    plain = keys(tiny_study())
    for old, new in changed:
        assert keys(tiny_study(STUDY.replace(old, new))) != plain
    dev = {(p.arm, p.seed): p.cell.key for p in plan([tiny_study()], "nano", "dev")}
    assert not set(dev.values()) & set(plain.values())


def test_cells_are_shared_between_studies_whose_recipes_agree():
    studies = [load_study(name) for name in ("filter", "reducers", "planted")]
    found = {
        s.name: {p.arm: p.cell.key for p in plan([s], "nano", "test") if p.seed == 1}
        for s in studies
    }
    assert found["filter"]["oracle"] == found["reducers"]["average"] == found["planted"]["clean"]
    assert found["filter"]["raw-40"] == found["planted"]["raw"]
    assert found["filter"]["random-40"] == found["planted"]["random"]
    together = plan(studies, "nano", "test")
    assert len(distinct(together)) == len(together) - 3 * 4


def test_ways_of_asking_share_a_training():
    study = load_study("seeing")
    seed = {p.arm: p.cell.key for p in plan([study], "nano", "test") if p.seed == 1}
    assert seed["model"] == seed["zeroed"] == seed["swapped"] != seed["blind"]


def test_the_reference_is_held_equal_to_nothing():
    study = tiny_study()
    variant = study.presets["nano"]
    base = load_base("nano")
    cells = {arm.name: cell_of(base, "nano", variant, arm, 1, "test") for arm in variant.arms}
    assert cells["a"].equal is None
    assert cells["b"].equal.unit == "samples"
    assert cells["b"].equal.recipe == cells["a"].recipe


def test_cells_alike_but_for_the_seed_are_of_a_kind():
    planned = plan([tiny_study()], "nano", "test")
    kinds = {(p.arm, p.cell.kind) for p in planned}
    assert len(kinds) == 3
