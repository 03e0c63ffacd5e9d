"""Inspection agrees with the import, draws, and escapes what it shows."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from infimed.cli.data import app
from infimed.core.errors import DataError, UsageError
from infimed.data.importing import import_data
from infimed.data.inspect_report import numbers, picture, write_html
from infimed.data.inspecting import inspect_data, percentiles
from tests.data.samples import llava_folder, write_image


def sick_folder(root: Path) -> Path:
    llava_folder(root, count=12, images=4)
    (root / "images" / "2.png").write_bytes(b"not an image")
    (root / "images" / "3.png").unlink()
    return root


def test_what_inspect_calls_unreadable_is_what_import_refuses(tmp_path: Path) -> None:
    source = sick_folder(tmp_path / "data")
    found = inspect_data(source)
    summary = import_data(source, tmp_path / "out")
    assert (found.images, found.unreadable, found.records) == (2, 2, 12)
    assert set(found.codes) == set(summary.problem_codes) == {"format", "missing"}


def test_shards_are_inspected_too(tmp_path: Path) -> None:
    import_data(sick_folder(tmp_path / "data"), tmp_path / "out")
    found = inspect_data(tmp_path / "out")
    assert found.reader == "shards" and found.records == 6 and found.images == 2
    assert found.problem_count == 6 and len(found.thumbnails) == 2


def test_limit_stops_early(tmp_path: Path) -> None:
    assert inspect_data(llava_folder(tmp_path / "data", count=12), limit=5).records == 5


def test_duplicate_ids_are_named(tmp_path: Path) -> None:
    source = llava_folder(tmp_path / "data", count=4)
    text = (source / "data.json").read_text().replace('"q3"', '"q1"')
    (source / "data.json").write_text(text)
    assert [problem.where for problem in inspect_data(source).problems] == ["q1"]


def test_the_picture_is_a_png_with_and_without_images(tmp_path: Path) -> None:
    for source in (sick_folder(tmp_path / "data"), _text_only(tmp_path / "text")):
        assert Image.open(io.BytesIO(picture(inspect_data(source)))).width > 600


def _text_only(root: Path) -> Path:
    root.mkdir()
    (root / "d.json").write_text(
        '[{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}]'
    )
    return root


def test_the_page_escapes_what_files_are_called(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_image(root / "a.png")
    (root / "<script>alert(1)<.bin").write_bytes(b"x")
    write_html(inspect_data(root), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert (
        "<script" not in page and "&lt;script&gt;" in page and "http" not in page.split("<body>")[1]
    )


def test_percentiles_match_a_sorted_list() -> None:
    counts = Counter({3: 5, 10: 90, 50: 4, 400: 1})
    flat = sorted(counts.elements())
    assert percentiles(counts) == [flat[4], flat[49], flat[94], flat[99]]
    assert percentiles(Counter()) == []


def test_numbers_name_every_count(tmp_path: Path) -> None:
    rows = dict(numbers(inspect_data(llava_folder(tmp_path / "data"))))
    assert (
        rows["records"] == "12"
        and rows["tasks"] == "open 12"
        and "median 32" in rows["image width, px"]
    )


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


def test_the_command_inspects_and_draws(tmp_path: Path) -> None:
    source = sick_folder(tmp_path / "data")
    run(
        "inspect",
        source,
        "--png",
        tmp_path / "p.png",
        "--html",
        tmp_path / "p.html",
        "--problems",
        2,
    )
    assert (tmp_path / "p.png").is_file() and (tmp_path / "p.html").is_file()


def test_the_command_imports(tmp_path: Path) -> None:
    run("import", sick_folder(tmp_path / "data"), "--out", tmp_path / "out", "-o", "license=MIT")
    assert inspect_data(tmp_path / "out").licenses == Counter({"MIT": 6})


@pytest.mark.parametrize(
    "arguments", [["-o", "license"], ["-o", "=x"], ["-o", "lisence=x"], ["--reader", "x"]]
)
def test_the_command_refuses_malformed_options(tmp_path: Path, arguments: list[str]) -> None:
    with pytest.raises(UsageError):
        run("import", llava_folder(tmp_path / "data"), "--out", tmp_path / "out", *arguments)


def test_the_command_names_a_missing_path(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        run("inspect", tmp_path / "absent")


@pytest.mark.parametrize("command", ["inspect", "import", "phantom"])
def test_help_shows_an_example(command: str) -> None:
    assert f"infimed data {command}" in run(command, "--help").replace("\n", " ")
