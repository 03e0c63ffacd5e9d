"""A record of studies holds all that the page is made of."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infimed.core.errors import DataError
from infimed.core.files import read_json, write_json
from infimed.studies.cells import distinct, plan
from infimed.studies.conducting import report
from infimed.studies.definition import load_study
from infimed.studies.opening import fingerprint, open_test, opening_file
from infimed.studies.record import ABOUT, pack, unpack
from infimed.studies.results import TABLE
from infimed.studies.runner import run_cells
from infimed.studies.work import ANSWERS
from tests.studies.fakes import AtOnce, FakeCells, by_weighting, tiny_study

ROOT = Path(__file__).parents[2]
ACCURACY = by_weighting(token=0.6, document=0.8, sqrt=0.7)


def ran(out, stop_at=None):
    study = tiny_study()
    open_test(study, "nano", out)
    cells = distinct(plan([study], "nano", "test"))
    try:
        run_cells(cells, out, executor=AtOnce(), do=FakeCells(ACCURACY, stop_at=stop_at))
    except KeyboardInterrupt:
        assert stop_at is not None
    return out


def written(out):
    page = report(out, out / "page.md")
    return page.read_text(), (out / TABLE).read_bytes()


def test_the_same_page_and_table_come_from_the_record(tmp_path):
    there = ran(tmp_path / "there")
    assert pack(there, tmp_path / "record.parquet") == 9
    assert unpack(tmp_path / "record.parquet", tmp_path / "here") == (9, 0)
    assert written(tmp_path / "here") == written(there)
    for file in (there / "cells").glob(f"*/{ANSWERS}"):
        here = tmp_path / "here" / file.relative_to(there)
        assert pq.read_table(here).equals(pq.read_table(file), check_metadata=True)


def test_a_record_is_the_same_bytes_for_the_same_cells(tmp_path):
    there = ran(tmp_path / "there")
    pack(there, tmp_path / "a.parquet")
    unpack(tmp_path / "a.parquet", tmp_path / "here")
    pack(tmp_path / "here", tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_a_study_goes_on_from_a_record(tmp_path):
    pack(ran(tmp_path / "there", stop_at=4), tmp_path / "record.parquet")
    unpack(tmp_path / "record.parquet", tmp_path / "here")
    do = FakeCells(ACCURACY)
    run_cells(
        distinct(plan([tiny_study()], "nano", "test")), tmp_path / "here", executor=AtOnce(), do=do
    )
    assert len(do.calls) == 5
    assert unpack(tmp_path / "record.parquet", tmp_path / "here") == (0, 4)
    assert written(tmp_path / "here")[1] == written(ran(tmp_path / "whole"))[1]


def test_a_folder_whose_study_was_opened_otherwise_is_refused(tmp_path):
    pack(ran(tmp_path / "there"), tmp_path / "record.parquet")
    other = tmp_path / "other"
    open_test(tiny_study(), "nano", other)
    file = opening_file(other, "tiny", "nano")
    write_json(file, {**read_json(file), "study": "another"})
    with pytest.raises(DataError, match="not those of the record"):
        unpack(tmp_path / "record.parquet", other)
    assert not (other / "cells").exists()


def test_nothing_to_pack_is_said(tmp_path):
    with pytest.raises(DataError, match="no study ran here"):
        pack(tmp_path, tmp_path / "record.parquet")


@pytest.mark.parametrize("content", [b"", b"no parquet", None])
def test_what_is_no_record_is_refused(tmp_path, content):
    file = tmp_path / "record.parquet"
    if content is None:
        pq.write_table(pa.table({"a": [1]}), file)
    else:
        file.write_bytes(content)
    with pytest.raises(DataError, match="not a record of studies"):
        unpack(file, tmp_path / "here")


@pytest.mark.parametrize("part", ["cells", "files"])
@pytest.mark.parametrize("name", ["../outside", "opened/../../outside.json", "/outside", ".."])
def test_a_record_writes_nothing_outside_its_folder(tmp_path, part, name):
    file = tmp_path / "record.parquet"
    pack(ran(tmp_path / "there"), file)
    table = pq.read_table(file)
    about = json.loads(table.schema.metadata[ABOUT])
    about[part][name] = next(iter(about[part].values()))
    pq.write_table(table.replace_schema_metadata({ABOUT: json.dumps(about)}), file)
    with pytest.raises(DataError, match="not a record of studies"):
        unpack(file, tmp_path / "deep" / "here")
    assert not list(tmp_path.glob("**/outside*"))


def test_the_record_in_the_documentation_is_of_the_studies_that_ship(tmp_path):
    """A study that changes after its test split was opened is another study, and its page would be out of date."""
    unpack(ROOT / "docs" / "studies" / "record.parquet", tmp_path)
    opened = sorted((tmp_path / "opened").glob("*.json"))
    assert len(opened) >= 10
    for file in opened:
        name, preset = file.stem.rsplit("-", 1)
        assert read_json(file)["study"] == fingerprint(load_study(name), preset), file.stem
