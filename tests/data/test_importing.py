"""Import: identical bytes however often it is killed, each image once, everything refused is named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import infimed
from infimed.core.errors import DataError, UsageError
from infimed.core.files import sha256_file
from infimed.data import importing
from infimed.data.importing import import_data
from infimed.data.record import ImageRef, Record, question_record
from infimed.data.shards import open_shards
from tests.data.samples import dicom_bytes, encoded, llava_folder, noise, write_image, write_lines


def tree(folder: Path) -> dict[str, str]:
    return {
        file.relative_to(folder).as_posix(): sha256_file(file)
        for file in folder.rglob("*")
        if file.is_file()
    }


def question(id: str, image: str = "a.png", **more: Any) -> Record:
    fields: dict[str, Any] = {"question": "What?", "answer": "That.", "task": "open", **more}
    return question_record(id=id, images=(ImageRef(image),) if image else (), **fields)


def records_folder(root: Path, records: list[Any]) -> Path:
    write_image(root / "a.png")
    lines = [record.to_json() if isinstance(record, Record) else record for record in records]
    write_lines(root / "records.jsonl", lines)
    return root


def problems(out: Path) -> dict[str, str]:
    return {
        problem["where"].split(" ")[0]: problem["code"] for problem in open_shards(out).problems()
    }


def test_two_imports_give_identical_bytes(tmp_path: Path) -> None:
    source = llava_folder(tmp_path / "data", count=30, images=7)
    import_data(source, tmp_path / "one", workers=1, records_per_shard=8)
    import_data(source, tmp_path / "two", workers=4, records_per_shard=8)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_every_image_is_stored_once(tmp_path: Path) -> None:
    source = llava_folder(tmp_path / "data", count=30, images=3)
    (source / "images" / "copy.png").write_bytes((source / "images" / "0.png").read_bytes())
    summary = import_data(source, tmp_path / "out", records_per_shard=4)
    assert (summary.images, summary.image_uses, summary.shards) == (3, 30, 8)


def test_the_summary_counts_what_was_written(tmp_path: Path) -> None:
    summary = import_data(
        llava_folder(tmp_path / "data", count=10), tmp_path / "out", records_per_shard=4
    )
    assert (summary.records, summary.shards, summary.problems) == (10, 3, 0)
    assert summary.tasks == {"open": 10} and summary.splits == {"train": 10}


def test_every_bad_record_is_named_and_the_rest_is_imported(tmp_path: Path) -> None:
    nan = question("nan", facts={"age": float("nan")}).to_json()
    folder = records_folder(
        tmp_path / "data",
        [
            question("good"),
            question("good"),
            question("lost", image="nowhere.png"),
            question("up", image="../a.png"),
            question("choice", task="choice", choices=("x", "y")),
            Record(id="bare", images=(), messages=(), task="open"),
            nan,
            '{"broken": ',
            json.dumps(question("surrogate", answer="\ud800").to_dict()),
            question("last"),
        ],
    )
    summary = import_data(folder, tmp_path / "out")
    assert [record.id for record in open_shards(tmp_path / "out")] == ["good", "last"]
    named = problems(tmp_path / "out")
    assert named["good"] == "duplicate-id" and named["lost"] == "missing" and named["up"] == "path"
    assert {"choice", "bare", "nan", "records.jsonl:8", "surrogate"} <= set(named)
    assert summary.problems == 8 and summary.records == 2


def test_a_question_without_its_image_is_named(tmp_path: Path) -> None:
    shown = question("shown").to_dict()
    shown["id"], shown["images"] = "gone", []
    import_data(
        records_folder(tmp_path / "data", [question("a"), json.dumps(shown)]), tmp_path / "out"
    )
    (problem,) = open_shards(tmp_path / "out").problems()
    assert problem["where"] == "gone" and "0 images" in problem["what"]


def test_a_record_that_fails_leaves_no_image_behind(tmp_path: Path) -> None:
    both = question_record(
        id="both",
        question="?",
        answer="!",
        images=(ImageRef("b.png"), ImageRef("nowhere.png")),
        task="open",
    )
    folder = records_folder(tmp_path / "data", [question("a"), both])
    write_image(folder / "b.png", seed=2)
    assert import_data(folder, tmp_path / "out").images == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty"),
        (b"GIF89a" + b"\0" * 40, "format"),
        (encoded(noise(4, 4)), "small"),
        (encoded(noise(64, 64), "JPEG")[:900], "truncated"),
    ],
)
def test_an_unreadable_image_is_named_with_its_reason(
    tmp_path: Path, content: bytes, expected: str
) -> None:
    folder = records_folder(tmp_path / "data", [question("good"), question("bad", image="b.png")])
    (folder / "b.png").write_bytes(content)
    import_data(folder, tmp_path / "out")
    assert problems(tmp_path / "out") == {"bad": expected}


def test_images_without_text_are_listed(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write_image(folder / "a.png")
    write_image(folder / "b.png", seed=1)
    (folder / "captions.csv").write_text("image,caption\na.png,Something.\n")
    import_data(folder, tmp_path / "out")
    assert problems(tmp_path / "out") == {"b.png": "no-text"}


def test_a_data_set_without_a_usable_record_is_refused_with_its_reasons(tmp_path: Path) -> None:
    folder = records_folder(tmp_path / "data", [question("lost", image="nowhere.png")])
    with pytest.raises(DataError, match=r"nowhere\.png"):
        import_data(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_empty_data_set_is_called_empty(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="empty"):
        import_data(records_folder(tmp_path / "data", [""]), tmp_path / "out")


def test_the_same_import_again_changes_nothing(tmp_path: Path) -> None:
    source = llava_folder(tmp_path / "data")
    first = import_data(source, tmp_path / "out")
    before = tree(tmp_path / "out")
    again = import_data(source, tmp_path / "out")
    assert again == first and tree(tmp_path / "out") == before


def test_shards_of_other_data_are_never_overwritten(tmp_path: Path) -> None:
    import_data(llava_folder(tmp_path / "data"), tmp_path / "out")
    with pytest.raises(DataError, match="never changed"):
        import_data(llava_folder(tmp_path / "more", count=3), tmp_path / "out")


def test_an_edited_table_is_other_data(tmp_path: Path) -> None:
    source = llava_folder(tmp_path / "data")
    import_data(source, tmp_path / "out")
    text = (source / "data.json").read_text()
    (source / "data.json").write_text(text.replace("Noise", "Boise"))
    with pytest.raises(DataError):
        import_data(source, tmp_path / "out")


def test_a_folder_of_something_else_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError):
        import_data(llava_folder(tmp_path / "data"), tmp_path / "out")
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


def test_shards_inside_their_own_source_are_refused(tmp_path: Path) -> None:
    source = llava_folder(tmp_path / "data")
    with pytest.raises(UsageError):
        import_data(source, source / "shards")


def test_images_may_lie_below_another_root(tmp_path: Path) -> None:
    source = llava_folder(tmp_path / "data", count=4, images=2)
    (tmp_path / "elsewhere").mkdir()
    (source / "images").rename(tmp_path / "elsewhere" / "images")
    assert import_data(source, tmp_path / "out", image_root=tmp_path / "elsewhere").records == 4


def test_dicom_comes_back_as_the_same_pixels_without_its_bytes(tmp_path: Path) -> None:
    values = (noise(40, 40, channels=1).astype(np.int16) - 100) * 7
    data = dicom_bytes(
        values, Modality="CT", WindowCenter=40, WindowWidth=400, PatientName="Canary^Jane"
    )
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.dcm").write_bytes(data)
    import_data(tmp_path / "data", tmp_path / "out")
    record = open_shards(tmp_path / "out").record(0)
    from infimed.data.imaging import decode

    assert np.array_equal(open_shards(tmp_path / "out").pixels(record.images[0]), decode(data))
    for file in (tmp_path / "out").iterdir():
        assert b"Canary" not in file.read_bytes() and b"DICM" not in file.read_bytes()


RUN = """
import sys, time
from pathlib import Path
from infimed.data import importing
from infimed.data.locators import ImageFetcher
stop_after, source, out = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
seen = 0
def progress(items, problems):
    global seen
    seen += 1
    if seen == stop_after:
        print("there", flush=True)
        time.sleep(60)
importing.import_data(source, out, workers=2, records_per_shard=8, progress=progress)
"""


@pytest.mark.parametrize("stop_after", [5, 20, 41])
def test_a_killed_import_that_is_run_again_ends_with_identical_bytes(
    tmp_path: Path, stop_after: int
) -> None:
    source = llava_folder(tmp_path / "data", count=42, images=20)
    import_data(source, tmp_path / "whole", records_per_shard=8)
    environment = {**os.environ, "PYTHONPATH": str(Path(infimed.__file__).parents[1])}
    command = [sys.executable, "-c", RUN, str(stop_after), str(source), str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None and process.stdout.readline() == b"there\n"
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "out").exists()
    summary = import_data(source, tmp_path / "out", records_per_shard=8)
    assert summary.kept_shards == stop_after // 8
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert not list(tmp_path.glob(".*importing"))


def test_an_interrupt_keeps_finished_shards(tmp_path: Path) -> None:
    source = llava_folder(tmp_path / "data", count=30, images=5)
    import_data(source, tmp_path / "whole", records_per_shard=8)

    def stop(items: int, problems: int) -> None:
        if items == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_data(source, tmp_path / "out", records_per_shard=8, progress=stop)
    assert import_data(source, tmp_path / "out", records_per_shard=8).kept_shards == 2
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_changed_source_starts_an_interrupted_import_afresh(tmp_path: Path) -> None:
    source = llava_folder(tmp_path / "data", count=30, images=5)

    def stop(items: int, problems: int) -> None:
        if items == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_data(source, tmp_path / "out", records_per_shard=8, progress=stop)
    llava_folder(tmp_path / "data", count=12, images=5)
    summary = import_data(source, tmp_path / "out", records_per_shard=8)
    assert summary.kept_shards == 0 and summary.records == 12


def test_a_full_disk_is_named_and_leaves_no_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    source = llava_folder(tmp_path / "data")
    monkeypatch.setattr(importing.pq, "write_table", full)
    with pytest.raises(DataError, match="disk is full"):
        import_data(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    assert import_data(source, tmp_path / "out").records == 12


@pytest.mark.parametrize("name", ["images.parquet", "manifest.json"])
def test_a_kill_while_finishing_loses_no_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    source = llava_folder(tmp_path / "data", count=30, images=5)
    import_data(source, tmp_path / "whole", records_per_shard=8)

    def killed(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    if name == "images.parquet":
        monkeypatch.setattr(importing.pq, "ParquetWriter", killed)
    else:
        monkeypatch.setattr(importing, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        import_data(source, tmp_path / "out", records_per_shard=8)
    monkeypatch.undo()
    assert import_data(source, tmp_path / "out", records_per_shard=8).kept_shards == 4
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_two_imports_to_one_place_do_not_mix(tmp_path: Path) -> None:
    source = llava_folder(tmp_path / "data")

    def second(items: int, problems: int) -> None:
        with pytest.raises(DataError, match="another import"):
            import_data(source, tmp_path / "out")

    assert import_data(source, tmp_path / "out", progress=second).records == 12


def test_shards_close_by_bytes_too(tmp_path: Path) -> None:
    source = llava_folder(tmp_path / "data", count=10, images=10)
    assert import_data(source, tmp_path / "out", bytes_per_shard=6000).shards > 2


def test_unknown_options_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        import_data(llava_folder(tmp_path / "data"), tmp_path / "out", options={"nonsense": "1"})
    assert not list(tmp_path.glob(".*importing"))
