"""The development data: every file is imported or listed with a reason."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pydicom
import pytest

from infimed.data.importing import import_data
from infimed.data.inspecting import inspect_data
from infimed.data.readers.base import walk_files
from infimed.data.shards import open_shards
from tests.data.samples import real

pytestmark = pytest.mark.real_data


def test_vqa_rad_is_imported_whole_with_its_disjoint_split(tmp_path: Path) -> None:
    options = {"split_file": "../vqa_rad_split.json"}
    summary = import_data(real("vqa_rad"), tmp_path / "out", options=options)
    assert (summary.records, summary.images, summary.problems) == (1684, 234, 0)
    assert set(summary.splits) == {"train", "dev", "calibration", "test"}
    index = open_shards(tmp_path / "out").index(["group", "split", "image_sha256"]).to_pylist()
    for key in ("group", "image_sha256"):
        parts: dict[object, set[str]] = {}
        for row in index:
            value = row[key] if isinstance(row[key], str) else row[key][0]
            parts.setdefault(value, set()).add(row["split"])
        assert all(len(splits) == 1 for splits in parts.values())


def test_rocov2_captions_find_their_images(tmp_path: Path) -> None:
    summary = import_data(real("rocov2_ccby"), tmp_path / "out")
    assert (summary.records, summary.images, summary.problems) == (41, 41, 0)


def test_bccd_counts_cells(tmp_path: Path) -> None:
    summary = import_data(real("bccd"), tmp_path / "out")
    assert summary.images == 364 and summary.problem_codes == {"not-data": 1}


def accounted(source: Path, out: Path) -> tuple[int, Counter[str]]:
    """(files of the source, what became of each: imported, or the code of its problem)."""
    files = [file.relative_to(source).as_posix() for file in walk_files(source)]
    import_data(source, out)
    shards = open_shards(out)
    listed = [problem["where"] for problem in shards.problems()]
    fate = Counter[str]()
    for file in files:
        found = [where for where in listed if file in where]
        fate["listed" if found else "imported"] += 1
    return len(files), fate


def test_every_dicom_sample_is_imported_or_listed(tmp_path: Path) -> None:
    files, fate = accounted(real("dicom_samples"), tmp_path / "out")
    assert files == 12 and fate == {"imported": 9, "listed": 3}


def test_every_volume_is_imported(tmp_path: Path) -> None:
    files, fate = accounted(real("open_ms_data"), tmp_path / "out")
    assert files == 3 and fate == {"imported": 2, "listed": 1}


def test_every_file_that_pydicom_bundles_is_imported_or_listed(tmp_path: Path) -> None:
    source = Path(pydicom.__file__).parent / "data" / "test_files"
    if not source.is_dir():
        pytest.skip("this pydicom bundles no test files")
    files, fate = accounted(source, tmp_path / "out")
    shards = open_shards(tmp_path / "out")
    assert fate["imported"] >= 40 and fate.total() == files
    assert all(shards.pixels(ref).ndim == 3 for record in shards for ref in record.images)


@pytest.mark.parametrize(
    "name", ["dicom_samples", "open_ms_data", "rocov2_ccby", "bccd", "vqa_rad"]
)
def test_inspect_reads_the_development_data(name: str) -> None:
    found = inspect_data(real(name))
    assert found.images > 0 and found.unreadable == 0
