"""Token lengths: measured once for a key and the data."""

from __future__ import annotations

from pathlib import Path

import pytest

from infimed.data.importing import import_data
from infimed.data.measure import LENGTHS, Measure, token_lengths
from infimed.data.record import Record
from infimed.data.shards import ShardSet, open_shards
from tests.data.samples import llava_folder


class Counting:
    """Measures words and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, record: Record) -> Measure:
        self.calls += 1
        return Measure(
            len(record.question.split()), len(record.response.split()), len(record.images), 2
        )


@pytest.fixture
def shards(tmp_path: Path) -> ShardSet:
    import_data(llava_folder(tmp_path / "data", count=20), tmp_path / "out", records_per_shard=8)
    return open_shards(tmp_path / "out")


def test_lengths_come_in_shard_order(shards: ShardSet, tmp_path: Path) -> None:
    table = token_lengths(shards, Counting(), "words", tmp_path / "cache", batch=7)
    assert table.schema.equals(LENGTHS) and table["id"].to_pylist() == [
        record.id for record in shards
    ]
    assert table["text_tokens"].to_pylist() == [len(record.question.split()) for record in shards]


def test_a_second_call_measures_nothing(shards: ShardSet, tmp_path: Path) -> None:
    first = token_lengths(shards, Counting(), "words", tmp_path)
    again = Counting()
    assert token_lengths(shards, again, "words", tmp_path).equals(first) and again.calls == 0


def test_another_key_measures_again(shards: ShardSet, tmp_path: Path) -> None:
    token_lengths(shards, Counting(), "words", tmp_path)
    again = Counting()
    token_lengths(shards, again, "letters", tmp_path)
    assert again.calls == 20


def test_a_damaged_cache_is_measured_again(shards: ShardSet, tmp_path: Path) -> None:
    token_lengths(shards, Counting(), "words", tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(b"PAR1 damaged")
    again = Counting()
    assert (
        token_lengths(shards, again, "words", tmp_path / "cache").num_rows == 20
        and again.calls == 20
    )
