"""A name that exists is complete."""

from __future__ import annotations

import errno
import resource

import pytest

from infimed.core.errors import DataError
from infimed.core.files import atomic_folder, atomic_open, inside, read_json, write_json


def test_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path):
    file = tmp_path / "a.json"
    write_json(file, {"old": 1})
    with pytest.raises(RuntimeError), atomic_open(file, "w") as handle:
        handle.write("half")
        raise RuntimeError
    assert read_json(file) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_failed_folder_keeps_the_old_one(tmp_path):
    with atomic_folder(tmp_path / "f") as folder:
        (folder / "x").write_text("1")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "f") as folder:
        (folder / "x").write_text("2")
        raise RuntimeError
    assert (tmp_path / "f" / "x").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_stale_leftover_of_a_killed_writer_is_replaced(tmp_path):
    (tmp_path / ".f.partial").mkdir()
    (tmp_path / ".f.partial" / "junk").write_text("junk")
    with atomic_folder(tmp_path / "f") as folder:
        (folder / "x").write_text("1")
    assert [p.name for p in (tmp_path / "f").iterdir()] == ["x"]


def test_full_disk_is_a_data_error_that_leaves_nothing(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with (
            pytest.raises(DataError, match="disk is full"),
            atomic_open(tmp_path / "big") as handle,
        ):
            handle.write(b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert list(tmp_path.iterdir()) == []


def test_no_space_error_names_the_folder(tmp_path):
    with pytest.raises(DataError, match="free some space"), atomic_open(tmp_path / "x"):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "a\x00b", "..\\x", "link/x"])
def test_paths_that_leave_the_root_are_refused(tmp_path, path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    with pytest.raises(DataError):
        inside(root, path)


def test_path_below_the_root_resolves(tmp_path):
    assert inside(tmp_path, "a/b.png") == tmp_path.resolve() / "a" / "b.png"


@pytest.mark.parametrize("text", ["{", "", "\xff"])
def test_malformed_json_names_the_file(tmp_path, text):
    file = tmp_path / "x.json"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"x\.json"):
        read_json(file)
