"""The test split is opened once a study."""

from __future__ import annotations

import pytest

from infimed.core.errors import DataError
from infimed.studies.conducting import conduct
from infimed.studies.opening import fingerprint, open_test
from tests.studies.fakes import STUDY, FakeCells, by_weighting, tiny_study

DO = FakeCells(by_weighting(token=0.6, document=0.8, sqrt=0.7))


def test_a_changed_study_is_refused_once_its_test_split_is_open(tmp_path):
    open_test(tiny_study(), "nano", tmp_path)
    open_test(tiny_study(), "nano", tmp_path)
    for old, new in (
        ("seeds: [1, 2, 3]", "seeds: [1, 2, 3, 4]"),
        ("weighting: document", "weighting: sqrt"),
        ("{arm: c, against: a}", "{arm: c, against: b}"),
        ("expects: more", "expects: none"),
        ("expects: more", "expects: more\n      margin: 0.2"),
    ):
        with pytest.raises(DataError, match="has changed since its test split was opened"):
            open_test(tiny_study(STUDY.replace(old, new)), "nano", tmp_path)


def test_words_may_be_mended_afterwards():
    other = STUDY.replace("b gives {difference} over a.", "Better: {difference}.")
    other = other.replace("label: arm a", "label: first").replace("title: yes/no", "title: closed")
    assert fingerprint(tiny_study(other), "nano") == fingerprint(tiny_study(), "nano")


def test_the_development_split_opens_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("infimed.studies.conducting.run_cells", _at_once)
    conduct([tiny_study()], "nano", tmp_path, split="dev", do=DO)
    changed = tiny_study(STUDY.replace("weighting: document", "weighting: sqrt"))
    conduct([changed], "nano", tmp_path, split="dev", do=DO)
    assert not (tmp_path / "opened").exists()
    conduct([tiny_study()], "nano", tmp_path, do=DO)
    with pytest.raises(DataError, match="tune with --dev"):
        conduct([changed], "nano", tmp_path, do=DO)


def _at_once(cells, out, *, root, budget, workers, do):
    from infimed.studies.runner import run_cells
    from tests.studies.fakes import AtOnce

    return run_cells(cells, out, root=root, budget=budget, do=do, executor=AtOnce())
