"""Reading shards: exact records, checked bytes, hostile folders refused."""

from __future__ import annotations

import json
import pickle
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infimed.core.errors import DataError
from infimed.data import imaging, schema
from infimed.data.importing import import_data
from infimed.data.record import ImageRef, Message, Record, question_record
from infimed.data.shards import ShardSet, open_shards
from infimed.data.tarstore import TarReader, TarWriter
from tests.data.samples import encoded, llava_folder, noise, write_lines


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    import_data(llava_folder(root / "data", count=30, images=7), root / "out", records_per_shard=8)
    return root / "out"


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "out")
    return tmp_path / "out"


def test_records_come_back_in_reading_order(made: Path) -> None:
    shards = open_shards(made)
    assert len(shards) == 30 and [record.id for record in shards] == [f"q{n}" for n in range(30)]


def test_random_access_equals_iteration(made: Path) -> None:
    shards = open_shards(made)
    order = np.random.default_rng(0).permutation(len(shards))
    everything = list(shards)
    assert list(shards.select(order)) == [everything[number] for number in order]


@pytest.mark.parametrize("number", [-1, 30, 10_000])
def test_a_record_out_of_range_is_an_index_error(made: Path, number: int) -> None:
    with pytest.raises(IndexError):
        open_shards(made).record(number)


def test_pixels_are_those_of_the_source(made: Path) -> None:
    shards = open_shards(made)
    for number in (0, 5, 6, 29):
        assert np.array_equal(
            shards.pixels(shards.record(number).images[0]), noise(seed=number % 7)
        )


def test_references_name_the_content(made: Path) -> None:
    shards = open_shards(made)
    ref = shards.record(3).images[0]
    assert ref.locator == "sha256:" + ref.sha256 and (ref.width, ref.height) == (32, 24)
    assert np.array_equal(shards.pixels(ImageRef(ref.locator)), shards.pixels(ref))


def test_the_index_has_planning_columns_and_no_messages(made: Path) -> None:
    index = open_shards(made).index()
    assert index.num_rows == 30 and "messages" not in index.column_names
    assert {"id", "task", "split", "group", "n_images", "image_sha256", "source", "license"} <= set(
        index.column_names
    )


def test_an_unknown_column_is_named(made: Path) -> None:
    with pytest.raises(DataError, match="no such column"):
        open_shards(made).index(["id", "colour"])


def test_several_threads_read_the_same_bytes(made: Path) -> None:
    shards = open_shards(made)
    with ThreadPoolExecutor(8) as pool:
        found = list(
            pool.map(lambda n: shards.pixels(shards.record(n % 30).images[0])[0, 0, 0], range(240))
        )
    assert found == [noise(seed=n % 30 % 7)[0, 0, 0] for n in range(240)]


def test_a_shard_set_pickles_as_its_path(made: Path) -> None:
    again: ShardSet = pickle.loads(pickle.dumps(open_shards(made)))  # noqa: S301 - our own object
    assert again.record(4) == open_shards(made).record(4)


def test_closed_files_open_again(made: Path) -> None:
    shards = open_shards(made)
    first = shards.image_bytes(shards.record(0).images[0].sha256)
    shards.close()
    assert shards.image_bytes(shards.record(0).images[0].sha256) == first


def test_tars_are_plain_tars(made: Path) -> None:
    names = []
    for file in sorted(made.glob("images-*.tar")):
        with tarfile.open(file) as tar:
            for member in tar:
                content = tar.extractfile(member)
                assert content is not None and imaging.decode(content.read()).shape == (24, 32, 3)
                assert (member.mtime, member.uid, member.uname) == (0, 0, "")
                names.append(member.name)
    assert len(names) == len(set(names)) == 7


def test_a_flipped_byte_in_an_image_is_found_when_it_is_read(copied: Path) -> None:
    shards = open_shards(copied)
    ref = shards.record(0).images[0]
    tar = next(iter(sorted(copied.glob("images-*.tar"))))
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.write_bytes(data)
    with pytest.raises(DataError, match="hash"):
        for number in range(len(shards)):
            shards.pixels(shards.record(number).images[0])
    assert ref.sha256


def test_verify_finds_a_changed_file(copied: Path) -> None:
    file = copied / "records-00001.parquet"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(DataError, match="changed or damaged"):
        open_shards(copied, verify=True)


@pytest.mark.parametrize("name", ["images-00000.tar", "records-00000.parquet", "images.parquet"])
def test_a_missing_or_short_file_is_found_at_opening(copied: Path, name: str) -> None:
    whole = (copied / name).read_bytes()
    (copied / name).write_bytes(whole[:-10])
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        open_shards(copied)
    (copied / name).unlink()
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        open_shards(copied)


@pytest.mark.parametrize(
    "change",
    [
        {"complete": False},
        {"format_version": 99},
        {"data_sha256": "0" * 64},
        {"files": {"../../etc/passwd": {"bytes": 1, "sha256": "0"}}},
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(copied: Path, change: dict[str, object]) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps({**manifest, **change}))
    with pytest.raises(DataError):
        open_shards(copied)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"complete": true, "format_version": 1}']
)
def test_a_broken_manifest_is_refused(copied: Path, content: str) -> None:
    (copied / "manifest.json").write_text(content)
    with pytest.raises(DataError):
        open_shards(copied)


def test_an_index_that_points_outside_the_folder_is_refused(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.tar").write_bytes(b"secret" * 1000)
    table = pq.read_table(copied / "images.parquet")
    column = table.schema.get_field_index("tar")
    evil = table.set_column(column, "tar", [["../secret.tar"] * table.num_rows])
    pq.write_table(evil, copied / "images.parquet")
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["files"]["images.parquet"]["bytes"] = (copied / "images.parquet").stat().st_size
    (copied / "manifest.json").write_text(json.dumps(manifest))
    shards = open_shards(copied)
    with pytest.raises(DataError, match="not the name of a shard"):
        shards.pixels(shards.record(0).images[0])


def test_an_unknown_image_is_named(made: Path) -> None:
    for sha256 in ("0" * 64, "f" * 64, "no hash", "é"):
        with pytest.raises(DataError, match="no such image"):
            open_shards(made).image_bytes(sha256)


def test_a_folder_without_shards_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="infimed data import"):
        open_shards(tmp_path)


def test_the_data_hash_follows_the_content(made: Path, tmp_path: Path) -> None:
    import_data(
        llava_folder(tmp_path / "data", count=29, images=7), tmp_path / "out", records_per_shard=8
    )
    assert open_shards(tmp_path / "out").data_hash != open_shards(made).data_hash


def test_records_kept_in_memory_stay_within_their_bytes(made: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    whole, bounded = open_shards(made), open_shards(made)
    monkeypatch.setattr("infimed.data.shards.CACHED_BYTES", 3000)
    numbers = [*range(len(whole)), *reversed(range(len(whole)))]
    assert [bounded.record(n) for n in numbers] == [whole.record(n) for n in numbers]
    assert len(bounded._groups) > len(bounded._cache)
    assert bounded._cached_bytes == sum(rows.nbytes for rows in bounded._cache.values())
    assert bounded._cached_bytes <= 3000 or len(bounded._cache) == 1


def test_two_records_may_show_one_image_through_two_windows(tmp_path: Path) -> None:
    values = np.tile(np.arange(64, dtype=np.uint16) * 60, (64, 1))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.png").write_bytes(encoded(values))
    windows = [
        {"window_center": 500.0, "window_width": 1000.0},
        {"window_center": 3000.0, "window_width": 400.0},
    ]
    records = [
        question_record(
            id=f"w{n}",
            question="?",
            answer="!",
            images=(ImageRef("a.png", facts=facts),),
            task="open",
        )
        for n, facts in enumerate(windows)
    ]
    write_lines(tmp_path / "data" / "records.jsonl", [record.to_json() for record in records])
    summary = import_data(tmp_path / "data", tmp_path / "out")
    shards = open_shards(tmp_path / "out")
    assert summary.images == 1
    for number, facts in enumerate(windows):
        expected = imaging.render(values, facts)
        assert np.array_equal(shards.pixels(shards.record(number).images[0]), expected)


@pytest.mark.parametrize(
    "name", ["../x.png", "/x.png", "a.png", "0" * 64 + ".exe", "0" * 64 + ".png/../x"]
)
def test_the_tar_writer_takes_content_names_only(tmp_path: Path, name: str) -> None:
    with (tmp_path / "t").open("wb") as handle, pytest.raises(ValueError):
        TarWriter(handle).add(name, b"x")


@pytest.mark.parametrize(
    "name", ["../images-00000.tar", "/etc/passwd", "images-00000.tar/x", "records.parquet"]
)
def test_the_tar_reader_opens_shards_only(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError):
        TarReader(tmp_path).read(name, 0, 1)


def test_the_tar_reader_follows_no_symlink(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "images-00000.tar").symlink_to(tmp_path / "secret")
    with pytest.raises(DataError):
        TarReader(tmp_path).read("images-00000.tar", 0, 6)


words = st.text(st.characters(blacklist_categories=("Cs",)), max_size=20)
facts = st.dictionaries(
    words,
    st.one_of(
        words,
        st.integers(-(2**40), 2**40),
        st.floats(allow_nan=False, allow_infinity=False),
        st.booleans(),
        st.none(),
        st.lists(words, max_size=3),
    ),
    max_size=4,
)


@given(words, words, st.lists(words, max_size=3), st.one_of(st.none(), words), facts, facts)
def test_rows_round_trip_exactly(
    id: str, text: str, choices: list[str], answer: str | None, about: dict, image_facts: dict
) -> None:
    record = Record(
        id=id,
        images=(ImageRef("sha256:" + "a" * 64, "a" * 64, 3, 4, image_facts),),
        messages=(Message("user", (0, text)), Message("assistant", (text,))),
        task="choice",
        choices=tuple(choices),
        answer=answer,
        facts=about,
    )
    assert schema.from_row(schema.to_row(record)) == record


def test_records_pickle_with_and_without_facts() -> None:
    for about in ({}, {"modality": "CT"}):
        record = question_record(
            id="a", question="?", answer="!", images=(ImageRef("x"),), task="open", facts=about
        )
        assert pickle.loads(pickle.dumps(record)) == record  # noqa: S301 - our own object
    bare = Record(id="a", images=(), messages=(), task="text")
    assert pickle.loads(pickle.dumps(bare)) == bare  # noqa: S301 - our own object
