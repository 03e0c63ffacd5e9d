"""Bad input becomes a finding or a named error: never a crash, never a silent drop."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from infimed.core.errors import DataError
from infimed.core.files import read_json, sha256_file, write_json
from infimed.curation import curate, explain, read_verdicts
from infimed.data import schema
from infimed.data.importing import import_data
from infimed.data.manifest import data_hash
from infimed.data.record import ImageRef, Message, Record, question_record
from infimed.data.shards import DamagedRecord, ShardSet, open_shards
from tests.curation.clinic import Memory, picture, renamed


def import_four(folder: Path) -> Path:
    """Shards of four records about one picture each."""
    import cv2

    source = folder / "source"
    source.mkdir()
    lines = []
    for number in range(4):
        cv2.imwrite(str(source / f"{number}.jpg"), picture(number, 96))
        lines.append(
            question_record(
                id=f"r{number}", question=f"Is there an effusion in lung {number}?", answer="yes",
                task="closed", images=(ImageRef(f"{number}.jpg"),),
            ).to_json()
        )  # fmt: skip
    (source / "records.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    import_data(source, folder / "shards")
    return folder / "shards"


def rewrite(shards: Path, table: pa.Table) -> None:
    """Put another table in place of the records, with a manifest that vouches for it."""
    name = "records-00000.parquet"
    pq.write_table(table, shards / name, row_group_size=256)
    manifest = read_json(shards / "manifest.json")
    entry = manifest["files"][name]
    entry["sha256"], entry["bytes"] = sha256_file(shards / name), (shards / name).stat().st_size
    manifest["data_sha256"] = data_hash(manifest["files"])
    write_json(shards / "manifest.json", manifest)


def dropped(out: Path) -> dict[str, list[str]]:
    return {r["record_id"]: r["reasons"] for r in read_verdicts(out).to_pylist() if not r["keep"]}


@pytest.mark.parametrize("bad", ["{not json", json.dumps([{"role": "user"}]), "null", "[]]"])
def test_a_damaged_stored_record_is_dropped_by_name_and_the_rest_is_judged(
    tmp_path: Path, bad: str
) -> None:
    shards = import_four(tmp_path)
    table = pq.read_table(shards / "records-00000.parquet")
    messages = table["messages"].to_pylist()
    messages[2] = bad
    at = table.schema.get_field_index("messages")
    rewrite(shards, table.set_column(at, "messages", pa.array(messages, pa.string())))
    opened = open_shards(shards)
    with pytest.raises(DamagedRecord, match="record 2"):
        opened.record(2)
    curate(opened, tmp_path / "out")
    assert "completeness.unreadable_record" in dropped(tmp_path / "out")["r2"]
    assert set(dropped(tmp_path / "out")) == {"r2"}
    told = explain(tmp_path / "out", "r2")
    assert told.findings[0].evidence.startswith("a stored record is damaged")


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    shards = import_four(tmp_path)
    table = pq.read_table(shards / "records-00000.parquet")
    rewrite(shards, table.drop_columns(["messages"]))
    with pytest.raises(DataError, match="lacks a column") as caught:
        open_shards(shards)
    assert caught.value.seen == "messages"


def test_a_missing_tar_and_changed_bytes_are_findings(tmp_path: Path) -> None:
    shards = import_four(tmp_path)
    tar = shards / "images-00000.tar"
    data = bytearray(tar.read_bytes())
    opened = open_shards(shards)
    row = opened.images.to_pylist()[0]
    data[row["offset"] + 300] ^= 0xFF
    tar.write_bytes(bytes(data))
    curate(opened, tmp_path / "changed")
    assert list(dropped(tmp_path / "changed").values()) == [["completeness.unreadable_image"]]
    fresh = ShardSet(shards)
    tar.unlink()
    curate(fresh, tmp_path / "missing")
    assert len(dropped(tmp_path / "missing")) == 4


def test_a_read_error_of_one_image_is_a_finding(tmp_path: Path) -> None:
    memory = Memory()
    good, bad = memory.image(picture(1)), memory.image(picture(2))
    memory.ask((good,), "Is there an effusion?", "no")
    memory.ask((bad,), "Is there an effusion?", "no")
    pixels = memory.pixels

    def fails(ref: ImageRef) -> NDArray[np.uint8]:
        if ref.sha256 == bad.sha256:
            raise OSError(5, "Input/output error")
        return pixels(ref)

    memory.pixels = fails  # type: ignore[method-assign]
    curate(memory, tmp_path)
    assert dropped(tmp_path) == {"r1": ["completeness.unreadable_image"]}


def test_text_that_is_not_unicode_is_dropped_not_raised(tmp_path: Path) -> None:
    memory = Memory()
    ref = memory.image(picture(1))
    memory.ask((ref,), "Is there an effusion?", "no")
    odd = (Message("user", (0, "Is there \ud800 a mass?")), Message("assistant", ("yes",)))
    memory.records.append(Record("odd", (ref,), odd, "closed", answer="yes"))
    choices = ("\udfff", "yes")
    memory.records.append(Record("od\ud800", (ref,), odd, "choice", choices, answer="yes"))
    curate(memory, tmp_path)
    assert set(dropped(tmp_path)) == {"odd", "od?"}
    assert dropped(tmp_path)["od?"][0] == "completeness.unreadable_record"


@pytest.mark.parametrize(
    "text", ["(" * 20_000, "a." * 50_000, "\u0000\u0001" * 500, "̀" * 5000, "<" * 30_000, "9" * 9999]
)
def test_hostile_text_is_judged(tmp_path: Path, text: str) -> None:
    memory = Memory()
    memory.ask((memory.image(picture(1)),), text, text, "open")
    assert curate(memory, tmp_path).records == 1


def test_two_records_of_one_id_are_both_judged_and_noted(tmp_path: Path) -> None:
    memory = Memory()
    ref = memory.image(picture(1))
    memory.ask((ref,), "Is there an effusion?", "no")
    memory.ask((ref,), "Is there a fracture?", "no")
    memory.records[1] = renamed(memory.records[1], "r0")
    summary = curate(memory, tmp_path)
    assert (summary.kept, summary.noted) == (2, 1)
    assert [rule.rule for rule in summary.rules] == ["consistency.repeated_id"]


def test_records_in_a_sweep_are_the_records_one_by_one(tmp_path: Path) -> None:
    opened = open_shards(import_four(tmp_path))
    assert opened.records(1, 4) == [opened.record(number) for number in (1, 2, 3)]
    assert opened.records(4, 4) == []
    with pytest.raises(IndexError):
        opened.records(2, 5)
    assert set(schema.RECORDS.names) >= {"id", "messages"}
