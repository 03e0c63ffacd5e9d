"""Who is forgotten comes back from no index: rewritten where it is found, refused where it was not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from infimed.cli.main import app
from infimed.core.errors import DataError
from infimed.data.shards import open_shards
from infimed.inference.local import LocalModel
from infimed.pipeline.forgetting import Target, forget, survey
from infimed.serving.evidence import indexing
from infimed.serving.evidence.index_files import MANIFEST
from infimed.serving.evidence.indexing import Filter, Set, build
from infimed.serving.evidence.nearest import Index, pooled
from tests.data.samples import noise
from tests.serving.evidence.shelf import clinic
from tests.serving.world import tiny_local


@pytest.fixture(scope="module")
def local() -> LocalModel:
    return tiny_local()


def indexed(run: Path, local: LocalModel, *folders: Path) -> Path:
    """A run folder with shards and indexes of them."""
    shards = clinic(run)
    for folder in folders:
        build(local, [Set(open_shards(shards))], folder, Filter(), thumbnails=True)
    return run


def known(folder: Path) -> str:
    """Everything that an index tells, and the names of its files."""
    tables = [str(pq.read_table(file).to_pylist()) for file in sorted(folder.rglob("*.parquet"))]
    return " ".join([*tables, *map(str, folder.rglob("*"))])


def check(folder: Path, local: LocalModel) -> None:
    index = Index.open(folder)
    assert len(index) == 4 and "r0-" not in known(folder)
    feature = pooled(local, [noise(40, 48, seed=0)])[0]
    assert max(near.similarity for near in index.search(feature, 9)) < 0.9999
    assert len(list(folder.iterdir())) == 3, "the old files are gone"


def test_indexes_of_the_run_beside_the_shards_and_by_name_lose_the_patient(tmp_path, local):
    run = tmp_path / "run"
    folders = (run / "index", run / "second", tmp_path / "elsewhere")
    indexed(run, local, *folders)
    found = survey("patient-0", [run / "shards"], [], [folders[2]])
    (target,) = found.targets
    assert set(target.indexes) == set(folders)
    assert Target.from_dict(target.to_dict()) == target
    forget(found)
    for folder in folders:
        check(folder, local)


def test_an_index_that_nobody_named_is_refused_from_then_on(tmp_path, local):
    run = indexed(tmp_path / "run", local, tmp_path / "hidden" / "index")
    served = Index.open(tmp_path / "hidden" / "index")
    forget(survey("patient-0", [], [run]))
    with pytest.raises(DataError, match="changed after they were indexed"):
        Index.open(tmp_path / "hidden" / "index")
    with pytest.raises(DataError, match="changed after they were indexed"):
        served.current()


def test_killed_at_any_rename_the_same_command_completes_it(tmp_path, local, monkeypatch):
    origin = tmp_path / "origin"
    indexed(origin, local, origin / "index")
    rename = os.replace
    for stop in range(100):
        run = tmp_path / f"run-{stop}"
        shutil.copytree(origin, run)
        count = 0

        def killed(source: object, target: object, stop: int = stop) -> None:
            nonlocal count
            count += 1
            if count > stop:
                raise KeyboardInterrupt
            rename(source, target)  # type: ignore[arg-type]

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", killed)
            try:
                forget(survey("patient-0", [], [run]))
                interrupted = False
            except KeyboardInterrupt:
                interrupted = True
        if interrupted:
            forget(survey("patient-0", [], [run]))
        check(run / "index", local)
        shutil.rmtree(run)
        if not interrupted:
            break
    assert stop > 5


def test_one_that_was_being_made_is_deleted(tmp_path, local, monkeypatch):
    run = indexed(tmp_path / "run", local)
    monkeypatch.setattr(indexing, "_assemble", _killed)
    with pytest.raises(KeyboardInterrupt):
        build(local, [Set(open_shards(run / "shards"))], run / "index", Filter())
    assert (run / ".index.building").is_dir()
    forget(survey("patient-0", [], [run]))
    assert not (run / ".index.building").exists()


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_journal_of_an_older_version_is_understood(tmp_path, local):
    run = indexed(tmp_path / "run", local)
    value = survey("patient-0", [], [run]).targets[0].to_dict()
    del value["indexes"]
    assert Target.from_dict(value).indexes == ()


def test_the_command_counts_indexes(tmp_path, local):
    run = indexed(tmp_path / "run", local, tmp_path / "index")
    args = ["data", "forget", "--group", "patient-0", "--runs", str(run), "--index", str(tmp_path / "index")]  # fmt: skip
    assert "indexes of training images" in CliRunner().invoke(app, args).output
    before = (tmp_path / "index" / MANIFEST).read_bytes()
    assert (tmp_path / "index" / MANIFEST).read_bytes() == before
    assert CliRunner().invoke(app, [*args, "--yes"]).exit_code == 0
    check(tmp_path / "index", local)
