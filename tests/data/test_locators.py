"""Locators: nothing outside the root, nothing over a network, every kind of place."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infimed.data import imaging
from infimed.data.imaging import ImageError, Limits
from infimed.data.locators import ImageFetcher, parse_locator, with_fragment
from tests.data.samples import dicom_bytes, encoded, noise, write_image


def code(root: Path, locator: str) -> str:
    with pytest.raises(ImageError) as caught:
        ImageFetcher(root).stored(locator)
    return caught.value.code


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_image(tmp_path / "data" / "a.png")
    write_image(tmp_path / "outside.png", seed=1)
    return tmp_path / "data"


@pytest.mark.parametrize(
    "locator",
    [
        "../outside.png",
        "x/../../outside.png",
        "a.png\0.jpg",
        "..\\outside.png",
        "/etc/hostname",
        "//host/share/a.png",
    ],
)
def test_a_path_that_leaves_the_root_is_refused(root: Path, locator: str) -> None:
    assert code(root, locator) == "path"


def test_an_absolute_path_to_an_existing_image_is_refused(root: Path) -> None:
    assert code(root, str(root.parent / "outside.png")) == "path"


def test_a_symlink_out_of_the_root_is_refused(root: Path) -> None:
    (root / "link.png").symlink_to(root.parent / "outside.png")
    assert code(root, "link.png") == "path"


def test_a_symlinked_folder_out_of_the_root_is_refused(root: Path) -> None:
    (root / "up").symlink_to(root.parent)
    assert code(root, "up/outside.png") == "path"


def test_a_symlink_within_the_root_is_followed(root: Path) -> None:
    (root / "link.png").symlink_to(root / "a.png")
    assert ImageFetcher(root).stored("link.png").width == 32


@pytest.mark.parametrize("locator", ["nothing.png", "", ".", "a.png/b.png", "x" * 5000])
def test_a_missing_file_is_called_missing(root: Path, locator: str) -> None:
    assert code(root, locator) == "missing"


@pytest.mark.parametrize(
    "locator", ["http://host/a.png", "https://host/a.png", "file:///etc/hostname"]
)
def test_addresses_are_never_fetched(root: Path, locator: str) -> None:
    assert code(root, locator) in ("missing", "path")


def test_a_pipe_is_not_read(root: Path) -> None:
    os.mkfifo(root / "pipe.png")
    assert code(root, "pipe.png") == "missing"


def test_a_data_url_is_decoded(root: Path) -> None:
    url = "data:image/png;base64," + base64.b64encode(encoded(noise())).decode()
    assert np.array_equal(imaging.decode(ImageFetcher(root).stored(url).data), noise())


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("data:text/html;base64,PHNjcmlwdD4=", "format"),
        ("data:image/png;base64,***", "corrupt"),
        ("data:image/png;base64,", "empty"),
        ("data:video/jpeg;base64,AAAA", "format"),
    ],
)
def test_bad_data_urls_are_refused(root: Path, url: str, expected: str) -> None:
    assert code(root, url) == expected


def test_the_byte_limit_holds_for_files_and_data_urls(root: Path) -> None:
    fetcher = ImageFetcher(root, Limits(max_bytes=100))
    url = "data:image/png;base64," + "A" * 1000
    for locator in ("a.png", url):
        with pytest.raises(ImageError) as caught:
            fetcher.stored(locator)
        assert caught.value.code == "bytes"


def test_the_error_names_the_locator(root: Path) -> None:
    with pytest.raises(ImageError, match=r"nothing\.png"):
        ImageFetcher(root).stored("nothing.png")


def test_a_frame_of_a_dicom_file_is_fetched(root: Path) -> None:
    frames = np.stack([noise(channels=1, seed=seed) for seed in range(3)])
    (root / "cine.dcm").write_bytes(dicom_bytes(frames))
    stored = ImageFetcher(root).stored("cine.dcm#frame=2")
    assert np.array_equal(imaging.decode(stored.data, stored.facts)[..., 0], frames[2])


@pytest.mark.parametrize("fragment", ["#frame=9", "#frame=x", "#frame=-1"])
def test_a_frame_that_is_not_there_is_named(root: Path, fragment: str) -> None:
    (root / "one.dcm").write_bytes(dicom_bytes(noise(channels=1)))
    assert code(root, "one.dcm" + fragment) == "frame"


def test_parquet_cells_are_fetched_across_row_groups(root: Path) -> None:
    cells = [{"bytes": encoded(noise(seed=seed)), "path": None} for seed in range(5)]
    pq.write_table(pa.table({"image": cells}), root / "p.parquet", row_group_size=2)
    fetcher = ImageFetcher(root)
    for seed in (4, 0, 3, 1):
        stored = fetcher.stored(with_fragment("p.parquet", row=seed, column="image"))
        assert np.array_equal(imaging.decode(stored.data), noise(seed=seed))


@pytest.mark.parametrize("row", [-1, 5, 99])
def test_a_parquet_row_that_is_not_there_is_named(root: Path, row: int) -> None:
    pq.write_table(pa.table({"image": [encoded(noise())] * 5}), root / "p.parquet")
    assert code(root, f"p.parquet#row={row},column=image") == "frame"


def test_a_name_with_a_hash_sign_is_a_plain_path(root: Path) -> None:
    write_image(root / "scan#1.png")
    assert ImageFetcher(root).stored("scan#1.png").height == 24


@given(
    st.text(st.characters(blacklist_characters="#"), max_size=20),
    st.text(min_size=1, max_size=12),
    st.integers(0, 9999),
)
def test_fragments_round_trip(path: str, column: str, row: int) -> None:
    parsed = parse_locator(with_fragment(path, row=row, column=column))
    assert (parsed.path, parsed.fragment) == (path, {"row": str(row), "column": column})
