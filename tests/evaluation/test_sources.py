"""Finding a benchmark's files and building them: once, the same bytes, and never another one's."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from infimed.core.errors import DataError, UsageError
from infimed.data.shards import open_shards
from infimed.evaluation.asked import collect
from infimed.evaluation.groups import Chosen
from infimed.evaluation.places import DataPlaces, NoData, download, locate
from infimed.evaluation.sample import limited
from infimed.evaluation.sources import available, build, gather
from infimed.evaluation.spec import load_task
from tests.evaluation.rows import write_layout


def hashes(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.mark.parametrize("name", ["slake_en", "SLAKE", "slake", "Slake_Text"])
def test_a_benchmark_is_found_by_its_names_below_a_root(tmp_path: Path, name: str) -> None:
    folder = write_layout("slake_en", 0, tmp_path / name, copies=1)
    assert locate(load_task("slake_en"), DataPlaces.parse([str(tmp_path)]))[0] == folder
    assert locate(load_task("slake_en"), DataPlaces.parse([str(folder)]))[0] == folder


def test_a_folder_of_another_name_is_never_taken_for_a_benchmark(tmp_path: Path) -> None:
    folder = write_layout("path_vqa", 0, tmp_path / "path-vqa", copies=1)
    with pytest.raises(NoData):
        locate(load_task("vqa_rad"), DataPlaces.parse([str(folder)]))
    assert locate(load_task("vqa_rad"), DataPlaces.parse([f"vqa_rad={folder}"]))[0] == folder


def test_what_is_missing_is_named_with_the_way_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(NoData) as error:
        locate(load_task("slake_en"), DataPlaces.parse([str(tmp_path)]))
    assert "test.json" in str(error.value) and "imgs.zip" in str(error.value)
    with pytest.raises(UsageError, match="no such folder"):
        DataPlaces.parse([str(tmp_path / "none")])


def test_the_same_files_give_the_same_bytes_and_are_built_once(tmp_path: Path) -> None:
    places = DataPlaces(named={"slake_en": write_layout("slake_en", 0, tmp_path / "in", copies=3)})
    spec = load_task("slake_en")
    first = build(spec, places, tmp_path / "one")
    stamp = (first.shards / "manifest.json").stat().st_mtime_ns
    assert build(spec, places, tmp_path / "one") == first
    assert (first.shards / "manifest.json").stat().st_mtime_ns == stamp
    assert hashes(build(spec, places, tmp_path / "two").shards) == hashes(first.shards)


def test_changed_files_replace_the_cached_shards(tmp_path: Path) -> None:
    folder = write_layout("slake_en", 0, tmp_path / "in", copies=3)
    places, spec = DataPlaces(named={"slake_en": folder}), load_task("slake_en")
    before = build(spec, places, tmp_path / "cache")
    rows = json.loads((folder / "test.json").read_text())
    (folder / "test.json").write_text(json.dumps(rows[:4]))
    after = build(spec, places, tmp_path / "cache")
    assert (before.questions, after.questions) == (9, 4)
    assert after.shards == before.shards and after.data_sha256 != before.data_sha256


def test_the_cache_is_for_its_owner_alone(tmp_path: Path) -> None:
    places = DataPlaces(named={"k_qa": write_layout("k_qa", 0, tmp_path / "in", copies=1)})
    build(load_task("k_qa"), places, tmp_path / "cache")
    assert (tmp_path / "cache" / "tasks").stat().st_mode & 0o077 == 0


def test_another_number_than_the_published_one_is_said(tmp_path: Path) -> None:
    places = DataPlaces(named={"k_qa": write_layout("k_qa", 0, tmp_path / "in", copies=67)})
    spec = load_task("k_qa")
    assert "expected" not in build(spec, places, tmp_path / "cache").describe()
    write_layout("k_qa", 0, tmp_path / "in", copies=2)
    assert "6 questions" in (text := build(spec, places, tmp_path / "cache").describe())
    assert "expected 201" in text


def test_questions_are_built_without_their_images_where_those_are_absent(tmp_path: Path) -> None:
    folder = write_layout("slake_en", 0, tmp_path / "in", copies=2)
    for file in sorted(folder.rglob("*.jpg")):
        file.unlink()
    places, spec = DataPlaces(named={"slake_en": folder}), load_task("slake_en")
    built = build(spec, places, tmp_path / "cache", images=False)
    records = list(open_shards(built.shards))
    assert len(records) == 6 and not any(record.images for record in records)
    assert len({record.group for record in records}) == 2


def test_a_missing_image_leaves_its_question_out_and_is_counted(tmp_path: Path) -> None:
    folder = write_layout("slake_en", 0, tmp_path / "in", copies=2)
    (folder / "imgs" / "xmlab2" / "source.jpg").unlink()
    built = build(load_task("slake_en"), DataPlaces(named={"slake_en": folder}), tmp_path / "cache")
    assert (built.questions, built.left_out) == (4, 2)
    assert "rows left out: 2" in built.describe()


def test_links_are_refused_with_the_way_out(tmp_path: Path) -> None:
    blob = write_layout("k_qa", 0, tmp_path / "blobs", copies=1) / "questions_w_answers.jsonl"
    (tmp_path / "k_qa").mkdir()
    (tmp_path / "k_qa" / blob.name).symlink_to(blob)
    with pytest.raises(DataError, match="links are not followed"):
        locate(load_task("k_qa"), DataPlaces.parse([str(tmp_path)]))


def test_training_records_teach_controls_without_their_images(tmp_path: Path) -> None:
    folder = write_layout("slake_en", 0, tmp_path / "in", copies=2)
    (folder / "train.json").write_bytes((folder / "test.json").read_bytes().replace(b'"1', b'"9'))
    built = build(load_task("slake_en"), DataPlaces(named={"slake_en": folder}), tmp_path / "cache")
    records = list(open_shards(built.shards))
    assert {(r.split, len(r.images)) for r in records} == {("test", 1), ("train", 0)}


def test_a_limit_builds_only_the_questions_it_asks(tmp_path: Path) -> None:
    spec = load_task("slake_en")
    places = DataPlaces(named={"slake_en": write_layout("slake_en", 0, tmp_path / "in", copies=9)})
    small = open_shards(build(spec, places, tmp_path / "small", limit=5).shards)
    whole = open_shards(build(spec, places, tmp_path / "whole").shards)
    assert [r.id for r in small] == [r.id for r in limited(list(whole), spec.name, 5)]
    assert build(spec, places, tmp_path / "whole", limit=5).questions == 27


def test_joined_shards_show_every_set_and_find_its_images(tmp_path: Path) -> None:
    names = ("slake_en", "path_vqa")
    places = DataPlaces(
        named={name: write_layout(name, 0, tmp_path / name, copies=1) for name in names}
    )
    specs = [load_task(name) for name in names]
    joined, built = gather(specs, places, tmp_path / "cache", tmp_path / "out")
    assert len(joined) == 6 == len(list(joined))
    assert all(joined.pixels(ref).shape == (8, 8, 3) for r in joined for ref in r.images)
    note = json.loads((tmp_path / "out" / "slake_en" / "data.json").read_text())
    assert note["data_sha256"] == built[0].data_sha256 and note["questions"] == 3


def test_records_of_a_benchmark_are_asked_by_its_own_task_only(tmp_path: Path) -> None:
    places = DataPlaces(named={"slake_en": write_layout("slake_en", 0, tmp_path / "in", copies=1)})
    specs = [load_task("slake_en"), load_task("closed")]
    joined, _ = gather(specs, places, tmp_path / "cache")
    found = collect(joined, specs)
    assert len(found["slake_en"].asked) == 3 and not found["closed"].asked


def test_what_only_a_group_named_may_be_left_out(tmp_path: Path) -> None:
    write_layout("k_qa", 0, tmp_path / "k_qa", copies=1)
    places = DataPlaces.parse([str(tmp_path)])
    chosen = Chosen(("k_qa", "slake_en", "phantom_open"), frozenset({"slake_en", "phantom_open"}))
    found = available(chosen, places, tmp_path / "cache", own=False)
    assert found.names == ("k_qa",)
    assert [line.partition(":")[0] for line in found.left_out] == [
        "left out slake_en",
        "left out phantom_open",
    ]
    with pytest.raises(NoData):
        available(Chosen(("slake_en",), frozenset()), places, tmp_path / "cache", own=False)
    with pytest.raises(NoData, match="none of these"):
        available(Chosen(("slake_en",), frozenset({"slake_en"})), places, tmp_path, own=False)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, object]]:
    """A Hub that hands out one folder and keeps the calls."""
    calls: list[dict[str, object]] = []

    def snapshot_download(repo: str, **rest: object) -> str:
        calls.append({"repo": repo, **rest})
        return str(write_layout("medqa_usmle", 0, tmp_path / "snapshot", copies=1))

    fake, errors = ModuleType("huggingface_hub"), ModuleType("huggingface_hub.errors")
    fake.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    errors.HfHubHTTPError = OSError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    return calls


def test_the_hub_is_asked_only_when_allowed_and_at_the_pinned_revision(
    tmp_path: Path, hub: list[dict[str, object]]
) -> None:
    chosen = Chosen(("medqa_usmle",), frozenset())
    with pytest.raises(NoData):
        available(chosen, DataPlaces(), tmp_path / "cache", own=False)
    assert not hub
    found = available(chosen, DataPlaces(), tmp_path / "cache", own=False, hub=True)
    (call,) = hub
    assert found.names == ("medqa_usmle",)
    assert call["revision"] == "0fb93dd23a7339b6dcd27e241cb9b5eca62d4d18"
    assert "phrases_no_exclude_test.jsonl" in call["allow_patterns"]  # type: ignore[operator]


def test_a_benchmark_that_is_on_no_hub_says_so(
    tmp_path: Path, hub: list[dict[str, object]]
) -> None:
    with pytest.raises(UsageError, match="not on the Hub"):
        download(load_task("mts_dialog"), tmp_path)
    assert not hub
