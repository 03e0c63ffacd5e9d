"""`infimed eval` and `infimed chat` on a tiny checkpoint, as a user would type them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.evaluation.fakes import FakeShards, clinic
from tests.evaluation.rows import write_layout

from infimed.cli import chat as chat_module
from infimed.cli.main import main


@pytest.fixture
def run(tmp_path: Path, make_model, processor) -> Path:
    """A run folder with one complete checkpoint."""
    from infimed.model.loading import save_checkpoint

    folder = tmp_path / "run"
    model = make_model()
    with torch.no_grad():  # as it is made, it only repeats the last token: a line break
        for parameter in model.parameters():
            parameter.mul_(3.0)
    save_checkpoint(folder / "checkpoints" / "step-3", model, processor, about={"step": 3})
    (folder / "shards").mkdir()
    return folder


@pytest.fixture
def shards(monkeypatch: pytest.MonkeyPatch) -> FakeShards:
    made = clinic(8)
    monkeypatch.setattr("infimed.data.shards.open_shards", lambda path: made)
    return made


@pytest.fixture
def png(tmp_path: Path) -> Path:
    path = tmp_path / "x.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(
        path
    )
    return path


def invoke(monkeypatch: pytest.MonkeyPatch, *args: object) -> int:
    monkeypatch.setattr(sys, "argv", ["infimed", *map(str, args)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_listing_tasks_imports_no_torch() -> None:
    code = (
        "import sys; sys.argv=['infimed','eval','--list']\n"
        "from infimed.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "phantom_closed" in done.stdout and "vqa_rad_disjoint" in done.stdout
    assert "medevalkit" in done.stdout


@pytest.fixture
def benchmarks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with two benchmarks, and a cache of its own."""
    monkeypatch.setenv("INFIMED_CACHE", str(tmp_path / "cache"))
    for name in ("pubmedqa", "slake_en"):
        write_layout(name, 0, tmp_path / "benchmarks" / name, copies=2)
    return tmp_path / "benchmarks"


def test_eval_builds_asks_and_scores_benchmarks_from_a_folder(
    run, benchmarks, tmp_path, monkeypatch, capfd
) -> None:
    out = tmp_path / "out"
    command = ("eval", run, "--tasks", "pubmedqa,slake_en", "--data", benchmarks, "--out", out)
    assert invoke(monkeypatch, *command) == 0
    shown = capfd.readouterr()
    assert "pubmedqa: 6 questions from" in shown.err
    assert "the questions show no image" in shown.out
    assert (out / "slake_en" / "image-zeroed.responses.jsonl").exists()
    assert not (out / "pubmedqa" / "image-zeroed.responses.jsonl").exists()
    before = (out / "samples.jsonl").read_bytes()
    assert invoke(monkeypatch, *command) == 0
    assert (out / "samples.jsonl").read_bytes() == before


def test_questions_are_shown_without_a_model(benchmarks, monkeypatch, capfd) -> None:
    command = ("eval", "--show", 1, "--tasks", "pubmedqa", "--data", benchmarks)
    assert invoke(monkeypatch, *command) == 0
    shown = capfd.readouterr().out
    assert "pubmedqa: 6 questions" in shown and "gold: " in shown


def test_eval_asks_without_images_where_they_are_absent(
    run, benchmarks, tmp_path, monkeypatch, capfd
) -> None:
    for file in sorted(benchmarks.rglob("*.jpg")):
        file.unlink()
    out = tmp_path / "out"
    command = ("eval", run, "--tasks", "slake_en", "--data", benchmarks, "--out", out)
    assert invoke(monkeypatch, *command) == 4
    assert invoke(monkeypatch, *command, "--text-only") == 0
    assert "text-only" in capfd.readouterr().out
    assert (out / "slake_en" / "text-only.responses.jsonl").exists()


def test_a_group_leaves_out_what_is_not_there_and_a_name_does_not(
    run, benchmarks, tmp_path, monkeypatch, capfd
) -> None:
    rest = ("--data", benchmarks, "--out", tmp_path / "out", "--limit", 2)
    assert invoke(monkeypatch, "eval", run, "--tasks", "text", *rest) == 0
    assert "left out medmcqa" in capfd.readouterr().err
    assert invoke(monkeypatch, "eval", run, "--tasks", "text,medmcqa", *rest) == 4
    assert "the files of this benchmark are not here" in capfd.readouterr().err


def test_eval_asks_scores_and_prints_the_table(run, shards, monkeypatch, capfd) -> None:
    assert (
        invoke(monkeypatch, "eval", run, "--tasks", "phantom_closed,phantom_choice", "--limit", 4)
        == 0
    )
    table = capfd.readouterr().out
    assert "image-zeroed" in table and "majority" in table and "phantom_choice" in table
    assert (run / "evaluation-eval" / "scores.json").exists()
    assert (run / "evaluation-eval" / "phantom_closed" / "image-zeroed.responses.jsonl").exists()


def test_eval_asks_all_controls_and_says_what_they_cost(
    run, shards, monkeypatch, capfd, tmp_path
) -> None:
    out = tmp_path / "o"
    command = (
        "eval", run, "--tasks", "phantom_closed,phantom_choice", "--controls", "all",
        "--option-scoring", "text", "--by", "facts.finding", "--out", out,
    )  # fmt: skip
    assert invoke(monkeypatch, *command) == 0
    told = capfd.readouterr()
    assert "more for controls: image-zeroed 12, image-swapped 12, options-rotated 12" in told.err
    assert "option-scoring" in told.out and "risk-coverage" in told.out
    names = {path.name.split(".")[0] for path in (out / "phantom_choice").glob("*.run.json")}
    assert names == {
        "model", "image-zeroed", "image-swapped", "options-rotated", "prior-only", "option-scoring",
    }  # fmt: skip
    before = {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    assert invoke(monkeypatch, *command) == 0
    assert before == {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_eval_looks_for_leaks_in_the_training_data_it_is_told(
    run, shards, monkeypatch, capfd, tmp_path
) -> None:
    command = ("eval", run, "--tasks", "phantom_closed", "--against", run, "--out", tmp_path / "o")
    assert invoke(monkeypatch, *command) == 0
    assert "leakage: 0 of 8 questions found in run" in " ".join(capfd.readouterr().out.split())
    assert (tmp_path / "o" / "phantom_closed" / "leakage.json").exists()


def test_the_gate_says_no_with_an_exit_code_and_writes_why(
    run, shards, monkeypatch, capfd, tmp_path
) -> None:
    rest = ("--tasks", "phantom_closed", "--controls", "none", "--out", tmp_path / "o")
    assert invoke(monkeypatch, "eval", run, *rest) == 0
    both = (tmp_path / "o", tmp_path / "o")
    assert invoke(monkeypatch, "eval", "--gate", *both) == 0
    assert "promote" in capfd.readouterr().out
    found = json.loads((tmp_path / "o" / "gate.json").read_text())
    assert found["promote"] is True and found["checks"][0]["name"] == "overall"
    samples = tmp_path / "o" / "samples.jsonl"
    shutil.copytree(tmp_path / "o", tmp_path / "worse")
    worse = samples.read_text().replace('"score": 0.0', '"score": -1.0')
    (tmp_path / "worse" / "samples.jsonl").write_text(worse)
    assert invoke(monkeypatch, "eval", "--gate", tmp_path / "o", tmp_path / "worse") == 7
    assert "do not promote" in capfd.readouterr().out


def test_eval_asks_a_twin_without_images(run, shards, monkeypatch, capfd, tmp_path) -> None:
    args = [
        "eval",
        "--tasks",
        "phantom_closed",
        "--controls",
        "none",
        "--trained-blind",
        run,
        "--out",
        tmp_path / "o",
        run,
    ]
    assert invoke(monkeypatch, *args) == 0
    assert "trained-blind" in capfd.readouterr().out
    assert (
        '"view": "none"'
        in (tmp_path / "o" / "phantom_closed" / "trained-blind.run.json").read_text()
    )


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["eval"], 2, "give a run or checkpoint folder"),
        (["eval", "RUN"], 2, "at least one task"),
        (["eval", "RUN", "--tasks", "phantom_close"], 2, "did you mean: phantom_closed"),
        (["eval", "RUN", "--tasks", "closed", "--controls", "swap"], 2, "did you mean: swapped"),
        (["eval", "RUN", "--tasks", "closed", "--by", "sex"], 2, "no such field"),
        (["eval", "--gate", "nowhere", "nowhere"], 4, "no scores here"),
        (["eval", "RUN", "--tasks", "closed", "--shards", "nowhere"], 4, "no imported data"),
        (["chat", "nowhere", "-q", "hi"], 4, "no complete checkpoint"),
        (["chat", "RUN", "--image", "no.png", "-q", "hi"], 4, "file not found"),
    ],
)
def test_mistakes_have_a_message_and_an_exit_code(
    run, monkeypatch, capfd, args, code, message
) -> None:
    assert invoke(monkeypatch, *[run if arg == "RUN" else arg for arg in args]) == code
    assert message in capfd.readouterr().err


def test_chat_answers_one_question_on_stdout_and_warns_on_stderr(
    run, png, monkeypatch, capfd
) -> None:
    assert (
        invoke(
            monkeypatch, "chat", run, "--image", png, "--question", "Is it?", "--max-new-tokens", 5
        )
        == 0
    )
    told = capfd.readouterr()
    assert told.out.strip()
    assert "Not a medical device" in told.err and "Not a medical device" not in told.out


def test_chat_refuses_a_file_that_is_no_image(run, tmp_path, monkeypatch, capfd) -> None:
    (tmp_path / "notes.png").write_text("hello, not an image")
    assert invoke(monkeypatch, "chat", run, "--image", tmp_path / "notes.png", "-q", "?") == 4
    assert "not an accepted image format" in capfd.readouterr().err


def test_a_chat_goes_on_after_a_bad_image_and_ends_with_the_input(
    run, png, monkeypatch, capfd
) -> None:
    lines = iter(["", "first?", "/image nowhere.png", f"/image {png}", "second?", "/new", "third?"])

    def typed(prompt: str = "") -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    from infimed.core.console import err

    monkeypatch.setattr(err, "input", typed)
    asked: list[tuple[str, int]] = []

    def note(talk, question, pictures) -> None:
        asked.append((question, len(pictures)))
        for _ in talk.ask(question, pictures):
            pass

    monkeypatch.setattr(chat_module, "answer", note)
    assert invoke(monkeypatch, "chat", run, "--image", png, "--max-new-tokens", 3) == 0
    assert asked == [("first?", 1), ("second?", 1), ("third?", 1)]
    assert "nowhere.png: file not found" in capfd.readouterr().err.replace("\n", " ").replace(
        "  ", " "
    )
