"""Deciding again from the ledger: the same as a whole curation, shown before it is written."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner
from yaml import safe_dump

from infimed.cli.curate import app
from infimed.core.errors import DataError, RecipeError, UsageError
from infimed.core.files import read_json, sha256_file, write_json
from infimed.curation import curate, default_rubric, read_summary, read_verdicts
from infimed.curation.deciding import decide_ledger
from infimed.curation.decision import read_decision
from infimed.curation.leakage import RULE, compare_sets, open_against, with_leaks
from infimed.curation.origin import note_shards, read_rubric
from infimed.curation.redecide import changed, redecide
from infimed.data.shards import ShardSet, open_shards
from tests.curation.clinic import picture
from tests.curation.judged_world import elsewhere
from tests.curation.ledger_world import limit_between, make_ledger, small_rubric
from tests.curation.test_leakage import folder

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


def test_a_rule_that_no_version_knows_is_named(copy: Path) -> None:
    stored = read_json(copy / "curation.json")
    stored["rubric"]["rules"]["relevance.full_moon"] = {"version": 1}
    write_json(copy / "curation.json", stored)
    with pytest.raises(DataError, match=r"not in the catalogue") as caught:
        read_rubric(copy, read_summary(copy))
    assert caught.value.seen == "relevance.full_moon"
    assert read_rubric(copy, read_summary(copy), known_only=True).rules


@pytest.fixture(scope="module")
def against(world: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ledger of the same shards against a benchmark that shows two of their images, mirrored."""
    root = tmp_path_factory.mktemp("against")
    rows = [
        (f"b{n}.png", np.ascontiguousarray(picture(n)[:, ::-1]), "Is the aorta wide?", "no")
        for n in (9, 12)
    ]
    bench = folder(root / "bench", rows)
    out = root / "ledger"
    opened = open_shards(world[1])
    found = compare_sets(opened, open_against(bench, out), out)
    assert len(found.leaks) == 2
    curate(opened, out, rubric=with_leaks(small_rubric(), found))
    note_shards(out, opened)
    opened.close()
    return out


@pytest.fixture
def leaking(against: Path, tmp_path: Path) -> Path:
    shutil.copytree(against, tmp_path / "ledger")
    return tmp_path / "ledger"


def test_a_ledger_against_a_benchmark_is_decided_again_without_the_benchmark(
    leaking: Path, shards: ShardSet, tmp_path: Path
) -> None:
    """The leakage table beside the ledger is enough: byte for byte what a whole curation gives."""
    shutil.rmtree(leaking / "against-bench")
    before = read_rubric(leaking, read_summary(leaking))
    assert before.dataset_rules[0].id == RULE
    after = before.with_settings({**SETTINGS, "duplication.near_image": "off"})
    assert after.dataset_rules[0].id == RULE
    with redecide(leaking, shards, before, after, out=tmp_path / "new") as made:
        assert made.difference.images_opened == 0
        made.write(tmp_path / "new")
    curate(shards, tmp_path / "whole", rubric=after)
    assert hashes(tmp_path / "new") == hashes(tmp_path / "whole")
    leaks = [v for v in read_verdicts(tmp_path / "new").to_pylist() if RULE in v["reasons"]]
    assert [v["record_id"] for v in leaks] == ["questions-9", "questions-12"]
    # and again from the new one, which took the leakage table along
    again = read_rubric(tmp_path / "new", read_summary(tmp_path / "new"))
    assert again.identity == after.identity


def test_the_leak_rule_can_be_a_note_or_off_and_stays_with_another_rubric_file(
    leaking: Path, world: tuple[Path, Path], tmp_path: Path
) -> None:
    base = ["redecide", str(leaking), "--shards", str(world[1]), "--diff"]
    done = runner.invoke(app, [*base, "--set", f"{RULE}=note"])
    assert done.exit_code == 0, done.output
    assert f"{RULE}: drop -> note" in done.output and "newly kept 2" in done.output
    done = runner.invoke(app, [*base, "--set", f"{RULE}=off"])
    assert "newly kept 2" in done.output
    file = tmp_path / "rubric.yaml"
    file.write_text(safe_dump(small_rubric().to_dict()))
    done = runner.invoke(app, [*base, "--rubric", str(file)])
    assert done.exit_code == 0, done.output
    assert "no verdict changes" in done.output, "the file does not name the rule, and it stays"


def test_the_table_of_another_comparison_is_refused(leaking: Path) -> None:
    value = read_json(leaking / "leakage.json")
    write_json(leaking / "leakage.json", {**value, "against_hash": "other"})
    with pytest.raises(DataError, match="another comparison"):
        read_rubric(leaking, read_summary(leaking))
    (leaking / "leakage.parquet").unlink()
    with pytest.raises(DataError, match="no leakage table"):
        read_rubric(leaking, read_summary(leaking))


def test_a_ledger_decided_by_score_is_decided_by_score_again(
    copy: Path, shards: ShardSet, tmp_path: Path
) -> None:
    decide_ledger(copy, elsewhere(), target_precision=0.01)
    before = read_rubric(copy, read_summary(copy))
    after = before.with_settings(SETTINGS)
    with redecide(copy, shards, before, after, out=tmp_path / "new") as made:
        made.write(tmp_path / "new")
    curate(shards, tmp_path / "whole", rubric=after)
    expected = decide_ledger(tmp_path / "whole", elsewhere(), target_precision=0.01)
    assert hashes(tmp_path / "new") == hashes(tmp_path / "whole")
    assert read_decision(tmp_path / "new") == expected and expected.by_score > 0
    with redecide(copy, shards, before, after) as made:
        made.write(None)
    assert hashes(copy) == hashes(tmp_path / "whole") and read_decision(copy) == expected
    assert read_summary(copy).kept == read_summary(tmp_path / "new").kept
    (tmp_path / "new" / "decision.json").unlink()
    take = read_rubric(tmp_path / "new", read_summary(tmp_path / "new"))
    with redecide(tmp_path / "new", shards, take, before) as made:
        made.write(None)
    assert read_decision(tmp_path / "new") is None, "scored, but no longer decided by score"
    assert (tmp_path / "new" / "scores.parquet").is_file()


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
