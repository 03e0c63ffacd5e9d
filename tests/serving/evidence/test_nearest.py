"""The index finds exactly the nearest images, and only what may be shown."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from infimed.cli.main import app
from infimed.core.errors import DataError, UsageError
from infimed.core.files import read_json, write_json
from infimed.data.shards import open_shards
from infimed.inference.local import LocalModel
from infimed.pipeline.indexing import make_index
from infimed.serving.evidence import index_files, indexing
from infimed.serving.evidence.indexing import Filter, Set, build, kept_back
from infimed.serving.evidence.nearest import Index, nearest_rows, pooled, tower_fingerprint
from infimed.serving.settings import Settings
from infimed.serving.starting import local_service
from tests.conftest import tiny_model
from tests.data.samples import noise
from tests.serving.evidence.shelf import clinic, plan, record, save, shards_of
from tests.serving.world import tiny_local


@pytest.fixture(scope="module")
def local() -> LocalModel:
    return tiny_local()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clinic(tmp_path_factory.mktemp("clinic"))


def made(local: LocalModel, shards: Path, out: Path, **more: Any) -> Index:
    build(local, [Set(open_shards(shards))], out, more.pop("chosen", Filter()), **more)
    return Index.open(out)


def query(local: LocalModel, seed: int) -> np.ndarray:
    return pooled(local, [noise(40, 48, seed=seed)])[0]


@pytest.mark.parametrize("block", [1, 100, 10**9])
def test_a_search_by_blocks_equals_sorting_all(monkeypatch, block):
    monkeypatch.setattr(index_files, "BLOCK_BYTES", block)
    rng = np.random.default_rng(1)
    features = rng.normal(size=(57, 6)).astype(np.float16)
    features[40:] = features[10:27]  # many are equal
    wanted = features[12].astype(np.float32)
    slow = features.astype(np.float32) @ wanted
    for k in (1, 4, 20, 57, 80):
        rows, scores = nearest_rows(features, wanted, k)
        order = sorted(range(57), key=lambda row: (-slow[row], row))[:k]
        assert rows.tolist() == order
        np.testing.assert_allclose(scores, slow[order], rtol=1e-5, atol=1e-6)
    assert len(nearest_rows(features[:0], wanted, 3)[0]) == 0


def test_features_are_the_towers_mean_at_length_one(local):
    pixels = noise(40, 48, seed=3)
    found = pooled(local, [pixels])[0]
    with torch.no_grad():
        patches = local.model.tower_features(local.processor.pixels([pixels]))[0]
    slow = np.mean([row / 1 for row in patches.numpy()], axis=0)
    np.testing.assert_allclose(found, slow / np.linalg.norm(slow), atol=1e-5)


def test_an_image_of_the_training_set_finds_itself_with_all_its_records(local, shards, tmp_path):
    index = made(local, shards, tmp_path / "index")
    assert len(index) == 5
    for patient in range(4):
        first, second, *_ = index.search(query(local, patient), 3)
        assert (first.id, first.records) == (f"r{patient}-0", 2)
        assert (first.source, first.licence, first.thumbnail) == ("clinic", "CC-BY-4.0", None)
        assert first.similarity == pytest.approx(1, abs=2e-3) and second.similarity < first.similarity  # fmt: skip
    assert index.search(query(local, 4), 1)[0].records == 4, "the image that all of them show"
    slow = sorted((float(query(local, 9) @ query(local, n)) for n in range(5)), reverse=True)
    found = [near.similarity for near in index.search(query(local, 9), 9)]
    np.testing.assert_allclose(found, slow, atol=2e-3)


def test_another_tower_is_refused(local, shards, tmp_path):
    index = made(local, shards, tmp_path / "index")
    index.check_tower(tower_fingerprint(local))
    other = tiny_local()
    with torch.no_grad():
        next(iter(other.model.model.vision_tower.parameters())).view(-1)[0] += 1e-3
    with pytest.raises(DataError, match="another vision tower"):
        index.check_tower(tower_fingerprint(other))
    language = tiny_local()
    with torch.no_grad():
        language.model.get_input_embeddings().weight.add_(1)
    assert tower_fingerprint(language) == index.tower, "the language model has no part in it"
    grid = LocalModel(local.model, local.processor.with_grid(24, 1), "tiny")
    assert tower_fingerprint(grid) != index.tower, "images are shown to it in another size"
    assert tower_fingerprint(LocalModel(tiny_model().half(), local.processor, "t")) != index.tower


@pytest.mark.parametrize(
    ("license", "consent", "chosen", "reason"),
    [
        ("CC0-1.0", None, Filter(), ""),
        ("unknown", None, Filter(), "licence not stated"),
        ("", None, Filter(), "licence not stated"),
        ("Unknown ", None, Filter(), "licence not stated"),
        ("unknown", None, Filter(licenses=("unknown",)), ""),
        ("MIT", None, Filter(licenses=("CC0-1.0",)), "licence not named"),
        ("CC0-1.0", "research", Filter(), "consent not named"),
        ("CC0-1.0", "refused", Filter(), "consent not named"),
        ("CC0-1.0", False, Filter(), "consent not named"),
        ("CC0-1.0", "research", Filter(consents=("research",)), ""),
        ("CC0-1.0", "withdrawn", Filter(consents=("research",)), "consent not named"),
        ("CC0-1.0", None, Filter(consents=("research",)), ""),
        ("unknown", "research", Filter(consents=("research",)), "licence not stated"),
    ],
)
def test_what_may_not_be_shown_is_kept_back(license, consent, chosen, reason):
    assert kept_back(license, consent, chosen) == reason


def test_only_what_may_be_shown_is_in_the_index(local, tmp_path):
    records = [
        record(0, 0, 0),
        record(1, 0, 1, license="unknown"),
        record(2, 0, 2, facts={"consent": "refused"}),
        record(3, 0, 3, facts={"consent": "research"}),
        record(4, 0, 4, split="test"),
        record(5, 0, 0, license="unknown"),
        record(6, 0, 5, license="MIT"),
    ]
    shards = shards_of(tmp_path, records, 6)
    index = made(local, shards, tmp_path / "a")
    assert {near.id for near in index.search(query(local, 0), 9)} == {"r0-0", "r6-0"}
    assert index.search(query(local, 0), 1)[0].records == 1, "r5 shows the same image, and may not"
    left = read_json(tmp_path / "a" / "manifest.json")["left_out"]
    assert left == {"consent not named": 2, "licence not stated": 2}
    chosen = Filter(licenses=("CC-BY-4.0",), consents=("research",))
    index = made(local, shards, tmp_path / "b", chosen=chosen)
    assert {near.id for near in index.search(query(local, 0), 9)} == {"r0-0", "r3-0"}
    with pytest.raises(DataError, match="may be shown"):
        made(local, shards, tmp_path / "c", chosen=Filter(licenses=("none",)))
    assert not (tmp_path / "c").exists()


def test_thumbnails_are_stored_only_on_request(local, shards, tmp_path):
    plain = made(local, shards, tmp_path / "plain")
    assert plain.rows.read()["thumbnail"].null_count == 5
    small = made(local, shards, tmp_path / "small", thumbnails=True)
    data = small.search(query(local, 0), 1)[0].thumbnail
    assert data is not None and data[:2] == b"\xff\xd8" and len(data) < 10_000


def test_images_that_cannot_be_read_are_left_out_and_counted(local, shards, tmp_path, monkeypatch):
    opened = open_shards(shards)
    broken = opened.record(0).images[0].sha256
    plain = opened.pixels
    monkeypatch.setattr(opened, "pixels", lambda ref: plain(ref) if ref.sha256 != broken else _no())
    found = build(local, [Set(opened)], tmp_path / "index", Filter())
    assert found.images == 4 and found.left_out == {"images not readable": 1}
    index = Index.open(tmp_path / "index")
    assert {near.id for near in index.search(query(local, 0), 9)} == {
        "r1-0",
        "r2-0",
        "r3-0",
        "r0-2",
    }


def _no() -> np.ndarray:
    raise DataError("damaged")


def test_killed_at_any_rename_the_same_command_goes_on(local, shards, tmp_path, monkeypatch):
    monkeypatch.setattr(indexing, "PART", 2)
    made(local, shards, tmp_path / "whole")
    want = (tmp_path / "whole" / "features-0.npy").read_bytes()
    rename, encode = os.replace, indexing.pooled
    for stop in range(100):
        out = tmp_path / "out" / "index"
        count, encoded = 0, 0

        def killed(source: object, target: object, stop: int = stop) -> None:
            nonlocal count
            count += 1
            if count > stop:
                raise KeyboardInterrupt
            rename(source, target)  # type: ignore[arg-type]

        def counted(local: LocalModel, images: Any) -> Any:
            nonlocal encoded
            encoded += len(images)
            return encode(local, images)

        opened = [Set(open_shards(shards))]
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", killed)
            try:
                build(local, opened, out, Filter())
                interrupted = False
            except KeyboardInterrupt:
                interrupted = True
        parts = len(list(out.parent.glob(".*/part-*.parquet")))
        if interrupted and not index_files.is_index(out):
            with pytest.raises(DataError, match="no index"):
                Index.open(out)
        with monkeypatch.context() as patch:
            patch.setattr(indexing, "pooled", counted)
            found = build(local, opened, out, Filter())
        assert encoded == (0 if found.reused else 5 - min(5, 2 * parts)), "what was there is kept"
        assert (out / "features-0.npy").read_bytes() == want
        assert [path.name for path in out.parent.iterdir()] == ["index"], "nothing is left over"
        shutil.rmtree(out.parent)
        if not interrupted:
            break
    assert stop > 5


def test_made_again_it_is_there_and_anything_else_is_not_overwritten(local, shards, tmp_path):
    opened = [Set(open_shards(shards))]
    build(local, opened, tmp_path / "index", Filter())
    before = (tmp_path / "index" / "manifest.json").stat().st_mtime_ns
    assert build(local, opened, tmp_path / "index", Filter()).reused
    assert (tmp_path / "index" / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(DataError, match="other options"):
        build(local, opened, tmp_path / "index", Filter(), thumbnails=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("x")
    with pytest.raises(DataError, match="not empty"):
        build(local, opened, tmp_path / "other", Filter())
    (tmp_path / "empty").mkdir()
    assert build(local, opened, tmp_path / "empty", Filter()).images == 5


@pytest.mark.parametrize(
    "harm",
    ["cut features", "other type", "pickle", "no features", "no rows", "short rows", "other kind", "other format"],
)  # fmt: skip
def test_a_damaged_index_is_refused(local, shards, tmp_path, harm):
    folder = tmp_path / "index"
    made(local, shards, folder)
    features, rows, manifest = (folder / n for n in ("features-0.npy", "rows-0.parquet", "manifest.json"))  # fmt: skip
    if harm == "cut features":
        features.write_bytes(features.read_bytes()[:-3])
    elif harm == "other type":
        np.save(features, np.zeros((5, 32), np.float32))
    elif harm == "pickle":
        np.save(features, np.array([{"a": 1}], object), allow_pickle=True)
    elif harm == "no features":
        features.unlink()
    elif harm == "no rows":
        rows.write_bytes(b"PAR1")
    elif harm == "short rows":
        pq.write_table(pa.table({"ids": [["a"]]}), rows)
    else:
        key, value = harm.split()[1], {"other kind": "x", "other format": 9}[harm]
        write_json(manifest, {**read_json(manifest), key: value})
    with pytest.raises(DataError):
        Index.open(folder)


def test_files_named_outside_the_folder_are_not_opened(local, shards, tmp_path):
    folder = tmp_path / "index"
    made(local, shards, folder)
    shutil.copy(folder / "features-0.npy", tmp_path / "features-0.npy")
    manifest = read_json(folder / "manifest.json")
    manifest["files"]["features"] = "../features-0.npy"
    write_json(folder / "manifest.json", manifest)
    (folder / "features-0.npy").unlink()
    with pytest.raises(DataError):
        Index.open(folder)


def test_records_are_taken_out_of_it_and_an_open_index_notices(local, shards, tmp_path):
    index = made(local, shards, tmp_path / "index", thumbnails=True)
    before = open_shards(shards).data_hash
    assert index.current() is index
    index_files.without_records(tmp_path / "index", {"r0-0", "r0-1", "r0-2"}, before, before)
    # In truth the shards change too; here they did not, so that the index stays valid.
    after = index.current()
    assert after is not index and len(after) == 4
    found = {near.id: near for near in after.search(query(local, 0), 9)}
    assert set(found) == {"r1-0", "r2-0", "r3-0", "r1-2"}, "the shared image is another's now"
    assert found["r1-2"].records == 3
    for seed in (1, 2, 3, 4):
        assert after.search(query(local, seed), 1)[0].similarity == pytest.approx(1, abs=2e-3)
    assert sorted(p.name for p in (tmp_path / "index").iterdir()) == [
        "features-1.npy", "manifest.json", "rows-1.parquet",
    ]  # fmt: skip
    text = "".join(map(str, pq.read_table(tmp_path / "index" / "rows-1.parquet").to_pylist()))
    assert "r0-" not in text
    everything = {f"r{patient}-{item}" for patient in range(4) for item in range(3)}
    index_files.without_records(tmp_path / "index", everything, before, before)
    assert after.current().search(query(local, 0), 3) == []


def test_an_index_of_data_that_changed_without_it_is_refused(local, tmp_path):
    shards = clinic(tmp_path)
    index = made(local, shards, tmp_path / "index")
    write_json(
        shards / "manifest.json", {**read_json(shards / "manifest.json"), "data_sha256": "0"}
    )
    with pytest.raises(DataError, match="changed after they were indexed"):
        index.current()
    shutil.rmtree(shards)  # on a machine without the data there is nothing to compare with
    assert len(Index.open(tmp_path / "index")) == 5


def test_a_run_indexes_what_it_was_trained_on(tmp_path):
    run = save(tmp_path / "run")
    clinic(run)
    made_of_all = make_index(run, [], tmp_path / "all", Filter())
    assert (made_of_all.images, made_of_all.records) == (5, 12)
    plan(run, [3, 4, 3])
    found = make_index(run, [], run / "index", Filter())
    assert (found.images, found.records) == (1, 2) and found.left_out == {"not trained on": 10}
    service = local_service(run, "tiny", Settings(), "fp32", "cpu", run / "index")
    assert service.evidence.index is not None and len(service.evidence.index) == 1
    save(tmp_path / "other", LocalModel(tiny_model(5), tiny_local().processor, "other"))
    with pytest.raises(DataError, match="another vision tower"):
        local_service(tmp_path / "other", "tiny", Settings(), "fp32", "cpu", run / "index")
    with pytest.raises(UsageError, match="no such split"):
        make_index(run, [], tmp_path / "x", Filter(("trian",)))
    with pytest.raises(DataError, match="no finished shards"):
        make_index(run, [tmp_path], tmp_path / "x", Filter())


def test_the_command_says_what_it_made_and_what_it_left_out(tmp_path):
    run = save(tmp_path / "run")
    shards_of(run, [record(0, 0, 0), record(1, 0, 1, license="unknown")], 2)
    args = ["index", str(run), "--out", str(tmp_path / "index")]
    said = CliRunner().invoke(app, args)
    assert said.exit_code == 0, said.output
    assert "licence not stated" in said.output and "images" in said.output
    assert "there already" in CliRunner().invoke(app, args).output
    none = CliRunner().invoke(app, [*args[:-1], str(tmp_path / "b"), "--license", "none"])
    assert isinstance(none.exception, DataError)
    assert isinstance(CliRunner().invoke(app, [*args, "--dtype", "fp23"]).exception, UsageError)
