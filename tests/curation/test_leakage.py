"""The leakage table, its page, and dropping what leaks."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from infimed.cli.main import app
from infimed.core.errors import DataError
from infimed.curation import curate, default_rubric, explain, read_verdicts
from infimed.curation.leakage import (
    RULE,
    compare_sets,
    leak_rule,
    open_against,
    read_leaks,
    with_leaks,
)
from infimed.data.importing import import_data
from infimed.data.shards import ShardSet, open_shards
from tests.curation.clinic import picture


def folder(path: Path, rows: list[tuple[str, np.ndarray, str, str]]) -> Path:
    """A folder of images with a table of questions."""
    path.mkdir(parents=True)
    lines = ["image,question,answer"]
    for name, pixels, question, answer in rows:
        cv2.imwrite(str(path / name), pixels)
        lines.append(f"{name},{question},{answer}")
    (path / "table.csv").write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def sides(tmp_path: Path) -> tuple[ShardSet, Path]:
    """Imported data of six images, two of them copies out of a benchmark folder of three."""
    mirrored = np.ascontiguousarray(picture(1)[:, ::-1])
    cropped = np.ascontiguousarray(picture(2)[8:-8, 4:-4])
    rows = [
        (f"d{n}.png", picture(n + 20), "Is there an effusion of the pleura?", "no")
        for n in range(4)
    ]
    rows += [
        ("copy1.png", mirrored, "Is the heart enlarged?", "no"),
        ("copy2.png", cropped, "Which plane is this?", "axial"),
    ]
    import_data(folder(tmp_path / "data", rows), tmp_path / "shards")
    bench = folder(
        tmp_path / "bench",
        [(f"b{n}.png", picture(n), "Is the heart enlarged?", "no") for n in range(3)],
    )
    return open_shards(tmp_path / "shards"), bench


def test_table_page_and_counts_agree_and_round_trip(
    sides: tuple[ShardSet, Path], tmp_path: Path
) -> None:
    shards, bench = sides
    out = tmp_path / "leaks"
    found = compare_sets(shards, open_against(bench, out), out)
    assert [leak.image for leak in found.leaks] == ["mirrored", "cropped"]
    assert read_leaks(out) == list(found.leaks)
    counted = json.loads((out / "leakage.json").read_text())
    assert counted["data records"] == 2 and counted["image and question"] == 1
    page = (out / "leakage.html").read_text()
    assert all(leak.record_id in page for leak in found.leaks) and "<img" not in page
    pictured = compare_sets(shards, open_against(bench, out), out, pictures=True)
    assert (out / "leakage.html").read_text().count("<img") == 2 * len(pictured.leaks)


def test_dropping_leaves_findings_that_name_the_benchmark_record(
    sides: tuple[ShardSet, Path], tmp_path: Path
) -> None:
    shards, bench = sides
    out = tmp_path / "curated"
    found = compare_sets(shards, open_against(bench, out), out)
    rubric = with_leaks(default_rubric(), found)
    summary = curate(shards, out, rubric=rubric)
    leaking = {leak.record_id: leak for leak in found.leaks}
    for row in read_verdicts(out).to_pylist():
        assert (RULE in row["reasons"]) == (row["record_id"] in leaking)
    (finding,) = [f for f in explain(out, found.leaks[0].record_id).findings if f.rule == RULE]
    assert found.leaks[0].other_id in finding.evidence and "mirrored" in finding.evidence
    assert any(rule.rule == RULE and rule.records == 2 for rule in summary.rules)
    # Curating again without the benchmark decides anew; with it, the ledger is taken as it is.
    assert curate(shards, out, rubric=default_rubric()).kept > summary.kept


def test_another_comparison_is_another_rubric(sides: tuple[ShardSet, Path], tmp_path: Path) -> None:
    shards, bench = sides
    out = tmp_path / "leaks"
    found = compare_sets(shards, open_against(bench, out), out)
    itself = compare_sets(shards, shards, tmp_path / "self")
    names = {with_leaks(default_rubric(), one).identity for one in (found, itself)}
    assert len(names | {default_rubric().identity}) == 3
    assert leak_rule(found).severity == "drop"


def test_a_missing_or_damaged_table_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="infimed curate leakage"):
        read_leaks(tmp_path)
    (tmp_path / "leakage.parquet").write_bytes(b"not parquet")
    with pytest.raises(DataError, match="cannot be read"):
        read_leaks(tmp_path)
    with pytest.raises(DataError, match="--against"):
        open_against(tmp_path / "nowhere", tmp_path)


def test_the_commands_compare_and_drop(sides: tuple[ShardSet, Path], tmp_path: Path) -> None:
    shards, bench = sides
    run = CliRunner()
    common = [str(shards.path), "--against", str(bench)]
    out = tmp_path / "leaks"
    result = run.invoke(app, ["curate", "leakage", *common, "--out", str(out), "--drop"])
    assert result.exit_code == 0, result.output
    assert "2 dropped for leaking" in " ".join(result.output.split())
    other = tmp_path / "curated"
    result = run.invoke(app, ["curate", "run", *common, "--out", str(other)])
    assert result.exit_code == 0, result.output
    assert read_verdicts(other).equals(read_verdicts(out))
