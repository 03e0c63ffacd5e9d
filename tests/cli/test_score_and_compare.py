"""`infimed score` and `infimed compare`, as a user would type them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.evaluation.compare.folders import benchmarks, evaluated, mostly_right

from infimed.cli.main import main
from infimed.inference.stubs import constant


def invoke(monkeypatch: pytest.MonkeyPatch, *args: object) -> int:
    monkeypatch.setattr(sys, "argv", ["infimed", *map(str, args)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    monkeypatch.setenv("INFIMED_CACHE", str(tmp_path / "cache"))
    shards = benchmarks(tmp_path)
    return (
        evaluated(mostly_right(shards, 3), shards, tmp_path / "a"),
        evaluated(constant("A"), shards, tmp_path / "b"),
    )


def test_scores_are_written_anew_and_printed(folders, monkeypatch, capfd) -> None:
    before = (folders[0] / "scores.json").read_bytes()
    for folder in folders:
        (folder / "scores.json").unlink()
    assert invoke(monkeypatch, "score", *folders) == 0
    told = capfd.readouterr()
    assert "slake_en" in told.out and "pubmedqa" in told.out
    assert f"scores: {folders[1]}" in told.err.replace("\n", "")
    assert (folders[0] / "scores.json").read_bytes() == before


def test_compare_writes_three_files_and_says_what_it_found(
    folders, tmp_path, monkeypatch, capfd
) -> None:
    out = tmp_path / "side by side"
    assert invoke(monkeypatch, "compare", *folders, "--out", out, "--tasks", "pubmedqa") == 0
    told = capfd.readouterr().out
    assert told.startswith("b against a: ")
    assert f"open in a browser: {out / 'compare.html'}" in told
    assert sorted(file.name for file in out.iterdir()) == [
        "compare.csv",
        "compare.html",
        "compare.tex",
    ]
    assert "medxpertqa_mm" not in (out / "compare.csv").read_text()


def test_compare_leaves_answers_out_when_asked(folders, tmp_path, monkeypatch, capfd) -> None:
    command = ("compare", f"x={folders[0]}", f"y={folders[1]}", "--out", tmp_path / "o")
    assert invoke(monkeypatch, *command, "--no-samples") == 0
    assert "<script" not in (tmp_path / "o" / "compare.html").read_text()
    assert invoke(monkeypatch, *command, "--no-images", "--reference", "y", "--samples", 5) == 0
    assert "5 of 36 questions, 0 pictures" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["score", "NOWHERE"], 4, "no such folder"),
        (["compare", "NOWHERE"], 4, "no such folder"),
        (["compare", "A", "A"], 2, "same name"),
        (["compare", "A", "--reference", "b"], 2, "no such model"),
        (["compare", "A", "--tasks", "pubmedqq"], 2, "did you mean: pubmedqa"),
        (["compare", "A", "--published", "NOWHERE"], 2, "no such file"),
        (["score", "A", "--shards", "NOWHERE"], 4, "no finished shards"),
    ],
)
def test_mistakes_have_a_message_and_an_exit_code(
    folders, tmp_path, monkeypatch, capfd, args, code, message
) -> None:
    places = {"A": folders[0], "NOWHERE": tmp_path / "nowhere"}
    assert invoke(monkeypatch, *[places.get(arg, arg) for arg in args]) == code
    assert message in " ".join(capfd.readouterr().err.split())
