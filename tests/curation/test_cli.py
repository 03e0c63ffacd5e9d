"""``infimed curate`` over real shards on disk."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest
from typer.testing import CliRunner

from infimed.cli.curate import app
from infimed.core.errors import DataError, RecipeError, UsageError
from infimed.curation import curate, kept_rows, read_verdicts
from infimed.data.importing import import_data
from infimed.data.record import Record
from infimed.data.shards import open_shards
from tests.curation.clinic import picture

runner = CliRunner()
REAL = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    lines = []
    for number, text in enumerate(
        (
            "Axial CT of the chest showing a mass in the left upper lobe.",
            "Axial CT of the chest showing a mass in the",
            "Axial CT of the chest showing a nodule, see Fig. ??.",
        )
    ):
        cv2.imwrite(str(folder / f"{number}.png"), picture(number))
        lines.append(json.dumps({"image": f"{number}.png", "caption": text}))
    (folder / "captions.jsonl").write_text("\n".join(lines))
    import_data(folder, folder.parent / "shards")
    return folder.parent / "shards"


def test_run_prints_the_counts_and_how_to_ask_why(shards: Path, tmp_path: Path) -> None:
    done = runner.invoke(app, ["run", str(shards), "--out", str(tmp_path / "ledger")])
    assert done.exit_code == 0, done.output
    assert "kept 1, dropped 2" in done.output
    assert "completeness.cut_text" in done.output
    assert "infimed curate explain" in done.output
    assert kept_rows(tmp_path / "ledger").tolist() == [0]


def test_explain_shows_rule_evidence_and_every_signal_on_request(
    shards: Path, tmp_path: Path
) -> None:
    curate(open_shards(shards), tmp_path)
    dropped = [row["record_id"] for row in read_verdicts(tmp_path).to_pylist() if not row["keep"]]
    done = runner.invoke(app, ["explain", str(tmp_path), dropped[1], "--signals"])
    assert "completeness.placeholder" in done.output
    assert "Fig. ??" in done.output
    assert "sharpness" in done.output


def test_a_setting_changes_the_verdict(shards: Path, tmp_path: Path) -> None:
    arguments = ["run", str(shards), "--out", str(tmp_path), "--set", "completeness.cut_text=off"]
    assert "kept 2, dropped 1" in runner.invoke(app, arguments).output


def test_rules_written_as_a_rubric_file_are_read_back(shards: Path, tmp_path: Path) -> None:
    file = tmp_path / "rubric.yaml"
    file.write_text(runner.invoke(app, ["rules", "--yaml"]).stdout)
    arguments = ["run", str(shards), "--out", str(tmp_path / "o"), "--rubric", str(file)]
    assert "kept 1, dropped 2" in runner.invoke(app, arguments).output


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--set", "completeness.cut_text"], UsageError),
        (["--set", "nothing=note"], RecipeError),
        (["--rubric", "absent.yaml"], RecipeError),
    ],
)
def test_wrong_arguments_raise_the_error_that_names_them(
    shards: Path, tmp_path: Path, arguments: list[str], error: type[Exception]
) -> None:
    done = runner.invoke(app, ["run", str(shards), "--out", str(tmp_path), *arguments])
    assert isinstance(done.exception, error)


def test_shards_that_are_not_there_are_a_data_error(tmp_path: Path) -> None:
    done = runner.invoke(app, ["run", str(tmp_path / "none"), "--out", str(tmp_path)])
    assert isinstance(done.exception, DataError)


@pytest.mark.real_data
def test_at_most_five_percent_of_vqa_rad_is_dropped(tmp_path: Path) -> None:
    if not (REAL / "vqa_rad").is_dir():
        pytest.skip("the development data is not beside the checkout")
    import_data(REAL / "vqa_rad", tmp_path / "shards")
    opened = open_shards(tmp_path / "shards")
    summary = curate(opened, tmp_path / "ledger")
    assert 0 < summary.dropped <= 0.05 * summary.records
    assert all(
        isinstance(opened.record(int(row)), Record) for row in kept_rows(tmp_path / "ledger")[:5]
    )
