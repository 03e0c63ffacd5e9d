"""`infimed eval` of models that are not ours: tiny checkpoints of the baselines, and endpoints with faults."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.evaluation.rows import write_layout
from tests.inference.hub_checkpoints import MADE, WITH_IMAGES
from tests.inference.stub_server import CLOSE, HANG, Reply, failed, said, serving, text_of

from infimed.cli.main import main
from infimed.inference.hub_model import HubModel
from infimed.inference.responses import read_responses

TASKS = "pubmedqa,slake_en,medframeqa"


@pytest.fixture
def benchmarks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with a text, an image and a several-images benchmark, and a cache of its own."""
    monkeypatch.setenv("INFIMED_CACHE", str(tmp_path / "cache"))
    for name in TASKS.split(","):
        write_layout(name, 0, tmp_path / "benchmarks" / name, copies=2)
    return tmp_path / "benchmarks"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("hub")
    return {name: make(root / name) for name, make in MADE.items()}


def invoke(monkeypatch: pytest.MonkeyPatch, *args: object) -> int:
    monkeypatch.setattr(sys, "argv", ["infimed", *map(str, args)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def responses(out: Path) -> dict[str, list[str]]:
    """Every stored answer, sorted, what it cost left out."""
    costs = ("seconds", "attempts", "prompt_tokens")
    return {
        str(file.relative_to(out)): sorted(
            json.dumps({k: v for k, v in json.loads(line).items() if k not in costs})
            for line in file.read_text(encoding="utf-8").splitlines()
        )
        for file in sorted(out.rglob("*.responses.jsonl"))
    }


@pytest.mark.parametrize("kind", MADE)
def test_a_checkpoint_is_evaluated_and_a_killed_run_ends_with_the_same_bytes(
    kind, folders, benchmarks, tmp_path, monkeypatch, capfd
) -> None:
    tasks = TASKS if kind in WITH_IMAGES else "pubmedqa"
    command = ["eval", folders[kind], "--tasks", tasks, "--data", benchmarks, "--batch-size", 4]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert invoke(monkeypatch, *command, "--out", whole) == 0
    assert "pubmedqa" in capfd.readouterr().out
    answers = responses(whole)
    assert sum(map(len, answers.values())) >= (24 if kind in WITH_IMAGES else 6)
    texts = [json.loads(line)["text"] for lines in answers.values() for line in lines]
    assert len(set(texts)) >= 3
    assert '"error"' not in json.dumps(answers)

    real = HubModel.respond
    left = [1]

    def dying(self: HubModel, requests: Any) -> Any:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return real(self, requests)

    monkeypatch.setattr(HubModel, "respond", dying)
    codes = []
    for batches in (1, 2):
        left[0] = batches
        codes.append(invoke(monkeypatch, *command, "--out", killed))
    assert codes[0] == 130
    monkeypatch.setattr(HubModel, "respond", real)
    assert invoke(monkeypatch, *command, "--out", killed) == 0
    assert {n: f.read_bytes() for n, f in files(killed).items()} == {
        n: f.read_bytes() for n, f in files(whole).items()
    }


def files(out: Path) -> dict[str, Path]:
    return {
        str(f.relative_to(out)): f for f in out.rglob("*") if f.is_file() and f.name != "data.json"
    }


def test_a_language_model_is_asked_image_questions_only_without_images(
    folders, benchmarks, tmp_path, monkeypatch, capfd
) -> None:
    command = ["eval", folders["qwen3"], "--tasks", "slake_en", "--data", benchmarks]
    assert invoke(monkeypatch, *command, "--out", tmp_path / "o") == 2
    assert "takes no images" in capfd.readouterr().err
    assert invoke(monkeypatch, *command, "--out", tmp_path / "o", "--text-only") == 0


def test_a_folder_that_needs_code_is_refused_before_it_is_asked(
    folders, benchmarks, tmp_path, monkeypatch, capfd
) -> None:
    import shutil

    folder = shutil.copytree(folders["qwen3"], tmp_path / "remote")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "a.B"}}))
    command = ["eval", folder, "--tasks", "pubmedqa", "--data", benchmarks, "--out", tmp_path / "o"]
    assert invoke(monkeypatch, *command) == 4
    assert "asks for custom code" in capfd.readouterr().err


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint client that does not sleep between attempts."""
    pytest.importorskip("httpx")
    from infimed.inference import endpoint

    quick = partial(endpoint.EndpointModel, sleep=lambda seconds: None)
    monkeypatch.setattr(endpoint, "EndpointModel", quick)


def answer(call: dict[str, Any]) -> Reply:
    """What the stub model says: a pure function of the question."""
    text = text_of(call)
    return said("A" if "\nA. " in text and len(text) % 2 else "yes" if len(text) % 3 else "no")


def faulty() -> Callable[[dict[str, Any], int], Reply | str]:
    """The same answers behind one fault for every question, in turn, and two for some."""
    faults: list[Reply | str] = [
        failed(429, "slow down", Retry_After="1"),
        failed(500, "oops"),
        Reply(b"<html>gateway</html>"),
        CLOSE,
        Reply(b'{"choices": [{"message": {"content": ""}}]}'),
        failed(503, "busy"),
        Reply(b"\xff\xfe\x00"),
    ]
    seen: list[int] = []

    def script(call: dict[str, Any], before: int) -> Reply | str:
        if before == 0:
            seen.append(1)
            if len(seen) in (3, 11):
                return HANG
            return faults[len(seen) % len(faults)]
        if before == 1 and len(text_of(call)) % 4 == 0:
            return failed(502, "again")
        return answer(call)

    return script


def test_an_endpoint_with_faults_gives_the_scores_of_a_clean_one(
    benchmarks, tmp_path, monkeypatch, no_waiting, capfd
) -> None:
    rest = ["--tasks", TASKS, "--data", benchmarks, "--concurrency", 3]
    clean, broken = tmp_path / "clean", tmp_path / "broken"
    with serving(lambda call, _: answer(call)) as stub:
        assert invoke(monkeypatch, "eval", stub.url, *rest, "--out", clean) == 0
        asked = len(stub.calls)
    with serving(faulty()) as stub:
        assert invoke(monkeypatch, "eval", stub.url, *rest, "--out", broken, "--timeout", 1.5) == 0
        assert len(stub.calls) > 2 * asked
    assert "make sure they may" not in capfd.readouterr().err  # this machine
    assert (broken / "scores.json").read_bytes() == (clean / "scores.json").read_bytes()
    assert (broken / "samples.jsonl").read_bytes() == (clean / "samples.jsonl").read_bytes()
    assert responses(broken) == responses(clean)


def test_an_endpoint_that_dies_is_told_beside_the_score_and_a_second_run_completes(
    benchmarks, tmp_path, monkeypatch, no_waiting, capfd
) -> None:
    rest = ["--tasks", TASKS, "--data", benchmarks, "--concurrency", 1, "--give-up-after", 2]
    clean, out = tmp_path / "clean", tmp_path / "out"
    with serving(lambda call, _: answer(call)) as stub:
        assert invoke(monkeypatch, "eval", stub.url, *rest, "--out", clean) == 0
    capfd.readouterr()
    alive = [7]

    def dying(call: dict[str, Any], before: int) -> Reply | str:
        if alive[0] <= 0:
            return CLOSE
        alive[0] -= 1
        return answer(call)

    with serving(dying) as stub:
        assert invoke(monkeypatch, "eval", stub.url, *rest, "--out", out) == 4
        calls = len(stub.calls)
        assert calls <= 7 + 2 * 5  # it is not asked again and again
        told = capfd.readouterr()
        assert "failed %" in told.out
        assert "questions have no answer" in told.err and "run the same command again" in told.err
        scores = json.loads((out / "scores.json").read_text())
        errors = {c["errors"] for t in scores["tasks"] for c in t["cells"] if c["row"] == "model"}
        assert max(errors) > 0
        kept = sum(
            response.status == "ok"
            for file in out.rglob("*.responses.jsonl")
            for response in read_responses(file)[0].values()
        )
        assert kept == 7
        alive[0] = 10**6
        stub.calls.clear()
        assert invoke(monkeypatch, "eval", stub.url, *rest, "--out", out) == 0
        second = len(stub.calls)
    assert second + 7 == sum(map(len, responses(clean).values()))
    assert (out / "scores.json").read_bytes() == (clean / "scores.json").read_bytes()


def test_the_key_of_an_endpoint_is_in_no_file_and_no_message(
    benchmarks, tmp_path, monkeypatch, no_waiting, capfd
) -> None:
    monkeypatch.setenv("INFIMED_API_KEY", "secret-key-123")
    out = tmp_path / "out"
    with serving(lambda call, _: failed(401, "wrong key secret-key-123")) as stub:
        rest = ["--tasks", "pubmedqa", "--data", benchmarks, "--out", out]
        assert invoke(monkeypatch, "eval", stub.url, *rest) == 4
        assert stub.calls[0][1]["authorization"] == "Bearer secret-key-123"
    told = capfd.readouterr()
    assert "secret-key-123" not in told.out + told.err
    for file in out.rglob("*"):
        assert not file.is_file() or b"secret-key-123" not in file.read_bytes()


def test_stubs_show_what_a_task_gives_to_guessing(benchmarks, tmp_path, monkeypatch, capfd) -> None:
    rest = ["--tasks", "pubmedqa", "--data", benchmarks, "--out", tmp_path / "o"]
    assert invoke(monkeypatch, "eval", "stub:constant:yes", *rest) == 0
    scores = json.loads((tmp_path / "o" / "scores.json").read_text())
    (overall,) = (
        c["estimate"]["mean"]
        for c in scores["tasks"][0]["cells"]
        if (c["row"], c["column"], c["metric"]) == ("model", "overall", "score")
    )
    assert overall == pytest.approx(1 / 3)
    assert invoke(monkeypatch, "eval", "stub:oracle", *rest) == 2
