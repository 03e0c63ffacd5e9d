"""Deciding again from the ledger: the same as a whole curation, shown before it is written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from infimed.cli.curate import app
from infimed.core.errors import DataError, RecipeError, UsageError
from infimed.core.files import read_json, sha256_file, write_json
from infimed.curation import curate, default_rubric, read_summary
from infimed.curation.origin import read_rubric
from infimed.curation.redecide import changed, redecide
from infimed.data.shards import ShardSet, open_shards
from tests.curation.ledger_world import limit_between, make_ledger

SETTINGS = {
    "readability.blurred_image.min_sharpness": limit_between(0, 1),
    "completeness.placeholder": "off",
}
TABLES = ("signals.parquet", "findings.parquet", "verdicts.parquet")
runner = CliRunner()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_ledger(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def shards(world: tuple[Path, Path]) -> ShardSet:
    return open_shards(world[1])


@pytest.fixture
def copy(world: tuple[Path, Path], tmp_path: Path) -> Path:
    shutil.copytree(world[0], tmp_path / "ledger")
    return tmp_path / "ledger"


def hashes(folder: Path) -> list[str]:
    return [sha256_file(folder / name) for name in TABLES]


def test_the_result_is_that_of_a_whole_curation(
    copy: Path, shards: ShardSet, tmp_path: Path
) -> None:
    before = read_rubric(copy, read_summary(copy))
    after = before.with_settings(SETTINGS)
    with redecide(copy, shards, before, after, out=tmp_path / "new") as made:
        made.write(tmp_path / "new")
    curate(shards, tmp_path / "whole", rubric=after)
    assert hashes(tmp_path / "new") == hashes(tmp_path / "whole")
    assert read_rubric(tmp_path / "new", read_summary(tmp_path / "new")).identity == after.identity
    assert hashes(copy) != hashes(tmp_path / "new")


def test_the_difference_names_records_rules_and_strata(copy: Path, shards: ShardSet) -> None:
    before = read_rubric(copy, read_summary(copy))
    with redecide(copy, shards, before, before.with_settings(SETTINGS)) as made:
        found = made.difference
    assert found.changes
    assert (found.before.records, found.after.records) == (40, 40)
    assert found.after.dropped == found.before.dropped + found.dropped - found.kept
    rules = {m.name: (m.dropped, m.kept) for m in found.rules}
    assert rules["completeness.placeholder"] == (0, 1)
    assert rules["readability.blurred_image"][0] == found.dropped >= 1
    assert sum(m.dropped for m in found.strata) == found.dropped
    assert sum(m.kept for m in found.strata) == found.kept == 1
    assert found.first_kept == (("questions-33", ("completeness.placeholder",)),)
    assert ("completeness.placeholder", "drop", "off") in found.settings


def test_no_image_is_opened_where_none_looks_like_another(copy: Path, shards: ShardSet) -> None:
    before = read_rubric(copy, read_summary(copy))
    after = before.with_settings({**SETTINGS, "duplication.near_image": "off"})
    with redecide(copy, shards, before, after) as made:
        assert made.difference.images_opened == 0


def test_looking_only_changes_nothing_and_leaves_nothing(copy: Path, shards: ShardSet) -> None:
    untouched = hashes(copy)
    before = read_rubric(copy, read_summary(copy))
    with redecide(copy, shards, before, before.with_settings(SETTINGS)):
        pass
    assert hashes(copy) == untouched
    assert [p.name for p in copy.parent.iterdir()] == ["ledger"]


def test_an_error_on_the_way_changes_nothing_and_leaves_nothing(
    copy: Path, shards: ShardSet
) -> None:
    untouched = hashes(copy)
    before = read_rubric(copy, read_summary(copy))
    with pytest.raises(RuntimeError), redecide(copy, shards, before, before):
        raise RuntimeError
    assert hashes(copy) == untouched
    assert [p.name for p in copy.parent.iterdir()] == ["ledger"]


def test_in_place_the_ledger_itself_is_decided_again_and_back(copy: Path, shards: ShardSet) -> None:
    untouched = hashes(copy)
    before = read_rubric(copy, read_summary(copy))
    after = before.with_settings(SETTINGS)
    (copy / "report.html").write_text("about the old verdicts")
    (copy / "agreement.json").write_text("{}")
    with redecide(copy, shards, before, after) as made:
        assert made.write(None) == copy
    assert not (copy / "report.html").exists() and not (copy / "agreement.json").exists()
    assert read_summary(copy).rubric == after.identity
    with redecide(copy, shards, after, before) as made:
        made.write(None)
    assert hashes(copy) == untouched


def test_labels_and_other_tables_go_along_and_old_reports_do_not(
    copy: Path, shards: ShardSet, tmp_path: Path
) -> None:
    (copy / "labels.parquet").write_bytes(b"labels")
    (copy / "report.html").write_text("old")
    before = read_rubric(copy, read_summary(copy))
    with redecide(copy, shards, before, before, out=tmp_path / "new") as made:
        made.write(tmp_path / "new")
    assert (tmp_path / "new" / "labels.parquet").read_bytes() == b"labels"
    assert not (tmp_path / "new" / "report.html").exists()


def test_signals_of_another_version_must_be_measured_again(copy: Path, shards: ShardSet) -> None:
    stored = read_json(copy / "curation.json")
    stored["key"]["signals"] = "0.0"
    write_json(copy / "curation.json", stored)
    before = read_rubric(copy, read_summary(copy))
    with pytest.raises(DataError, match="another version"), redecide(copy, shards, before, before):
        pass


def test_a_folder_that_holds_something_is_not_overwritten(
    copy: Path, shards: ShardSet, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    before = read_rubric(copy, read_summary(copy))
    with (
        pytest.raises(DataError, match="something already"),
        redecide(copy, shards, before, before, out=tmp_path / "full"),
    ):
        pass


def test_a_rubric_that_is_not_the_ledgers_is_refused(copy: Path) -> None:
    stored = read_json(copy / "curation.json")
    stored["rubric"]["rules"].pop("readability.markup")
    write_json(copy / "curation.json", stored)
    with pytest.raises(DataError, match="not known"):
        read_rubric(copy, read_summary(copy))


def test_a_rule_made_for_one_ledger_cannot_be_decided_again_but_is_named(copy: Path) -> None:
    stored = read_json(copy / "curation.json")
    stored["rubric"]["rules"]["relevance.benchmark_leak"] = {"version": 1}
    write_json(copy / "curation.json", stored)
    with pytest.raises(DataError, match=r"not in the catalogue") as caught:
        read_rubric(copy, read_summary(copy))
    assert caught.value.seen == "relevance.benchmark_leak"
    assert read_rubric(copy, read_summary(copy), known_only=True).rules


def test_changed_lists_severities_limits_and_what_was_switched_off() -> None:
    before = default_rubric()
    after = before.with_settings({"readability.blurred_image.min_sharpness": 1.5, "readability.markup": "note",
                                  "readability.mojibake": "off"})  # fmt: skip
    found = {name: (old, new) for name, old, new in changed(before, after)}
    assert found["readability.markup"] == ("drop", "note")
    assert found["readability.mojibake"] == ("drop", "off")
    assert found["readability.blurred_image.min_sharpness"][1] == "1.5"
    assert "readability.mojibake.max_sequences" not in found
    assert len(found) == 3


def test_the_command_prints_the_difference_and_writes_only_without_diff(
    world: tuple[Path, Path], copy: Path, tmp_path: Path
) -> None:
    untouched = hashes(copy)
    base = ["redecide", str(copy), "--shards", str(world[1])]
    change = ["--set", "completeness.placeholder=note"]
    done = runner.invoke(app, [*base, *change, "--diff"])
    assert done.exit_code == 0, done.output
    assert "completeness.placeholder: drop -> note" in done.output
    assert "newly kept 1" in done.output and "questions-33" in done.output
    assert "nothing was written" in done.output
    assert hashes(copy) == untouched
    done = runner.invoke(app, [*base, *change, "--out", str(tmp_path / "new")])
    assert done.exit_code == 0, done.output
    assert hashes(copy) == untouched != hashes(tmp_path / "new")
    # The new ledger knows its rubric and its shards: the next change starts from there.
    done = runner.invoke(
        app, ["redecide", str(tmp_path / "new"), "--set", "readability.markup=note", "--diff"]
    )
    assert done.exit_code == 0, done.output
    assert "completeness.placeholder:" not in done.output
    assert "readability.markup: drop -> note" in done.output


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], UsageError),
        (["--set", "nothing"], UsageError),
        (["--set", "no.such.rule=note"], RecipeError),
        (["--set", "readability.blurred_image.min_sharpness=nan"], RecipeError),
    ],
)
def test_wrong_settings_are_refused_before_anything_happens(
    copy: Path, world: tuple[Path, Path], arguments: list[str], error: type[Exception]
) -> None:
    done = runner.invoke(app, ["redecide", str(copy), "--shards", str(world[1]), *arguments])
    assert isinstance(done.exception, error)


def test_explain_shows_text_marks_limits_and_images(
    world: tuple[Path, Path], tmp_path: Path
) -> None:
    done = runner.invoke(
        app, ["explain", str(world[0]), "questions-33", "--images", str(tmp_path / "look")]
    )
    assert done.exit_code == 0, done.output
    assert "»Fig. ??«" in done.output
    assert "limits    max_placeholders 0" in done.output
    assert len(list((tmp_path / "look").glob("*.png"))) == 1


def test_explain_works_from_the_ledger_alone(copy: Path) -> None:
    done = runner.invoke(app, ["explain", str(copy), "questions-29"])
    assert done.exit_code == 0, done.output
    assert "readability.blurred_image" in done.output and "--shards" in done.output
